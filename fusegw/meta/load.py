"""Fills a new index from a dump, as fast as LMDB can: ascending rows are appended, in bounded transactions.

The rows that a dump leaves out are made anew. They come in another order than their table's. Positions come
in that of their directories, so it is enough to sort them in runs of bounded size. Chunk ids come in no order
at all: runs of them go into a file and are merged, since to put each where it belongs would read and write a
page of the table for each, and leave its pages half empty.

For an index that nobody else uses and that is thrown away when the load does not come to its end. All calls
of one load must come from one thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lmdb

from fusegw.errors import Corrupt
from fusegw.meta.codec import CRC_SIZE, INODE_SIZE
from fusegw.meta.derived import chunk_id_row, position_row
from fusegw.meta.metadata import Metadata
from fusegw.meta.records import decode_records
from fusegw.meta.schema import (
    CHUNK,
    CHUNK_ID,
    CHUNK_KEY_SIZE,
    DIRENT,
    LOCAL,
    LOCAL_HEAD,
    LOGGED_TABLES,
    POSITION,
    Head,
    encode_head,
)
from fusegw.meta.sorted_runs import SortedRuns

TRANSACTION_BYTES = 32 << 20
"""Rows written at which a transaction is committed."""
RUN_BYTES = 64 << 20
"""Memory for the rows of one run."""
_OBJECT_BYTES = 41
"""What Python adds to a byte string in a list."""
_POSITION_KEY_SIZE = 2 * INODE_SIZE
_CHUNK_ID_SIZE = CHUNK_KEY_SIZE + 8 + CRC_SIZE
"""Key, chunk number and checksum."""
_BATCH_ROWS = 10_000


class Load:
    """One load into an empty index: `add` all parts, then `finish`; or `abandon`."""

    def __init__(self, metadata: Metadata, *, run_bytes: int = RUN_BYTES) -> None:
        self._metadata = metadata
        self._run_bytes = run_bytes
        self._transaction: Any = None
        self._written = 0
        self._positions: list[bytes] = []
        self._positions_bytes = 0
        self._chunk_ids: list[bytes] = []
        self._chunk_id_runs = SortedRuns(metadata.directory, _CHUNK_ID_SIZE)
        self._exceptions: list[bytes] = []
        self._tables = {table.code: table for table in LOGGED_TABLES}

    def add(self, records: bytes, what: str) -> None:
        """The next part. Corrupt, naming `what`, or Full; then `abandon`."""
        with self._full_when_refused():
            self._add(records, what)

    def _add(self, records: bytes, what: str) -> None:
        rows: list[tuple[bytes, bytes]] = []
        code = 0
        for found, key, value in decode_records(records, what):
            if value is None:
                if found != CHUNK_ID.code:
                    raise Corrupt(f"{what} has a deleted row of table {self._tables[found].name!r}")
                self._exceptions.append(key)
                continue
            if found != code:
                self._append(code, rows, what)
                code, rows = found, []
            rows.append((key, value))
        self._append(code, rows, what)
        if self._written >= TRANSACTION_BYTES:
            self._commit()

    def finish(self, head: Head) -> dict[str, int]:
        """Everything durable; the index is at `head`. How many rows each table has. Full; then `abandon`."""
        with self._full_when_refused():
            return self._finish(head)

    def _finish(self, head: Head) -> dict[str, int]:
        self._flush_positions()
        self._put_chunk_ids()
        transaction = self._begun()
        database = self._metadata.databases[CHUNK_ID.name]
        for key in self._exceptions:
            transaction.delete(key, db=database)
        stored = LOCAL.encode(LOCAL_HEAD, encode_head(head))
        transaction.put(LOCAL_HEAD, stored, db=self._metadata.databases[LOCAL.name])
        databases = self._metadata.databases
        counts = {
            table.name: transaction.stat(db=databases[table.name])["entries"] for table in LOGGED_TABLES
        }
        self._commit()
        return counts

    @contextmanager
    def _full_when_refused(self) -> Iterator[None]:
        try:
            yield
        except (lmdb.Error, OSError) as error:
            raise self._metadata.saving_failed(error) from None

    def abandon(self) -> None:
        """End what is open; unless the load is finished, the index is of no use."""
        self._chunk_id_runs.close()
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None

    def _append(self, code: int, rows: list[tuple[bytes, bytes]], what: str) -> None:
        if not rows:
            return
        table = self._tables[code]
        if table is POSITION or table is CHUNK_ID:
            raise Corrupt(f"{what} has rows of table {table.name!r}, which follow from others")
        with self._begun().cursor(db=self._metadata.databases[table.name]) as cursor:
            _, added = cursor.putmulti(rows, append=True)
        if added != len(rows):
            raise Corrupt(f"{what} has rows of table {table.name!r} that do not ascend")
        self._written += sum([len(key) + len(value) for key, value in rows])
        if table is DIRENT:
            self._derive_positions(rows)
        elif table is CHUNK:
            self._derive_chunk_ids(rows)

    def _derive_positions(self, rows: list[tuple[bytes, bytes]]) -> None:
        for row in rows:
            joined = b"".join(position_row(*row))
            self._positions.append(joined)
            self._positions_bytes += len(joined) + _OBJECT_BYTES
        if self._positions_bytes >= self._run_bytes:
            self._flush_positions()

    def _derive_chunk_ids(self, rows: list[tuple[bytes, bytes]]) -> None:
        self._chunk_ids += [b"".join(chunk_id_row(*row)) for row in rows]
        if len(self._chunk_ids) * (_CHUNK_ID_SIZE + _OBJECT_BYTES) >= self._run_bytes:
            self._chunk_id_runs.add(self._chunk_ids)
            self._chunk_ids = []

    def _flush_positions(self) -> None:
        joined, self._positions, self._positions_bytes = self._positions, [], 0
        joined.sort()
        size = _POSITION_KEY_SIZE
        for start in range(0, len(joined), _BATCH_ROWS):
            rows = [(row[:size], row[size:]) for row in joined[start : start + _BATCH_ROWS]]
            with self._begun().cursor(db=self._metadata.databases[POSITION.name]) as cursor:
                ascending = not cursor.last() or cursor.key() < rows[0][0]
                cursor.putmulti(rows, append=ascending)
            self._wrote(rows)

    def _put_chunk_ids(self) -> None:
        """Of several with one key the last in byte order stays, the newest chunk."""
        size, rows = CHUNK_KEY_SIZE, list[tuple[bytes, bytes]]()
        for row in self._chunk_id_runs.merged(self._chunk_ids):
            key = row[:size]
            if rows and rows[-1][0] == key:
                rows[-1] = key, row[size:]
                continue
            if len(rows) == _BATCH_ROWS:
                self._append_chunk_ids(rows)
                rows = []
            rows.append((key, row[size:]))
        self._append_chunk_ids(rows)
        self._chunk_ids = []

    def _append_chunk_ids(self, rows: list[tuple[bytes, bytes]]) -> None:
        with self._begun().cursor(db=self._metadata.databases[CHUNK_ID.name]) as cursor:
            cursor.putmulti(rows, append=True)
        self._wrote(rows)

    def _wrote(self, rows: list[tuple[bytes, bytes]]) -> None:
        self._written += sum([len(key) + len(value) for key, value in rows])
        if self._written >= TRANSACTION_BYTES:
            self._commit()

    def _begun(self) -> Any:
        if self._transaction is None:
            self._transaction = self._metadata.begin()
        return self._transaction

    def _commit(self) -> None:
        if self._transaction is not None:
            transaction, self._transaction = self._transaction, None
            transaction.commit()
        self._written = 0
