"""Requests about one snapshot: a tree that never changes.

The tree is asked for at each request, for the snapshot may be gone (ESTALE) or another one have its slot. All
that would change something is EROFS. Nothing of a snapshot is counted: the kernel may forget it in silence.
"""

import errno
import os
from collections.abc import Callable
from functools import partial

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, RequestContext

from fusegw.errors import FusegwError
from fusegw.fuse.nodes import NodeIds, generation_of
from fusegw.fuse.owed import Owed
from fusegw.fuse.readonly import ReadOnly, reply_dots
from fusegw.fuse.replies import COOKIE_DOTDOT, absent, entry_of, instant, waiting
from fusegw.meta.schema import ROOT_INODE, Inode
from fusegw.vfs.caller import Caller
from fusegw.vfs.snapshots import Tree


class PastTree(ReadOnly):
    """The handlers of a snapshot. `tree` gives what it shows, or raises OSError ESTALE; `above` the
    attributes of the directory that its root is in. `owed` is the mount's."""

    def __init__(
        self,
        tree: Callable[[], Tree],
        nodes: NodeIds,
        *,
        owed: Owed,
        above: Callable[[], EntryAttributes],
        valid_s: float,
    ) -> None:
        super().__init__(errno.EROFS)
        self.owed = owed
        self._tree = tree
        self._nodes = nodes
        self._inode_of = nodes.inode_of
        self._above_root = above
        self._valid_s = valid_s
        self._absent = absent(valid_s)

    def root(self) -> EntryAttributes:
        """The attributes of the root; that it is where it is must not be believed."""
        tree = self._tree()
        entry = self._entry(tree, _present(tree, ROOT_INODE))
        entry.entry_timeout = 0
        return entry

    # names

    @instant
    def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        tree, ino = self._tree(), self._inode_of(parent)
        if ino == ROOT_INODE:
            if name == b"..":
                return self._above_root()
            if name == b".":
                return self.root()
        inode = tree.names.lookup(ino, name)
        return self._absent if inode is None else self._entry(tree, inode)

    @instant
    def readlink(self, node: int, ctx: RequestContext) -> bytes:
        return self._tree().names.readlink(self._inode_of(node))

    # directories

    @instant
    def opendir(self, node: int, ctx: RequestContext) -> int:
        ino = self._inode_of(node)
        _present(self._tree(), ino)
        return self._nodes.base | ino

    @instant
    def readdir(self, ino: int, cookie: int, token: pyfuse3.ReaddirToken) -> None:
        """Entries after `cookie` as far as they fit."""
        reply, tree = pyfuse3.readdir_reply, self._tree()
        if cookie < COOKIE_DOTDOT:
            inode = _present(tree, ino)
            own, above = partial(self._entry, tree, inode), partial(self._above, tree, inode)
            if not reply_dots(token, cookie, own, above):
                return
        for name, position, inode in tree.names.readdir(ino, 0 if cookie <= COOKIE_DOTDOT else cookie):
            if not reply(token, name, self._entry(tree, inode), position):
                return

    # attributes

    @instant
    def getattr(self, node: int, ctx: RequestContext) -> EntryAttributes:
        tree = self._tree()
        return self._entry(tree, _present(tree, self._inode_of(node)))

    @instant
    def getxattr(self, node: int, name: bytes, ctx: RequestContext) -> bytes:
        return self._tree().xattrs.get(self._inode_of(node), name)

    @instant
    def listxattr(self, node: int, ctx: RequestContext) -> list[bytes]:
        return self._tree().xattrs.list(self._inode_of(node), Caller(ctx.uid, ctx.gid))

    # data

    @instant
    def open(self, node: int, flags: int, ctx: RequestContext) -> FileInfo:
        ino = self._inode_of(node)
        _present(self._tree(), ino)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise OSError(errno.EROFS, "snapshots do not change")
        return FileInfo(fh=pyfuse3.FileHandleT(self._nodes.base | ino), keep_cache=True)

    @waiting
    async def read(self, ino: int, offset: int, size: int) -> bytes:
        """What was read while the snapshot was deleted may be of another time, or fail for no reason of its
        own."""
        tree = self._tree()
        try:
            data = await tree.read(ino, offset, size)
        except (FusegwError, OSError):
            self._check(tree)
            raise
        self._check(tree)
        return data

    @instant
    def flush(self, ino: int) -> None:
        pass

    @instant
    def release(self, ino: int) -> None:
        pass

    @instant
    def fsync(self, ino: int, datasync: bool) -> None:
        pass

    # inside

    def _check(self, tree: Tree) -> None:
        if self._tree().snapshot.seq != tree.snapshot.seq:
            raise OSError(errno.ESTALE, "the snapshot is gone")

    def _entry(self, tree: Tree, inode: Inode) -> EntryAttributes:
        entry = entry_of(inode, self._nodes.node_of(inode.ino), self._valid_s)
        entry.generation = generation_of(tree.snapshot)
        return entry

    def _above(self, tree: Tree, inode: Inode) -> EntryAttributes:
        if inode.ino == ROOT_INODE:
            return self._above_root()
        return self._entry(tree, _present(tree, inode.parent))


def _present(tree: Tree, ino: int) -> Inode:
    inode = tree.inodes.get(ino)
    if inode is None:
        raise OSError(errno.ESTALE, f"inode {ino} is not in snapshot {tree.snapshot.name!r}")
    return inode
