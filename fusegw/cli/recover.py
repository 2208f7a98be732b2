"""`fusegw recover`: what is asked for and what is printed; the order of doing it is in `fusegw.recovery`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusegw.cli import output
from fusegw.cli.secret_source import SecretFiles, present_secret, secret_options
from fusegw.cli.session import Session, common_options, json_option
from fusegw.cli.store_source import store_options, store_said
from fusegw.clock import SystemClock, SystemEntropy, utc
from fusegw.daemon import mountpoint
from fusegw.daemon.process import harden
from fusegw.errors import Denied, Invalid, NotFound
from fusegw.keys.secret import Secret
from fusegw.recovery import Recovery, Restored, recover_gateway
from fusegw.ship.anchor import ANCHOR_BYTES_MAX, anchor_in, anchor_text
from fusegw.ship.recover import Progress, Until

if TYPE_CHECKING:
    from fusegw.meta.schema import Head

_DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.command("recover")
@click.argument("name")
@store_options
@click.option("--mount", "place", type=_DIRECTORY, metavar="DIR", help="Mount it there, when it is done.")
@click.option(
    "--at",
    metavar="TIME|SEGMENT",
    help="An older state instead, to read: 2026-03-01T14:30 or a segment's number.",
)
@click.option(
    "--follow",
    is_flag=True,
    help="Stand by: the gateway that writes the volume goes on, nothing is taken over.",
)
@click.option("--anchor", metavar="FILE|ANCHOR", help="Refuse a store that does not contain this anchor.")
@secret_options
@json_option
@common_options
def recover(
    session: Session,
    name: str,
    *,
    unsafe_no_fencing: bool,
    place: Path | None,
    at: str | None,
    follow: bool,
    anchor: str | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
    **said: str | Path | None,
) -> None:
    """Bring volume NAME back on this host from its store.

    This host becomes its writer: a gateway that still serves the volume elsewhere stops changing it, within
    seconds. All that a sync --wait confirmed is there; file data are fetched when they are read. Called again
    after an interruption it finishes what was begun.

    With --at, NAME is a new name, under which an older state can be mounted read-only; nothing is taken over.
    With --follow this host becomes a standby, which fusegw promote makes the writer one day.
    """
    if at is not None and follow:
        raise click.UsageError("--at and --follow do not go together: an older state stays as it is")
    harden()
    site = session.site()
    config = site.config.volume(name)
    if place is not None:
        mountpoint.check_mountpoint(mountpoint.canonical(place), nonempty=False)
    wanted = Recovery(
        name=name,
        store=store_said(name, config.store, said),
        paths=site.paths(name),
        cache_dir=site.cache_dir,
        until=None if at is None else _until(at),
        follow=follow,
        anchor=None if anchor is None else _anchor(anchor),
        unsafe_no_fencing=unsafe_no_fencing,
        metadata_limit_bytes=config.metadata_limit_bytes,
    )

    def secret() -> Secret:
        files = SecretFiles(passphrase_file, key_file)
        session.secrets[name] = present_secret(files, config, session.environ, volume=name)
        return session.secrets[name]

    with _progress(name) as show:
        restored = recover_gateway(
            wanted,
            site.registry,
            secret=secret,
            clock=SystemClock(),
            entropy=SystemEntropy(),
            on_progress=show,
        )
    for remark in restored.remarks:
        print(f"fusegw: warning: {remark}", file=sys.stderr)
    if as_json:
        output.print_json(_document(name, restored, wanted))
    else:
        output.print_pairs(f"volume {name} recovered", _lines(restored, wanted))
    if place is not None:
        from fusegw.cli.mounts import mount

        click.get_current_context().invoke(mount, places=(name, str(place)), follow=follow)
    elif not as_json:
        print(f"\n{_next(name, restored, wanted)}")


def _until(text: str) -> Until:
    """A segment's number, or a time: ISO 8601, local where it names no zone."""
    if text.isdecimal():
        return Until(seq=int(text))
    try:
        when = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(
            f"--at {text!r} is neither a segment's number nor a time such as 2026-03-01T14:30 (local) or "
            "2026-03-01T13:30:00Z"
        ) from None
    return Until(time_ns=(when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000)


def _anchor(text: str) -> "Head":
    """The anchor itself, or the last one in a file."""
    if text.count(":") == 2 and not Path(text).exists():
        return anchor_in(text, "--anchor")
    try:
        with Path(text).open("rb") as file:
            data = file.read(ANCHOR_BYTES_MAX)
    except FileNotFoundError:
        raise NotFound(f"--anchor {text!r} is neither an anchor (EPOCH:SEGMENT:HASH) nor a file") from None
    except OSError as error:
        raise Denied(f"anchor file {text} cannot be read: {error.strerror}") from None
    return anchor_in(data.decode(errors="replace"), f"anchor file {text}")


def _document(name: str, restored: Restored, wanted: Recovery) -> dict[str, Any]:
    entry, found, identity = restored.entry, restored.found, restored.identity
    return {
        "volume": name,
        "volume_id": entry.volume_id,
        "number": entry.number,
        "recorded_number": identity.number if identity else None,
        "store_url": entry.store.url,
        "segment": found.head.seq,
        "epoch": found.head.epoch,
        "hash": found.head.hash.hex(),
        "sealed_unix_s": found.time_ns / 1e9,
        "fixed_at": entry.fixed_at,
        "follows": wanted.follow,
        "writer_epoch": restored.head.epoch if wanted.writes else None,
        "anchor": anchor_text(restored.head),
        "anchor_checked": found.anchor_checked,
        "checkpoint": found.checkpoint,
        "checkpoint_bytes_read": found.checkpoint_bytes,
        "skipped": list(found.skipped),
        "segments_read": found.segments,
        "log_bytes_read": found.nbytes,
        "files": restored.files,
        "logical_bytes": restored.nbytes,
        "policy": entry.policy,
        "mountpoint": identity.mountpoint if identity else None,
        "seconds": round(restored.seconds, 3),
        "remarks": list(restored.remarks),
    }


def _lines(restored: Restored, wanted: Recovery) -> Iterator[tuple[str, str]]:
    entry, found = restored.entry, restored.found
    yield "state", f"segment {found.head.seq:,} of the log (epoch {found.head.epoch}), {utc(found.time_ns)}"
    if found.checkpoint is not None:
        size = output.size(found.checkpoint_bytes)
        yield "from", f"checkpoint {found.checkpoint:,} ({size}) and the log after it"
    for skipped in found.skipped:
        yield "not used", skipped
    yield "read", f"{found.segments:,} segments, {output.size(found.nbytes)}, in {restored.seconds:.1f} s"
    yield "files", f"{restored.files:,} ({output.size(restored.nbytes)})"
    if found.anchor_checked:
        yield "anchor", "is in its history"
    if wanted.writes:
        yield "writer", f"this host, since epoch {restored.head.epoch}; a gateway elsewhere is fenced off"
    elif wanted.follow:
        yield "writer", "as before; this host stands by"
    yield "number", str(entry.number)
    if entry.policy:
        yield "settings", ", ".join(f"{key} = {value}" for key, value in entry.policy.items())


def _next(name: str, restored: Restored, wanted: Recovery) -> str:
    place = (restored.identity.mountpoint if restored.identity else "") or "DIR"
    if restored.entry.fixed_at is not None:
        return f"Next: fusegw mount {name} DIR   (read-only, and it stays at this state)"
    return f"Next: fusegw mount {'--follow ' if wanted.follow else ''}{name} {place}"


@contextmanager
def _progress(name: str) -> Iterator[Callable[[Progress], None]]:
    """Segments, bytes and rate on a terminal; nothing elsewhere. It begins with the first of them, not
    while the passphrase is asked for."""
    clock = SystemClock()
    update: Callable[[float, float | None, str], None] | None = None
    begun = 0.0
    with ExitStack() as stack:

        def show(progress: Progress) -> None:
            nonlocal update, begun
            if update is None:
                update, begun = stack.enter_context(output.bar(f"recovering {name}")), clock.monotonic()
            if progress.parts < progress.parts_total:
                read = f"checkpoint, part {progress.parts:,} of {progress.parts_total:,}"
                update(progress.parts, progress.parts_total, read)
                return
            rate = progress.nbytes / max(clock.monotonic() - begun, 0.1)
            read = f"{progress.segments:,} segments, {output.size(progress.nbytes)}, {output.size(rate)}/s"
            update(0, None, read)

        yield show
