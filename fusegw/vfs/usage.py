"""What the volume and each of its quotas use, kept with the changes that move it, and what they may use.

Every change of an inode's row that can alter what it counts passes `Usage.moved` in the same change, so the
sums are as durable as the rows and as true after a crash. Nothing is kept here but what memory holds of
written data: it is not in any row yet, and counts for who asks whether there is room for more.

Bytes are `Inode.allocated`: data without holes, before deduplication, of unlinked files too until they are
freed. Files are inodes of every kind that have a name.
"""

import errno
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from fusegw.meta.codec import encode_u64
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.quota import ACTIVE, QUOTA_NUMBER_MAX, QUOTAS_MAX, VOLUME_QUOTA
from fusegw.meta.schema import INODE, QUOTA, QUOTA_USED, STATE, STATE_BYTES, STATE_FILES, Inode, Quota, Used

Get = Callable[[Any, Any], Any]
"""Looks a row up, in the index or in a change: table and key."""
_NOTHING = Used()


class Room(msgspec.Struct, frozen=True):
    """What the tightest limits leave, and what is used of the innermost ones; None: no limit."""

    bytes_used: int | None = None
    bytes_left: int | None = None
    files_used: int | None = None
    files_left: int | None = None


class Usage:
    """The usage of one volume. Loop thread only."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._unsettled: dict[int, int] = {}
        """Inode → bytes in memory that its row may grow by."""
        self._unsettled_bytes = 0

    @property
    def nbytes(self) -> int:
        """Of the whole volume."""
        return self._metadata.number(STATE_BYTES)

    @property
    def files(self) -> int:
        """Of the whole volume, the root included."""
        return self._metadata.number(STATE_FILES)

    def used(self, number: int) -> Used:
        """What counts for a quota."""
        if number == VOLUME_QUOTA:
            return Used(self.nbytes, self.files)
        return self._metadata.get(QUOTA_USED, number) or _NOTHING

    # counting

    def moved(self, change: Change, before: Inode | None, after: Inode | None) -> None:
        """An inode's row goes from `before` to `after` (None: there is none)."""
        old, new = _counts(before), _counts(after)
        _add_state(change, STATE_BYTES, new.nbytes - old.nbytes)
        _add_state(change, STATE_FILES, new.files - old.files)
        source = before.quota if before is not None else VOLUME_QUOTA
        target = after.quota if after is not None else source
        if before is not None and source != target:
            _add(change, source, -old.nbytes, -old.files)
            _add(change, target, new.nbytes, new.files)
        else:
            _add(change, target, new.nbytes - old.nbytes, new.files - old.files)
        if source and before is not None and before.is_dir and old.files and not new.files:
            quota = change.get(QUOTA, source)
            if quota is not None and quota.directory == before.ino:
                self.dissolve(change, source)

    def dissolve(self, change: Change, number: int) -> None:
        """The quota is gone. What still bears its number counts for the volume alone from now on."""
        quota = change.get(QUOTA, number)
        assert quota is not None, "only a quota that is there is dissolved"
        own = change.get(QUOTA_USED, number) or _NOTHING
        for inner, row in list(change.scan(QUOTA, 1, QUOTA_NUMBER_MAX + 1)):
            if row.parent == number and inner != number:
                used = change.get(QUOTA_USED, inner) or _NOTHING
                own = Used(own.nbytes - used.nbytes, own.files - used.files)
                change.put(QUOTA, inner, replace(row, parent=quota.parent))
        _add(change, quota.parent, -own.nbytes, -own.files)
        change.delete(QUOTA, number)
        change.delete(QUOTA_USED, number)

    def reparent(self, change: Change, number: int, parent: int) -> None:
        """The quota lies in another one from now on, and counts there."""
        quota = change.get(QUOTA, number)
        assert quota is not None, "only a quota that is there has a parent"
        used = change.get(QUOTA_USED, number) or _NOTHING
        _add(change, quota.parent, -used.nbytes, -used.files)
        change.put(QUOTA, number, replace(quota, parent=parent))
        _add(change, parent, used.nbytes, used.files)

    # limits

    def room(self, number: int) -> Room:
        """What the limits of a quota and of those around it leave."""
        room = Room()
        for level, quota in self._in_force(number):
            used = self.used(level)
            if quota.bytes_max:
                room = replace(
                    room,
                    bytes_used=used.nbytes if room.bytes_used is None else room.bytes_used,
                    bytes_left=_less(room.bytes_left, quota.bytes_max - used.nbytes),
                )
            if quota.files_max:
                room = replace(
                    room,
                    files_used=used.files if room.files_used is None else room.files_used,
                    files_left=_less(room.files_left, quota.files_max - used.files),
                )
        return room

    def refuse_files(self, number: int, files: int = 1) -> None:
        """OSError EDQUOT when there must not be that many more files."""
        for level, quota in self._in_force(number):
            if quota.files_max and self.used(level).files + files > quota.files_max:
                raise _beyond(level, f"{quota.files_max:,} files")

    def refuse_bytes(self, number: int, nbytes: int) -> None:
        """OSError EDQUOT when there is no room for that many more, beside what is in memory already."""
        for level, quota in self._in_force(number):
            if not quota.bytes_max:
                continue
            left = quota.bytes_max - self.used(level).nbytes - nbytes
            if left < self._unsettled_bytes and left < self._unsettled_of(level):
                raise _beyond(level, f"{quota.bytes_max:,} bytes")

    def refuse_arrival(self, inode: Inode, number: int) -> None:
        """OSError EDQUOT when an inode that counts for one quota cannot come to count for quota `number`."""
        counted = self._levels_of(inode.ino)
        row = self._metadata.get(INODE, inode.ino)
        assert row is not None, "what moves has a row"
        nbytes = row.allocated + self._unsettled.get(inode.ino, 0)
        for level, quota in self._in_force(number):
            if level in counted:
                continue
            used = self.used(level)
            if quota.bytes_max and used.nbytes + self._unsettled_of(level) + nbytes > quota.bytes_max:
                raise _beyond(level, f"{quota.bytes_max:,} bytes")
            if quota.files_max and used.files + 1 > quota.files_max:
                raise _beyond(level, f"{quota.files_max:,} files")

    # what is in memory

    def wrote(self, ino: int, nbytes: int) -> None:
        """So many bytes more of the file are in memory, which its row may grow by."""
        if nbytes:
            self._unsettled[ino] = self._unsettled.get(ino, 0) + nbytes
            self._unsettled_bytes += nbytes

    def settled(self, ino: int, left: int) -> None:
        """No more than `left` bytes of the file are in memory now."""
        counted = self._unsettled.get(ino, 0)
        if counted > left:
            self._unsettled_bytes -= counted - left
            if left:
                self._unsettled[ino] = left
            else:
                del self._unsettled[ino]

    def unsettled_beside(self, number: int) -> list[int]:
        """The files with bytes in memory that count for a limit this quota is under."""
        levels = {level for level, quota in self._in_force(number) if quota.bytes_max}
        return [ino for ino in self._unsettled if levels & self._levels_of(ino)]

    # inside

    def levels(self, number: int) -> Iterator[tuple[int, Quota]]:
        """The quota and those around it from the inside out, but for the volume's."""
        yield from _levels(self._metadata.get, number)

    def _in_force(self, number: int) -> Iterator[tuple[int, Quota]]:
        """Those of them that limit, the volume's last."""
        if number:
            for level, quota in self.levels(number):
                if quota.state == ACTIVE:
                    yield level, quota
        whole = self._metadata.get(QUOTA, VOLUME_QUOTA)
        if whole is not None:
            yield VOLUME_QUOTA, whole

    def _unsettled_of(self, level: int) -> int:
        if level == VOLUME_QUOTA:
            return self._unsettled_bytes
        return sum(nbytes for ino, nbytes in self._unsettled.items() if level in self._levels_of(ino))

    def _levels_of(self, ino: int) -> set[int]:
        inode = self._metadata.get(INODE, ino)
        if inode is None:
            return {VOLUME_QUOTA}
        return {VOLUME_QUOTA, *(level for level, _ in self.levels(inode.quota))}


def _levels(get: Get, number: int) -> Iterator[tuple[int, Quota]]:
    for _ in range(QUOTAS_MAX):
        quota = get(QUOTA, number) if number else None
        if quota is None:
            return
        yield number, quota
        number = quota.parent


def _counts(inode: Inode | None) -> Used:
    return _NOTHING if inode is None else Used(inode.allocated, 1 if inode.nlink else 0)


def _add(change: Change, number: int, nbytes: int, files: int) -> None:
    if number and (nbytes or files):
        for level, _ in _levels(change.get, number):
            used = change.get(QUOTA_USED, level) or _NOTHING
            change.put(QUOTA_USED, level, Used(used.nbytes + nbytes, used.files + files))


def _add_state(change: Change, name: bytes, more: int) -> None:
    if more:
        value = change.get(STATE, name) or b""
        change.put(STATE, name, encode_u64(int.from_bytes(value, "big") + more))


def _less(left: int | None, other: int) -> int:
    other = max(0, other)
    return other if left is None else min(left, other)


def _beyond(level: int, limit: str) -> OSError:
    what = f"quota {level}" if level else "the volume's quota"
    return OSError(errno.EDQUOT, f"{what} of {limit} is used up")
