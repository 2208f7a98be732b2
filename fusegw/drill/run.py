"""A drill: recovery rehearsed from the store alone, beside whatever runs, and what it found.

Keys from the store → index recovered into a private directory → the store's packs compared with it → a sample
of the files read back and verified, chunk by chunk → report. Nothing is taken over, nothing is written to the
store (it is wrapped so that it could not be), no cache is used, and the directory is gone afterwards.

Promises: `whole` is true only when the recovered position is the newest one this host knows of, every pack
that it needs is there with its size, the extents of each file looked at cover it exactly, and every chunk
read had its tag and its id. What a drill did not read, it does not vouch for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from fusegw.check.damages import LOG, Damage, Damages
from fusegw.check.packs import check_packs
from fusegw.clock import Clock
from fusegw.drill.check import Check, Figures
from fusegw.drill.place import private_directory
from fusegw.drill.sample import Sample, Size
from fusegw.errors import Corrupt, Invalid, NotFound
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import STATE, STATE_STORED, Head
from fusegw.meta.view import View
from fusegw.ship import checkpoint
from fusegw.ship.checkpoint import MANIFEST
from fusegw.ship.checkpoints import folders
from fusegw.ship.recover import Progress, Recovered, recover
from fusegw.ship.segment import object_key
from fusegw.store.base import ObjectStore
from fusegw.store.readonly import ReadOnlyStore

OnProgress = Callable[[str, float, float | None], None]
"""Gets what is being done, how much of it, and how much there is (None: not known)."""


class Held(msgspec.Struct, frozen=True):
    """What this host knows of the volume, from the running gateway or from the index of an unmounted one."""

    by: Literal["gateway", "index", "reader"]
    """reader: a gateway that only reads, and does not know what the writer still holds."""
    head: Head | None
    """The newest segment that it had shipped: the store must contain it. None before the first."""
    oldest_unshipped_s: float | None
    """Age of the oldest change that is not in the store; None when all are."""


class Report(msgspec.Struct, kw_only=True):
    """What a drill found. Times in seconds, sizes in bytes."""

    whole: bool = False
    damage: list[Damage] = []
    store_url: str
    seed: int
    segment: int = 0
    """Number of the newest segment, the position recovered to."""
    epoch: int = 0
    sealed_unix_s: float | None = None
    checkpoint: int | None = None
    """Position of the checkpoint that recovery began with; None: with the first segment."""
    checkpoints_unused: list[str] = []
    """Newer ones that do not count, and why: unfinished ones, for example one that is being written now."""
    rpo_s: float | None = None
    """Age of the oldest change that would have been lost, had this host been lost when the drill began."""
    rpo_by: Literal["gateway", "index", "store"] = "store"
    """Who said so: the running gateway, the unmounted index, or nobody here: then it is the time since the
    newest position was sealed, and whatever a writer elsewhere holds is younger than that."""
    rto_index_s: float | None = None
    """Until the index was there: a gateway would have been mounted then."""
    rto_first_byte_s: float | None = None
    """Until the first file data was read."""
    rto_everything_s: float | None = None
    """Estimate: the index, then all data at the rate measured."""
    read_rate_bytes_s: float | None = None
    """Stored bytes fetched and verified per second."""
    recovery_bytes: int = 0
    """Of log and checkpoint that were read."""
    files: int = 0
    """Regular files in the volume."""
    file_bytes: int = 0
    stored_bytes: int = 0
    """Of all chunks, compressed and sealed."""
    metadata_bytes: int = 0
    packs: int = 0
    """Needed, and looked for in the store."""
    files_checked: int = 0
    files_checked_partly: int = 0
    """Of them, those too large for the sample."""
    bytes_checked: int = 0
    """Of files, verified."""
    bytes_fetched: int = 0
    chunks_checked: int = 0
    drill_s: float = 0.0


class Drill(msgspec.Struct, frozen=True):
    """What a drill needs."""

    name: str
    store: ObjectStore
    keys: VolumeKeys
    begun: float
    """By the monotonic clock: before the keys were asked for."""
    base: Path
    """Where the private directory is made."""
    held: Held | None
    """As it was when the drill began."""
    size: Size
    seed: int
    metadata_limit_bytes: int
    clock: Clock


def run(drill: Drill, on_progress: OnProgress = lambda what, done, total: None) -> Report:
    """Blocking. Damage is in the report; what says nothing about the volume (Unavailable, Denied, Full, …) is
    raised.
    """
    report = Report(store_url=drill.store.url, seed=drill.seed)
    damages = Damages()
    with private_directory(drill.base, drill.name) as directory:
        index = directory / "meta"
        recovered = _recover(drill, index, report, damages, on_progress)
        if recovered is not None:
            metadata = Metadata(index, size_max_bytes=drill.metadata_limit_bytes, clock=drill.clock)
            try:
                report.metadata_bytes = metadata.used_bytes
                with metadata.view() as view:
                    _check_data(drill, view, report, damages, on_progress)
                    report.damage = damages.named(view)
            finally:
                metadata.close()
        else:
            report.damage = damages.unnamed()
    report.whole = not report.damage
    report.drill_s = drill.clock.monotonic() - drill.begun
    return report


def held_by_index(index: Path, clock: Clock) -> Held | None:
    """What the index of a volume that nobody has mounted knows; the caller holds the volume's lock."""
    if not (index / "data.mdb").exists():
        return None
    metadata = Metadata(index, size_max_bytes=0, clock=clock)
    try:
        with metadata.view() as view:
            since = metadata.unshipped_since_ns
            age = None if since is None else max(0.0, (clock.time_ns() - since) / 1e9)
            return Held("index", view.head if view.head.seq else None, age)
    finally:
        metadata.close()


