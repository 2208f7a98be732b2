"""The invariants of data: extents cover their files, chunks are counted, packs know what lives in them.

One pass over packs and chunks, one over inodes and extents together, one over what snapshots keep, one over
the dedup index. Memory: some
24 bytes a chunk, 40 a pack.
"""

import struct
from collections.abc import Iterator

from fusegw.check.numbers import Numbers
from fusegw.check.rows import Rows
from fusegw.meta.history import decode_row, split_key
from fusegw.meta.schema import (
    CHUNK,
    CHUNK_ID,
    CHUNK_KEY_SIZE,
    CONDEMNED,
    DAMAGED,
    EXTENT,
    HISTORY,
    HOLE,
    PACK,
    PACK_CLOSED,
    PACK_LOCAL,
    TABLES,
    Chunk,
    Extent,
    Inode,
    chunk_key,
    damaged_key,
)
from fusegw.packs.format import CODECS, HEADER_SIZE, RAW_SIZE_MAX, RECORD_OVERHEAD

_U64 = 8


class Data:
    """What a check knows of chunks and packs. In this order: `inode` for all, `compare`."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.packs = Numbers(size="Q", live="Q", live_bytes="Q", lives="Q", lives_bytes="Q")
        self.chunks = Numbers(raw="I", count="I", references="I")
        self.marked = Numbers()
        """Chunks that were found damaged before, ascending."""
        self.unique = 0
        self.stored = 0
        self.allocated = 0
        self._read_packs()
        self._read_chunks()
        self._extents = rows.of(EXTENT)
        self._next = next(self._extents, None)

    def _read_packs(self) -> None:
        open_packs = set()
        for number, pack in self._rows.of(PACK):
            self.packs.add(number, size=pack.size, live=pack.live, live_bytes=pack.live_bytes)
            if not pack.digest:
                open_packs.add(number)
        for number, local in self._rows.of(PACK_LOCAL):
            if number not in self.packs:
                self._rows.problem(f"pack {number:#x} waits for the store and has no row")
            if local.state != PACK_CLOSED:
                open_packs.discard(number)
        for number in open_packs:
            self._rows.problem(f"pack {number:#x} was never closed, and nobody writes it")

    def _read_chunks(self) -> None:
        lives, lives_bytes = self.packs.column("lives"), self.packs.column("lives_bytes")
        for number, chunk in self._rows.of(CHUNK):
            self.chunks.add(number, raw=chunk.raw, count=chunk.count)
            self.unique += chunk.raw
            self.stored += chunk.stored
            at = self.packs.find(chunk.pack)
            if at < 0:
                self._rows.problem(f"chunk {number:#x} lies in pack {chunk.pack:#x}, which has no row")
                continue
            lives[at] += 1
            lives_bytes[at] += chunk.stored
            if not _is_plausible(chunk, self.packs.column("size")[at]):
                self._rows.problem(f"chunk {number:#x} lies where no record can be")

    def inode(self, inode: Inode) -> None:
        """One inode, in the order of their numbers, with its extents."""
        covered = allocated = 0
        for offset, extent in self._of(inode.ino):
            if offset != covered or extent.length <= 0:
                self._rows.problem(f"extents of inode {inode.ino} leave a gap or overlap").needed_by(
                    inode.ino
                )
            covered = max(covered, offset + extent.length)
            if extent.chunk != HOLE:
                allocated += extent.length
                self._refer(inode.ino, extent)
        self.allocated += inode.allocated
        if covered != (inode.size if inode.is_file else 0):
            self._rows.problem(
                f"inode {inode.ino} has {inode.size} bytes, its extents cover {covered}"
            ).needed_by(inode.ino)
        if allocated != inode.allocated:
            self._rows.problem(
                f"inode {inode.ino} has {allocated} bytes of data, says {inode.allocated}"
            ).needed_by(inode.ino)

    def _of(self, ino: int) -> Iterator[tuple[int, Extent]]:
        """The extents of an inode; those of inodes that do not exist are found on the way."""
        while self._next is not None and self._next[0][0] <= ino:
            (owner, offset), extent = self._next
            if owner == ino:
                yield offset, extent
            else:
                self._rows.problem(f"extents belong to inode {owner}, which does not exist")
            self._next = next(self._extents, None)

    def _refer(self, ino: int, extent: Extent) -> None:
        at = self.chunks.find(extent.chunk)
        if at < 0:
            self._rows.problem(
                f"the index has no row of chunk {extent.chunk:#x}, which a file needs"
            ).needed_by(ino)
            return
        self.chunks.column("references")[at] += 1
        if extent.chunk_offset + extent.length > self.chunks.column("raw")[at]:
            self._rows.problem(
                f"chunk {extent.chunk:#x} is shorter than an extent says that refers to it"
            ).needed_by(ino)

    def _history(self) -> None:
        """What snapshots keep makes sense, and refers to chunks that are there."""
        tables = {table.code: table for table in TABLES if table.kept}
        for raw_key, row in self._rows.of(HISTORY):
            prefix, _ = split_key(raw_key)
            table = tables.get(prefix[0]) if prefix else None
            if table is None:
                self._rows.problem(f"history row {raw_key.hex()} is of no table that snapshots keep")
                continue
            try:
                key, old = decode_row(table, prefix, row)
            except struct.error as error:
                self._rows.problem(f"history row {raw_key.hex()} makes no sense: {error}")
                continue
            if table is EXTENT and old is not None and old.chunk != HOLE:
                self._refer(key[0], old)

    def compare(self) -> None:
        """What was counted against what chunks and packs say; the dedup index and the marks against both."""
        for _ in self._of((1 << 64) - 1):
            pass
        self._history()
        columns = (self.chunks.column("count"), self.chunks.column("references"))
        for number, count, references in zip(self.chunks.keys, *columns, strict=True):
            if count != references:
                self._rows.problem(f"chunk {number:#x} has {references} references, says {count}")
        counters = (self.packs.column(name) for name in ("live", "live_bytes", "lives", "lives_bytes"))
        for number, live, live_bytes, lives, lives_bytes in zip(self.packs.keys, *counters, strict=True):
            if (live, live_bytes) != (lives, lives_bytes):
                self._rows.problem(
                    f"pack {number:#x} has {lives} chunks of {lives_bytes} bytes, says {live} of {live_bytes}"
                )
        for key, number in self._rows.of(CHUNK_ID):
            chunk = self._rows.get(CHUNK, number)
            if chunk is None or chunk_key(chunk.chunk_id) != key:
                self._rows.problem(f"the dedup index leads to chunk {number:#x}, which is not what it says")
        self._compare_marks()
        for number, _ in self._rows.of(CONDEMNED):
            pack = self._rows.get(PACK, number)
            if pack is None or pack.live or self._rows.get(PACK_LOCAL, number) is not None:
                self._rows.problem(f"pack {number:#x} is to be deleted, and is needed or does not exist")

    def _compare_marks(self) -> None:
        marked = []
        for key, _ in self._rows.of(DAMAGED):
            number = int.from_bytes(key[CHUNK_KEY_SIZE:], "big")
            chunk = self._rows.get(CHUNK, number)
            if chunk is None or damaged_key(chunk.chunk_id, number) != key:
                self._rows.problem(f"chunk {number:#x} is marked as damaged, and is another one or none")
                continue
            marked.append(number)
            if self._rows.get(CHUNK_ID, chunk_key(chunk.chunk_id)) == number:
                self._rows.problem(f"chunk {number:#x} is damaged, and the dedup index leads to it")
        for number in sorted(marked):
            self.marked.add(number)


def _is_plausible(chunk: Chunk, pack_size: int) -> bool:
    return (
        chunk.codec in CODECS
        and chunk.raw <= RAW_SIZE_MAX
        and chunk.offset >= HEADER_SIZE
        and chunk.stored >= RECORD_OVERHEAD
        and (not pack_size or chunk.offset + chunk.stored <= pack_size)
    )
