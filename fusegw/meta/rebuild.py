"""Rows that come from the volume's log, into an index nobody else uses: one transaction per step.

Begins, fills and commits in the thread that calls; all calls of one step must come from one thread.
"""

from typing import Any

from fusegw.meta.metadata import Metadata
from fusegw.meta.records import decode_records
from fusegw.meta.schema import LOCAL, LOCAL_HEAD, LOGGED_TABLES, Head, encode_head


class Rebuild:
    """Applies log records step by step; what is not finished is as if it had never been."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._transaction: Any = None

    def apply(self, records: bytes, what: str) -> None:
        """Add `records` to the step. Corrupt, naming `what`; then `abandon`."""
        databases = self._metadata.databases
        transaction = self._begun()
        by_code = {table.code: databases[table.name] for table in LOGGED_TABLES}
        put, delete = transaction.put, transaction.delete
        for code, key, value in decode_records(records, what):
            if value is None:
                delete(key, db=by_code[code])
            else:
                put(key, value, db=by_code[code])

    def finish(self, head: Head) -> None:
        """Make the step durable; the index is at `head` then."""
        transaction = self._begun()
        stored = LOCAL.encode(LOCAL_HEAD, encode_head(head))
        transaction.put(LOCAL_HEAD, stored, db=self._metadata.databases[LOCAL.name])
        transaction.commit()
        self._transaction = None

    def abandon(self) -> None:
        """Drop what was applied since the last `finish`."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None

    def _begun(self) -> Any:
        if self._transaction is None:
            self._transaction = self._metadata.begin()
        return self._transaction
