"""The quotas of a volume as its operator sets, changes, removes and lists them.

A quota belongs to a directory and holds for all below it, but for what other quotas therein count themselves
for it. That of the root is the volume's, in force at once and without a number of its own. A directory that
is not empty when its quota is set is *counted* first, and taken out again when the quota is removed, by
`fusegw.vfs.retag`; until it is counted, nothing is refused.

Changes are merged into the pending set; the caller makes them durable.
"""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from fusegw.errors import Full, Invalid, NotFound
from fusegw.meta.codec import encode_u64
from fusegw.meta.metadata import Metadata
from fusegw.meta.quota import ACTIVE, COUNTING, QUOTA_NUMBER_MAX, QUOTAS_MAX, REMOVING, VOLUME_QUOTA
from fusegw.meta.schema import (
    INODE,
    QUOTA,
    QUOTA_USED,
    ROOT_INODE,
    STATE,
    STATE_NEXT_QUOTA,
    Inode,
    Quota,
    Used,
)
from fusegw.vfs.inodes import Inodes


class QuotaFigures(msgspec.Struct, frozen=True):
    """A quota and what counts for it."""

    number: int
    quota: Quota
    used: Used

    @property
    def share(self) -> float:
        """How much of the limit that is nearer is used; 1 is all of it."""
        limits = ((self.used.nbytes, self.quota.bytes_max), (self.used.files, self.quota.files_max))
        return max((used / limit for used, limit in limits if limit), default=0.0)


class Quotas:
    """The quotas of one volume. Loop thread only.

    `changed` is called when there may be something to count.
    """

    def __init__(self, metadata: Metadata, inodes: Inodes, *, changed: Callable[[], None]) -> None:
        self._metadata = metadata
        self._inodes = inodes
        self._changed = changed

    def all(self) -> list[QuotaFigures]:
        """In the order of their numbers, the volume's first."""
        return [
            QuotaFigures(number, quota, self._inodes.usage.used(number))
            for number, quota in self._metadata.scan(QUOTA, 0, QUOTA_NUMBER_MAX + 1)
        ]

    def find(self, ino: int) -> QuotaFigures:
        """The quota of this very directory; NotFound when it has none."""
        found = self._of(ino)
        if found is None or found[1].state == REMOVING:
            raise NotFound(f"directory {ino} has no quota of its own; see fusegw quota list")
        return QuotaFigures(*found, self._inodes.usage.used(found[0]))

    def set(self, ino: int, *, bytes_max: int | None = None, files_max: int | None = None) -> QuotaFigures:
        """Limit a directory and what is below it, or change its limits (None: as it was, 0: no limit).

        Invalid (no directory, no limit), NotFound, Full (too many quotas).
        """
        directory = self._directory(ino)
        number, before = self._of(ino) or (None, Quota(ACTIVE, VOLUME_QUOTA, ino, 0, 0))
        limits = (
            before.bytes_max if bytes_max is None else bytes_max,
            before.files_max if files_max is None else files_max,
        )
        if not any(limits):
            raise Invalid("a quota needs a limit of bytes or of files; to have none, remove it")
        with self._metadata.change() as change:
            if ino == ROOT_INODE:
                number, state, parent = VOLUME_QUOTA, ACTIVE, VOLUME_QUOTA
            elif number is not None and before.state != REMOVING:
                state, parent = before.state, before.parent
            elif number is not None:
                state, parent = COUNTING, before.parent
            else:
                number = self._free_number()
                change.put(STATE, STATE_NEXT_QUOTA, encode_u64(number + 1))
                change.put(QUOTA_USED, number, Used())
                state, parent = COUNTING if directory.entries else ACTIVE, self._counted(directory)
            change.put(QUOTA, number, Quota(state, parent, ino, *limits))
            if directory.quota != number:
                self._inodes.retag(change, ino, number)
        self._changed()
        return self.find(ino)

    def remove(self, ino: int) -> None:
        """Nothing is refused because of this quota any more; NotFound when there is none."""
        found = self.find(ino)
        with self._metadata.change() as change:
            if found.number == VOLUME_QUOTA:
                change.delete(QUOTA, VOLUME_QUOTA)
            else:
                change.put(QUOTA, found.number, replace(found.quota, state=REMOVING))
                self._inodes.retag(change, ino, found.quota.parent)
        self._changed()

    def _of(self, ino: int) -> tuple[int, Quota] | None:
        rows = self._metadata.scan(QUOTA, 0, QUOTA_NUMBER_MAX + 1)
        return next((row for row in rows if row[1].directory == ino), None)

    def _counted(self, directory: Inode) -> int:
        """The quota it counts for; a number without one means the volume's."""
        return directory.quota if self._metadata.get(QUOTA, directory.quota) else VOLUME_QUOTA

    def _directory(self, ino: int) -> Inode:
        directory = self._metadata.get(INODE, ino)
        if directory is None or not directory.nlink:
            raise NotFound(f"there is no inode {ino}: was the directory removed?")
        if not directory.is_dir:
            raise Invalid(f"inode {ino} is no directory: a quota is that of a directory and all below it")
        return directory

    def _free_number(self) -> int:
        if sum(1 for _ in self._metadata.scan(QUOTA, 1, QUOTA_NUMBER_MAX + 1)) >= QUOTAS_MAX:
            raise Full(f"the volume has {QUOTAS_MAX} quotas already: remove one first")
        number = max(1, self._metadata.number(STATE_NEXT_QUOTA))
        if number > QUOTA_NUMBER_MAX:
            raise Full("the numbers of quotas are used up")
        return number
