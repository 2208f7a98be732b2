"""The end of unlinked files: when nobody can reach an inode any more, its rows and data go, in bounded steps.

An inode that loses its last link has a row in the reap table from that very operation on. It is reaped when
the kernel has forgotten it and no handle is open; a mount reaps what the one before left. A crash in
mid-reap leaves a shorter file in the table, and the next mount goes on. A directory may lose its name with
all below it (a tree that was replaced as a whole, a copy that never got its name): its entries then go first,
and what loses its last name thereby comes into the table too. A tree of any size is freed with bounded
memory: no step is made while what is not durable is at its bound.
"""

from itertools import islice

import trio
from msgspec.structs import replace

from fusegw.clock import Clock
from fusegw.errors import FusegwError
from fusegw.meta.chunks import Chunks
from fusegw.meta.committer import Committer
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import DIRENT, INODE, INODE_MAX, POSITION, REAP, XATTR, Inode
from fusegw.vfs import extents
from fusegw.vfs.directories import drop_link
from fusegw.vfs.files import Files
from fusegw.vfs.inodes import Inodes
from fusegw.vfs.usage import Usage

_EXTENTS_PER_STEP = 256
_ENTRIES_PER_STEP = 128
_STEPS_PER_TURN = 8
_RETRY_S = 0.5


class Reaper:
    """Knows which inodes the kernel holds, and frees the unlinked ones. Loop thread only; `run` must be
    running."""

    def __init__(
        self,
        metadata: Metadata,
        inodes: Inodes,
        chunks: Chunks,
        usage: Usage,
        files: Files,
        committer: Committer,
        *,
        clock: Clock,
    ) -> None:
        self._metadata = metadata
        self._committer = committer
        self._inodes = inodes
        self._chunks = chunks
        self._usage = usage
        self._files = files
        self._clock = clock
        self._lookups: dict[int, int] = {}
        self._unlinked = {ino for ino, _ in metadata.scan(REAP, 0, INODE_MAX + 1)}
        self._due = set(self._unlinked)
        self._work = trio.Event()

    def adopt(self, other: "Reaper") -> None:
        """What the kernel holds of `other`, which looked after the same inodes, it holds of this one; after
        `Files.adopt`."""
        self._lookups.update(other._lookups)
        self._due = {ino for ino in self._unlinked if not self._is_held(ino)}

    def is_known(self, ino: int) -> bool:
        """Whether the kernel was told of the inode and has not forgotten it."""
        return ino in self._lookups

    def remember(self, ino: int) -> None:
        """The kernel was told of the inode once more."""
        self._lookups[ino] = self._lookups.get(ino, 0) + 1

    def forget(self, ino: int, count: int) -> None:
        """The kernel let go of `count` of what it was told."""
        left = self._lookups.get(ino, 0) - count
        if left > 0:
            self._lookups[ino] = left
        else:
            self._lookups.pop(ino, None)
            if ino in self._unlinked:
                self.consider(ino)

    def is_unlinked(self, ino: int) -> bool:
        """Whether the inode has a row in the reap table."""
        return ino in self._unlinked

    def unlinked(self, ino: int) -> None:
        """The inode lost its last link, and has its row in the reap table."""
        self._unlinked.add(ino)
        self.consider(ino)

    def revived(self, ino: int) -> None:
        """The inode has a name again, and no row in the reap table."""
        self._unlinked.discard(ino)
        self._due.discard(ino)

    def consider(self, ino: int) -> None:
        """Reap the inode if it is unlinked and nobody holds it; called when a handle is closed, too."""
        if ino in self._unlinked and not self._is_held(ino):
            self._due.add(ino)
            self._work.set()

    @property
    def backlog(self) -> int:
        """Unlinked inodes that still have rows."""
        return len(self._unlinked)

    async def run(self) -> None:
        """Reap until cancelled."""
        while True:
            while not self._due:
                self._work = trio.Event()
                await self._work.wait()
            try:
                await self._committer.room()
            except FusegwError:
                await trio.sleep(_RETRY_S)
                continue
            self.step(_STEPS_PER_TURN)
            await trio.lowlevel.checkpoint()

    def step(self, steps_max: int) -> bool:
        """Up to `steps_max` bounded steps now; True while more is due."""
        for _ in range(steps_max):
            if not self._due:
                break
            ino = next(iter(self._due))
            if self._reap_some(ino):
                self._due.discard(ino)
                self._unlinked.discard(ino)
        return bool(self._due)

    def _is_held(self, ino: int) -> bool:
        return ino in self._lookups or self._files.is_open(ino)

    def _reap_some(self, ino: int) -> bool:
        """One step; True when the inode is gone."""
        self._files.drop(ino)
        with self._metadata.change() as change:
            row = change.get(INODE, ino)
            if row is None:
                change.delete(REAP, ino)
                return True
            if row.entries:
                gone = self._empty_some(change, row)
                change.merge()
                for child in gone:
                    self.unlinked(child)
                return False
            rest = extents.free_some(change, self._chunks, row, _EXTENTS_PER_STEP)
            self._usage.moved(change, row, rest)
            if rest is not None:
                change.put(INODE, ino, rest)
                return False
            for key, _ in list(change.scan(XATTR, (ino, b""), (ino + 1, b""))):
                change.delete(XATTR, key)
            self._inodes.delete(change, ino)
            change.delete(REAP, ino)
        return True

    def _empty_some(self, change: Change, directory: Inode) -> list[int]:
        """Take some entries out of a directory that went with all below it; the inodes that lost their last
        name."""
        gone: list[int] = []
        now = self._clock.time_ns()
        low, high = (directory.ino, 0), (directory.ino + 1, 0)
        found = list(islice(change.scan(POSITION, low, high), _ENTRIES_PER_STEP))
        for key, name in found:
            entry = change.get(DIRENT, (directory.ino, name))
            change.delete(POSITION, key)
            change.delete(DIRENT, (directory.ino, name))
            child = None if entry is None else self._inodes.read(change, entry.ino)
            if child is not None and child.nlink and drop_link(change, self._inodes, child, now):
                gone.append(child.ino)
        change.put(INODE, directory.ino, replace(directory, entries=directory.entries - len(found)))
        return gone
