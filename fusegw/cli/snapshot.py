"""`fusegw snapshot`: the volume as it was, made, listed, kept and given up."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import msgspec

from fusegw.cli import output
from fusegw.cli.reports import shipping
from fusegw.cli.session import Session, common_options, complete_volume, json_option
from fusegw.cli.snapshot_schedule import schedule
from fusegw.clock import SystemClock
from fusegw.control.snapshots import (
    CloneWish,
    CreateSnapshot,
    DeleteSnapshots,
    DiffWish,
    LockSnapshot,
    RollBack,
    SnapshotItem,
    SnapshotReply,
    SnapshotsReply,
)
from fusegw.errors import Invalid

_SPAN = re.compile(r"([0-9]{1,6})([smhdwy])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 366 * 86_400}

volume_argument = click.argument("volume", shell_complete=complete_volume)


def _lock_options(function: Any) -> Any:
    until = click.option("--lock-until", metavar="TIME", help="Until then, such as 2027-03-01 (local time).")
    span = click.option("--lock-for", metavar="SPAN", help="From now on so long, such as 12h, 30d, 4w, 1y.")
    return until(span(function))


@click.group("snapshot")
@common_options
def snapshot(session: Session) -> None:
    """The volume as it was at moments of the past.

    A snapshot is there at once, whatever the size, and takes the room of what is changed or deleted later.
    It is seen, read-only, as .snapshots/NAME in the root of the volume, and over SMB among the previous
    versions. The volume must be mounted; where it is written snapshots are made, locked and deleted.
    """


@snapshot.command("create")
@volume_argument
@click.argument("name", required=False, metavar="[NAME]")
@_lock_options
@click.option("--wait", is_flag=True, help="Return only when it is in the store.")
@json_option
@common_options
def create(
    session: Session,
    volume: str,
    name: str | None,
    lock_until: str | None,
    lock_for: str | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Keep VOLUME as it is now.

    NAME is the time in UTC unless said otherwise, such as 2026-11-28T15.04.05Z. A locked snapshot cannot be
    deleted before its time.
    """
    site = session.site()
    client = site.client(site.volume(volume))
    until = _until(lock_until, lock_for) or 0
    with shipping(volume) as show:
        wish = CreateSnapshot(name=name or "", locked_until_unix_s=until, wait=wait)
        reply = client.change_snapshots(wish, show)
    (made,) = reply.snapshots
    _tell(volume, reply, as_json, f"volume {volume}: snapshot {output.one_line(made.name)} is made")


@snapshot.command("list")
@volume_argument
@json_option
@common_options
def list_snapshots(session: Session, volume: str, as_json: bool) -> None:
    """List the snapshots of VOLUME, oldest first."""
    site = session.site()
    reply = site.client(site.volume(volume)).snapshots()
    if as_json:
        output.print_json({"volume": volume} | msgspec.to_builtins(reply))
        return
    output.print_table(
        ("name", "made", "by", "files", "size", "locked until", "stored"),
        [
            (
                output.one_line(one.name),
                output.moment(one.created_unix_s),
                one.made_by,
                f"{one.files:,}",
                output.size(one.logical_bytes),
                output.moment(one.locked_until_unix_s),
                "yes" if one.stored else "not yet",
            )
            for one in reply.snapshots
        ],
    )


@snapshot.command("show")
@volume_argument
@click.argument("name")
@json_option
@common_options
def show(session: Session, volume: str, name: str, as_json: bool) -> None:
    """Show snapshot NAME of VOLUME, and what it holds.

    That is counted in the whole index, which takes a while for many files.
    """
    site = session.site()
    reply = site.client(site.volume(volume)).snapshot(name)
    if as_json:
        output.print_json({"volume": volume} | msgspec.to_builtins(reply))
        return
    output.print_pairs(f"snapshot {output.one_line(name)} of volume {volume}", _lines(reply))


@snapshot.command("delete")
@volume_argument
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@json_option
@common_options
def delete(session: Session, volume: str, names: tuple[str, ...], as_json: bool) -> None:
    """Delete snapshots of VOLUME: all that are named, or none if one of them cannot be deleted.

    They are out of sight at once. What nothing else needs is freed in the background; see fusegw gc for the
    room in the store.
    """
    site = session.site()
    client = site.client(site.volume(volume))
    reply = client.change_snapshots(DeleteSnapshots(names=names), lambda _: None)
    _tell(volume, reply, as_json, f"volume {volume}: {len(reply.snapshots):,} deleted")


@snapshot.command("lock")
@volume_argument
@click.argument("name")
@_lock_options
@json_option
@common_options
def lock(
    session: Session, volume: str, name: str, lock_until: str | None, lock_for: str | None, as_json: bool
) -> None:
    """Keep snapshot NAME of VOLUME from being deleted before a time.

    A lock can be made longer, never shorter.
    """
    until = _until(lock_until, lock_for)
    if until is None:
        raise click.UsageError("say until when: --lock-until TIME or --lock-for SPAN")
    site = session.site()
    client = site.client(site.volume(volume))
    reply = client.change_snapshots(LockSnapshot(name=name, locked_until_unix_s=until), lambda _: None)
    (locked,) = reply.snapshots
    kept = output.moment(locked.locked_until_unix_s)
    _tell(volume, reply, as_json, f"volume {volume}: {output.one_line(name)} is locked until {kept}")