def _recover(
    drill: Drill, index: Path, report: Report, damages: Damages, on_progress: OnProgress
) -> Recovered | None:
    """None when it cannot be done, for a reason that is damage."""

    def show(progress: Progress) -> None:
        if progress.parts < progress.parts_total:
            on_progress("loading the checkpoint", progress.parts, progress.parts_total)
        else:
            on_progress("reading the log", progress.segments, None)

    anchor = None if drill.held is None else drill.held.head
    store = ReadOnlyStore(drill.store)
    finished = _finished(store)
    try:
        recovered = recover(
            index,
            store,
            drill.keys,
            metadata_limit_bytes=drill.metadata_limit_bytes,
            clock=drill.clock,
            anchor=anchor,
            on_progress=show,
        )
    except Invalid as error:
        assert anchor is not None, "only an anchor is refused"
        key = object_key(anchor.seq)
        damages.of(key, f"{key}, which this host had shipped, is missing or another one: {error}")
        return None
    except (Corrupt, NotFound) as error:
        damages.of(LOG, str(error))
        return None
    _judge_checkpoints(finished & _finished(store), recovered, report, damages)
    report.rto_index_s = drill.clock.monotonic() - drill.begun
    report.segment, report.epoch = recovered.head.seq, recovered.head.epoch
    report.sealed_unix_s = recovered.time_ns / 1e9
    report.checkpoint = recovered.checkpoint
    report.recovery_bytes = recovered.nbytes + recovered.checkpoint_bytes
    if drill.held is None or drill.held.by == "reader":
        report.rpo_s = max(0.0, (drill.clock.time_ns() - recovered.time_ns) / 1e9)
    else:
        report.rpo_by, report.rpo_s = drill.held.by, drill.held.oldest_unshipped_s or 0.0
    return recovered


def _finished(store: ObjectStore) -> set[str]:
    """Where the finished checkpoints lie."""
    keys = [checkpoint.object_key(folder.name, MANIFEST) for folder in folders(store) if folder.finished]
    return {key.rpartition("/")[0] + "/" for key in keys}


def _judge_checkpoints(finished: set[str], recovered: Recovered, report: Report, damages: Damages) -> None:
    """One that was not used is damaged if it was finished all the while; the gateway may just be writing it,
    or be removing it."""
    for problem in recovered.skipped:
        place = next((place for place in finished if place in problem), None)
        if place is None:
            report.checkpoints_unused.append(problem)
        else:
            damages.of(place, problem)


def _check_data(drill: Drill, view: View, report: Report, damages: Damages, on_progress: OnProgress) -> None:
    store = ReadOnlyStore(drill.store)
    on_progress("looking for packs", 0, None)
    report.packs = check_packs(view, store, damages).needed
    on_progress("choosing files", 0, None)
    sample = Sample(view, drill.size, drill.seed)
    begun = drill.clock.monotonic()

    def show(figures: Figures) -> None:
        on_progress("reading files back", figures.files, sample.files)

    check = Check(view, store, drill.keys, damages, drill.clock, show)
    check.run(sample)
    figures, elapsed = check.figures, drill.clock.monotonic() - begun
    stored = view.get(STATE, STATE_STORED)
    report.files, report.file_bytes = sample.files_total, sample.bytes_total
    report.stored_bytes = int.from_bytes(stored or b"", "big")
    report.files_checked, report.files_checked_partly = figures.files, figures.partly
    report.bytes_checked, report.bytes_fetched = figures.file_bytes, figures.fetched_bytes
    report.chunks_checked = figures.chunks
    if figures.first_byte_s is not None and report.rto_index_s is not None:
        # Looking for packs and choosing files is the drill's own work.
        report.rto_first_byte_s = report.rto_index_s + figures.first_byte_s - begun
        report.read_rate_bytes_s = figures.fetched_bytes / elapsed if elapsed > 0 else None
    if report.read_rate_bytes_s and report.rto_index_s is not None:
        report.rto_everything_s = report.rto_index_s + report.stored_bytes / report.read_rate_bytes_s
