"""FUSE requests, one method each, translated into calls of the volume; no semantics of its own.

The kernel checks permissions (default_permissions), takes the umask off, serialises what changes one
directory and keeps names, attributes and pages until told otherwise: this gateway is the volume's only
writer, so all of them are valid for long; what a standby sees change elsewhere is `stale`, and the kernel is
told of it. It also clears set-user-id and set-group-id when contents or owner
change, by a setattr of its own (HANDLE_KILLPRIV is not negotiated), but for one case: ATOMIC_O_TRUNC is, so
truncation is part of `open` and they are cleared here.

A handle is the inode's number below `handles`: there is no table of handles that could leak.
"""

import errno
import logging
import os
import stat
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, RequestContext, SetattrFields, StatvfsData

from fusegw.fuse.beside import Beside, Listing
from fusegw.fuse.holding import Holding
from fusegw.fuse.invalidation import Stale
from fusegw.fuse.nodes import HANDLE_TURNS, HANDLES_SLOT, SLOT_MASK, SLOT_SHIFT, NodeIds
from fusegw.fuse.outdated import Outdated
from fusegw.fuse.owed import Owed
from fusegw.fuse.replies import (
    COOKIE_DOT,
    COOKIE_DOTDOT,
    COOKIE_SNAPSHOTS,
    VALID_S,
    absent,
    changing,
    entry_of,
    instant,
    waiting,
)
from fusegw.meta.rebuild import Changed
from fusegw.meta.schema import ROOT_INODE, Inode
from fusegw.vfs.caller import Caller
from fusegw.vfs.volume import Volume

_WHOLE_ROOT = 0
"""In a handle, the root with the directories it does not list otherwise; no inode has this number."""
_SEARCHERS_MAX = 1024
_SUID_SGID = stat.S_ISUID | stat.S_ISGID

log = logging.getLogger(__name__)


