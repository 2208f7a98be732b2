"""`fusegw status`, `ls-volumes` and `sync`: what there is, how it does, getting all of it into the store."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec

from exports.status import ServerStatus
from fusegw.cli import output
from fusegw.cli.cost import show_costs
from fusegw.cli.places import Place, place_argument, place_of
from fusegw.cli.quota_texts import quota_use
from fusegw.cli.schedule_text import schedule_line
from fusegw.cli.session import Session, Site, common_options, json_option
from fusegw.control.protocol import ScrubStatus, StatusReply, StoreHealth, SyncProgress
from fusegw.daemon.lock import present_holder
from fusegw.errors import NotFound


@click.command("status")
@place_argument
@click.option("--cost", is_flag=True, help="Show what was asked of the store, and what that costs.")
@json_option
@common_options
def status(session: Session, place: str | None, cost: bool, as_json: bool) -> None:
    """Show backlog, rates and store health of a volume, or how safe a file is.

    Without NAME: the only volume, or all of them when there are several (with --json a list "volumes"). A
    volume that is not mounted is reported as such, with exit code 0.

    With PATH, which has a slash in it or is no volume's name: whether everything of that file or directory is
    in the store already (stored), on its way there (shipping), or not even that (local).

    With --cost: requests to the store and bytes each way, since the mount, in total and for each TiB backed
    up, and what they cost by [prices] of the configuration. Of a volume that is not mounted, the totals.
    """
    site = session.site()
    if (file := place_of(site, place)) is not None:
        if cost:
            raise click.UsageError(f"--cost tells of a volume, not of a file: say {file.volume}")
        _show_file(site, file, as_json)
        return
    several = place is None and len(site.registry.volumes()) > 1
    names = list(site.registry.volumes()) if several else [site.volume(place)]
    if cost:
        show_costs(site, names, several=several, as_json=as_json)
        return
    found = {one: _status_of(site, one) for one in names}
    if as_json:
        documents = [_document(site, one, reply) for one, reply in found.items()]
        output.print_json({"volumes": documents} if several else documents[0])
        return
    for one, reply in found.items():
        output.print_pairs(f"volume {one}", _lines(site, one, reply))


@click.command("ls-volumes")
@json_option
@common_options
def ls_volumes(session: Session, as_json: bool) -> None:
    """List the volumes of this host."""
    site = session.site()
    rows = [_row(site, name) for name in site.registry.volumes()]
    if as_json:
        output.print_json({"volumes": rows})
    else:
        output.print_table(
            ("name", "number", "store", "state", "mounted on"),
            [
                (
                    str(r["name"]),
                    str(r["number"]),
                    str(r["store_url"]),
                    "newest" if r["fixed_at"] is None else f"as of segment {r['fixed_at']}",
                    _place(r),
                )
                for r in rows
            ],
        )


@click.command("sync")
@place_argument
@click.option("--wait", is_flag=True, help="Return only when all that was written before is in the store.")
@json_option
@common_options
def sync(session: Session, place: str | None, wait: bool, as_json: bool) -> None:
    """Send everything to the store now.

    With --wait the command returns when it is there, or fails with the reason. PATH means the volume it is
    on; for a file that is in the store already, --wait returns at once.
    """
    site = session.site()
    file = place_of(site, place)
    volume = site.volume(place) if file is None else file.volume
    if file is not None and wait and not file.is_dir and file.stored:
        if as_json:
            output.print_json({"volume": volume, "path": file.path, "complete": True})
        else:
            print(f"{file.path} is in the store")
        return
    with shipping(volume) as show:
        reply = site.client(volume).sync(wait=wait, on_progress=show)
    if as_json:
        output.print_json({"volume": volume} | msgspec.to_builtins(reply))
    elif reply.complete:
        print(f"volume {volume}: everything is in the store")
    else:
        print(f"volume {volume}: {output.size(reply.backlog_bytes)} on the way to the store")


def _show_file(site: Site, file: Place, as_json: bool) -> None:
    reply = site.client(file.volume).file_status(file.inode)
    if as_json:
        output.print_json({"path": file.path, "volume": file.volume} | msgspec.to_builtins(reply))
        return
    lines = (
        ("state", reply.state),
        ("size", output.size(reply.size_bytes)),
        ("not yet stored", output.size(reply.unstored_bytes)),
        ("volume", file.volume),
        ("oldest there", output.duration(reply.oldest_unshipped_s)),
    )
    output.print_pairs(file.path, lines)


def _row(site: Site, name: str) -> dict[str, str | int | bool | None]:
    entry = site.registry.get(name)
    holder = present_holder(site.paths(name))
    return {
        "name": name,
        "number": entry.number,
        "volume_id": entry.volume_id,
        "store_url": site.store_options(name).url,
        "fixed_at": entry.fixed_at,
        "mounted": holder is not None and not holder.missing,
        "mountpoint": holder.seen_at(name) if holder and not holder.missing else None,
        "pid": holder.pid if holder else None,
        "missing": (holder.missing or None) if holder else None,
    }


def _place(row: dict[str, str | int | bool | None]) -> str:
    return f"- ({row['missing']})" if row["missing"] else str(row["mountpoint"] or "-")


def _status_of(site: Site, name: str) -> StatusReply | None:
    try:
        return site.client(name).status()
    except NotFound:
        return None


def _document(site: Site, name: str, reply: StatusReply | None) -> dict[str, Any]:
    ours = {"volume": name, "mounted": reply is not None, "unsent": _unsent(site, name)}
    if reply is None:
        holder = present_holder(site.paths(name))
        return ours | {
            "pid": holder.pid if holder else None,
            "missing": (holder.missing or None) if holder else None,
            "store_url": site.store_options(name).url,
        }
    document: dict[str, Any] = msgspec.to_builtins(reply)
    return ours | document


def _unsent(site: Site, name: str) -> list[str]:
    return [str(place) for place in site.paths(name).unsent_dirs()]


def _lines(site: Site, name: str, reply: StatusReply | None) -> Iterator[tuple[str, str]]:
    if unsent := _unsent(site, name):
        yield "never stored", f"{', '.join(unsent)}: see fusegw salvage"
    if reply is None:
        holder = present_holder(site.paths(name))
        if holder is not None and holder.missing:
            yield "mounted", f"no, missing from {holder.mountpoint} (pid {holder.pid})"
            yield "because", holder.missing
        else:
            yield "mounted", f"no, but starting or ending ({holder})" if holder else "no"
        yield "store", site.store_options(name).url
        return
    yield "mounted on", reply.mountpoint + (" (read only)" if reply.read_only else "")
    if reply.follows:
        yield "standby", _standby(reply)
    yield "process", f"{reply.pid}"
    yield "store", reply.store_url
    yield "store health", _health(reply.store_health)
    yield "not yet stored", output.size(reply.backlog_bytes)
    yield "oldest of it", output.duration(reply.oldest_unshipped_s)
    yield "stored in", output.duration(reply.eta_s)
    yield "written", f"{output.size(reply.ingest_rate_bytes_s)}/s"
    yield "uploaded", f"{output.size(reply.upload_rate_bytes_s)}/s"
    yield "files", f"{reply.files:,} ({reply.open_files:,} open)"
    yield "file sizes", output.size(reply.logical_bytes)
    yield "packs", output.size(reply.stored_bytes)
    if reply.snapshots or reply.deleted_snapshots:
        yield "snapshots", _snapshots(reply)
    if reply.snapshot_schedule is not None:
        yield "scheduled", schedule_line(reply.snapshot_schedule)
    if reply.dead_bytes is not None:
        condemned = output.size(reply.condemned_bytes or 0)
        yield "dead in packs", f"{output.size(reply.dead_bytes)}; {condemned} to be deleted"
    if reply.gc_error:
        yield "gc failed", reply.gc_error
    yield "metadata", output.size(reply.metadata_bytes)
    yield "epoch", f"{reply.epoch}"
    yield "log", f"segment {reply.log_seq:,}"
    if reply.checkpoint_seq is not None:
        yield "checkpoint", f"segment {reply.checkpoint_seq:,}, {output.duration(reply.checkpoint_age_s)} old"
    for quota in reply.quotas_near:
        yield "nearly full", f"quota of {quota.path or f'inode {quota.inode}'}: {quota_use(quota)}"
    if reply.scrub is not None:
        yield "scrub", _scrub(reply.scrub)
        for problem in reply.scrub.problems:
            yield "damaged", problem
    if reply.fenced:
        yield "fenced", reply.fenced
    if reply.hook_last_error:
        yield "hook failed", reply.hook_last_error
    for server in reply.servers:
        yield f"{server.protocol} shares", _server(server)
        for share, why in server.problems.items():
            yield "not served", f"{share}: {why}" if share else why
    for why in reply.share_problems:
        yield "not served", why


def _server(server: ServerStatus) -> str:
    health = server.health
    where = f"{', '.join(server.listen)} port {server.port}"
    text = f"{health.state}, {len(server.shares):,} at {where}"
    if health.misses:
        text += f"; has not answered {health.misses} times in a row"
    if health.restarts:
        text += f"; started again {health.restarts:,} times, at last because {health.last_error}"
    return text


def _snapshots(reply: StatusReply) -> str:
    text = f"{reply.snapshots:,}"
    if reply.newest_snapshot is not None and reply.newest_snapshot_unix_s is not None:
        made = output.moment(reply.newest_snapshot_unix_s)
        text += f", the newest is {output.one_line(reply.newest_snapshot)} of {made}"
    if reply.deleted_snapshots:
        text += f"; {reply.deleted_snapshots:,} deleted ones are being freed"
    return text


def _scrub(scrub: ScrubStatus) -> str:
    text = f"{output.ratio(scrub.pass_done, percent=True)} of pass {scrub.passes + 1:,}"
    text += f"; {scrub.packs:,} packs ({output.size(scrub.read_bytes)}) since the mount"
    if scrub.damaged_chunks:
        text += f"; {scrub.damaged_chunks:,} chunks damaged, {scrub.mended_chunks:,} of them mended"
    return text + (f"; waits: {scrub.last_error}" if scrub.last_error else "")


def _standby(reply: StatusReply) -> str:
    if reply.follow_error:
        return f"behind since {output.duration(reply.follow_lag_s)}: {reply.follow_error}"
    behind = f", {reply.behind_segments:,} segments behind" if reply.behind_segments else ""
    return f"showed all that is in the store {output.duration(reply.follow_lag_s)} ago{behind}"


def _health(health: StoreHealth) -> str:
    return health.state if not health.last_error else f"{health.state}: {health.last_error}"


@contextmanager
def shipping(volume: str) -> Iterator[Callable[[SyncProgress], None]]:
    """A bar that follows a waiting sync on a terminal; nothing elsewhere."""
    most = 0
    with output.bar(f"shipping {volume}") as update:

        def show(progress: SyncProgress) -> None:
            nonlocal most
            most = max(most, progress.backlog_bytes)
            left = (
                f"{output.size(progress.backlog_bytes)} left, {output.size(progress.upload_rate_bytes_s)}/s"
            )
            if progress.store_health.state != "ok":
                left += f", store {_health(progress.store_health)}"
            update(most - progress.backlog_bytes, most or None, left)

        yield show
