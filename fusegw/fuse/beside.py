"""What a volume shows beside its present state: its snapshots, in two directories of its root.

`.snapshots` has them by name. `.previous-versions` has them by time, as SMB clients ask for them; its trees
have node ids of their own, since the kernel keeps a directory in one place only. Both are read-only, and what
is in them is never believed for long, so that nobody need be told when a snapshot comes or goes.
"""

import errno
import stat
from collections.abc import Callable
from typing import Protocol

import pyfuse3
from pyfuse3 import EntryAttributes, RequestContext

from fusegw.fuse.nodes import SNAPSHOTS_SLOT, VERSION_BIT, VERSIONS_SLOT, NodeIds
from fusegw.fuse.owed import Owed
from fusegw.fuse.past import PastTree
from fusegw.fuse.readonly import MadeUp, reply_dots
from fusegw.fuse.replies import absent, entry_of, instant
from fusegw.meta.schema import ROOT_INODE, Inode, Snapshot
from fusegw.meta.snapshot import time_label
from fusegw.vfs.directories import DIRECTORY_SIZE, SNAPSHOTS, VERSIONS
from fusegw.vfs.snapshots import Snapshots, Tree

PAST_VALID_S = 1.0
"""How long the kernel may believe what it was told of a snapshot. That never changes, but the snapshot may
go, and whoever has a handle of something in it must see that soon."""


class Present(Protocol):
    """The handlers of the volume's present state, as far as they are needed here."""

    number: int
    owed: Owed

    def root_entry(self) -> EntryAttributes:
        """The attributes of the volume's root."""

    def searched(self, pid: int) -> EntryAttributes:
        """The same, for a thread that is going to look for the name of a directory in it."""


class Beside:
    """The handlers of all slots of a volume but the present's. `snapshots` gives its snapshots."""

    def __init__(self, present: Present, *, snapshots: Callable[[], Snapshots]) -> None:
        self._number = present.number
        self._owed = present.owed
        self._snapshots = snapshots
        self.by_name = Listing(self, present, snapshots, slot=SNAPSHOTS_SLOT, view=0)
        self.by_time = Listing(self, present, snapshots, slot=VERSIONS_SLOT, view=VERSION_BIT)

    def directory(self, name: bytes) -> "Listing | None":
        """The one with this name in the volume's root."""
        if name == SNAPSHOTS:
            return self.by_name
        return self.by_time if name == VERSIONS else None

    def listed(self, *, whole: bool, visible: bool) -> "tuple[tuple[bytes, Listing], ...]":
        """Those that the root lists: both when it shows all of it, else the one for people, if that is
        wanted."""
        if whole:
            return (SNAPSHOTS, self.by_name), (VERSIONS, self.by_time)
        return ((SNAPSHOTS, self.by_name),) if visible else ()

    def handlers(self, slot: int) -> "PastTree | Listing | None":
        """Those of a slot; None when nothing is there."""
        if slot in (SNAPSHOTS_SLOT, VERSIONS_SLOT):
            return self.by_name if slot == SNAPSHOTS_SLOT else self.by_time
        number = slot & ~VERSION_BIT
        return None if self._snapshots().in_slot(number) is None else self.tree(number, slot & VERSION_BIT)

    def tree(self, slot: int, view: int) -> PastTree:
        """The handlers of whatever snapshot is in the slot at the time of a request."""

        def shown() -> Tree:
            snapshots = self._snapshots()
            snapshot = snapshots.in_slot(slot)
            if snapshot is None:
                raise OSError(errno.ESTALE, f"no snapshot is in slot {slot}")
            return snapshots.tree(snapshot)

        listing = self.by_time if view else self.by_name
        nodes = NodeIds(self._number, slot=slot | view, alone=False)
        return PastTree(shown, nodes, owed=self._owed, above=listing.entry, valid_s=PAST_VALID_S)


class Listing(MadeUp):
    """The handlers of a directory in which every snapshot is a directory."""

    def __init__(
        self,
        beside: Beside,
        present: Present,
        snapshots: Callable[[], Snapshots],
        *,
        slot: int,
        view: int,
    ) -> None:
        super().__init__(errno.EROFS)
        self._beside = beside
        self._present = present
        self._snapshots = snapshots
        self._view = view
        self._nodes = NodeIds(present.number, slot=slot, alone=False)
        self._absent = absent(0)

    def entry(self) -> EntryAttributes:
        """The attributes of the directory. That it is there may be believed, what they say not."""
        snapshots = self._snapshots()
        changed_ns = snapshots.changed_ns
        inode = Inode(
            ino=ROOT_INODE,
            generation=0,
            mode=stat.S_IFDIR | 0o555,
            nlink=2 + len(snapshots),
            uid=0,
            gid=0,
            size=DIRECTORY_SIZE,
            allocated=0,
            atime_ns=changed_ns,
            mtime_ns=changed_ns,
            ctime_ns=changed_ns,
        )
        return entry_of(inode, self._nodes.root_node, 0)

    @instant
    def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        self._check(parent)
        if name == b".":
            return self.entry()
        if name == b"..":
            return self._present.searched(ctx.pid)
        snapshot = self._find(name)
        return self._absent if snapshot is None else self._root_of(snapshot)

    @instant
    def getattr(self, node: int, ctx: RequestContext) -> EntryAttributes:
        self._check(node)
        return self.entry()

    @instant
    def opendir(self, node: int, ctx: RequestContext) -> int:
        self._check(node)
        return self._nodes.root_node

    @instant
    def readdir(self, ino: int, cookie: int, token: pyfuse3.ReaddirToken) -> None:
        """A snapshot's position is its sequence."""
        if not reply_dots(token, cookie, self.entry, self._present.root_entry):
            return
        for snapshot in self._snapshots():
            name = time_label(snapshot) if self._view else snapshot.name.encode()
            if snapshot.seq <= cookie or self._find(name) is not snapshot:
                continue
            if not pyfuse3.readdir_reply(token, name, self._root_of(snapshot), snapshot.seq):
                return

    def _check(self, node: int) -> None:
        if node != self._nodes.root_node:
            raise OSError(errno.ESTALE, f"node {node:#x} is none of the directory of snapshots")

    def _find(self, name: bytes) -> Snapshot | None:
        snapshots = self._snapshots()
        return snapshots.at_time(name) if self._view else snapshots.named(name)

    def _root_of(self, snapshot: Snapshot) -> EntryAttributes:
        return self._beside.tree(snapshot.slot, self._view).root()
