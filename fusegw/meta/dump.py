"""Everything that describes the volume, from one view, as log records: what a checkpoint is made of.

Rows that follow from others (`fusegw.meta.derived`) are left out, and exceptions to that come last. A row
that fails its checksum, or tables that do not fit together, make no dump: what is damaged here must not
pass for the truth elsewhere.
"""

from collections.abc import Iterator

from fusegw.errors import Corrupt
from fusegw.meta.derived import chunk_id_row
from fusegw.meta.records import encode_delete, encode_put
from fusegw.meta.schema import CHUNK, CHUNK_ID, DIRENT, LOGGED_TABLES, POSITION
from fusegw.meta.view import View

DERIVED = (POSITION, CHUNK_ID)


def row_counts(view: View) -> dict[str, int]:
    """Rows of each table that describes the volume."""
    return {table.name: view.count(table) for table in LOGGED_TABLES}


def dump(view: View, part_bytes: int) -> Iterator[bytes]:
    """Log records, in parts that end at the first row that fills `part_bytes`; uses memory for one part.

    Corrupt when the index is damaged.
    """
    records: list[bytes] = []
    size = 0
    for record in _records(view):
        records.append(record)
        size += len(record)
        if size >= part_bytes:
            yield b"".join(records)
            records, size = [], 0
    if records:
        yield b"".join(records)


def _records(view: View) -> Iterator[bytes]:
    if view.count(POSITION) != view.count(DIRENT):
        raise _unfit("directory entries", "positions")
    exceptions: list[bytes] = []
    indexed = 0
    for table in LOGGED_TABLES:
        if table in DERIVED:
            continue
        code = table.code
        for key, stored in view.checked(table):
            yield encode_put(code, key, stored)
            if table is not CHUNK:
                continue
            derived = chunk_id_row(key, stored)
            found = view.get(CHUNK_ID, derived[0])
            number = int.from_bytes(key, "big")
            if found == number:
                indexed += 1
            elif found is None:
                exceptions.append(encode_delete(CHUNK_ID.code, derived[0]))
            elif found < number:
                raise _unfit("chunks", "the dedup index")
    if indexed != view.count(CHUNK_ID):
        raise _unfit("chunks", "the dedup index")
    yield from exceptions


def _unfit(left: str, right: str) -> Corrupt:
    return Corrupt(f"the metadata index is damaged: {left} and {right} do not fit together; run a check")
