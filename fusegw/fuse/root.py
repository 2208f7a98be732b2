"""The directory that holds the volumes of a unified mount: nothing but their names, and nothing to change.

It belongs to root, mode 0755. What a mount point would refuse is refused alike: a volume's directory cannot
be removed or renamed (EBUSY), and nothing else can be made here (EPERM). A volume's place in readdir comes
from its number, so a reader goes on where it was when others come and go.
"""

import errno
import os
import stat
from collections.abc import Mapping
from typing import Any, NoReturn

import pyfuse3
from pyfuse3 import EntryAttributes, FUSEError, RequestContext

from fusegw.clock import Clock
from fusegw.fuse.branch import Branch
from fusegw.fuse.nodes import ROOT_NODE
from fusegw.fuse.readonly import MadeUp, reply_dots
from fusegw.fuse.replies import COOKIE_DOTDOT, absent, entry_of, instant
from fusegw.meta.schema import ROOT_INODE, Inode


class Root(MadeUp):
    """Handlers of the mount's root; `branches` are the volumes in it, by number."""

    def __init__(self, branches: Mapping[int, Branch], *, clock: Clock, valid_s: float) -> None:
        super().__init__(errno.EPERM)
        self._branches = branches
        self._clock = clock
        self._valid_s = valid_s
        self._absent = absent(valid_s)
        self._changed_ns = clock.time_ns()

    async def _refuse(self, node: int, *_: Any) -> NoReturn:
        _check(node)
        raise FUSEError(errno.EPERM)

    def changed(self) -> None:
        """A volume came or went."""
        self._changed_ns = self._clock.time_ns()

    def entry(self) -> EntryAttributes:
        """The attributes of the root."""
        inode = Inode(
            ino=ROOT_INODE,
            generation=0,
            mode=stat.S_IFDIR | 0o755,
            nlink=2 + len(self._branches),
            uid=0,
            gid=0,
            size=0,
            allocated=0,
            atime_ns=self._changed_ns,
            mtime_ns=self._changed_ns,
            ctime_ns=self._changed_ns,
        )
        return entry_of(inode, ROOT_NODE, self._valid_s)

    @instant
    def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        _check(parent)
        if name in (b".", b".."):
            return self.entry()
        found = next((branch for branch in self._branches.values() if branch.name == name), None)
        return self._absent if found is None else found.looked_up()

    @instant
    def getattr(self, node: int, ctx: RequestContext) -> EntryAttributes:
        _check(node)
        return self.entry()

    @instant
    def opendir(self, node: int, ctx: RequestContext) -> int:
        _check(node)
        return ROOT_NODE

    @instant
    def readdir(self, handle: int, cookie: int, token: pyfuse3.ReaddirToken) -> None:
        if not reply_dots(token, cookie, self.entry, self.entry):
            return
        for number, branch in sorted(self._branches.items()):
            position = COOKIE_DOTDOT + number
            if cookie < position:
                if not pyfuse3.readdir_reply(token, branch.name, branch.root_entry(), position):
                    return
                branch.looked_up()

    @instant
    def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> NoReturn:
        raise OSError(errno.EBUSY, f"{os.fsdecode(name)} is a volume")

    @instant
    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: RequestContext
    ) -> NoReturn:
        raise OSError(errno.EBUSY, f"{os.fsdecode(name)} is a volume")


def _check(node: int) -> None:
    if node != ROOT_NODE:
        raise FUSEError(errno.ESTALE)
