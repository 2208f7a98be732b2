"""`fusegw gc`: room in the store of what files no longer use."""

from collections.abc import Iterator

import click
import msgspec

from fusegw.cli import output
from fusegw.cli.session import Session, common_options, json_option, volume_argument
from fusegw.control.protocol import CollectReply, CollectWish, SyncProgress
from fusegw.sizes import parse_size


@click.command("gc")
@volume_argument
@click.option("--dry-run", is_flag=True, help="Only show what it would free, and what that would cost.")
@click.option("--budget", metavar="SIZE", help="Rewrite at most so much of sparse packs, such as 10G.")
@click.option("--orphans", is_flag=True, help="List the packs, and look for those that nobody knows.")
@json_option
@common_options
def gc_command(
    session: Session, name: str | None, dry_run: bool, budget: str | None, orphans: bool, as_json: bool
) -> None:
    """Make room in the store now, of what files no longer use.

    The gateway of the volume does that, beside what else it does, so the volume must be mounted. What no
    state that is kept needs is deleted; sparse packs are rewritten, and deleted later.
    """
    site = session.site()
    volume = site.volume(name)
    wish = CollectWish(
        preview=dry_run, budget_bytes=None if budget is None else parse_size(budget), orphans=orphans
    )
    with output.bar(f"collecting in {volume}") as show:

        def tell(progress: SyncProgress) -> None:
            done, total = progress.collected_bytes, progress.collect_total_bytes
            show(done, total or None, f"{output.size(done)} rewritten" if total else "looking")

        reply = site.client(volume).collect(wish, tell)
    if as_json:
        output.print_json({"volume": volume} | msgspec.to_builtins(reply))
    else:
        title = f"collection of volume {volume}" + (", if it ran now" if dry_run else "")
        output.print_pairs(title, _lines(reply))


def _lines(reply: CollectReply) -> Iterator[tuple[str, str]]:
    yield "deleted", f"{reply.deleted_packs:,} packs ({output.size(reply.deleted_bytes)})"
    if reply.deleted_orphans:
        freed = output.size(reply.deleted_orphan_bytes)
        yield "deleted, unknown", f"{reply.deleted_orphans:,} objects ({freed})"
    yield "rewritten", f"{reply.rewritten_packs:,} packs" + ("" if reply.complete else ", more are worth it")
    yield "read", f"{output.size(reply.read_bytes)} in {reply.read_requests:,} requests"
    yield "written", f"{output.size(reply.written_bytes)} in about {reply.put_requests:,} requests"
    yield (
        "to be deleted later",
        f"{reply.condemned_packs:,} packs more ({output.size(reply.condemned_bytes)})",
    )
    if not reply.preview:
        yield "packs", f"{output.size(reply.stored_bytes)}, {output.size(reply.dead_bytes)} of it dead"
    waiting = f"{reply.waiting_packs:,} packs ({output.size(reply.waiting_bytes)})"
    yield "waiting", f"{waiting} for older states to go"
    if reply.orphans:
        yield "unknown", f"{reply.orphans:,} objects ({output.size(reply.orphan_bytes)})"
