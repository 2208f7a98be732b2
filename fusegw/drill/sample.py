"""Which files a drill reads: chosen by a seed, in one pass over the index, in bounded memory.

Every file gets a number from seed and inode that nobody can foresee; those with the lowest numbers are the
sample, so the same seed and the same index give the same files, and adding files changes few of them. Of a
file that is larger than its share some pieces are chosen in the same way.
"""

import heapq
from collections.abc import Iterator
from math import ceil

import msgspec

from fusegw.check.draw import WHOLE, draw
from fusegw.errors import Invalid
from fusegw.meta.schema import INODE, STATE, STATE_FILES, Inode
from fusegw.meta.view import View
from fusegw.vfs.contents import Piece

FILES_MIN = 100
"""A percentage never means fewer files than this."""
BYTES_MAX = 1 << 30
_SHARE_PARTS = 16


class Size(msgspec.Struct, frozen=True):
    """How much is read: a share of the files (0 to 1, at least `FILES_MIN`) or so many, and how much data."""

    share: float = 0.01
    files: int | None = None
    bytes_max: int = BYTES_MAX
    """Of file data; one file has at most a sixteenth of it. 0: no bound, and all files."""

    @property
    def everything(self) -> bool:
        return self.bytes_max == 0


EVERYTHING = Size(share=1.0, bytes_max=0)


class Sample:
    """The files of one index that are to be read."""

    def __init__(self, view: View, size: Size, seed: int) -> None:
        self._view = view
        self._seed = seed
        self._share_bytes = size.bytes_max // _SHARE_PARTS
        self.files_total = 0
        """Regular files in the index."""
        self.bytes_total = 0
        """Bytes of their data, holes left out."""
        self._chosen: list[Inode] | None = None
        if size.everything:
            self.files_total, self.bytes_total = self._count()
        else:
            self._chosen = self._choose(size)
        self.files = self.files_total if self._chosen is None else len(self._chosen)
        """In the sample."""

    def inodes(self) -> Iterator[Inode]:
        """The files of the sample, ascending, so that neighbours in a pack are read together."""
        if self._chosen is not None:
            yield from self._chosen
        else:
            yield from (inode for _, inode in self._view.rows(INODE) if inode.is_file)

    def takes(self, inode: Inode, piece: Piece) -> bool:
        """Whether this piece of a file of the sample is read."""
        if self._chosen is None or inode.allocated <= self._share_bytes:
            return True
        drawn = draw(self._seed, inode.ino, piece.offset)
        return drawn * inode.allocated < WHOLE * self._share_bytes

    def _count(self) -> tuple[int, int]:
        files = nbytes = 0
        for _, inode in self._view.rows(INODE):
            if inode.is_file:
                files, nbytes = files + 1, nbytes + inode.allocated
        return files, nbytes

    def _choose(self, size: Size) -> list[Inode]:
        stored = self._view.get(STATE, STATE_FILES)
        bound = self._wanted(size, int.from_bytes(stored or b"", "big"))
        heap: list[tuple[int, int, Inode]] = []
        for _, inode in self._view.rows(INODE):
            if not inode.is_file:
                continue
            self.files_total += 1
            self.bytes_total += inode.allocated
            entry = (-draw(self._seed, inode.ino), inode.ino, inode)
            if len(heap) < bound:
                heapq.heappush(heap, entry)
            elif entry > heap[0]:
                heapq.heapreplace(heap, entry)
        lowest = [inode for _, _, inode in sorted(heap, reverse=True)]
        return self._within(lowest[: self._wanted(size, self.files_total)], size.bytes_max)

    def _wanted(self, size: Size, files: int) -> int:
        return size.files if size.files is not None else max(FILES_MIN, ceil(size.share * files))

    def _within(self, inodes: list[Inode], bytes_max: int) -> list[Inode]:
        """As many of them as the bound on bytes allows, in the order of inodes."""
        taken, nbytes = [], 0
        for inode in inodes:
            share = min(inode.allocated, self._share_bytes)
            if nbytes + share <= bytes_max:
                taken.append(inode)
                nbytes += share
        return sorted(taken, key=lambda inode: inode.ino)


def parse_size(text: str, bytes_max: int) -> Size:
    """ "1%" or "500"; Invalid for anything else."""
    number, percent = text.rstrip("%"), text.endswith("%")
    try:
        value = float(number) if percent else int(number)
    except ValueError:
        value = -1
    if not 0 < value <= (100 if percent else 1 << 40):
        raise Invalid(f"{text!r} is no sample: expected a percentage such as 1%, or a number of files")
    if percent:
        return Size(share=value / 100, bytes_max=bytes_max)
    return Size(files=int(value), bytes_max=bytes_max)
