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

from fusegw.clock import Clock
from fusegw.errors import Corrupt, NotFound
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


class Recovered(msgspec.Struct, frozen=True):
    """What was recovered."""

    head: Head
    time_ns: int
    """When the position was sealed, by its writer's clock; 0 for an empty log."""
    nbytes: int
    """Of the log that were read."""


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
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Recovered:
    """Blocking: build the index in `meta_dir`, which must be empty or missing, at the newest position.

    NotFound when the store has no log; Corrupt names the segment that is damaged, missing or exchanged.
    """
    building = meta_dir.with_name(meta_dir.name + ".recovering")
    shutil.rmtree(building, ignore_errors=True)
    metadata = Metadata(building, size_max_bytes=metadata_limit_bytes, clock=clock)
    try:
        recovered = _replay(metadata, LogReader(store, keys, Head()), on_progress)
    finally:
        metadata.close()
    if not recovered.head.seq:
        raise NotFound(f"{store.url} holds no log: the volume was never mounted for writing")
    if meta_dir.exists():
        meta_dir.rmdir()
    building.rename(meta_dir)
    return recovered


def _replay(metadata: Metadata, reader: LogReader, on_progress: Callable[[Progress], None]) -> Recovered:
    """Apply all positions; parts of a step that was never finished are dropped."""
    position, time_ns, count = reader.at, 0, 0
    step = Rebuild(metadata)
    try:
        while (found := reader.next()) is not None:
            count += 1
            if found.kind == TAKEOVER:
                step.abandon()
            else:
                step.apply(found.body, f"log segment {segment.object_key(found.seq)}")
            if found.final:
                step.finish(reader.at)
                position, time_ns = reader.at, found.time_ns
            on_progress(Progress(count, reader.nbytes))
        step.abandon()
        if position.seq != reader.at.seq:
            # Parts without their end: the next takeover must follow them all the same.
            step.finish(reader.at)
    except Corrupt as error:
        step.abandon()
        raise Corrupt(
            f"{error}. The state up to segment {position.seq} (epoch {position.epoch}) is whole"
        ) from None
    return Recovered(reader.at, time_ns, reader.nbytes)
