"""Has a tree count for another quota: what is there already when a quota is set, and when it is removed.

A job is the state of a quota's row, so it survives whatever happens, and what it has done is in the inodes'
rows: it begins anew at the top after every start, and passes over what is done. It walks the tree as it is
listed, some entries to a step, in bounded memory: a place in each directory on the way down.

Nothing is missed, whatever is done to the tree meanwhile. A directory is retagged before its entries are
looked at, so what is made in it from then on is born right. What comes into it from elsewhere is retagged as
it comes, or gets a place behind those looked at, or is refused (`Crossings`). A directory on the way down
cannot leave the tree: it would cross from one quota to another.

Directories with a quota of their own are passed over with all below them; that quota gets a new parent. A
rollback puts inodes back with the numbers of another time: its last change makes every quota a job.
"""

import logging

import trio
from msgspec.structs import replace

from fusegw.errors import FusegwError
from fusegw.meta.committer import Committer
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.quota import ACTIVE, COUNTING, QUOTA_NUMBER_MAX, REMOVING, VOLUME_QUOTA
from fusegw.meta.schema import DIRENT, INODE, POSITION, QUOTA, STATE, STATE_ROLLBACK, Quota
from fusegw.vfs.inodes import Inodes

_ENTRIES_PER_STEP = 256
_RETRY_S = 30.0
log = logging.getLogger(__name__)


class _Walk:
    """One job on its way: which quota, what becomes of it, and where the walk is."""

    def __init__(self, number: int, quota: Quota) -> None:
        self.number = number
        self.state = quota.state
        self.target = number if quota.state == COUNTING else quota.parent
        self.path = [(quota.directory, 0)]
        """Directories from the top down, and behind which position each goes on."""

    def is_of(self, quota: Quota) -> bool:
        """Whether this is still what is to be done."""
        return quota.state == self.state and self.target == (
            self.number if quota.state == COUNTING else quota.parent
        )


class Retagger:
    """Does these jobs one after the other. Loop thread only; `run` must be running."""

    def __init__(self, metadata: Metadata, inodes: Inodes, committer: Committer) -> None:
        self._metadata = metadata
        self._inodes = inodes
        self._committer = committer
        self._walk: _Walk | None = None
        self._work = trio.Event()
        self._work.set()

    def look(self) -> None:
        """There may be something to do."""
        self._work.set()

    def recount(self, change: Change) -> None:
        """Inodes were put back as they once were: all trees are to be counted again."""
        for number, quota in list(change.scan(QUOTA, 1, QUOTA_NUMBER_MAX + 1)):
            self._inodes.usage.reparent(change, number, VOLUME_QUOTA)
            removing = quota.state == REMOVING
            if not removing:
                change.put(QUOTA, number, replace(quota, state=COUNTING, parent=VOLUME_QUOTA))
            if change.get(INODE, quota.directory) is not None:
                self._inodes.retag(change, quota.directory, VOLUME_QUOTA if removing else number)
        self._walk = None
        self.look()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            try:
                while True:
                    await self._committer.room()
                    if not self.step():
                        break
                    await trio.lowlevel.checkpoint()
            except FusegwError as error:
                log.error("the count of a quota's files stays as it is for now: %s", error)
                self._walk = None
                with trio.move_on_after(_RETRY_S):
                    await self._work.wait()
                self.look()

    def step(self, entries_max: int = _ENTRIES_PER_STEP) -> bool:
        """Some entries further; False when there is nothing to do, or a tree is not whole at present."""
        if self._metadata.get(STATE, STATE_ROLLBACK) is not None:
            return False
        with self._metadata.change() as change:
            quotas = dict(change.scan(QUOTA, 1, QUOTA_NUMBER_MAX + 1))
            walk = self._walk
            if walk is None or walk.number not in quotas or not walk.is_of(quotas[walk.number]):
                jobs = ((number, quota) for number, quota in quotas.items() if quota.state != ACTIVE)
                job = next(jobs, None)
                self._walk = walk = None if job is None else _Walk(*job)
            if walk is None:
                return False
            self._advance(
                change, walk, {quota.directory: number for number, quota in quotas.items()}, entries_max
            )
            if not walk.path:
                self._end(change, walk, quotas[walk.number])
                self._walk = None
        return True

    def _end(self, change: Change, walk: _Walk, quota: Quota) -> None:
        if walk.state == REMOVING:
            self._inodes.usage.dissolve(change, walk.number)
        else:
            change.put(QUOTA, walk.number, replace(quota, state=ACTIVE))

    def _advance(self, change: Change, walk: _Walk, uppermost: dict[int, int], left: int) -> None:
        while walk.path and left:
            directory, start = walk.path.pop()
            for key, name in self._metadata.scan(POSITION, (directory, start + 1), (directory + 1, 0)):
                left -= 1
                entry = change.get(DIRENT, (directory, name))
                is_below = entry is not None and self._visit(change, walk, entry.ino, uppermost)
                if is_below or not left:
                    walk.path.append(key)
                    if entry is not None and is_below:
                        walk.path.append((entry.ino, 0))
                    break

    def _visit(self, change: Change, walk: _Walk, ino: int, uppermost: dict[int, int]) -> bool:
        """Have an inode count for the walk's target; whether to go on below it."""
        inode = change.get(INODE, ino)
        if inode is None:
            return False
        inner = uppermost.get(ino)
        if inner is None:
            if inode.quota != walk.target:
                self._inodes.retag(change, ino, walk.target)
            return inode.is_dir
        quota = change.get(QUOTA, inner)
        assert quota is not None, "read in this very step"
        if quota.parent != walk.target:
            self._inodes.usage.reparent(change, inner, walk.target)
            if quota.state == REMOVING:
                self._inodes.retag(change, ino, walk.target)
        return False
