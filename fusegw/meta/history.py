"""The history: what snapshots still see of rows that have changed since. An undo log, so that making a
snapshot is one row, whatever the volume's size.

The first change of a row after the newest snapshot saves what the row was, under that snapshot's sequence. A
row of the history with sequence `s` is the row's value at snapshot `s` and at all older ones down to the next
older row for the same key; without one at or above a snapshot's sequence, the present value is what the
snapshot sees. An extent in the history counts as a reference to its chunk.

What was born after a snapshot needs no row that says "absent": inode numbers and readdir positions are never
reused, so an inode at or above `Snapshot.next_inode`, and an entry at or above its directory's `next_cookie`
then, was not there (`Born`).

Snapshots die in two steps: the row says so at once, and nobody sees them any more; then `fold` goes over
the history, drops what no living snapshot needs and files the rest under the newest one that does. A crash
in between starts that over, which does no harm.
"""

from collections.abc import Callable
from itertools import groupby
from typing import Any

from fusegw.meta.codec import INODE_SIZE, Table, encode_u64
from fusegw.meta.layers import Rows
from fusegw.meta.metadata import UNREAD, Change, Metadata
from fusegw.meta.schema import (
    DIRENT,
    EXTENT,
    HISTORY,
    HOLE,
    INODE,
    POSITION,
    SNAPSHOT,
    Snapshot,
)

ABSENT = b""
"""The stored value of a row that was not there."""
_PRESENT = b"\x01"
_SEQ_SIZE = 8
_OWNER = slice(1, 1 + INODE_SIZE)
"""In a key of the history: the inode or directory the row belongs to."""
_KNOWN_MAX = 1 << 18
_TOUCHED_BITS = 1 << 24
_COOKIES_MAX = 1 << 16
HISTORY_END = b"\xff"
"""Behind all keys of the history, and behind a prefix behind all of its keys."""
SEQ_END = (1 << 64) - 1

Refer = Callable[[Change, int], None]


def history_prefix(table: Table[Any, Any], key: Any) -> bytes:
    """What the keys of all history of a row begin with. Names have no zero byte: the order is the rows'."""
    return bytes((table.code,)) + table.encode_key(key) + b"\0"


def history_key(prefix: bytes, seq: int) -> bytes:
    """The key of a row's history at a snapshot."""
    return prefix + encode_u64(seq)


def split_key(key: bytes) -> tuple[bytes, int]:
    """The prefix and the sequence in a key of the history."""
    return key[:-_SEQ_SIZE], int.from_bytes(key[-_SEQ_SIZE:], "big")


def encode_past(table: Table[Any, Any], value: Any) -> bytes:
    """The history's form of a value, None included."""
    return ABSENT if value is None else _PRESENT + table.encode_value(value)


def decode_past(table: Table[Any, Any], key: Any, row: bytes) -> Any:
    """The value in `encode_past`'s bytes."""
    return None if row == ABSENT else table.decode_value(key, row[1:])


def decode_row(table: Table[Any, Any], prefix: bytes, row: bytes) -> tuple[Any, Any]:
    """The key under a prefix, and the value in a row of its history."""
    key = table.decode_key(prefix[1:-1])
    return key, decode_past(table, key, row)


def extent_chunk(key: bytes, row: bytes) -> int:
    """The chunk that a row of the history refers to, HOLE for none."""
    if key[0] != EXTENT.code or row == ABSENT:
        return HOLE
    return EXTENT.decode_value((0, 0), row[1:]).chunk


