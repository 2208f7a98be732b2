"""Several volumes in one mount: each request goes to the volume whose number its node id or handle bears.

Node ids do not depend on which other volumes are there, so inode numbers and NFS handles stay as they are
when volumes come and go. A node of a number that is not in the mount is ESTALE, of a volume that was there
and broke EIO. What would join two volumes (rename, link) is EXDEV. A dispatching handler returns the
volume's own coroutine: routing costs a shift and a look into a table.
"""

import errno
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FUSEError, RequestContext, SetattrFields, StatvfsData

from fusegw.clock import Clock
from fusegw.errors import FusegwError
from fusegw.fuse.branch import Branch
from fusegw.fuse.invalidation import Notices, Stale
from fusegw.fuse.nodes import ROOT_NODE, VOLUME_SHIFT, WITHIN_VOLUME
from fusegw.fuse.operations import VALID_S, Operations
from fusegw.fuse.owed import Owed
from fusegw.fuse.root import Refusing, Root
from fusegw.vfs.volume import Volume

NUMBERS = 1 << 64 - VOLUME_SHIFT
_Request = Any
"""The coroutine of the volume that is asked."""

log = logging.getLogger(__name__)


class Forest(pyfuse3.Operations):
    """The handlers of a unified mount. Called on the event loop alone."""

    supports_dot_lookup = Operations.supports_dot_lookup
    enable_acl = Operations.enable_acl
    enable_writeback_cache = Operations.enable_writeback_cache

    def __init__(self, notices: Notices, *, clock: Clock, owed: Owed, valid_s: float = VALID_S) -> None:
        super().__init__()
        self._notices = notices
        self._owed = owed
        self._valid_s = valid_s
        self._branches: dict[int, Branch] = {}
        self._root = Root(self._branches, clock=clock, valid_s=valid_s)
        nobody: Any = Refusing(errno.ESTALE)
        self._by_number: list[Any] = [nobody] * NUMBERS
        self._by_number[0] = self._root

    def branch(self, name: str, volume: Volume, *, volume_number: int) -> Branch:
        """Handlers for a volume that `shown` then puts into the root."""
        return Branch(
            volume,
            name=name.encode(),
            volume_number=volume_number,
            owed=self._owed,
            root=self._root.entry,
            valid_s=self._valid_s,
        )

    @asynccontextmanager
    async def shown(self, branch: Branch) -> AsyncIterator[None]:
        """The volume is in the mount for the time of the block; the kernel knows of it at once."""
        self._branches[branch.number] = branch
        self._by_number[branch.number] = branch
        try:
            await self._tell(branch)
            yield
        finally:
            del self._branches[branch.number]
            self._by_number[branch.number] = Refusing(errno.EIO)
            with trio.CancelScope(shield=True):
                await self._tell(branch)

    async def _tell(self, branch: Branch) -> None:
        """The root has other names than the kernel may believe."""
        self._root.changed()
        try:
            await self._notices.send(Stale(attributes=[ROOT_NODE], entries=[(ROOT_NODE, branch.name)]))
        except FusegwError as error:
            log.warning("the mount may show an old root: %s", error)

    # names

    def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> _Request:
        return self._by_number[parent >> VOLUME_SHIFT].lookup(parent, name, ctx)

    async def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        """Has no reply: what is not known is not missed."""
        apart: dict[int, list[tuple[int, int]]] = {}
        for one in forgotten:
            apart.setdefault(one[0] >> VOLUME_SHIFT, []).append(one)
        for number, some in apart.items():
            if number in self._branches:
                await self._branches[number].forget(some)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> _Request:
        return self._by_number[parent >> VOLUME_SHIFT].mknod(parent, name, mode, rdev, ctx)

    def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> _Request:
        return self._by_number[parent >> VOLUME_SHIFT].mkdir(parent, name, mode, ctx)

    def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> _Request:
        return self._by_number[parent >> VOLUME_SHIFT].symlink(parent, name, target, ctx)

    def link(self, node: int, parent: int, name: bytes, ctx: RequestContext) -> _Request:
        return self._common(node, parent).link(node, parent, name, ctx)

    def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> _Request:
        return self._by_number[parent >> VOLUME_SHIFT].unlink(parent, name, ctx)

    def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> _Request:
        return self._by_number[parent >> VOLUME_SHIFT].rmdir(parent, name, ctx)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: RequestContext
    ) -> _Request:
        return self._common(parent, new_parent).rename(parent, name, new_parent, new_name, flags, ctx)

    def readlink(self, node: int, ctx: RequestContext) -> _Request:
        return self._by_number[node >> VOLUME_SHIFT].readlink(node, ctx)

    # directories

    def opendir(self, node: int, ctx: RequestContext) -> _Request:
        return self._by_number[node >> VOLUME_SHIFT].opendir(node, ctx)

    def readdir(self, handle: int, cookie: int, token: pyfuse3.ReaddirToken) -> _Request:
        return self._by_number[handle >> VOLUME_SHIFT].readdir(handle & WITHIN_VOLUME, cookie, token)

    def releasedir(self, handle: int) -> _Request:
        return self._by_number[handle >> VOLUME_SHIFT].releasedir(handle & WITHIN_VOLUME)

    def fsyncdir(self, handle: int, datasync: bool) -> _Request:
        return self._by_number[handle >> VOLUME_SHIFT].fsyncdir(handle & WITHIN_VOLUME, datasync)

    # attributes

    def getattr(self, node: int, ctx: RequestContext) -> _Request:
        return self._by_number[node >> VOLUME_SHIFT].getattr(node, ctx)

    def setattr(
        self, node: int, wanted: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> _Request:
        within = None if fh is None else fh & WITHIN_VOLUME
        return self._by_number[node >> VOLUME_SHIFT].setattr(node, wanted, fields, within, ctx)

    def access(self, node: int, mode: int, ctx: RequestContext) -> _Request:
        return self._by_number[node >> VOLUME_SHIFT].access(node, mode, ctx)

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Used by all volumes together; free is what the roomiest has, since stores may share their room.

        FUSE asks for the mount as a whole, whatever directory df was given.
        """
        figures = [await branch.statfs(ctx) for branch in self._branches.values()]
        if not figures:
            raise FUSEError(errno.EIO)
        reply = StatvfsData()
        reply.f_bsize = reply.f_frsize = figures[0].f_bsize
        reply.f_bfree = reply.f_bavail = max(one.f_bfree for one in figures)
        reply.f_blocks = reply.f_bfree + sum(one.f_blocks - one.f_bfree for one in figures)
        reply.f_ffree = reply.f_favail = max(one.f_ffree for one in figures)
        reply.f_files = reply.f_ffree + sum(one.f_files - one.f_ffree for one in figures)
        reply.f_namemax = min(one.f_namemax for one in figures)
        return reply

    # extended attributes

    def getxattr(self, node: int, name: bytes, ctx: RequestContext) -> _Request:
        return self._by_number[node >> VOLUME_SHIFT].getxattr(node, name, ctx)

    def listxattr(self, node: int, ctx: RequestContext) -> _Request:
        return self._by_number[node >> VOLUME_SHIFT].listxattr(node, ctx)

    def setxattr(self, node: int, name: bytes, value: bytes, ctx: RequestContext) -> _Request:
        return self._by_number[node >> VOLUME_SHIFT].setxattr(node, name, value, ctx)

    def removexattr(self, node: int, name: bytes, ctx: RequestContext) -> _Request:
        return self._by_number[node >> VOLUME_SHIFT].removexattr(node, name, ctx)

    # data

    def open(self, node: int, flags: int, ctx: RequestContext) -> _Request:
        return self._by_number[node >> VOLUME_SHIFT].open(node, flags, ctx)

    def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext) -> _Request:
        return self._by_number[parent >> VOLUME_SHIFT].create(parent, name, mode, flags, ctx)

    def read(self, handle: int, offset: int, size: int) -> _Request:
        return self._by_number[handle >> VOLUME_SHIFT].read(handle & WITHIN_VOLUME, offset, size)

    def write(self, handle: int, offset: int, data: bytes) -> _Request:
        return self._by_number[handle >> VOLUME_SHIFT].write(handle & WITHIN_VOLUME, offset, data)

    def flush(self, handle: int) -> _Request:
        return self._by_number[handle >> VOLUME_SHIFT].flush(handle & WITHIN_VOLUME)

    def release(self, handle: int) -> _Request:
        return self._by_number[handle >> VOLUME_SHIFT].release(handle & WITHIN_VOLUME)

    def fsync(self, handle: int, datasync: bool) -> _Request:
        return self._by_number[handle >> VOLUME_SHIFT].fsync(handle & WITHIN_VOLUME, datasync)

    # inside

    def _common(self, one: int, other: int) -> Any:
        """The volume of both nodes."""
        if one >> VOLUME_SHIFT != other >> VOLUME_SHIFT:
            raise FUSEError(errno.EXDEV)
        return self._by_number[one >> VOLUME_SHIFT]
