"""The index as a snapshot sees it: history first, then the present, without what was born since."""

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

from fusegw.meta.codec import Table
from fusegw.meta.history import SEQ_END, decode_past, decode_row, history_key, history_prefix, split_key
from fusegw.meta.schema import DIRENT, HISTORY, INODE, POSITION, Snapshot

K = TypeVar("K")
V = TypeVar("V")
_COOKIES_MAX = 4096


class Readable(Protocol):
    """What the readers of the file system need of an index, the present one or a snapshot's."""

    def get(self, table: Table[K, V], key: K) -> V | None:
        """The row, None when there is none."""

    def scan(self, table: Table[K, V], low: K, high: K, *, reverse: bool = False) -> Iterator[tuple[K, V]]:
        """Rows with low <= key < high; consume it before the loop runs anything else."""


class Past:
    """A `Readable` of a snapshot that is alive in `rows`, the present. Rows of tables that snapshots do not
    keep are the present's. Used as `rows` is.
    """

    def __init__(self, rows: Readable, snapshot: Snapshot) -> None:
        self._rows = rows
        self._seq = snapshot.seq
        self._next_inode = snapshot.next_inode
        self._cookies: dict[int, int] = {}
        self.snapshot = snapshot

    def get(self, table: Table[K, V], key: K) -> V | None:
        """The row as it was, None when there was none."""
        if not table.kept:
            return self._rows.get(table, key)
        prefix = history_prefix(table, key)
        low, high = history_key(prefix, self._seq), history_key(prefix, SEQ_END)
        for _, row in self._rows.scan(HISTORY, low, high):
            value: V | None = decode_past(table, key, row)
            break
        else:
            value = self._rows.get(table, key)
        return value if value is not None and self._was_there(table, key, value) else None

    def scan(self, table: Table[K, V], low: K, high: K, *, reverse: bool = False) -> Iterator[tuple[K, V]]:
        """Rows as they were, with low <= key < high, ascending or descending."""
        present = self._rows.scan(table, low, high, reverse=reverse)
        if not table.kept:
            yield from present
            return
        for key, value in _overlaid(present, self._changed(table, low, high, reverse), reverse=reverse):
            if value is not None and self._was_there(table, key, value):
                yield key, value

    def decode(self, table: Table[Any, Any], prefix: bytes, row: bytes) -> tuple[Any, Any]:
        """The key under a prefix of the history, and the value that the row has for this snapshot."""
        key, value = decode_row(table, prefix, row)
        return key, value if value is not None and self._was_there(table, key, value) else None

    def _changed(self, table: Table[K, V], low: K, high: K, reverse: bool) -> Iterator[tuple[K, V | None]]:
        """What has changed since, as it was; in order, each key once."""
        code = bytes((table.code,))
        first, last = code + table.encode_key(low), code + table.encode_key(high)
        current: bytes | None = None
        chosen: bytes | None = None
        for key, row in self._rows.scan(HISTORY, first, last, reverse=reverse):
            prefix, seq = split_key(key)
            if prefix != current:
                if current is not None and chosen is not None:
                    yield decode_row(table, current, chosen)
                current, chosen = prefix, None
            if seq >= self._seq and (reverse or chosen is None):
                chosen = row
        if current is not None and chosen is not None:
            yield decode_row(table, current, chosen)

    def _was_there(self, table: Table[Any, Any], key: Any, value: Any) -> bool:
        if table is INODE:
            return bool(key < self._next_inode)
        if key[0] >= self._next_inode:
            return False
        if table is DIRENT:
            return bool(value.cookie < self._next_cookie(key[0]))
        if table is POSITION:
            return bool(key[1] < self._next_cookie(key[0]))
        return True

    def _next_cookie(self, directory: int) -> int:
        cookie = self._cookies.get(directory)
        if cookie is None:
            inode = self.get(INODE, directory)
            if len(self._cookies) > _COOKIES_MAX:
                self._cookies.clear()
            cookie = self._cookies[directory] = 0 if inode is None else inode.next_cookie
        return cookie


def _overlaid(
    present: Iterator[tuple[Any, Any]], past: Iterator[tuple[Any, Any]], *, reverse: bool
) -> Iterator[tuple[Any, Any]]:
    """Both in order; of one key the past counts."""
    own = next(past, None)
    for key, value in present:
        while own is not None and own[0] != key and (own[0] < key) is not reverse:
            yield own
            own = next(past, None)
        if own is not None and own[0] == key:
            yield own
            own = next(past, None)
        else:
            yield key, value
    while own is not None:
        yield own
        own = next(past, None)