class History:
    """The snapshots of one volume, and what is kept for them. Loop thread only.

    `refer` and `unrefer` count references to chunks.
    """

    def __init__(self, metadata: Metadata, *, refer: Refer, unrefer: Refer) -> None:
        self._metadata = metadata
        self._refer = refer
        self._unrefer = unrefer
        self._known: set[bytes] = set()
        self._touched: bytearray | None = None
        """A bit for the hash of each key whose row was kept since the newest snapshot was made, so that most
        keys need not be looked for; None when it was made before this process began to watch."""
        self._cookies: dict[int, int] = {}
        self.changes = 0
        """How many changes of rows that snapshots keep were seen so far, while there was a snapshot."""
        self.reload()

    def reload(self) -> None:
        """The index was changed from outside: take over what it says."""
        rows = [row for _, row in self._metadata.scan(SNAPSHOT, 0, SEQ_END)]
        self.live = {row.seq: row for row in rows if not row.dying}
        """By sequence, ascending."""
        self.dying = {row.seq: row for row in rows if row.dying}
        """Deleted ones that have not been folded yet."""
        self._renew()

    def put(self, change: Change, snapshot: Snapshot) -> None:
        """A snapshot is new, or its row is another one from now on; merge the change at once."""
        is_new = snapshot.seq not in self.live and snapshot.seq not in self.dying
        change.put(SNAPSHOT, snapshot.seq, snapshot)
        mine, other = (self.dying, self.live) if snapshot.dying else (self.live, self.dying)
        other.pop(snapshot.seq, None)
        mine[snapshot.seq] = snapshot
        self._renew()
        if is_new and self._tops == [snapshot.seq]:
            self._touched = bytearray(_TOUCHED_BITS // 8)

    def gone(self, change: Change, seqs: list[int]) -> None:
        """Deleted snapshots were folded; merge the change at once."""
        for seq in seqs:
            change.delete(SNAPSHOT, seq)
            del self.dying[seq]
        self._renew()

    def _renew(self) -> None:
        self._newest = self.live[max(self.live)] if self.live else None
        self._tops = [seq for seq in (*self.live, *self.dying) if self._newest and seq >= self._newest.seq]
        self._known.clear()
        self._touched = None
        self._cookies.clear()
        self._metadata.keeper = None if self._newest is None else self

    # keeping

    def keep(self, change: Change, table: Table[Any, Any], key: Any, value: Any, was: Any = UNREAD) -> None:
        """Save what the row was at the newest snapshot, if nothing says it yet and it was there at all."""
        self.changes += 1
        newest = self._newest
        assert newest is not None, "there is a keeper while there is a snapshot"
        if (key if table is INODE else key[0]) >= newest.next_inode:
            return
        prefix = history_prefix(table, key)
        if prefix in self._known:
            return
        if table is POSITION:
            if key[1] >= self._next_cookie(change, key[0]):
                return
            old = change.get(table, key) if was is UNREAD else was
        else:
            old = change.get(table, key) if was is UNREAD else was
            if table is DIRENT:
                entry = value if old is None else old
                if entry is None or entry.cookie >= self._next_cookie(change, key[0]):
                    return
        if self._has(change, prefix):
            return
        change.put(HISTORY, history_key(prefix, newest.seq), encode_past(table, old))
        if table is EXTENT and old is not None and old.chunk != HOLE:
            self._refer(change, old.chunk)

    def merged(self, kept: Rows) -> None:
        """These rows of the history are pending now: their keys need not be looked for again."""
        newest = self._newest
        for key, row in kept.items():
            prefix, seq = split_key(key)
            if row is not None and newest is not None and seq >= newest.seq:
                self._known.add(prefix)
                if self._touched is not None:
                    place, bit = _place(prefix)
                    self._touched[place] |= bit
        if len(self._known) > _KNOWN_MAX:
            self._known.clear()

    def _has(self, change: Change, prefix: bytes) -> bool:
        if self._touched is not None:
            place, bit = _place(prefix)
            if not self._touched[place] & bit:
                return False
        return any(change.get(HISTORY, history_key(prefix, seq)) is not None for seq in self._tops)

    def _next_cookie(self, change: Change, directory: int) -> int:
        """The directory's at the newest snapshot; none is at or above it when the directory was not there:
        then it has come back since, and older snapshots may have known it."""
        cookie = self._cookies.get(directory)
        if cookie is None:
            prefix = history_prefix(INODE, directory)
            row = change.get(INODE, directory)
            for seq in self._tops:
                past = change.get(HISTORY, history_key(prefix, seq))
                if past is not None:
                    row = decode_past(INODE, directory, past)
                    break
            if len(self._cookies) > _COOKIES_MAX:
                self._cookies.clear()
            cookie = self._cookies[directory] = SEQ_END if row is None else row.next_cookie
        return cookie

    def cookie_floor(self, directory: int) -> int:
        """The lowest `next_cookie` a directory that comes back may have: no snapshot has a higher one."""
        prefix = history_prefix(INODE, directory)
        rows = self._metadata.scan(HISTORY, prefix, prefix + HISTORY_END)
        pasts = (decode_past(INODE, directory, row) for _, row in rows)
        return max((past.next_cookie for past in pasts if past is not None), default=0)

    # folding

    def fold_some(self, change: Change, cursor: bytes, rows_max: int) -> bytes | None:
        """One step over the history from `cursor` (b"": the beginning), of `rows_max` rows and the rest of
        the last one's key: where to go on, None at the end."""
        groups: list[tuple[bytes, list[tuple[bytes, bytes]]]] = []
        seen = 0
        following: bytes | None = None
        for prefix, rows in groupby(
            change.scan(HISTORY, cursor, HISTORY_END), key=lambda row: split_key(row[0])[0]
        ):
            if seen >= rows_max:
                following = prefix
                break
            groups.append((prefix, list(rows)))
            seen += len(groups[-1][1])
        for prefix, group in groups:
            self._fold(change, prefix, group)
        return following

    def _fold(self, change: Change, prefix: bytes, group: list[tuple[bytes, bytes]]) -> None:
        """All history of one row, ascending: drop what no snapshot needs, file the rest under one that
        does."""
        owner = int.from_bytes(prefix[_OWNER], "big")
        below = -1
        for key, row in group:
            seq = split_key(key)[1]
            reader = self._newest_reader(below, seq, owner)
            below = seq
            if reader == seq:
                continue
            change.delete(HISTORY, key)
            if reader is not None:
                change.put(HISTORY, history_key(prefix, reader), row)
            elif (chunk := extent_chunk(key, row)) != HOLE:
                self._unrefer(change, chunk)

    def _newest_reader(self, below: int, seq: int, owner: int) -> int | None:
        """The newest living snapshot above `below` and up to `seq` at which the row's owner was there."""
        for snapshot in reversed(self.live.values()):
            if below < snapshot.seq <= seq and owner < snapshot.next_inode:
                return snapshot.seq
        return None


def _place(prefix: bytes) -> tuple[int, int]:
    """Where a key's bit is among those of `_TOUCHED_BITS`: byte and mask."""
    number = hash(prefix) & (_TOUCHED_BITS - 1)
    return number >> 3, 1 << (number & 7)
