"""The index of a volume for another process than its gateway's: read only, beside whatever writes it.

LMDB lets any number of processes read; each view is one commit, and who writes does not wait. A process that
is killed leaves its place in LMDB's table of readers behind, which the gateway frees (`Metadata.saved`).
"""

import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import lmdb

from fusegw.errors import Corrupt, NotFound, UnknownFormat
from fusegw.meta import schema
from fusegw.meta.opening import DATA_NAME, open_to_read
from fusegw.meta.view import View

_LIBC = ctypes.CDLL(None, use_errno=True)


class IndexBeside:
    """An index that this process only reads; one at a time per directory and process."""

    def __init__(self, directory: Path, *, map_size_bytes: int = 1 << 40) -> None:
        """NotFound when there is none, Denied, Corrupt, UnknownFormat."""
        self._data = (directory / DATA_NAME).resolve()
        if not self._data.exists():
            raise NotFound(f"there is no metadata index in {directory}: mount the volume first")
        self._env, self._databases = open_to_read(directory, map_size_bytes)
        try:
            with self.view() as view:
                stored = view.get(schema.STATE, schema.STATE_SCHEMA)
            found = int.from_bytes(stored or b"", "big")
            if found != schema.SCHEMA_VERSION:
                raise UnknownFormat(
                    f"metadata index {directory} has schema {found}, this fusegw knows "
                    f"{schema.SCHEMA_VERSION}: use the fusegw that wrote it"
                )
        except lmdb.Error as error:
            self._env.close()
            raise Corrupt(f"metadata index {directory} is damaged: {error}") from None
        except BaseException:
            self._env.close()
            raise

    def view(self) -> View:
        """The newest commit; close it."""
        return View(self._env, self._databases)

    def trim(self) -> None:
        """Let go of the memory that what was read takes: LMDB maps its file, and a page once read stays
        mapped. Valid at any time, with views open too: what is read again is mapped again."""
        for start, length in _mappings(self._data):
            _LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let go of the files."""
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _mappings(file: Path) -> Iterator[tuple[int, int]]:
    """Start and length of where this process has the file mapped, for reading only."""
    with open("/proc/self/maps", "rb") as lines:
        for line in lines:
            fields = line.rstrip(b"\n").split(maxsplit=5)
            if len(fields) == 6 and fields[5] == bytes(file) and fields[1] == b"r--s":
                start, _, end = fields[0].partition(b"-")
                yield int(start, 16), int(end, 16) - int(start, 16)
