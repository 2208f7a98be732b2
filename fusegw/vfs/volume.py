"""One volume as the front ends see it: the parts of the file system put together, and what concerns all of
them."""

import errno
from collections.abc import Callable

import msgspec

from fusegw.errors import FusegwError
from fusegw.meta.committer import Committer
from fusegw.meta.metadata import Metadata
from fusegw.meta.quota import VOLUME_QUOTA
from fusegw.ship.log import LogShipper
from fusegw.vfs.attributes import Attributes
from fusegw.vfs.clone import Cloner
from fusegw.vfs.files import Files
from fusegw.vfs.inodes import Inodes
from fusegw.vfs.namespace import Namespace
from fusegw.vfs.reaper import Reaper
from fusegw.vfs.rollback import Rollback
from fusegw.vfs.snapshots import Snapshots
from fusegw.vfs.usage import Usage
from fusegw.vfs.xattrs import Xattrs

BLOCK_SIZE = 4096
NAME_MAX = 255
_FILES_MAX = 1 << 39


class Statfs(msgspec.Struct, frozen=True):
    """What df shows; blocks of `block_size` bytes."""

    block_size: int
    blocks: int
    blocks_free: int
    files: int
    files_free: int
    name_max: int


class Volume:
    """The composition the FUSE layer gets. Loop thread only.

    `free_bytes` tells how much more the store can take.
    """

    def __init__(
        self,
        metadata: Metadata,
        committer: Committer,
        log: LogShipper,
        usage: Usage,
        *,
        inodes: Inodes,
        namespace: Namespace,
        attributes: Attributes,
        xattrs: Xattrs,
        files: Files,
        reaper: Reaper,
        snapshots: Snapshots,
        rollback: Rollback,
        cloner: Cloner,
        free_bytes: Callable[[], int],
    ) -> None:
        self.inodes = inodes
        self.namespace = namespace
        self.attributes = attributes
        self.xattrs = xattrs
        self.files = files
        self.snapshots = snapshots
        self.rollback = rollback
        self.cloner = cloner
        self.remember = reaper.remember
        self.forget = reaper.forget
        self.is_known = reaper.is_known
        self.reap = reaper.run
        self._reaper = reaper
        self._metadata = metadata
        self._committer = committer
        self._log = log
        self._usage = usage
        self._free_bytes = free_bytes

    def closed(self, ino: int) -> None:
        """A handle on a file was closed."""
        self.files.closed(ino)
        self._reaper.consider(ino)

    def adopt(self, other: "Volume") -> None:
        """Take over all that the kernel holds of `other`, a view of the same index that changed nothing."""
        self.files.adopt(other.files)
        self._reaper.adopt(other._reaper)

    async def resume(self) -> None:
        """Finish what a crash has cut off, before anybody sees the volume."""
        await self.rollback.resume()
        await self.snapshots.delete_passing()

    @property
    def reap_backlog(self) -> int:
        """Unlinked inodes that still take space."""
        return self._reaper.backlog

    @property
    def crowded(self) -> bool:
        """Whether `room` must be awaited before an operation that adds rows."""
        return self._committer.crowded or self._metadata.full

    async def room(self) -> None:
        """Wait until the metadata takes more rows; OSError ENOSPC when it is full."""
        if self._metadata.full:
            raise OSError(errno.ENOSPC, "metadata has reached its limit")
        try:
            await self._committer.room()
        except FusegwError as error:
            raise OSError(errno.ENOSPC, str(error)) from None

    async def sync_directory(self, ino: int) -> None:
        """Names in the directory changed so far are durable on return (as are all others)."""
        await self._committer.commit()

    async def sync(self) -> None:
        """Everything acknowledged so far is durable on this machine on return."""
        await self.files.settle_all()
        await self._committer.commit()

    async def barrier(self) -> None:
        """Everything acknowledged so far survives the loss of this machine on return: data and names are in
        the store. Raises why it cannot be."""
        await self.sync()
        await self._log.barrier()

    def statfs(self) -> Statfs:
        """Size, room and counts of the volume, as far as its quota leaves them."""
        room, files = self._usage.room(VOLUME_QUOTA), self._usage.files
        free = self._free_bytes() if room.bytes_left is None else min(self._free_bytes(), room.bytes_left)
        blocks, used = free // BLOCK_SIZE, -(-self._usage.nbytes // BLOCK_SIZE)
        files_left = _FILES_MAX - files if room.files_left is None else room.files_left
        return Statfs(BLOCK_SIZE, used + blocks, blocks, files + files_left, files_left, NAME_MAX)
