"""An index from nothing but the store: reads the log from its first segment and applies it, step by step.

The index is built in a directory of its own, which takes its place by one rename when it is whole; a crash
leaves the old one, or none. Each position's changes are applied in one transaction, so what is there at any
time is a position that existed. Nothing is believed before it was authenticated and found to continue the
chain.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from fusegw.clock import Clock, utc
from fusegw.errors import Corrupt, Invalid, NotFound
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.metadata import Metadata
from fusegw.meta.rebuild import Rebuild
from fusegw.meta.schema import Head
from fusegw.ship import segment
from fusegw.ship.segment import SEGMENT_BYTES_MAX, TAKEOVER, Segment
from fusegw.ship.takeover import refuse_gap
from fusegw.store.base import ObjectStore

log = logging.getLogger(__name__)


class Progress(msgspec.Struct, frozen=True):
    """How far a recovery has come."""

    segments: int
    """Applied."""
    nbytes: int
    """Of them."""


class Until(msgspec.Struct, frozen=True):
    """How far to go, at most one of the two; neither means the newest position."""

    seq: int | None = None
    """The position of this segment; for a part of a step, the last position before that step."""
    time_ns: int | None = None
    """The last position before the first one that was sealed later (ns since 1970, writers' clocks)."""


class Recovered(msgspec.Struct, frozen=True):
    """What was recovered."""

    head: Head
    time_ns: int
    """When the position was sealed, by its writer's clock; 0 for an empty log."""
    nbytes: int
    """Of the log that were read."""
    segments: int
    """Of the log that were read."""
    checkpoint: int | None = None
    """Position of the checkpoint that it began with; None: with the first segment."""
    skipped: tuple[str, ...] = ()
    """What was not valid, and why it was not used."""
    anchor_checked: bool = False
    """Whether the history was found to contain the anchor; False without one, and for one so old that the
    store does not hold its place any more."""


class LogReader:
    """Follows the chain of segments from a place in it."""

    def __init__(self, store: ObjectStore, keys: VolumeKeys, at: Head) -> None:
        self._store = store
        self._keys = keys
        self.at = at
        """The newest segment read; its `commit` means nothing here."""
        self.nbytes = 0

    def next(self) -> Segment | None:
        """The next segment, None at the end of the log. Blocking. Corrupt names what does not fit."""
        try:
            data = self._store.get(segment.object_key(self.at.seq + 1), size_max=SEGMENT_BYTES_MAX)
        except NotFound:
            refuse_gap(self._store, self.at.seq)
            return None
        found = segment.unseal(data, self.at, self._keys)
        self.at = Head(found.seq, segment.digest(data), found.epoch, 0)
        self.nbytes += len(data)
        return found


def recover(
    meta_dir: Path,
    store: ObjectStore,
    keys: VolumeKeys,
    *,
    metadata_limit_bytes: int,
    clock: Clock,
    until: Until | None = None,
    anchor: Head | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Recovered:
    """Blocking: build the index in `meta_dir`, which must be empty or missing, at the newest position, or at
    the one that `until` names.

    `anchor` is a segment (number, epoch, hash) that the history must contain.
    NotFound when the store has no log, or none that goes back to `until`; Corrupt names the segment that is
    damaged, missing or exchanged; Invalid when the store does not contain the anchor.
    """
    building = meta_dir.with_name(meta_dir.name + ".recovering")
    shutil.rmtree(building, ignore_errors=True)
    metadata = Metadata(building, size_max_bytes=metadata_limit_bytes, clock=clock)
    try:
        reader = LogReader(store, keys, Head())
        recovered = _Replay(metadata, reader, until or Until(), anchor, on_progress).run()
    finally:
        metadata.close()
    if not recovered.head.seq:
        raise NotFound(f"{store.url} holds no log: the volume was never mounted for writing")
    if meta_dir.exists():
        meta_dir.rmdir()
    building.rename(meta_dir)
    return recovered


class _Replay:
    """Applies the positions that a reader finds, up to a bound, and checks the anchor on the way."""

    def __init__(
        self,
        metadata: Metadata,
        reader: LogReader,
        until: Until,
        anchor: Head | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._step = Rebuild(metadata)
        self._reader = reader
        self._until = until
        self._anchor = anchor
        self._on_progress = on_progress
        self._position, self._time_ns = reader.at, 0
        self._count = 0
        self._oldest: Segment | None = None

    def run(self) -> Recovered:
        """The index is at the position then; parts of a step that was never finished are dropped."""
        reader = self._reader
        try:
            while self._wanted() and (found := self._next()) is not None:
                if found.kind == TAKEOVER:
                    self._step.abandon()
                else:
                    self._step.apply(found.body, f"log segment {segment.object_key(found.seq)}")
                if found.final:
                    if self._until.time_ns is not None and found.time_ns > self._until.time_ns:
                        break
                    self._step.finish(reader.at)
                    self._position, self._time_ns = reader.at, found.time_ns
        except Corrupt as error:
            raise Corrupt(
                f"{error}. The state up to segment {self._position.seq} (epoch {self._position.epoch}) is "
                "whole"
            ) from None
        finally:
            self._step.abandon()
        head = self._position
        if self._until == Until() and head.seq != reader.at.seq:
            # Parts without their end: the next takeover must follow them all the same.
            head = reader.at
            self._step.finish(head)
        self._refuse_if_not_there()
        checked = self._anchor is not None and self._follow_to(self._anchor)
        return Recovered(head, self._time_ns, reader.nbytes, self._count, anchor_checked=checked)

    def _wanted(self) -> bool:
        return self._until.seq is None or self._reader.at.seq < self._until.seq

    def _next(self) -> Segment | None:
        found = self._reader.next()
        if found is not None:
            self._count += 1
            self._oldest = self._oldest or found
            self._on_progress(Progress(self._count, self._reader.nbytes))
            if self._anchor is not None and self._reader.at.seq == self._anchor.seq:
                self._compare(self._anchor)
        return found

    def _follow_to(self, anchor: Head) -> bool:
        """Read on, without applying anything, until the anchor was seen."""
        while self._reader.at.seq < anchor.seq:
            if self._next() is None:
                raise Invalid(
                    f"the log ends with segment {self._reader.at.seq} (epoch {self._reader.at.epoch}, hash "
                    f"{self._reader.at.hash.hex()}), before the anchor: segment {anchor.seq} (epoch "
                    f"{anchor.epoch}, hash {anchor.hash.hex()}). The store was set back or exchanged"
                )
        return True

    def _compare(self, anchor: Head) -> None:
        at = self._reader.at
        if (at.epoch, at.hash) != (anchor.epoch, anchor.hash):
            raise Invalid(
                f"segment {at.seq} is of epoch {at.epoch} and has hash {at.hash.hex()}, the anchor says "
                f"epoch {anchor.epoch} and hash {anchor.hash.hex()}. The store was set back or exchanged"
            )

    def _refuse_if_not_there(self) -> None:
        wanted = self._until.seq
        if wanted is not None and wanted > self._reader.at.seq:
            raise NotFound(f"position {wanted} does not exist; the newest one is {self._reader.at.seq}")
        if self._until != Until() and not self._position.seq:
            oldest = self._oldest if self._oldest is not None else self._next()
            if oldest is not None:
                raise NotFound(
                    f"the oldest position that is kept is {oldest.seq}, of {utc(oldest.time_ns)}; ask for "
                    "that one or a later one"
                )
