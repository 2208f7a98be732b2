"""The log and the checkpoints in the store: does everything that recovery may need fit together?

Each finished checkpoint must count, and those that this host's index remembers must be there; from the place
on that it remembers (without that, the oldest checkpoint) every segment must be there, and the one that it
knows as the newest must be that very one. With `read`, every part of every checkpoint and every segment is
opened, and the chain of hashes followed. Beside a running gateway older ones may go meanwhile: what went is
not missed.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from fusegw.check.damages import LOG, Damages
from fusegw.errors import Corrupt, Invalid, NotFound, UnknownFormat
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.schema import LOG_SEALED, Head
from fusegw.meta.view import View
from fusegw.ship import checkpoint, segment
from fusegw.ship.chain import LogReader, Pruned
from fusegw.ship.checkpoints import Folder, Written, examine, folders, read_part
from fusegw.ship.kept import Kept, kept_of
from fusegw.ship.segment import TAKEOVER, Segment
from fusegw.store.base import ObjectStore

_GAPS_MAX = 100
_TRIES = 3
"""To follow a log whose beginning is taken away meanwhile."""


class LogFigures(msgspec.Struct):
    """What was looked at."""

    checkpoints: int = 0
    segments: int = 0


def refuse_if_behind(views: Callable[[], View], store: ObjectStore) -> None:
    """Blocking: Invalid when the log goes on after what this host's index knows of: then that tells neither
    what the volume is nor which objects it needs.

    The segment that a gateway has under way may be there before the index knows; its bytes are in the index.
    """
    with views() as view:
        last = segment.object_key(view.head.seq)
    for info in store.list("log/", start_after=last):
        last = info.key
    with views() as view:
        head, under_way = view.head, view.sound_row(LOG_SEALED, view.head.seq + 1)
    if last <= segment.object_key(head.seq):
        return
    if (
        last == segment.object_key(head.seq + 1)
        and under_way is not None
        and store.get(last, size_max=segment.SEGMENT_BYTES_MAX) == under_way.data
    ):
        return
    raise Invalid(
        f"the index on this host ends with segment {head.seq} of the log, {store.url} has {last}: the index "
        "is an older one, or another gateway writes the volume. Nothing was checked: mount the volume, which "
        "brings the index up to date, and check then"
    )


def check_log(
    views: Callable[[], View],
    store: ObjectStore,
    keys: VolumeKeys,
    damages: Damages,
    on_progress: Callable[[int], None],
    *,
    read: bool,
    is_newest: bool,
) -> LogFigures:
    """Blocking. `views` gives the newest commit of this host's index; `on_progress` gets the objects read.
    What the index remembers counts when it `is_newest`: another writer may have taken that away."""
    checking = _Checking(views, store, keys, damages, on_progress, is_newest=is_newest)
    for _ in range(_TRIES):
        counting = checking.checkpoints(read=read)
        checking.presence()
        if not read:
            break
        try:
            checking.follow(counting)
            break
        except Pruned:
            continue
    return checking.figures


class _Checking:
    """One look at log and checkpoints, of a state of the index that they are at least as new as."""

    def __init__(
        self,
        views: Callable[[], View],
        store: ObjectStore,
        keys: VolumeKeys,
        damages: Damages,
        on_progress: Callable[[int], None],
        *,
        is_newest: bool,
    ) -> None:
        self._views = views
        self._is_newest = is_newest
        self._store = store
        self._keys = keys
        self._damages = damages
        self._on_progress = on_progress
        self.figures = LogFigures()
        with views() as view:
            self._head = view.head

    def checkpoints(self, *, read: bool) -> list[Written]:
        """Those that count, the newest first."""
        expected = self._kept()
        there = self._finished()
        self._miss(expected, there)
        counting: list[Written] = []
        broken: dict[checkpoint.Name, str] = {}
        self.figures.checkpoints = len(there)
        for folder in there:
            try:
                written = examine(self._store, self._keys, folder)
                for number in range(1, len(written.manifest.parts) + 1 if read else 1):
                    read_part(self._store, self._keys, written, number)
                    self._on_progress(number)
                counting.append(written)
            except (Corrupt, UnknownFormat) as error:
                broken[folder.name] = str(error)
        if broken:
            still = {folder.name for folder in self._finished()}
            for name, problem in broken.items():
                if name in still:
                    self._damages.of(_folder(name), problem)
        return counting

    def _miss(self, expected: Kept | None, there: Sequence[Folder]) -> None:
        """Those that were remembered before the store was listed and are after it."""
        found = {folder.name for folder in there}
        if expected is None or expected.names <= found:
            return
        now = self._kept()
        if now is None:
            return
        for name in (expected.names & now.names) - found:
            what = checkpoint.describe(name, checkpoint.MANIFEST)
            self._damages.of(_folder(name), f"{what} is missing from {self._store.url}: it was finished")

    def presence(self) -> None:
        """Is every segment there, and the one that this host had shipped last that very one?"""
        head = self._head
        missing = list(self._missing(self._log_from()))
        if missing:
            log_from = self._log_from()
            for seq in missing:
                if seq >= log_from:
                    key = segment.object_key(seq)
                    self._damages.of(key, f"log segment {key} is missing from {self._store.url}")
        if not head.seq or head.seq in missing:
            return
        key = segment.object_key(head.seq)
        try:
            found = segment.digest(self._store.get(key, size_max=segment.SEGMENT_BYTES_MAX))
        except NotFound:
            return  # Given up since.
        except Corrupt as error:
            self._damages.of(key, str(error))
            return
        if found != head.hash:
            self._damages.of(key, f"log segment {key} is not the one that this host had shipped")

    def _log_from(self) -> int:
        """The segment from which on all must be there, as of now."""
        kept = self._kept()
        if kept is not None:
            return kept.log_from
        return min((folder.name.seq for folder in self._finished()), default=0) + 1

    def _missing(self, log_from: int) -> Iterator[int]:
        """Numbers from `log_from` up to the head, or to the last one that is there, whose segment is not."""
        expected = log_from
        gaps = count = 0
        for info in self._store.list("log/", start_after=segment.object_key(log_from - 1)):
            number = segment.number_of(info.key)
            if number is None:
                continue
            for seq in range(expected, min(number, expected + _GAPS_MAX)):
                yield seq
                gaps += 1
            expected, count = number + 1, count + 1
            if gaps > _GAPS_MAX:
                break
        else:
            yield from range(expected, min(self._head.seq + 1, expected + _GAPS_MAX))
        self.figures.segments = count

    def follow(self, counting: Sequence[Written]) -> None:
        """Open every segment that is there, and follow the chain after the oldest checkpoint that counts.
        Pruned when what follows that went away meanwhile."""
        at = checkpoint.head_of(counting[-1].name, counting[-1].manifest) if counting else Head()
        self.figures.segments = 0
        self._open_before(at)
        head, reader = self._head, LogReader(self._store, self._keys, at)
        try:
            while reader.next() is not None:
                self._count_segment()
                if reader.at.seq == head.seq and reader.at.hash != head.hash:
                    key = segment.object_key(head.seq)
                    self._damages.of(key, f"log segment {key} is not the one that this host had shipped")
        except Pruned:
            raise
        except (Corrupt, UnknownFormat) as error:
            self._damages.of(LOG, str(error))

    def _open_before(self, at: Head) -> None:
        """What the log has up to `at`: what older checkpoints need, and takeovers. Each epoch's takeover
        stays, or a writer that was replaced would find its next slot free."""
        begun: dict[int, int] = {}
        unknown = 0
        before: tuple[Segment, bytes] | None = None
        for info in self._store.list("log/"):
            seq = segment.number_of(info.key)
            if seq is None:
                continue
            if seq > at.seq:
                break
            try:
                data = self._store.get(info.key, size_max=segment.SEGMENT_BYTES_MAX)
                found, previous = segment.opened(data, seq, self._keys)
            except NotFound:
                continue  # Given up since the listing.
            except (Corrupt, UnknownFormat) as error:
                self._damages.of(info.key, str(error))
                unknown += 1
                continue
            self._count_segment()
            if before is not None and not _may_follow(*before, found, previous):
                key = segment.object_key(before[0].seq)
                self._damages.of(key, f"log segment {key} is not the one that {info.key} continues")
            if seq == at.seq and segment.digest(data) != at.hash:
                self._damages.of(info.key, f"log segment {info.key} is not the one of its checkpoint")
            before = found, segment.digest(data)
            if found.kind == TAKEOVER:
                begun[found.epoch] = seq
        lost = [epoch for epoch in range(1, at.epoch + 1) if epoch not in begun]
        for epoch in lost[unknown:]:
            low = max((seq for other, seq in begun.items() if other < epoch), default=0)
            high = min((seq for other, seq in begun.items() if other > epoch), default=at.seq + 1)
            self._damages.of(
                LOG,
                f"the takeover that began epoch {epoch} is missing from {self._store.url}: between "
                f"{segment.object_key(low)} and {segment.object_key(high)}",
            )

    def _count_segment(self) -> None:
        self.figures.segments += 1
        self._on_progress(self.figures.segments)

    def _kept(self) -> Kept | None:
        if not self._is_newest:
            return None
        with self._views() as view:
            return kept_of(view)

    def _finished(self) -> list[Folder]:
        return [folder for folder in folders(self._store) if folder.finished]


def _may_follow(before: Segment, its_hash: bytes, found: Segment, previous: bytes) -> bool:
    """Whether `found` can be the next one that is there; a slot that was given up may hold a takeover that
    came too late, which nothing continues."""
    too_late = before.kind == found.kind == TAKEOVER and before.epoch >= found.epoch
    return found.seq != before.seq + 1 or previous == its_hash or too_late


def _folder(name: checkpoint.Name) -> str:
    return checkpoint.object_key(name, checkpoint.MANIFEST).rpartition("/")[0] + "/"
