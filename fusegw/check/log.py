"""The log and the checkpoints in the store: does everything that recovery may need fit together?

Each finished checkpoint must count; from the oldest on every segment must be there, and the one that this
host's index knows as the newest must be that very one. With `read`, every part of every checkpoint and every
segment is opened, and the chain of hashes followed. Beside a running gateway older ones may go meanwhile:
what went is not missed.
"""

from collections.abc import Callable, Iterator

import msgspec

from fusegw.check.damages import LOG, Damages
from fusegw.errors import Corrupt, NotFound, UnknownFormat
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.schema import Head
from fusegw.ship import checkpoint, segment
from fusegw.ship.chain import LogReader, Pruned
from fusegw.ship.checkpoints import Folder, Written, examine, folders, read_part
from fusegw.store.base import ObjectStore

_GAPS_MAX = 100
_TRIES = 3
"""To follow a log whose beginning is taken away meanwhile."""


class LogFigures(msgspec.Struct):
    """What was looked at."""

    checkpoints: int = 0
    segments: int = 0


def check_log(
    head: Head,
    store: ObjectStore,
    keys: VolumeKeys,
    damages: Damages,
    on_progress: Callable[[int], None],
    *,
    read: bool,
) -> LogFigures:
    """Blocking. `head` is how far this host's index knows the log; `on_progress` gets the objects read."""
    figures = LogFigures()
    for _ in range(_TRIES):
        counting = _check_checkpoints(store, keys, damages, figures, on_progress, read=read)
        oldest = min((folder.name.seq for folder in _finished(store)), default=0)
        _check_presence(head, oldest, store, damages, figures)
        if not read:
            break
        try:
            _follow(head, counting, store, keys, damages, figures, on_progress)
            break
        except Pruned:
            continue
    return figures


def _finished(store: ObjectStore) -> list[Folder]:
    return [folder for folder in folders(store) if folder.finished]


def _check_checkpoints(
    store: ObjectStore,
    keys: VolumeKeys,
    damages: Damages,
    figures: LogFigures,
    on_progress: Callable[[int], None],
    *,
    read: bool,
) -> list[Written]:
    """Those that count, the newest first."""
    counting: list[Written] = []
    broken: dict[checkpoint.Name, str] = {}
    there = _finished(store)
    figures.checkpoints = len(there)
    for folder in there:
        try:
            written = examine(store, keys, folder)
            for number in range(1, len(written.manifest.parts) + 1 if read else 1):
                read_part(store, keys, written, number)
                on_progress(number)
            counting.append(written)
        except (Corrupt, UnknownFormat) as error:
            broken[folder.name] = str(error)
    if broken:
        still = {folder.name for folder in _finished(store)}
        for name, problem in broken.items():
            if name in still:
                place = checkpoint.object_key(name, checkpoint.MANIFEST).rpartition("/")[0] + "/"
                damages.of(place, problem)
    return counting


def _check_presence(
    head: Head, oldest: int, store: ObjectStore, damages: Damages, figures: LogFigures
) -> None:
    missing = list(_missing(store, oldest, head.seq, figures))
    if missing:
        oldest = min((folder.name.seq for folder in _finished(store)), default=0)
    for seq in missing:
        if seq > oldest:
            key = segment.object_key(seq)
            damages.of(key, f"log segment {key} is missing from {store.url}")
    if head.seq <= oldest or head.seq in missing:
        return
    key = segment.object_key(head.seq)
    try:
        found = segment.digest(store.get(key, size_max=segment.SEGMENT_BYTES_MAX))
    except NotFound:
        return  # Pruned since: a younger checkpoint was examined.
    except Corrupt as error:
        damages.of(key, str(error))
        return
    if found != head.hash:
        damages.of(key, f"log segment {key} is not the one that this host had shipped")


def _missing(store: ObjectStore, oldest: int, newest: int, figures: LogFigures) -> Iterator[int]:
    """Numbers after `oldest` up to `newest`, or to the last one that is there, whose segment is not."""
    expected = oldest + 1
    gaps = count = 0
    for info in store.list("log/", start_after=segment.object_key(oldest)):
        number = info.key.rpartition("/")[2]
        if not number.isdecimal():
            continue
        for seq in range(expected, min(int(number), expected + _GAPS_MAX)):
            yield seq
            gaps += 1
        expected, count = int(number) + 1, count + 1
        if gaps > _GAPS_MAX:
            break
    else:
        yield from range(expected, min(newest + 1, expected + _GAPS_MAX))
    figures.segments = count


def _follow(
    head: Head,
    counting: list[Written],
    store: ObjectStore,
    keys: VolumeKeys,
    damages: Damages,
    figures: LogFigures,
    on_progress: Callable[[int], None],
) -> None:
    """Open every segment after the oldest checkpoint that counts. Pruned when that went away meanwhile."""
    at = Head()
    if counting:
        at = checkpoint.head_of(counting[-1].name, counting[-1].manifest)
    reader = LogReader(store, keys, at)
    figures.segments = 0
    try:
        while reader.next() is not None:
            figures.segments += 1
            on_progress(figures.segments)
            if reader.at.seq == head.seq and reader.at.hash != head.hash:
                key = segment.object_key(head.seq)
                damages.of(key, f"log segment {key} is not the one that this host had shipped")
    except Pruned:
        raise
    except (Corrupt, UnknownFormat) as error:
        damages.of(LOG, str(error))
