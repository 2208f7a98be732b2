"""Inodes as callers see them: the row of the index, overlaid by what written data has not settled yet.

A write changes size and times at once for every reader, but the row may not say so before the data behind
it is in the index: a committed size must never run ahead of committed extents, nor a new time stamp stand
on old data. While a file has such data its newest inode is *held* here, and its row keeps the old size,
allocation and times; everything else (mode, owner, link count) goes through to the row immediately.
"""

from msgspec.structs import replace

from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import INODE, Inode


class Inodes:
    """The inodes of one volume. Loop thread only."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._held: dict[int, Inode] = {}

    def get(self, ino: int) -> Inode | None:
        """The inode as callers see it, None when there is none."""
        return self._held.get(ino) or self._metadata.get(INODE, ino)

    def read(self, change: Change, ino: int) -> Inode | None:
        """The same inside an operation: sees what the operation has put."""
        return self._held.get(ino) or change.get(INODE, ino)

    def put(self, change: Change, inode: Inode) -> None:
        """The inode's new state, as part of an operation. Validate before: a held inode changes at once."""
        if inode.ino not in self._held:
            change.put(INODE, inode.ino, inode)
            return
        self._held[inode.ino] = inode
        row = change.get(INODE, inode.ino)
        assert row is not None, "a held inode has a row"
        change.put(
            INODE,
            inode.ino,
            replace(
                inode,
                size=row.size,
                allocated=row.allocated,
                mtime_ns=row.mtime_ns,
                ctime_ns=row.ctime_ns,
            ),
        )

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
