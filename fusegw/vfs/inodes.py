"""Inodes as callers see them: the row of the index, overlaid by what written data has not settled yet.

A write changes size and times at once for every reader, but the row may not say so before the data behind
it is in the index: a committed size must never run ahead of committed extents, nor a new time stamp stand
on old data. While a file has such data its newest inode is *held* here, and its row keeps the old size,
allocation and times; everything else (mode, owner, link count) goes through to the row immediately.

An inode that comes, loses its last name or goes over to another quota is counted here (`Usage`); who changes
the allocation of a row counts that.
"""

from msgspec.structs import replace

from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import INODE, Inode
from fusegw.vfs.usage import Usage


class Inodes:
    """The inodes of one volume. Loop thread only."""

    def __init__(self, metadata: Metadata, usage: Usage) -> None:
        self._metadata = metadata
        self.usage = usage
        self._held: dict[int, Inode] = {}

    def get(self, ino: int) -> Inode | None:
        """The inode as callers see it, None when there is none."""
        return self._held.get(ino) or self._metadata.get(INODE, ino)

    def read(self, change: Change, ino: int) -> Inode | None:
        """The same inside an operation: sees what the operation has put."""
        return self._held.get(ino) or change.get(INODE, ino)

    def create(self, change: Change, inode: Inode) -> None:
        """A new inode, as part of the operation that makes it."""
        change.put(INODE, inode.ino, inode)
        self.usage.moved(change, None, inode)

    def put(self, change: Change, inode: Inode) -> None:
        """The inode's new state, as part of an operation. Validate before: a held inode changes at once."""
        held = inode.ino in self._held
        row = inode
        if held or not inode.nlink:
            before = change.get(INODE, inode.ino)
            assert before is not None, "what is changed has a row"
            if held:
                self._held[inode.ino] = inode
                row = replace(
                    inode,
                    size=before.size,
                    allocated=before.allocated,
                    mtime_ns=before.mtime_ns,
                    ctime_ns=before.ctime_ns,
                )
            if before.nlink and not inode.nlink:
                self.usage.moved(change, before, row)
        change.put(INODE, inode.ino, row)

    def retag(self, change: Change, ino: int, number: int) -> None:
        """The inode counts for another quota from now on."""
        before = change.get(INODE, ino)
        assert before is not None, "what is changed has a row"
        after = replace(before, quota=number)
        change.put(INODE, ino, after)
        self.usage.moved(change, before, after)
        if ino in self._held:
            self._held[ino] = replace(self._held[ino], quota=number)

    def delete(self, change: Change, ino: int) -> None:
        """The inode is gone, and what it held with it."""
        self._held.pop(ino, None)
        change.delete(INODE, ino)

    def hold(self, inode: Inode) -> None:
        """From now on `inode` is what callers see; its row stays until `settle`."""
        self._held[inode.ino] = inode

    def is_held(self, ino: int) -> bool:
        return ino in self._held

    def settle(self, change: Change, ino: int) -> None:
        """All data of the file is in the index: its row becomes what callers see."""
        inode = self._held.pop(ino, None)
        if inode is not None:
            row = change.get(INODE, ino)
            assert row is not None, "a held inode has a row"
            change.put(INODE, ino, replace(inode, size=row.size, allocated=row.allocated))
