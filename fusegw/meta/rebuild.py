"""Rows that come from the volume's log, into an index that nothing else changes: one transaction per step.

Begins, fills and commits in the thread that calls; all calls of one step must come from one thread. Who reads
the index meanwhile sees nothing of a step before it is finished and the metadata renewed.
"""

from typing import Any

import lmdb
from msgspec.structs import replace

from fusegw.meta.metadata import Metadata
from fusegw.meta.records import decode_records
from fusegw.meta.schema import (
    DIRENT,
    EXTENT,
    INODE,
    LOCAL,
    LOCAL_HEAD,
    LOG_SEALED,
    LOGGED_TABLES,
    XATTR,
    Head,
    encode_head,
)


class Changed:
    """What a step changed of what callers of the file system see."""

    __slots__ = ("contents", "entries", "inodes")

    def __init__(self) -> None:
        self.inodes: set[int] = set()
        """Whose attributes or extended attributes may have changed; gone ones too."""
        self.contents: set[int] = set()
        """Whose data may have changed."""
        self.entries: set[tuple[int, bytes]] = set()
        """(directory, name) that appeared, went or stands for something else."""

    def note(self, code: int, key: bytes) -> None:
        """A row of the table with this code was put or deleted."""
        if code == INODE.code:
            self.inodes.add(INODE.decode_key(key))
        elif code == DIRENT.code:
            self.entries.add(DIRENT.decode_key(key))
        elif code == EXTENT.code:
            self.contents.add(EXTENT.decode_key(key)[0])
        elif code == XATTR.code:
            self.inodes.add(XATTR.decode_key(key)[0])


class Rebuild:
    """Applies log records step by step; what is not finished is as if it had never been.

    `changed` is told what the step changes.
    """

    def __init__(self, metadata: Metadata, changed: Changed | None = None) -> None:
        self._metadata = metadata
        self._changed = changed
        self._transaction: Any = None

    def apply(self, records: bytes, what: str) -> None:
        """Add `records` to the step. Corrupt, naming `what`, or Full; then `abandon`."""
        databases = self._metadata.databases
        transaction = self._begun()
        by_code = {table.code: databases[table.name] for table in LOGGED_TABLES}
        put, delete = transaction.put, transaction.delete
        note = self._changed.note if self._changed is not None else None
        try:
            for code, key, value in decode_records(records, what):
                if value is None:
                    delete(key, db=by_code[code])
                else:
                    put(key, value, db=by_code[code])
                if note is not None:
                    note(code, key)
        except lmdb.Error as error:
            raise self._metadata.saving_failed(error) from None

    def finish(self, head: Head) -> None:
        """Make the step durable; the index is at `head` then, with the commits it has. Full."""
        databases = self._metadata.databases
        transaction = self._begun()
        at = encode_head(replace(head, commit=self._metadata.commit_number))
        try:
            transaction.put(LOCAL_HEAD, LOCAL.encode(LOCAL_HEAD, at), db=databases[LOCAL.name])
            # What this gateway once meant to put into a slot that another one has won.
            transaction.delete(LOG_SEALED.encode_key(head.seq), db=databases[LOG_SEALED.name])
            transaction.commit()
        except (lmdb.Error, OSError) as error:
            raise self._metadata.saving_failed(error) from None
        finally:
            self._transaction = None

    def abandon(self) -> None:
        """Drop what was applied since the last `finish`."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None

    def _begun(self) -> Any:
        if self._transaction is None:
            try:
                self._transaction = self._metadata.begin()
            except lmdb.Error as error:
                raise self._metadata.saving_failed(error) from None
        return self._transaction
