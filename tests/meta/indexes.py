"""Opening indexes and looking under them, for the tests of the metadata layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from fusegw.meta.metadata import Metadata


def open_index(directory: Path, **options: Any) -> Metadata:
    """An index with a small reserve and, unless told otherwise, all the room it wants."""
    return Metadata(directory, **{"size_max_bytes": 1 << 40, "reserve_bytes": 4096, **options})


def commit(metadata: Metadata) -> None:
    """What a group commit does, without the packs."""
    if metadata.freeze():
        metadata.save()
        metadata.saved()


@contextmanager
def underneath(directory: Path, table: str) -> Iterator[Any]:
    """A write transaction on one database of an index nobody has open."""
    with lmdb.open(str(directory), max_dbs=32, map_size=1 << 30) as environment:
        database = environment.open_db(table.encode())
        with environment.begin(write=True, db=database) as transaction:
            yield transaction
