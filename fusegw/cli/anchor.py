"""`fusegw anchor`: the newest position of the log that is known to be in the store, to keep elsewhere."""

import click

from fusegw.cli import output
from fusegw.cli.session import Session, Site, common_options, json_option, volume_argument
from fusegw.daemon.lock import volume_lock
from fusegw.errors import NotFound


@click.command("anchor")
@volume_argument
@json_option
@common_options
def anchor(session: Session, name: str | None, as_json: bool) -> None:
    """Print the position of the log that this gateway has in the store, as EPOCH:SEGMENT:HASH.

    Kept in another place than gateway and store, it proves later that the store was not set back: see
    recover --anchor.
    """
    site = session.site()
    volume = site.volume(name)
    line = _mounted(site, volume) or _unmounted(site, volume)
    if not as_json:
        print(line)
        return
    epoch, seq, digest = line.split(":")
    output.print_json(
        {"volume": volume, "anchor": line, "epoch": int(epoch), "segment": int(seq), "hash": digest}
    )


def _mounted(site: Site, volume: str) -> str | None:
    try:
        reply = site.client(volume).status()
    except NotFound:
        return None
    return reply.anchor or None


def _unmounted(site: Site, volume: str) -> str:
    from fusegw.meta.metadata import Metadata
    from fusegw.ship.anchor import anchor_text

    paths = site.paths(volume)
    missing = NotFound(f"volume {volume!r} has nothing in the store that this host knows of: mount it first")
    if not (paths.meta_dir / "data.mdb").exists():
        raise missing
    with volume_lock(paths):
        limit = site.volume_config(volume).metadata_limit_bytes
        metadata = Metadata(paths.meta_dir, size_max_bytes=limit)
        try:
            head = metadata.head
        finally:
            metadata.close()
    if not head.seq:
        raise missing
    return anchor_text(head)
