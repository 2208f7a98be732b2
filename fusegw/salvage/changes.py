"""What the tail of a log touches: inodes and names, from the records that the store never got.

The state after the tail is the index itself; what was before is not known here. So a name is *removed* when
the tail deleted it and the index does not have it any more, except for one that the tail itself had made,
which its place in readdir tells: a new name gets a new one, a replaced file keeps that of the old.
"""

import msgspec

from fusegw.errors import Corrupt
from fusegw.meta.records import decode_records
from fusegw.meta.schema import DIRENT, EXTENT, INODE, LOG_TAIL, POSITION, XATTR
from fusegw.meta.view import View
from fusegw.vfs.paths import Place

ATTRIBUTES, CONTENT, XATTRS, NAME = 1, 2, 4, 8
_WORDS = ((NAME, "name"), (CONTENT, "content"), (XATTRS, "xattrs"), (ATTRIBUTES, "attributes"))


class Changes(msgspec.Struct, frozen=True):
    """What the records of a tail touch."""

    inodes: dict[int, int]
    """Inode → what of it (flags)."""
    removed: list[Place]
    """Names that were there before the tail and are not any more."""
    commits: int
    since_ns: int
    """When the oldest change was made (ns since 1970)."""
    problems: list[str]
    """Commits that cannot be read."""


def words(flags: int) -> list[str]:
    """What changed, for people."""
    return [word for flag, word in _WORDS if flags & flag]


def changes_of(view: View) -> Changes:
    """All changes after `view.head.commit`."""
    return _Collector(view).collect()


class _Collector:
    def __init__(self, view: View) -> None:
        self._view = view
        self._inodes: dict[int, int] = {}
        self._first: dict[Place, int | None] = {}
        """The first thing the tail did with a name: its place in readdir when it was put, None: deleted."""
        self._positions: set[tuple[int, int]] = set()
        self._commits = 0
        self._since_ns = 0
        self._problems: list[str] = []

    def collect(self) -> Changes:
        start = LOG_TAIL.encode_key(self._view.head.commit + 1)
        for raw_key, stored in self._view.stored(LOG_TAIL, start):
            number = LOG_TAIL.decode_key(raw_key)
            try:
                commit = LOG_TAIL.decode(number, raw_key, stored)
                for code, key, value in decode_records(commit.records, f"commit {number} in the log tail"):
                    self._take(code, key, value)
            except Corrupt as error:
                self._problems.append(str(error))
                continue
            self._commits += 1
            self._since_ns = self._since_ns or commit.since_ns
        removed = [place for place in self._first if self._is_removed(place)]
        return Changes(self._inodes, sorted(removed), self._commits, self._since_ns, self._problems)

    def _take(self, code: int, key: bytes, value: bytes | None) -> None:
        if code == INODE.code:
            self._touch(INODE.decode_key(key), ATTRIBUTES)
        elif code == EXTENT.code:
            self._touch(EXTENT.decode_key(key)[0], CONTENT)
        elif code == XATTR.code:
            self._touch(XATTR.decode_key(key)[0], XATTRS)
        elif code == POSITION.code and value is not None:
            self._positions.add(POSITION.decode_key(key))
        elif code == DIRENT.code:
            place = DIRENT.decode_key(key)
            entry = None if value is None else DIRENT.decode(place, key, value)
            self._first.setdefault(place, None if entry is None else entry.cookie)
            if entry is not None:
                self._touch(entry.ino, NAME)

    def _touch(self, ino: int, flag: int) -> None:
        self._inodes[ino] = self._inodes.get(ino, 0) | flag

    def _is_removed(self, place: Place) -> bool:
        if self._view.get(DIRENT, place) is not None:
            return False
        cookie = self._first[place]
        return cookie is None or (place[0], cookie) not in self._positions
