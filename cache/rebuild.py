"""Opening a cache directory: is the file system fit, and what survived there.

Runs before any other thread knows of the cache. Whatever a crash left half done is decided here: a file
nobody knows is deleted, a block that is not whole is freed, everything else is taken over. Bytes that
a power loss turned into zeros are not noticed here; they fail authentication when read.
"""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from operator import attrgetter

from cache.disk import Disk
from cache.errors import CacheUnsuitable
from cache.space import Space, is_pack_name

Known = Callable[[set[str]], Collection[str]]
"""Given names of packs, those of them that are in the store."""


def probe(disk: Disk, directory: str, block_bytes: int) -> None:
    """Raise CacheUnsuitable unless holes can be punched and found again. Needs no free space."""
    path = os.path.join(directory, "probe")
    try:
        fd = disk.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            disk.ftruncate(fd, 2 * block_bytes)
            disk.punch(fd, 0, block_bytes)
            found = not disk.data_ranges(fd)
        finally:
            disk.close(fd)
            disk.unlink(path)
    except OSError as error:
        raise CacheUnsuitable(
            f"cache directory {directory}: its file system cannot punch holes into files ({error.strerror}), "
            "which eviction needs; use a directory on ext4, XFS, Btrfs or tmpfs"
        ) from error
    if not found:
        raise CacheUnsuitable(
            f"cache directory {directory}: its file system does not tell holes from data (SEEK_DATA), "
            "which a restart needs; use a directory on ext4, XFS, Btrfs or tmpfs"
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of a stored pack with its whole blocks as [first, end) stretches."""

    modified_ns: int
    name: str
    size: int
    stretches: list[tuple[int, int]]


def rebuild(space: Space, *, pinned: Collection[str], known: Known) -> None:
    """Take over the files below `space`.

    Raises CacheUnsuitable when a directory or a pinned file cannot be read.
    """
    clean: list[_Found] = []
    others: dict[str, str] = {}
    try:
        for shard in (f"{number:02x}" for number in range(256)):
            directory = space.directory(shard)
            space.disk.make_dir(directory)
            for name in space.disk.scan(directory):
                if not is_pack_name(name) or name[:2] != shard:
                    space.disk.unlink(os.path.join(directory, name))
                elif name in pinned:
                    _take_pinned(space, name)
                else:
                    others[name] = os.path.join(directory, name)
        stored = known(set(others)) if others else ()
        for name, path in others.items():
            if name not in stored or not _examine(space, name, clean):
                space.disk.unlink(path)
        space.disk.fsync_dir(space.directory(""))
    except OSError as error:
        raise CacheUnsuitable(
            f"cache directory below {space.directory('')} cannot be read ({error}): "
            "mend the disk or the permissions; it may hold data that is not in the store yet"
        ) from error
    # The order of the last writes is the nearest thing left to the order of use.
    for found in sorted(clean, key=attrgetter("modified_ns")):
        space.restore(space.add(found.name), found.size, found.stretches)


def _take_pinned(space: Space, name: str) -> None:
    fd = space.disk.open(space.path(name), os.O_RDWR)
    try:
        size = space.disk.stat(fd).st_size
    finally:
        space.disk.close(fd)
    space.pin(space.add(name), size)


def _examine(space: Space, name: str, clean: list[_Found]) -> bool:
    """Find the whole blocks of a stored pack and free its torn ones; False if it is good for nothing."""
    step = space.block_bytes
    stretches = []
    try:
        fd = space.disk.open(space.path(name), os.O_RDWR)
        try:
            state = space.disk.stat(fd)
            for start, end in space.disk.data_ranges(fd):
                first = -(-start // step)
                stop = -(-end // step) if end >= state.st_size else end // step
                if first < stop:
                    stretches.append((first, stop))
                for torn in {start // step, (end - 1) // step}:
                    if not first <= torn < stop:
                        space.disk.punch(fd, torn * step, step)
        finally:
            space.disk.close(fd)
    except OSError:
        return False
    if stretches:
        clean.append(_Found(state.st_mtime_ns, name, state.st_size, stretches))
    return bool(stretches)
