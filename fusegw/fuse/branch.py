"""One volume of a unified mount: its handlers, with its root below the root of the mount."""

from collections.abc import Callable

from pyfuse3 import EntryAttributes, RequestContext

from fusegw.fuse.operations import Operations
from fusegw.fuse.owed import Owed
from fusegw.fuse.replies import VALID_S, instant
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
        snapshots_visible: bool = False,
        valid_s: float = VALID_S,
    ) -> None:
        super().__init__(
            volume,
            volume_number=volume_number,
            owed=owed,
            alone=False,
            snapshots_visible=snapshots_visible,
            valid_s=valid_s,
        )
        self.name = name
        self._root = root

    @instant
    def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if name == b".." and parent == self._nodes.root_node:
            return self._root()
        return self._looked_up(parent, name)

    def _above(self, directory: Inode) -> EntryAttributes:
        return self._root() if directory.ino == ROOT_INODE else super()._above(directory)
