"""Rows in any order, brought into the order of their bytes in bounded memory: sorted runs in a file, merged.

The file loses its name at once, so nothing of it is left when the process ends.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from heapq import merge
from itertools import pairwise
from pathlib import Path

_BLOCK_ROWS = 2048


class SortedRuns:
    """Rows of `row_size` bytes each. The file, once there is one, lies in `directory`; OSError when its disk
    fails. For one thread at a time; close it."""

    def __init__(self, directory: Path, row_size: int) -> None:
        self._directory = directory
        self._row_size = row_size
        self._file: int | None = None
        self._ends = [0]
        """In the file, in bytes; each run begins where the one before ends."""

    def add(self, rows: list[bytes]) -> None:
        """One more run, into the file; its rows are put in order."""
        if self._file is None:
            self._file, path = tempfile.mkstemp(dir=self._directory)
            os.unlink(path)
        rows.sort()
        end = self._ends[-1]
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = b"".join(rows[start : start + _BLOCK_ROWS])
            while block:
                written = os.pwrite(self._file, block, end)
                end += written
                block = block[written:]
        self._ends.append(end)

    def merged(self, last: list[bytes]) -> Iterator[bytes]:
        """All rows in order, those of a last run, which stays in memory, among them."""
        last.sort()
        if self._file is None:
            return iter(last)
        return merge(*(self._read(self._file, begin, end) for begin, end in pairwise(self._ends)), last)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read(self, file: int, begin: int, end: int) -> Iterator[bytes]:
        size = self._row_size
        while begin < end:
            wanted = min(end - begin, _BLOCK_ROWS * size)
            block = os.pread(file, wanted, begin)
            if len(block) != wanted:
                raise OSError(errno.EIO, "a file of rows being sorted is shorter than what went into it")
            begin += wanted
            yield from [block[at : at + size] for at in range(0, wanted, size)]
