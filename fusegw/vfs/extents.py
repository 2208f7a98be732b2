"""The extent map of a file: which chunk holds which bytes.

Extents cover [0, size) of the inode's row exactly; a hole is an extent of chunk 0, a gap is damage.
Functions here take the row inside a `Change`, change extents and reference counts, and return the row with
its new size and allocation; putting that row is the caller's.
"""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from fusegw.meta.chunks import Chunks
from fusegw.meta.metadata import Change
from fusegw.meta.past import Readable
from fusegw.meta.schema import EXTENT, HOLE, Extent, Inode


def place(
    change: Change, chunks: Chunks, row: Inode, offset: int, pieces: Sequence[Extent], length: int
) -> Inode:
    """Put `pieces` at `offset` (bytes), in the place of what was there; only `length` bytes count."""
    end = offset + length
    if length <= 0:
        return row
    if offset > row.size:
        row = extend(change, row, offset)
    placed = list(_clipped(pieces, offset, end))
    # New references first: the range may hold the last old reference to the same chunk.
    for _, piece in placed:
        if piece.chunk != HOLE:
            chunks.refer(change, piece.chunk)
    allocated = row.allocated
    if offset < row.size:
        allocated -= _clear(change, chunks, row.ino, offset, min(end, row.size))
    for position, piece in placed:
        if piece.chunk == HOLE:
            _put_hole(change, row.ino, position, piece.length)
        else:
            # What was there is cleared in this change, or nothing was.
            change.put(EXTENT, (row.ino, position), piece, was=None)
            allocated += piece.length
    return replace(row, size=max(row.size, end), allocated=allocated)


def extend(change: Change, row: Inode, size: int) -> Inode:
    """Grow the file to `size` by a hole."""
    if size <= row.size:
        return row
    _put_hole(change, row.ino, row.size, size - row.size)
    return replace(row, size=size)


def cut(change: Change, chunks: Chunks, row: Inode, size: int) -> Inode:
    """Drop everything from `size` on."""
    if size >= row.size:
        return row
    freed = _clear(change, chunks, row.ino, size, row.size)
    return replace(row, size=size, allocated=row.allocated - freed)


def free_some(change: Change, chunks: Chunks, row: Inode, extents_max: int) -> Inode | None:
    """Drop up to `extents_max` extents from the end of a dying file; None when none is left."""
    last = []
    for key, extent in change.scan(EXTENT, (row.ino, 0), (row.ino + 1, 0), reverse=True):
        last.append((key, extent))
        if len(last) == extents_max:
            break
    allocated = row.allocated
    for key, extent in last:
        change.delete(EXTENT, key, was=extent)
        if extent.chunk != HOLE:
            chunks.unrefer(change, extent.chunk)
            allocated -= extent.length
    if len(last) < extents_max:
        return None
    return replace(row, size=last[-1][0][1], allocated=allocated)


def covering(rows: Readable, ino: int, start: int, end: int) -> list[tuple[int, Extent]]:
    """The extents that touch [start, end), with their file offsets, ascending."""
    found = []
    for (_, offset), extent in rows.scan(EXTENT, (ino, 0), (ino, start + 1), reverse=True):
        if offset + extent.length > start:
            found.append((offset, extent))
        break
    if not found or found[0][0] + found[0][1].length < end:
        found.extend(
            (offset, extent) for (_, offset), extent in rows.scan(EXTENT, (ino, start + 1), (ino, end))
        )
    return found


def _clipped(pieces: Sequence[Extent], offset: int, end: int) -> Iterator[tuple[int, Extent]]:
    """The pieces with their file offsets, as far as they lie before `end`."""
    for piece in pieces:
        if offset >= end:
            return
        length = min(piece.length, end - offset)
        yield offset, Extent(length, piece.chunk, piece.chunk_offset)
        offset += length


def _clear(change: Change, chunks: Chunks, ino: int, start: int, end: int) -> int:
    """Take [start, end) out of the map; returns the allocated bytes that went."""
    freed = 0
    for offset, extent in covering(change, ino, start, end):
        left = max(start - offset, 0)
        right = max(offset + extent.length - end, 0)
        if left:
            rest = Extent(left, extent.chunk, extent.chunk_offset)
            change.put(EXTENT, (ino, offset), rest, was=extent)
        else:
            change.delete(EXTENT, (ino, offset), was=extent)
        if right:
            # A hole has no place in a chunk, and may be longer than any chunk.
            skipped = 0 if extent.chunk == HOLE else extent.chunk_offset + end - offset
            change.put(EXTENT, (ino, end), Extent(right, extent.chunk, skipped), was=None)
        if extent.chunk != HOLE:
            freed += extent.length - left - right
            if left and right:
                chunks.refer(change, extent.chunk)
            elif not left and not right:
                chunks.unrefer(change, extent.chunk)
    return freed


def _put_hole(change: Change, ino: int, offset: int, length: int) -> None:
    """A hole, joined to one that ends where it begins."""
    if offset:
        before = covering(change, ino, offset - 1, offset)
        if before and before[0][1].chunk == HOLE:
            start, hole = before[0]
            change.put(EXTENT, (ino, start), Extent(hole.length + length, HOLE, 0))
            return
    change.put(EXTENT, (ino, offset), Extent(length, HOLE, 0))
