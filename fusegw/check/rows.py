"""All rows of a table in order, with damaged ones noted and left out, and how far the whole pass has come."""

import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fusegw.check.damages import INDEX, Damages, Found
from fusegw.errors import Corrupt
from fusegw.meta.codec import Table
from fusegw.meta.schema import TABLES
from fusegw.meta.view import View

K = TypeVar("K")
V = TypeVar("V")
_STEP = 4096


class Rows:
    """The tables of one view as a check reads them. Problems of the index go to `damages`."""

    def __init__(self, view: View, damages: Damages, on_progress: Callable[[int], None]) -> None:
        """`on_progress` gets the rows read so far, of all tables."""
        self.view = view
        self._damages = damages
        self._on_progress = on_progress
        self.done = 0
        self._read: set[str] = set()

    def problem(self, text: str) -> Found:
        """Something is wrong in the index; of equal texts there is one."""
        return self._damages.of(INDEX, text)

    def of(self, table: Table[K, V]) -> Iterator[tuple[K, V]]:
        """The rows whose checksum fits and that make sense."""
        self._read.add(table.name)
        count = 0
        for raw_key, stored in self._stored(table):
            count += 1
            if count % _STEP == 0:
                self._pass(self.done + _STEP)
            try:
                if not self.view.is_found(table, raw_key, stored):
                    self.problem(f"table {table.name!r} has rows that looking up their keys does not find")
                key = table.decode_key(raw_key)
                yield key, table.decode(key, raw_key, stored)
            except Corrupt as error:
                self.problem(str(error))
            except struct.error as error:
                self.problem(f"row {raw_key.hex()} of table {table.name!r} makes no sense: {error}")
        self._pass(self.done + count % _STEP)
        if count != self.view.count(table):
            self.problem(f"table {table.name!r} has {self.view.count(table)} rows, {count} are found")

    def _pass(self, done: int) -> None:
        self.done = done
        self._on_progress(done)

    def read_rest(self) -> None:
        """The checksums of all tables that nobody has read yet."""
        for table in TABLES:
            if table.name not in self._read:
                for _ in self.of(table):
                    pass

    def get(self, table: Table[K, V], key: K) -> V | None:
        """One row, None when there is none; a damaged one is noted when its table is read."""
        return self.view.sound_row(table, key)

    def _stored(self, table: Table[Any, Any]) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from self.view.stored(table)
        except Corrupt as error:
            self.problem(str(error))
