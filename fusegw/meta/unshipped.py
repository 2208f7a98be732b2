"""How far each inode's newest change has come on its way into the store's log.

Every operation that changes rows of an inode (its row, xattrs, extents, or names it holds or is called by)
puts the inode's own row in the same change, so the inodes of a commit are the keys of its inode rows. From
the commit on they are remembered here, in two sets: those no cut has taken yet, and those of the cut that is
being shipped. Since the log is linear and a cut takes all commits before it, the second set as a whole is in
the store once the log's head has passed its newest commit. An inode in neither set has all its changes in
the store.

It costs one bit per inode and at worst a small integer for 256 of them, and nothing in the index: after a
start it is made again from the log tail.
"""

import enum
from collections.abc import Iterable

from fusegw.errors import Corrupt
from fusegw.meta.records import decode_records
from fusegw.meta.schema import INODE, LOG_TAIL
from fusegw.meta.view import View

_SPAN_SHIFT = 8
_SPAN_MASK = (1 << _SPAN_SHIFT) - 1


class Standing(enum.Enum):
    """How safe all that was acknowledged of a file is."""

    LOCAL = "local"
    """Some of it is not yet on its way."""
    SHIPPING = "shipping"
    """All of it is durable here, its packs are closed, and it is on its way to the store."""
    STORED = "stored"
    """All of it survives the loss of this gateway."""


class InodeSet:
    """Inode numbers, in bit sets of 256 neighbours each."""

    __slots__ = ("_spans",)

    def __init__(self) -> None:
        self._spans: dict[int, int] = {}

    def __contains__(self, ino: int) -> bool:
        return bool(self._spans.get(ino >> _SPAN_SHIFT, 0) >> (ino & _SPAN_MASK) & 1)

    def update(self, inodes: Iterable[int]) -> None:
        """Take them in."""
        spans = self._spans
        for ino in inodes:
            span = ino >> _SPAN_SHIFT
            spans[span] = spans.get(span, 0) | 1 << (ino & _SPAN_MASK)

    def merge(self, other: "InodeSet") -> None:
        """Take in those of another set."""
        spans = self._spans
        for span, bits in other._spans.items():
            spans[span] = spans.get(span, 0) | bits


class _Commits:
    """Some commits in a row: the newest, the inodes changed, when the oldest change was made (ns)."""

    __slots__ = ("inodes", "newest", "since_ns")

    def __init__(self) -> None:
        self.newest = 0
        self.inodes = InodeSet()
        self.since_ns: int | None = None


class Unshipped:
    """The commits that the log in the store does not have. Loop thread only."""

    def __init__(self) -> None:
        self._uncut = _Commits()
        self._cut = _Commits()
        self._shipped_commit = 0
        self._unreadable_commit = 0
        """Up to this commit nothing is known: the log tail could not be read."""

    @property
    def shipped_commit(self) -> int:
        """The newest commit that the store's log has, with all before it."""
        return self._shipped_commit

    def load(self, view: View) -> None:
        """Take in what the log tail of a freshly opened index has."""
        self._shipped_commit = view.head.commit
        try:
            for number, commit in view.rows(LOG_TAIL, view.head.commit + 1):
                records = decode_records(commit.records, f"commit {number} in the log tail")
                rows = (INODE.decode_key(key) for code, key, _ in records if code == INODE.code)
                self.committed(number, rows, commit.since_ns)
        except Corrupt:
            # The shipper meets it too and says so; until it gets past, no file is called safe.
            self._unreadable_commit = view.commit

    @property
    def since_ns(self) -> int | None:
        """When the oldest change of all was made (ns since 1970); None without."""
        return earlier(self._cut.since_ns, self._uncut.since_ns)

    def committed(self, number: int, inodes: Iterable[int], since_ns: int | None) -> None:
        """Commit `number` is durable here and has changes of these inodes."""
        if number > self._shipped_commit:
            self._uncut.newest = number
            self._uncut.inodes.update(inodes)
            self._uncut.since_ns = earlier(self._uncut.since_ns, since_ns)

    def cut(self) -> None:
        """All commits told of so far are being shipped."""
        if not self._uncut.newest:
            return
        before, self._cut, self._uncut = self._cut, self._uncut, _Commits()
        self._cut.inodes.merge(before.inodes)
        self._cut.since_ns = earlier(self._cut.since_ns, before.since_ns)

    def shipped(self, commit: int) -> None:
        """The store's log has everything up to this commit."""
        self._shipped_commit = commit
        if self._cut.newest <= commit:
            self._cut = _Commits()
        if self._uncut.newest <= commit:
            self._uncut = _Commits()

    def standing(self, ino: int) -> Standing:
        """Where the inode's committed changes are."""
        if ino in self._uncut.inodes or self._unreadable_commit > self._shipped_commit:
            return Standing.LOCAL
        return Standing.SHIPPING if ino in self._cut.inodes else Standing.STORED


def earlier(first: int | None, second: int | None) -> int | None:
    """The smaller of two times, None standing for never."""
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)
