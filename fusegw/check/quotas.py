"""The invariants of quotas: what they say is used is what the inodes make, and trees count for their quotas.

Memory: that of the quotas, which are few.
"""

from collections import Counter
from collections.abc import Iterator

from fusegw.check.rows import Rows
from fusegw.meta.quota import ACTIVE, VOLUME_QUOTA
from fusegw.meta.schema import QUOTA, QUOTA_USED, Inode, Used


class Quotas:
    """What a check knows of quotas. In this order: `inode` for all, `directory` for all, `compare`."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._quotas = dict(rows.of(QUOTA))
        self._uppermost = {quota.directory: number for number, quota in self._quotas.items() if number}
        self._settled = all(quota.state == ACTIVE for quota in self._quotas.values())
        """While trees are being counted, part of one counts elsewhere."""
        self._nbytes: Counter[int] = Counter()
        self._files: Counter[int] = Counter()

    @property
    def highest(self) -> int:
        """Number of the newest quota."""
        return max(self._quotas, default=0)

    def inode(self, inode: Inode) -> None:
        """One inode."""
        for level in self._levels(inode.quota) if inode.quota else ():
            self._nbytes[level] += inode.allocated
            self._files[level] += inode.nlink > 0

    def directory(self, ino: int, quota: int, above: int) -> None:
        """A directory that counts for `quota`, in one that counts for `above`."""
        own = self._uppermost.get(ino)
        if own is not None:
            quota = self._quotas[own].parent if quota == own else -1
        if self._settled and self._known(quota) != self._known(above):
            self._rows.problem(f"directory {ino} counts for another quota than the one it is in").needed_by(
                ino
            )

    def compare(self) -> None:
        """What was counted against what the rows say."""
        used = dict(self._rows.of(QUOTA_USED))
        for number, quota in self._quotas.items():
            if number == VOLUME_QUOTA:
                continue
            if quota.parent and quota.parent not in self._quotas:
                self._rows.problem(f"quota {number} is in quota {quota.parent}, which does not exist")
            counted = Used(self._nbytes[number], self._files[number])
            says = used.pop(number, None)
            if says is None:
                self._rows.problem(f"quota {number} does not say what is used of it")
            elif says != counted:
                self._rows.problem(
                    f"quota {number} says {says.nbytes} bytes and {says.files} files are used, "
                    f"the inodes make {counted.nbytes} and {counted.files}"
                )
        for number in used:
            self._rows.problem(f"there is a usage of quota {number}, which does not exist")

    def _known(self, number: int) -> int:
        return number if number in self._quotas or number < 0 else VOLUME_QUOTA

    def _levels(self, number: int) -> Iterator[int]:
        for _ in range(len(self._quotas)):
            if not number or number not in self._quotas:
                return
            yield number
            number = self._quotas[number].parent
