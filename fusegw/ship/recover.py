"""An index from nothing but the store: the newest checkpoint that is whole, then the log after it.

A checkpoint that does not count, or turns out to be damaged while it is read, gives way to the next older
one, and that is said; without any the log must begin with its first segment. The index is built in a
directory of its own, which takes its place by one rename when it is whole; a crash leaves the old one, or
none. Each position's changes are applied in one transaction, so what is there at any time is a position that
existed. Nothing is believed before it was authenticated and found to continue the chain.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from fusegw.clock import Clock, utc
from fusegw.errors import Corrupt, FusegwError, Invalid, NotFound, UnknownFormat
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.load import Load
from fusegw.meta.metadata import Metadata
from fusegw.meta.rebuild import Rebuild
from fusegw.meta.schema import Head
from fusegw.ship import checkpoint, segment
from fusegw.ship.chain import LogReader, Pruned
from fusegw.ship.checkpoints import Folder, Written, examine, folders, read_part
from fusegw.ship.segment import TAKEOVER, Segment
from fusegw.store.base import ObjectStore

log = logging.getLogger(__name__)


class Progress(msgspec.Struct, frozen=True):
    """How far a recovery has come."""

    segments: int
    """Applied."""
    nbytes: int
    """Of them."""
    parts: int = 0
    """Of the checkpoint, loaded; that is done before the first segment is applied."""
    parts_total: int = 0


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
    checkpoint_bytes: int = 0
    """Of its parts, as they lie in the store."""
    skipped: tuple[str, ...] = ()
    """What was not valid, and why it was not used."""
    anchor_checked: bool = False
    """Whether the history was found to contain the anchor; False without one, and for one so old that the
    store does not hold its place any more."""


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
    recovery = _Recovery(store, keys, until or Until(), anchor, on_progress)
    building = meta_dir.with_name(meta_dir.name + ".recovering")
    recovered: Recovered | None = None
    for start in recovery.starts():
        shutil.rmtree(building, ignore_errors=True)
        metadata = Metadata(building, size_max_bytes=metadata_limit_bytes, clock=clock)
        try:
            recovered = recovery.attempt(metadata, start)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        finally:
            metadata.close()
        if recovered is not None:
            break
    assert recovered is not None, "there is always another start"
    if not recovered.head.seq:
        shutil.rmtree(building, ignore_errors=True)
        raise _without_log(store)
    try:
        if meta_dir.exists():
            meta_dir.rmdir()
        building.rename(meta_dir)
    except OSError as error:
        raise FusegwError(
            f"the recovered index cannot be put into {meta_dir}: {error}; check that disk"
        ) from None
    return recovered


def _without_log(store: ObjectStore) -> NotFound:
    if next(store.list("packs/"), None) is not None:
        return NotFound(
            f"{store.url} holds packs but no log, without which no file can be found: restore what was below "
            "log/ and checkpoints/ from a copy of the store"
        )
    return NotFound(
        f"{store.url} holds no log: the volume was never mounted for writing, nothing is in it. Empty that "
        "place and create the volume anew with fusegw init"
    )


class _Recovery:
    """What to begin with, one attempt after the other; remembers what was not valid."""

    def __init__(
        self,
        store: ObjectStore,
        keys: VolumeKeys,
        until: Until,
        anchor: Head | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._store = store
        self._keys = keys
        self._until = until
        self._anchor = anchor
        self._on_progress = on_progress
        self._skipped: list[str] = []
        self._tried: set[checkpoint.Name] = set()

    def starts(self) -> Iterator[Written | None]:
        """The checkpoints that count and are not too new, the newest first; then None, for no checkpoint.

        Their writer may meanwhile write others and take these away, or the log that is being read: as long as
        there are new ones, it goes on with those.
        """
        while True:
            while there := self._untried():
                for folder in there:
                    self._tried.add(folder.name)
                    if (written := self._counting(folder)) is not None:
                        yield written
            yield None

    def _untried(self) -> list[Folder]:
        return [folder for folder in folders(self._store) if folder.name not in self._tried]

    def _counting(self, folder: Folder) -> Written | None:
        until = self._until
        if until.seq is not None and folder.name.seq > until.seq:
            return None
        try:
            written = examine(self._store, self._keys, folder)
        except (Corrupt, UnknownFormat) as error:
            self._skip(error)
            return None
        return written if until.time_ns is None or written.manifest.time_ns <= until.time_ns else None

    def attempt(self, metadata: Metadata, start: Written | None) -> Recovered | None:
        """The index at the position that is wanted, from the checkpoint and what the log has after it; None
        when the checkpoint turns out to be damaged, or what follows it was given up meanwhile."""
        at, time_ns = Head(), 0
        if start is not None:
            at, time_ns = checkpoint.head_of(start.name, start.manifest), start.manifest.time_ns
            try:
                self._load(metadata, start, at)
            except (Corrupt, UnknownFormat) as error:
                self._skip(error)
                return None
        reader = LogReader(self._store, self._keys, at)
        replay = _Replay(metadata, reader, self._until, self._on_progress, time_ns)
        try:
            checked = replay.run(self._anchor)
        except Pruned as error:
            if self._untried():
                return None
            raise self._not_kept(error) from None
        if self._anchor is not None and self._anchor.seq < at.seq:
            checked = self._leads_to(self._anchor, at)
        return Recovered(
            head=replay.head,
            time_ns=replay.time_ns,
            nbytes=reader.nbytes,
            segments=replay.segments,
            checkpoint=None if start is None else start.name.seq,
            checkpoint_bytes=0 if start is None else start.manifest.stored_bytes,
            skipped=tuple(self._skipped),
            anchor_checked=checked,
        )

    def _load(self, metadata: Metadata, start: Written, at: Head) -> None:
        total = len(start.manifest.parts)
        load = Load(metadata)
        try:
            for number in range(1, total + 1):
                records = read_part(self._store, self._keys, start, number)
                load.add(records, checkpoint.describe(start.name, number))
                self._on_progress(Progress(0, 0, number, total))
            counts = load.finish(at)
        finally:
            load.abandon()
        if not _same_counts(counts, start.manifest.rows):
            what = checkpoint.describe(start.name, checkpoint.MANIFEST)
            raise Corrupt(f"{what} names other numbers of rows than the parts have")

    def _leads_to(self, anchor: Head, at: Head) -> bool:
        """Whether the log leads from the anchor to `at`; False when that part of it is not kept."""
        try:
            data = self._store.get(segment.object_key(anchor.seq), size_max=segment.SEGMENT_BYTES_MAX)
        except NotFound:
            return False
        found, _ = segment.opened(data, anchor.seq, self._keys)
        if (found.epoch, segment.digest(data)) != (anchor.epoch, anchor.hash):
            raise _exchanged(Head(anchor.seq, segment.digest(data), found.epoch), anchor)
        reader = LogReader(self._store, self._keys, anchor)
        try:
            while reader.at.seq < at.seq:
                if reader.next() is None:
                    return False
        except Pruned:
            return False
        if reader.at.hash != at.hash:
            raise _exchanged(at, reader.at)
        return True

    def _skip(self, error: FusegwError) -> None:
        log.warning("a checkpoint is not used: %s", error)
        self._skipped.append(str(error))

    def _not_kept(self, error: Pruned) -> FusegwError:
        if self._until == Until():
            why = "; ".join(self._skipped) or "there is none"
            return Corrupt(f"{error}, and no checkpoint is whole: {why}. Restore one of these objects")
        for folder in reversed(folders(self._store)):
            try:
                oldest = examine(self._store, self._keys, folder)
            except (Corrupt, UnknownFormat):
                continue
            return _not_so_old(oldest.name.seq, oldest.manifest.time_ns)
        return error


class _Replay:
    """Applies the positions that a reader finds, up to a bound, and looks for the anchor on the way."""

    def __init__(
        self,
        metadata: Metadata,
        reader: LogReader,
        until: Until,
        on_progress: Callable[[Progress], None],
        time_ns: int,
    ) -> None:
        self._step = Rebuild(metadata)
        self._reader = reader
        self._until = until
        self._on_progress = on_progress
        self.head, self.time_ns = reader.at, time_ns
        """Where the index is, and when that was sealed."""
        self.segments = 0
        """That were read."""
        self._first: Segment | None = None

    def run(self, anchor: Head | None) -> bool:
        """The index is at the position then; parts of a step that was never finished are dropped. Whether
        the anchor was met."""
        reader = self._reader
        met = self._meets(anchor)
        try:
            while self._wanted() and (found := self._next()) is not None:
                met |= self._meets(anchor)
                if found.kind == TAKEOVER:
                    self._step.abandon()
                else:
                    self._step.apply(found.body, f"log segment {segment.object_key(found.seq)}")
                if found.final:
                    if self._until.time_ns is not None and found.time_ns > self._until.time_ns:
                        break
                    self._step.finish(reader.at)
                    self.head, self.time_ns = reader.at, found.time_ns
        except Corrupt as error:
            raise type(error)(
                f"{error}. The state up to segment {self.head.seq} (epoch {self.head.epoch}) is whole"
            ) from None
        finally:
            self._step.abandon()
        self._refuse_if_not_there()
        while anchor is not None and reader.at.seq < anchor.seq:
            if self._next() is None:
                raise Invalid(
                    f"the log ends with segment {reader.at.seq} (epoch {reader.at.epoch}, hash "
                    f"{reader.at.hash.hex()}), before the anchor: segment {anchor.seq} (epoch "
                    f"{anchor.epoch}, hash {anchor.hash.hex()}). The store was set back or exchanged"
                )
            met |= self._meets(anchor)
        return met

    def _wanted(self) -> bool:
        return self._until.seq is None or self._reader.at.seq < self._until.seq

    def _next(self) -> Segment | None:
        found = self._reader.next()
        if found is not None:
            self.segments += 1
            self._first = self._first or found
            self._on_progress(Progress(self.segments, self._reader.nbytes))
        return found

    def _meets(self, anchor: Head | None) -> bool:
        """Whether the reader is at the anchor; Invalid when it is at another segment of that number."""
        at = self._reader.at
        if anchor is None or at.seq != anchor.seq:
            return False
        if (at.epoch, at.hash) != (anchor.epoch, anchor.hash):
            raise _exchanged(at, anchor)
        return True

    def _refuse_if_not_there(self) -> None:
        wanted = self._until.seq
        if wanted is not None and wanted > self._reader.at.seq:
            raise NotFound(f"position {wanted} does not exist; the newest one is {self._reader.at.seq}")
        if self._until != Until() and not self.head.seq:
            oldest = self._first or self._next()
            if oldest is not None:
                raise _not_so_old(oldest.seq, oldest.time_ns)


def _same_counts(found: dict[str, int], named: dict[str, int]) -> bool:
    """A table that one of them does not name has no rows there: it came later, or is not known here."""
    return all(found.get(table, 0) == named.get(table, 0) for table in found.keys() | named.keys())


def _not_so_old(seq: int, time_ns: int) -> NotFound:
    return NotFound(
        f"the oldest position that is kept is {seq}, of {utc(time_ns)}; ask for that one or a later one"
    )


def _exchanged(at: Head, anchor: Head) -> Invalid:
    return Invalid(
        f"segment {at.seq} is of epoch {at.epoch} and has hash {at.hash.hex()}, the anchor says epoch "
        f"{anchor.epoch} and hash {anchor.hash.hex()}. The store was set back or exchanged"
    )