@snapshot.command("rollback")
@volume_argument
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@common_options
def rollback(session: Session, volume: str, name: str, yes: bool, as_json: bool) -> None:
    """Make VOLUME what snapshot NAME shows.

    A snapshot of the state before is made first, so that this can be taken back. All snapshots stay. What
    programs have open is of no use to them afterwards (ESTALE); requests wait until it is done.
    """
    site = session.site()
    client = site.client(site.volume(volume))
    if not yes:
        click.confirm(
            f"All that was changed in volume {volume} since {output.one_line(name)} will be gone from it "
            "(it stays in a snapshot). Go on?",
            abort=True,
            err=True,
        )
    with shipping(volume) as show:
        reply = client.change_snapshots(RollBack(name=name), show)
    (before,) = reply.snapshots
    text = f"volume {volume}: rolled back to {output.one_line(name)}; the state before is in snapshot "
    _tell(volume, reply, as_json, text + output.one_line(before.name))


@snapshot.command("restore")
@volume_argument
@click.argument("path")
@click.option("--from", "name", metavar="NAME", required=True, help="The snapshot it is taken from.")
@click.option("--to", "target", metavar="PATH", help="Where it is put; the same place unless said otherwise.")
@click.option("--replace", is_flag=True, help="Replace what is at --to.")
@json_option
@common_options
def restore(
    session: Session, volume: str, path: str, name: str, target: str | None, replace: bool, as_json: bool
) -> None:
    """Put a file or tree of VOLUME back as it was in a snapshot.

    PATH begins at the volume's root, as /documents/plan.txt. Nothing is copied but metadata. What is replaced
    is kept in a snapshot that is made before.
    """
    wish = CloneWish(source=path, snapshot=name, target=target or path, replace=replace or target is None)
    _clone(session, volume, wish, as_json)


@snapshot.command("diff")
@volume_argument
@click.argument("older")
@click.argument("newer", required=False)
@click.option("--limit", default=10_000, show_default=True, help="Paths that are listed at most.")
@json_option
@common_options
def diff(session: Session, volume: str, older: str, newer: str | None, limit: int, as_json: bool) -> None:
    """List what changed in VOLUME from snapshot OLDER to NEWER, or until now.

    Found in metadata alone. A directory that was renamed is listed once, without what is in it.
    """
    site = session.site()
    client = site.client(site.volume(volume))
    reply = client.diff(DiffWish(older=older, newer=newer or "", items_max=limit))
    if as_json:
        output.print_json({"volume": volume} | msgspec.to_builtins(reply))
        return
    for one in reply.items:
        path = output.one_line(one.path) + ("/" if one.is_directory and one.path != "/" else "")
        came = f" (was {output.one_line(one.before)})" if one.before else ""
        print(f"{one.difference:<10}  {path}{came}")
    if reply.total > len(reply.items):
        print(f"and {reply.total - len(reply.items):,} more; --limit lists them")


@click.command("clone")
@volume_argument
@click.argument("source")
@click.argument("target")
@click.option("--from", "name", metavar="NAME", help="Take the source from this snapshot.")
@click.option("--replace", is_flag=True, help="Replace what is at TARGET; it stays in a snapshot.")
@json_option
@common_options
def clone(
    session: Session,
    volume: str,
    source: str,
    target: str,
    name: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Copy a file or tree within VOLUME, in metadata only.

    SOURCE and TARGET begin at the volume's root, as /backups/full-1. The copy is what SOURCE is at this
    moment, with owners, times, attributes, ACLs and hard links; both go their own ways from then on.
    """
    wish = CloneWish(source=source, snapshot=name or "", target=target, replace=replace)
    _clone(session, volume, wish, as_json)


def _clone(session: Session, volume: str, wish: CloneWish, as_json: bool) -> None:
    site = session.site()
    reply = site.client(site.volume(volume)).clone(wish)
    if as_json:
        output.print_json({"volume": volume} | msgspec.to_builtins(reply))
        return
    print(
        f"volume {volume}: {output.one_line(wish.target)} is there, {reply.files:,} files and directories "
        f"with {output.size(reply.logical_bytes)}, none of it stored once more"
    )
    if reply.replaced_in:
        print(f"what was there before is in snapshot {output.one_line(reply.replaced_in)}")


snapshot.add_command(schedule)


def _tell(volume: str, reply: SnapshotsReply, as_json: bool, text: str) -> None:
    if as_json:
        output.print_json({"volume": volume} | msgspec.to_builtins(reply))
    else:
        print(text)


def _lines(reply: SnapshotReply) -> Iterator[tuple[str, str]]:
    one: SnapshotItem = reply.snapshot
    yield "made", f"{output.moment(one.created_unix_s)} (by {one.made_by})"
    yield "in the store", "yes" if one.stored else "not yet"
    yield "locked until", output.moment(one.locked_until_unix_s)
    yield "files", f"{one.files:,}"
    yield "file sizes", output.size(one.logical_bytes)
    yield "only here", _held(reply.unique_logical_bytes, reply.unique_stored_bytes)
    yield (
        "elsewhere too",
        _held(
            reply.held_logical_bytes - reply.unique_logical_bytes,
            reply.held_stored_bytes - reply.unique_stored_bytes,
        ),
    )


def _held(logical_bytes: int, stored_bytes: int) -> str:
    return f"{output.size(logical_bytes)} of files, {output.size(stored_bytes)} in packs"


def _until(moment: str | None, span: str | None) -> float | None:
    """Seconds since 1970; None when neither was said."""
    if moment is not None and span is not None:
        raise click.UsageError("--lock-until and --lock-for do not go together")
    if span is not None:
        match = _SPAN.fullmatch(span)
        if match is None:
            raise Invalid(f"--lock-for {span!r} is no span of time: expected one such as 12h, 30d, 4w or 1y")
        return SystemClock().time_ns() / 1e9 + int(match[1]) * _SECONDS[match[2]]
    if moment is None:
        return None
    try:
        when = datetime.fromisoformat(moment).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(
            f"--lock-until {moment!r} is no time: expected one such as 2027-03-01 or 2027-03-01T14:30"
        ) from None
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1)
