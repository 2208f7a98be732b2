"""Several volumes in one mount, as directories of its root.

Node ids do not depend on which other volumes are there, so inode numbers and NFS handles stay as they are
when volumes come and go. A node of a number that is not in the mount is ESTALE, of a volume that was there
and broke EIO.
"""

import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from pyfuse3 import FUSEError, RequestContext, StatvfsData

from fusegw.clock import Clock
from fusegw.errors import FusegwError
from fusegw.fuse.branch import Branch
from fusegw.fuse.invalidation import Notices, Stale
from fusegw.fuse.nodes import ROOT_NODE
from fusegw.fuse.owed import Owed
from fusegw.fuse.refusing import Refusing
from fusegw.fuse.replies import VALID_S
from fusegw.fuse.root import Root
from fusegw.fuse.routing import Router
from fusegw.vfs.volume import Volume

log = logging.getLogger(__name__)


class Forest(Router):
    """The handlers of a unified mount. Called on the event loop alone."""

    def __init__(self, notices: Notices, *, clock: Clock, owed: Owed, valid_s: float = VALID_S) -> None:
        super().__init__()
        self._notices = notices
        self._owed = owed
        self._valid_s = valid_s
        self._branches: dict[int, Branch] = {}
        self._root = self._nodes[0] = Root(self._branches, clock=clock, valid_s=valid_s)

    def branch(
        self, name: str, volume: Volume, *, volume_number: int, snapshots_visible: bool = False
    ) -> Branch:
        """Handlers for a volume that `shown` then puts into the root."""
        return Branch(
            volume,
            name=name.encode(),
            volume_number=volume_number,
            owed=self._owed,
            root=self._root.entry,
            snapshots_visible=snapshots_visible,
            valid_s=self._valid_s,
        )

    @asynccontextmanager
    async def shown(self, branch: Branch) -> AsyncIterator[None]:
        """The volume is in the mount for the time of the block; the kernel knows of it at once."""
        self._branches[branch.number] = branch
        self._show(branch.number, branch)
        try:
            await self._tell(branch)
            yield
        finally:
            del self._branches[branch.number]
            self._show(branch.number, Refusing(errno.EIO))
            with trio.CancelScope(shield=True):
                await self._tell(branch)

    async def _tell(self, branch: Branch) -> None:
        """The root has other names than the kernel may believe."""
        self._root.changed()
        try:
            await self._notices.send(Stale(attributes=[ROOT_NODE], entries=[(ROOT_NODE, branch.name)]))
        except FusegwError as error:
            log.warning("the mount may show an old root: %s", error)

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
