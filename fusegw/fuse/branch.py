"""One volume of a unified mount: its handlers, with its root below the root of the mount.

Its handles carry the volume's number above the inode, so that a request that names nothing but a handle
finds its volume.
"""

from collections.abc import Callable

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, RequestContext

from fusegw.fuse.nodes import VOLUME_SHIFT
from fusegw.fuse.operations import VALID_S, Operations
from fusegw.fuse.owed import Owed
from fusegw.fuse.replies import instant
from fusegw.meta.schema import ROOT_INODE, Inode
from fusegw.vfs.volume import Volume


class Branch(Operations):
    """The handlers of one volume among others; `root` gives the attributes of the mount's root."""

    def __init__(
        self,
        volume: Volume,
        *,
        name: bytes,
        volume_number: int,
        owed: Owed,
        root: Callable[[], EntryAttributes],
        valid_s: float = VALID_S,
    ) -> None:
        super().__init__(volume, volume_number=volume_number, owed=owed, alone=False, valid_s=valid_s)
        self.name = name
        self.number = volume_number
        self._root = root
        self._handles = volume_number << VOLUME_SHIFT

    def root_entry(self) -> EntryAttributes:
        """The attributes of the volume's root."""
        return self._entry(self._present(ROOT_INODE))

    def looked_up(self) -> EntryAttributes:
        """The same, as an answer that makes the kernel hold one more reference."""
        return self._remembered(self._present(ROOT_INODE))

    @instant
    def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if name == b".." and parent == self._nodes.root_node:
            return self._root()
        return self._looked_up(parent, name)

    @instant
    def opendir(self, node: int, ctx: RequestContext) -> int:
        return self._handles | self._inode_of(node)

    def _opened(self, ino: int) -> FileInfo:
        opened = super()._opened(ino)
        opened.fh = pyfuse3.FileHandleT(self._handles | ino)
        return opened

    def _above(self, directory: Inode) -> EntryAttributes:
        return self._root() if directory.ino == ROOT_INODE else super()._above(directory)