class Operations(Holding):
    """The handlers of one mounted volume. Called on the event loop by pyfuse3 alone."""

    supports_dot_lookup = True
    enable_acl = True
    enable_writeback_cache = False

    def __init__(
        self,
        volume: Volume,
        *,
        volume_number: int,
        owed: Owed,
        alone: bool = True,
        snapshots_visible: bool = False,
        valid_s: float = VALID_S,
    ) -> None:
        """`alone`: the volume's root is the root of the mount; `snapshots_visible`: it lists the directory of
        the snapshots, which is there in any case. `owed` is the mount's."""
        super().__init__()
        self.owed = owed
        self._volume = volume
        self.number = volume_number
        self._nodes = NodeIds(volume_number, alone=alone)
        self._inode_of = self._nodes.inode_of
        self.handles = self._nodes.base
        """What a handle has above the inode."""
        self.beside = Beside(self, snapshots=lambda: self._volume.snapshots)
        self._snapshots_visible = snapshots_visible
        self._searchers: set[int] = set()
        self._valid_s = valid_s
        self._absent = absent(valid_s)
        self._turn = 0
        self.handle_slot: Callable[[int, Any], None] = lambda slot, handlers: None
        """Tells the mount whose handles with this slot are from now on."""

    def outdate_handles(self) -> None:
        """What is open is of no use any more; what is opened from now on is."""
        self.handle_slot((self.handles >> SLOT_SHIFT) & SLOT_MASK, Outdated(self))
        self._turn = self._turn % HANDLE_TURNS + 1
        slot = HANDLES_SLOT + self._turn
        self.handles = self._nodes.base | slot << SLOT_SHIFT
        self.handle_slot(slot, self)

    def accept_changes(self, volume: Volume) -> None:
        """From now on changes are let in, and requests go to `volume`, which has adopted the one before."""
        self._volume = volume
        self.let_changes()

    def root_entry(self) -> EntryAttributes:
        """The attributes of the volume's root."""
        return self._entry(self._present(ROOT_INODE))

    def looked_up(self) -> EntryAttributes:
        """The same, as an answer that makes the kernel hold one more reference."""
        return self._remembered(self._present(ROOT_INODE))

    def searched(self, pid: int) -> EntryAttributes:
        """The same, for a thread that has a handle of something in a directory of snapshots, as NFS servers
        have. The kernel finds out its place on its behalf: it asks for what is above, and then reads the root
        for the name. So the next listing that this thread opens has those directories too."""
        if len(self._searchers) >= _SEARCHERS_MAX:
            self._searchers.clear()
        self._searchers.add(pid)
        return self.looked_up()

    def stale(self, changed: Changed) -> Stale:
        """What the kernel may keep of what was changed; to be asked as soon as requests see the change."""
        known, node_of = self._volume.is_known, self._nodes.node_of
        return Stale(
            attributes=[node_of(ino) for ino in changed.inodes - changed.contents if _kept(ino, known)],
            contents=[node_of(ino) for ino in changed.contents if _kept(ino, known)],
            entries=[(node_of(ino), name) for ino, name in changed.entries if _kept(ino, known)],
        )

    # names

    @instant
    def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._looked_up(parent, name)

    async def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        """Has no reply: an error here would end the session."""
        for node, count in forgotten:
            try:
                self._volume.forget(self._inode_of(node), count)
            except Exception:
                log.exception("forget of node %#x failed", node)

    @changing
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        await self._room()
        inode = self._volume.namespace.mknod(self._inode_of(parent), name, mode, rdev, _caller(ctx))
        return self._remembered(inode)

    @changing
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        await self._room()
        inode = self._volume.namespace.mkdir(self._inode_of(parent), name, mode, _caller(ctx))
        return self._remembered(inode)

    @changing
    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        await self._room()
        inode = self._volume.namespace.symlink(self._inode_of(parent), name, target, _caller(ctx))
        return self._remembered(inode)

    @changing
    async def link(self, node: int, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        await self._room()
        return self._remembered(
            self._volume.namespace.link(self._inode_of(node), self._inode_of(parent), name)
        )

    @instant
    def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        self._volume.namespace.unlink(self._inode_of(parent), name)

    @instant
    def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        self._volume.namespace.rmdir(self._inode_of(parent), name)

    @changing
    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: RequestContext
    ) -> None:
        """The source's data is settled first: a name never stands on data younger than itself."""
        volume = self._volume
        await self._room()
        old, new = self._inode_of(parent), self._inode_of(new_parent)
        source = volume.namespace.lookup(old, name)
        if source is not None and volume.inodes.is_held(source.ino):
            await volume.files.settle(source.ino)
        volume.namespace.rename(old, name, new, new_name, flags)

    @instant
    def readlink(self, node: int, ctx: RequestContext) -> bytes:
        return self._volume.namespace.readlink(self._inode_of(node))

    # directories

    @instant
    def opendir(self, node: int, ctx: RequestContext) -> int:
        ino = self._inode_of(node)
        if self._searchers and ino == ROOT_INODE and ctx.pid in self._searchers:
            self._searchers.discard(ctx.pid)
            ino = _WHOLE_ROOT
        return self.handles | ino

    @instant
    def readdir(self, ino: int, cookie: int, token: pyfuse3.ReaddirToken) -> None:
        """Entries after `cookie` as far as they fit; each one but "." and ".." counts as a lookup."""
        reply, node_of, valid_s = pyfuse3.readdir_reply, self._nodes.node_of, self._valid_s
        beside: Sequence[tuple[bytes, Listing]] = ()
        if ino <= ROOT_INODE:
            beside = self.beside.listed(whole=ino == _WHOLE_ROOT, visible=self._snapshots_visible)
            ino = ROOT_INODE
        if cookie < COOKIE_DOTDOT and not self._dots(ino, cookie, token):
            return
        remember = self._volume.remember
        start = 0 if cookie <= COOKIE_DOTDOT else cookie
        for name, position, inode in self._volume.namespace.readdir(ino, start):
            if not reply(token, name, entry_of(inode, node_of(inode.ino), valid_s), position):
                return
            remember(inode.ino)
        for position, (name, directory) in enumerate(beside, COOKIE_SNAPSHOTS):
            if start < position and not reply(token, name, directory.entry(), position):
                return

    @instant
    def releasedir(self, ino: int) -> None:
        pass

    @waiting
    async def fsyncdir(self, ino: int, datasync: bool) -> None:
        await self._volume.sync_directory(ino)

    # attributes

    @instant
    def getattr(self, node: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._present(self._inode_of(node)))

    @instant
    def setattr(
        self, node: int, wanted: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """Size first: it sets times of its own, which those asked for replace."""
        ino = self._inode_of(node)
        inode = None
        if fields.update_size:
            inode = self._volume.files.truncate(ino, wanted.st_size)
        changes: dict[str, int] = {}
        if fields.update_mode:
            changes["mode"] = wanted.st_mode
        if fields.update_uid:
            changes["uid"] = wanted.st_uid
        if fields.update_gid:
            changes["gid"] = wanted.st_gid
        if fields.update_atime:
            changes["atime_ns"] = wanted.st_atime_ns
        if fields.update_mtime:
            changes["mtime_ns"] = wanted.st_mtime_ns
        if fields.update_ctime:
            changes["ctime_ns"] = wanted.st_ctime_ns
        if changes or inode is None:
            inode = self._volume.attributes.setattr(ino, caller=_caller(ctx), **changes)
        return self._entry(inode)

    @instant
    def access(self, node: int, mode: int, ctx: RequestContext) -> bool:
        return True

    @instant
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        figures = self._volume.statfs()
        reply = StatvfsData()
        reply.f_bsize = reply.f_frsize = figures.block_size
        reply.f_blocks = figures.blocks
        reply.f_bfree = reply.f_bavail = figures.blocks_free
        reply.f_files = figures.files
        reply.f_ffree = reply.f_favail = figures.files_free
        reply.f_namemax = figures.name_max
        return reply

    # extended attributes

    @instant
    def getxattr(self, node: int, name: bytes, ctx: RequestContext) -> bytes:
        return self._volume.xattrs.get(self._inode_of(node), name)

    @instant
    def listxattr(self, node: int, ctx: RequestContext) -> list[bytes]:
        return self._volume.xattrs.list(self._inode_of(node), _caller(ctx))

    @changing
    async def setxattr(self, node: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """CREATE and REPLACE were checked by pyfuse3, which asks `getxattr` before it calls this."""
        await self._room()
        self._volume.xattrs.set(self._inode_of(node), name, value, 0, _caller(ctx))

    @instant
    def removexattr(self, node: int, name: bytes, ctx: RequestContext) -> None:
        self._volume.xattrs.remove(self._inode_of(node), name)

    # data

    @instant
    def open(self, node: int, flags: int, ctx: RequestContext) -> FileInfo:
        ino = self._inode_of(node)
        inode = self._present(ino)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            self.check_changes()
        if flags & os.O_TRUNC:
            self._volume.files.truncate(ino, 0)
            self._drop_privileges(inode, ctx)
        return self._opened(ino)

    @changing
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        await self._room()
        inode = self._volume.namespace.mknod(self._inode_of(parent), name, mode, 0, _caller(ctx))
        return self._opened(inode.ino), self._remembered(inode)

    @waiting
    async def read(self, ino: int, offset: int, size: int) -> bytes:
        return await self._volume.files.read(ino, offset, size)

    @changing
    async def write(self, ino: int, offset: int, data: bytes) -> int:
        return await self._volume.files.write(ino, offset, data)

    @instant
    def flush(self, ino: int) -> None:
        self._volume.files.flush(ino)

    @instant
    def release(self, ino: int) -> None:
        self._volume.closed(ino)

    @waiting
    async def fsync(self, ino: int, datasync: bool) -> None:
        await self._volume.files.fsync(ino)

    # inside

    async def _room(self) -> None:
        if self._volume.crowded:
            await self._volume.room()

    def _entry(self, inode: Inode) -> EntryAttributes:
        return entry_of(inode, self._nodes.node_of(inode.ino), self._valid_s)

    def _remembered(self, inode: Inode) -> EntryAttributes:
        """An answer that makes the kernel hold one more reference to the inode."""
        self._volume.remember(inode.ino)
        return self._entry(inode)

    def _looked_up(self, parent: int, name: bytes) -> EntryAttributes:
        ino = self._inode_of(parent)
        inode = self._volume.namespace.lookup(ino, name)
        if inode is not None:
            return self._remembered(inode)
        directory = self.beside.directory(name) if ino == ROOT_INODE else None
        return self._absent if directory is None else directory.entry()

    def _present(self, ino: int) -> Inode:
        inode = self._volume.inodes.get(ino)
        if inode is None:
            raise OSError(errno.ESTALE, f"inode {ino} is gone")
        return inode

    def _opened(self, ino: int) -> FileInfo:
        self._volume.files.opened(ino)
        return FileInfo(fh=pyfuse3.FileHandleT(self.handles | ino), keep_cache=True)

    def _dots(self, ino: int, cookie: int, token: pyfuse3.ReaddirToken) -> bool:
        """ "." and "..": the kernel takes their numbers and nothing else. False when the reply is full."""
        inode = self._present(ino)
        if cookie < COOKIE_DOT and not pyfuse3.readdir_reply(token, b".", self._entry(inode), COOKIE_DOT):
            return False
        return pyfuse3.readdir_reply(token, b"..", self._above(inode), COOKIE_DOTDOT)

    def _above(self, directory: Inode) -> EntryAttributes:
        """The attributes of a directory's parent; of the root its own."""
        return self._entry(self._volume.inodes.get(directory.parent) or directory)

    def _drop_privileges(self, inode: Inode, ctx: RequestContext) -> None:
        """What the kernel does at a write, for the truncation that is part of an open."""
        if not inode.mode & _SUID_SGID or ctx.uid == 0:
            return
        mode = inode.mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            mode &= ~stat.S_ISGID
        if mode != inode.mode:
            self._volume.attributes.setattr(inode.ino, mode=mode, caller=_caller(ctx))


def _caller(ctx: RequestContext) -> Caller:
    """Who asks. The umask is the kernel's business and done with; further groups are read when needed."""
    return Caller(ctx.uid, ctx.gid, 0, partial(_further_groups, ctx.pid))


def _kept(ino: int, known: Callable[[int], bool]) -> bool:
    """Whether the kernel has the inode; the root it never forgets."""
    return ino == ROOT_INODE or known(ino)


def _further_groups(pid: int) -> Collection[int]:
    """Supplementary groups of a process; none when it is gone, or in a namespace that cannot be seen from
    here.
    """
    try:
        return pyfuse3.get_sup_groups(pid)
    except (OSError, RuntimeError):
        return ()
