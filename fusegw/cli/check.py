"""`fusegw check`: is a volume whole, and which files suffer if not; beside the gateway or without one."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from fusegw.check.run import Check, Mend, OnProgress, Report, run
from fusegw.cli import output
from fusegw.cli.opening import opened_volume
from fusegw.cli.secret_source import SecretFiles, present_secret, secret_options
from fusegw.cli.session import Session, Site, common_options, json_option, volume_argument
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.config import cache_of
from fusegw.control.client import ControlClient
from fusegw.control.protocol import MendItem, StatusReply
from fusegw.daemon.lock import volume_lock
from fusegw.daemon.process import harden
from fusegw.errors import Corrupt, FusegwError, Invalid, NotFound
from fusegw.meta.beside import IndexBeside
from fusegw.sizes import parse_size
from fusegw.vfs.mending import Suspect

_FILE = click.Path(path_type=Path, dir_okay=False)
_REPORT_FILES_MAX = 100_000
"""Files that are named for one object in a report."""
_MEND_MAX = 5000
"""Chunks in one request to the gateway."""


@click.command("check")
@volume_argument
@click.option("--read-data", is_flag=True, help="Read every record from the store and verify it.")
@click.option("--sample", metavar="SHARE", help="Read so many of the records, such as 1%.")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), help="Choose the records of an earlier check.")
@click.option("--rate", metavar="SIZE", help="Read no more than this per second, such as 50M.")
@click.option("--repair", is_flag=True, help="Store anew what the cache has of what is damaged.")
@click.option(
    "--report", "report_file", type=_FILE, metavar="FILE", help="Write what was found there, as JSON."
)
@secret_options
@json_option
@common_options
def check(
    session: Session,
    name: str | None,
    *,
    read_data: bool,
    sample: str | None,
    seed: int | None,
    rate: str | None,
    repair: bool,
    report_file: Path | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Check that a volume is whole.

    Looks at every row of the index, for every pack in the store, at the log and the checkpoints; with
    --read-data also at every record. Works beside the running gateway as well as without one. A mounted
    volume takes what is found damaged out of its dedup index, so that the next write of the same data stores
    it anew. Nothing is ever deleted. Exit code 0 only when all that was looked at is whole, 11 when something
    is not.
    """
    if read_data and sample is not None:
        raise click.UsageError("--read-data and --sample do not go together")
    share = 1.0 if read_data else _share(sample)
    site = session.site()
    volume = site.volume(name)
    harden()
    files = SecretFiles(passphrase_file, key_file)
    secret = present_secret(files, site.volume_config(volume), session.environ, volume=volume)
    with ExitStack() as stack:
        gateway = _gateway(site, volume)
        if repair and (gateway is None or gateway.read_only):
            raise Invalid(
                f"--repair needs volume {volume!r} mounted for writing on this host: mount it first"
            )
        if gateway is None:
            stack.enter_context(volume_lock(site.paths(volume)))
        store, keys = stack.enter_context(opened_volume(site, volume, secret))
        index = stack.enter_context(IndexBeside(site.paths(volume).meta_dir))
        entry = site.registry.get(volume)
        own_cache = cache_of(site.cache_dir, entry.volume_id, entry.number, entry.fixed_at)
        given = Check(
            views=index.view,
            store=store,
            keys=keys,
            clock=SystemClock(),
            wait=time.sleep,
            trim=index.trim,
            places=[own_cache / "packs"],
            share=share,
            seed=int.from_bytes(SystemEntropy().token(4), "big") if seed is None else seed,
            rate_bytes_s=None if rate is None else parse_size(rate),
            files_max=20 if report_file is None else _REPORT_FILES_MAX,
            is_newest=entry.fixed_at is None and not (gateway is not None and gateway.read_only),
        )
        client = None if gateway is None or gateway.read_only else site.client(volume)
        with _progress(volume) as show:
            report = run(given, mend=_mend(client, repair=repair), on_progress=show)
    _show(volume, report, report_file, as_json)


def _share(sample: str | None) -> float:
    if sample is None:
        return 0.0
    try:
        value = float(sample.rstrip("%")) / (100 if sample.endswith("%") else 0)
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not 0 < value <= 1:
        raise Invalid(f"{sample!r} is no sample: expected a percentage such as 1%")
    return value


def _gateway(site: Site, volume: str) -> StatusReply | None:
    try:
        return site.client(volume).status()
    except NotFound:
        return None


def _mend(client: ControlClient | None, *, repair: bool) -> Mend:
    """What the gateway does about damaged chunks; without one nothing is done."""

    def mend(suspects: Sequence[Suspect]) -> set[int]:
        whole: set[int] = set()
        if client is None:
            return whole
        items = [MendItem(number=one.number, pack=one.pack, good=one.good) for one in suspects]
        for first in range(0, len(items), _MEND_MAX):
            whole.update(client.mend(items[first : first + _MEND_MAX], repair=repair).whole)
        return whole

    return mend


@contextmanager
def _progress(volume: str) -> Iterator[OnProgress]:
    with output.bar(f"check of {volume}") as update:

        def show(what: str, done: float, total: float | None) -> None:
            update(done, total, what if total is None else f"{what}: {min(done / max(total, 1), 1):.0%}")

        yield show


def _show(volume: str, report: Report, report_file: Path | None, as_json: bool) -> None:
    document: dict[str, Any] = {"volume": volume} | msgspec.to_builtins(report)
    if report_file is not None:
        text = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        try:
            with open(report_file, "wb", opener=_for_us_alone) as file:
                file.write(text)
        except OSError as error:
            raise FusegwError(f"report {report_file} cannot be written: {error.strerror}") from None
    if as_json:
        output.print_json(document)
    else:
        output.print_pairs(f"check of volume {volume}", _lines(report))
    if not report.whole:
        first, more = report.damage[0], len(report.damage) - 1
        raise Corrupt(
            f"volume {volume!r} is damaged: {first.problem}"
            + (f"; needed by {', '.join(first.files[:3])}" if first.files else "")
            + (f"; and {more} more" if more else "")
        )


def _for_us_alone(path: str, flags: int) -> int:
    """A new report is 0600: it names files."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    yield "outcome", "whole" if report.whole else f"DAMAGED: {len(report.damage)} objects or rows"
    for one in report.damage:
        named = ", ".join(one.files[:20]) + (" …" if len(one.files) > 20 else "")
        yield one.object, one.problem + (f"; needed by {named}" if named else "")
    if report.mended_chunks:
        yield "mended", f"{report.mended_chunks:,} chunks are whole again"
    if report.damaged_chunks:
        yield "lost", f"{report.damaged_chunks:,} chunks, until their data is written again"
    yield "index", f"{report.files:,} files, {report.chunks:,} chunks"
    yield "packs", f"{report.packs:,} needed and looked for"
    if report.packs_unknown:
        size = output.size(report.packs_unknown_bytes)
        yield "unknown packs", f"{report.packs_unknown:,} objects ({size}) that nothing refers to"
    yield "log", f"{report.checkpoints:,} checkpoints, {report.segments:,} segments"
    if report.chunks_read:
        read = f"{report.chunks_read:,} records, {output.size(report.bytes_read)}"
        yield "read", f"{read}, chosen by seed {report.seed}" if report.chunks_read < report.chunks else read
    yield "took", output.duration(report.check_s)
