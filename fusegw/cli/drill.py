"""`fusegw drill`: recovery rehearsed from the store alone, beside the running gateway."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from fusegw.cli import output
from fusegw.cli.opening import opened_volume
from fusegw.cli.secret_source import SecretFiles, present_secret, secret_options
from fusegw.cli.session import Session, Site, common_options, json_option, volume_argument
from fusegw.clock import SystemClock, SystemEntropy, utc
from fusegw.daemon.lock import volume_lock
from fusegw.daemon.process import harden
from fusegw.drill.run import Drill, Held, OnProgress, Report, held_by_index, run
from fusegw.drill.sample import EVERYTHING, Size, parse_size
from fusegw.errors import Busy, Corrupt, Invalid, NotFound, Unavailable
from fusegw.ship.anchor import anchor_in
from fusegw.sizes import parse_size as parse_bytes

_DIRECTORY = click.Path(path_type=Path, file_okay=False, exists=True)
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@click.command("drill")
@volume_argument
@click.option("--directory", type=_DIRECTORY, help="Recover the index below this one (default: state).")
@click.option("--sample", default="1%", show_default=True, metavar="SHARE|N", help="Files to read back.")
@click.option("--limit", default="1G", show_default=True, metavar="SIZE", help="Most file data to read.")
@click.option("--all", "everything", is_flag=True, help="Read back all files, whatever their size.")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), help="Choose the files of an earlier drill.")
@secret_options
@json_option
@common_options
def drill(
    session: Session,
    name: str | None,
    *,
    directory: Path | None,
    sample: str,
    limit: str,
    everything: bool,
    seed: int | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Rehearse the recovery of a volume from its store.

    Recovers the index into a private directory, checks that every pack it needs is in the store, reads files
    back (1 % of them, at least 100) and verifies each chunk. Changes nothing: not the store, not the running
    gateway, not the caches. Exit code 0 only when all that was looked at is whole, 11 when something is not.
    """
    site = session.site()
    volume = site.volume(name)
    size = EVERYTHING if everything else _size(sample, limit)
    harden()
    files = SecretFiles(passphrase_file, key_file)
    secret = present_secret(files, site.volume_config(volume), session.environ, volume=volume)
    clock = SystemClock()
    begun = clock.monotonic()
    held = _held(site, volume, clock)
    with _ended_by_signals(), opened_volume(site, volume, secret) as (store, keys):
        rehearsal = Drill(
            name=volume,
            store=store,
            keys=keys,
            begun=begun,
            base=directory or site.state_dir,
            held=held,
            size=size,
            seed=int.from_bytes(SystemEntropy().token(4), "big") if seed is None else seed,
            metadata_limit_bytes=site.volume_config(volume).metadata_limit_bytes,
            clock=clock,
        )
        with _progress(volume) as show:
            report = run(rehearsal, show)
    if as_json:
        document: dict[str, Any] = msgspec.to_builtins(report)
        output.print_json({"volume": volume} | document)
    else:
        output.print_pairs(f"drill of volume {volume}", _lines(report))
    if not report.whole:
        first = report.damage[0]
        more = len(report.damage) - 1
        raise Corrupt(
            f"volume {volume!r} cannot be recovered whole: {first.problem}"
            + (f"; needed by {', '.join(first.files[:3])}" if first.files else "")
            + (f"; and {more} more" if more else "")
        )


def _size(sample: str, limit: str) -> Size:
    nbytes = parse_bytes(limit)
    if not nbytes:
        raise Invalid("--limit must be more than nothing; --all reads everything")
    return parse_size(sample, nbytes)


def _held(site: Site, name: str, clock: SystemClock) -> Held | None:
    """What this host holds of the volume; None when it has never had it, or is just starting or ending."""
    try:
        status = site.client(name).status()
    except (NotFound, Unavailable):
        pass
    else:
        head = anchor_in(status.anchor, "the gateway's answer") if status.anchor else None
        return Held("reader" if status.read_only else "gateway", head, status.oldest_unshipped_s)
    try:
        with volume_lock(site.paths(name)):
            return held_by_index(site.paths(name).meta_dir, clock)
    except Busy:
        return None


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, so that it cleans up."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(volume: str) -> Iterator[OnProgress]:
    with output.bar(f"drill of {volume}") as update:

        def show(what: str, done: float, total: float | None) -> None:
            update(done, total, what if total is None else f"{what}: {done:,.0f} of {total:,.0f}")

        yield show


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    yield "outcome", "whole" if report.whole else f"DAMAGED: {len(report.damage)} objects"
    for one in report.damage:
        needed = f"; needed by {', '.join(one.files)}" if one.files else ""
        yield one.object, one.problem + needed
    for unused in report.checkpoints_unused:
        yield "not used", unused
    if report.sealed_unix_s is not None:
        at = utc(round(report.sealed_unix_s * 1e9))
        yield "position", f"segment {report.segment:,}, epoch {report.epoch}, of {at}"
    yield "loss (RPO)", f"{_seconds(report.rpo_s)}, {_SAID_BY[report.rpo_by]}"
    yield "index back", _seconds(report.rto_index_s)
    yield "first file data", _seconds(report.rto_first_byte_s)
    yield "everything (RTO)", f"{output.duration(report.rto_everything_s)} at {_rate(report)}, an estimate"
    yield "packs", f"{report.packs:,} needed and looked for"
    yield "files read", _read(report)
    yield (
        "volume",
        (
            f"{report.files:,} files, {output.size(report.file_bytes)}, stored in "
            f"{output.size(report.stored_bytes)}; index {output.size(report.metadata_bytes)}"
        ),
    )
    yield "seed", f"{report.seed}"


_SAID_BY = {
    "gateway": "says the running gateway",
    "index": "says the index of this host, which is not mounted",
    "store": "since the newest position; this host writes nothing and knows no later change",
}


def _read(report: Report) -> str:
    partly = f" ({report.files_checked_partly:,} in part)" if report.files_checked_partly else ""
    return (
        f"{report.files_checked:,} of {report.files:,}{partly}, {output.size(report.bytes_checked)} in "
        f"{report.chunks_checked:,} chunks, {output.size(report.bytes_fetched)} fetched"
    )


def _rate(report: Report) -> str:
    rate = report.read_rate_bytes_s
    return "no measured rate" if rate is None else f"{output.size(rate)}/s"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s" if value < 60 else output.duration(value)
