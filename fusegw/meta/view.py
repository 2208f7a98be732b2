"""One durable state of the index, held still: what a read transaction of LMDB sees while it is open.

A view knows the number of the commit it shows, so what is read from it belongs to exactly that place of the
volume's history. It may be used from any thread, by one at a time. While it is open LMDB cannot use the pages
again that were freed since, so it must be closed.
"""

import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TypeVar
from zlib import crc32

import lmdb

from fusegw.errors import Corrupt
from fusegw.meta.codec import Table
from fusegw.meta.schema import LOCAL, LOCAL_HEAD, LOG_TAIL, Head, decode_head

K = TypeVar("K")
V = TypeVar("V")


class View:
    """The index at one commit; made by `Metadata.view`. Raises Corrupt for rows that fail their checksum."""

    def __init__(self, environment: Any, databases: dict[str, Any]) -> None:
        self._databases = databases
        self._transaction = environment.begin(buffers=False)
        try:
            row = self.get(LOCAL, LOCAL_HEAD)
            self.head = Head() if row is None else decode_head(row)
            """How much of it the log has."""
            self.commit = self._last(LOG_TAIL) or self.head.commit
            """Number of the newest commit in it."""
        except BaseException:
            self.close()
            raise

    def get(self, table: Table[K, V], key: K) -> V | None:
        """The row, None when there is none."""
        raw_key = table.encode_key(key)
        try:
            stored = self._transaction.get(raw_key, db=self._databases[table.name])
        except lmdb.Error as error:
            raise _unreadable(table, error) from None
        return None if stored is None else table.decode(key, raw_key, stored)

    def rows(self, table: Table[K, V], start: K | None = None) -> Iterator[tuple[K, V]]:
        """All rows in order, from `start` on."""
        for raw_key, stored in self.stored(table, None if start is None else table.encode_key(start)):
            key = table.decode_key(raw_key)
            yield key, table.decode(key, raw_key, stored)

    def sound(self, table: Table[K, V], start: K | None = None) -> Iterator[tuple[K, V]]:
        """As `rows`, without those that are damaged: for tools that say so elsewhere."""
        for raw_key, stored in self.stored(table, None if start is None else table.encode_key(start)):
            try:
                key = table.decode_key(raw_key)
                row = table.decode(key, raw_key, stored)
            except (Corrupt, struct.error):
                continue
            yield key, row

    def sound_row(self, table: Table[K, V], key: K) -> V | None:
        """As `get`, None for a damaged row too."""
        try:
            return self.get(table, key)
        except (Corrupt, struct.error):
            return None

    def stored(
        self, table: Table[Any, Any], start: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """All rows in order as they are stored, unchecked: from `start` on, or in `reverse` from the last."""
        try:
            with self._transaction.cursor(db=self._databases[table.name]) as cursor:
                if reverse:
                    yield from cursor.iterprev()
                elif cursor.set_range(start) if start is not None else cursor.first():
                    yield from cursor.iternext()
        except lmdb.Error as error:
            raise _unreadable(table, error) from None

    def is_found(self, table: Table[Any, Any], raw_key: bytes, stored: bytes) -> bool:
        """Whether looking the key up leads to the row as well: pages that a pass in order does not need may
        be damaged."""
        try:
            found: bytes | None = self._transaction.get(raw_key, db=self._databases[table.name])
        except lmdb.Error as error:
            raise _unreadable(table, error) from None
        return found == stored

    def checked(self, table: Table[Any, Any]) -> Iterator[tuple[bytes, bytes]]:
        """All rows in order as they are stored; Corrupt at the first whose checksum does not fit."""
        seed = table.seed
        for key, stored in self.stored(table):
            if crc32(stored[:-4], crc32(key, seed)) != int.from_bytes(stored[-4:], "big"):
                table.refuse(key)
            yield key, stored

    def count(self, table: Table[Any, Any]) -> int:
        """How many rows there are."""
        try:
            rows: int = self._transaction.stat(db=self._databases[table.name])["entries"]
        except lmdb.Error as error:
            raise _unreadable(table, error) from None
        return rows

    def refuse_lost_rows(self, table: Table[Any, Any]) -> None:
        """Corrupt when reading all rows does not bring as many as there must be; for small tables."""
        try:
            with self._transaction.cursor(db=self._databases[table.name]) as cursor:
                found = sum(1 for _ in cursor.iternext(values=False))
        except lmdb.Error as error:
            raise _unreadable(table, error) from None
        if found != self.count(table):
            raise _unreadable(table, f"it has {self.count(table)} rows, {found} are found")

    def close(self) -> None:
        """Give the state up."""
        self._transaction.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _last(self, table: Table[int, Any]) -> int:
        try:
            with self._transaction.cursor(db=self._databases[table.name]) as cursor:
                return table.decode_key(cursor.key()) if cursor.last() else 0
        except lmdb.Error as error:
            raise _unreadable(table, error) from None


def _unreadable(table: Table[Any, Any], error: object) -> Corrupt:
    return Corrupt(f"table {table.name!r} of the metadata index cannot be read: {error}")
