"""What may go from a tree with a quota into one with another, and what becomes of it.

A file that has no other name goes over, if the new limits allow it, and counts there from then on. What has
several names, and a directory with all below it, does not: EXDEV, as between file systems, upon which mv and
the like copy. The uppermost directory of a quota may move within the quota around it.

While a tree is being counted (`fusegw.vfs.retag`), parts of it count for it already and others for the quota
around it. Files go from one to the other at any time, and are not held to the limits; directories stay.
A number without a quota means that of the volume.
"""

import errno

from msgspec.structs import replace

from fusegw.meta.metadata import Change
from fusegw.meta.quota import ACTIVE, VOLUME_QUOTA
from fusegw.meta.schema import QUOTA, Inode
from fusegw.vfs.inodes import Inodes


class Crossings:
    """Between the quotas of one volume. Loop thread only."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes

    def linked(self, change: Change, inode: Inode, directory: Inode) -> bool:
        """A file gets a name in a directory; whether it counts for that one's quota now and did not before.
        OSError EXDEV.
        """
        if self._number(change, inode) == self._number(change, directory):
            return False
        if not self._is_counted(change, inode, directory):
            raise _apart(inode, directory)
        self._inodes.retag(change, inode.ino, directory.quota)
        return True

    def moved(self, change: Change, inode: Inode, source: Inode, directory: Inode) -> Inode:
        """An inode moves from one directory to another; the inode as it counts then. OSError EXDEV,
        EDQUOT."""
        if self._check(change, inode, source, directory):
            return inode
        return self._over(change, inode, directory)

    def exchanged(
        self, change: Change, first: Inode, second: Inode, directory: Inode, new_directory: Inode
    ) -> tuple[Inode, Inode]:
        """`first` of `directory` and `second` of `new_directory` change places; both as they count then.
        OSError EXDEV, EDQUOT: there must be room for the one before the other leaves."""
        first_stays = self._check(change, first, directory, new_directory)
        second_stays = self._check(change, second, new_directory, directory)
        return (
            first if first_stays else self._over(change, first, new_directory),
            second if second_stays else self._over(change, second, directory),
        )

    def _over(self, change: Change, inode: Inode, directory: Inode) -> Inode:
        self._inodes.retag(change, inode.ino, directory.quota)
        return replace(inode, quota=directory.quota)

    def _check(self, change: Change, inode: Inode, source: Inode, directory: Inode) -> bool:
        """Whether the inode counts in the directory as it does now; OSError EXDEV, EDQUOT when it must not go
        there from `source`."""
        number, target = self._number(change, inode), self._number(change, directory)
        if inode.is_dir:
            quota = change.get(QUOTA, number) if number else None
            if quota is not None and quota.directory == inode.ino:
                number = quota.parent
            if number != target:
                raise _apart(inode, directory)
            return True
        if number == target:
            return True
        if self._is_counted(change, inode, directory):
            return False
        is_within = self._number(change, source) == target
        if inode.nlink > 1:
            if not is_within:
                raise _apart(inode, directory)
            return True  # It counts for where another name of it is.
        if not is_within:
            self._inodes.usage.refuse_arrival(inode, directory.quota)
        return False

    def _number(self, change: Change, inode: Inode) -> int:
        known = inode.quota and change.get(QUOTA, inode.quota) is not None
        return inode.quota if known else VOLUME_QUOTA

    def _is_counted(self, change: Change, inode: Inode, directory: Inode) -> bool:
        """Whether one of the two numbers is on its way to be the other."""
        for one, other in ((inode.quota, directory.quota), (directory.quota, inode.quota)):
            quota = change.get(QUOTA, one) if one else None
            if quota is not None and quota.state != ACTIVE and quota.parent == other:
                return True
        return False


def _apart(inode: Inode, directory: Inode) -> OSError:
    return OSError(
        errno.EXDEV,
        f"inode {inode.ino} counts for quota {inode.quota}, directory {directory.ino} for {directory.quota}",
    )
