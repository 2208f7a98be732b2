"""How much data a snapshot holds, and how much of it only for itself: what deleting it would free.

A scan of all extents, the present's and the history's, in the order of their keys. A chunk is the
snapshot's alone when every reference to it comes from rows of the history that no other snapshot sees.
Chunks are counted in a table of bounded size: when it is full the upper half of the numbers in it is left
to the next scan.
"""

from collections.abc import Callable, Iterator

import msgspec

from fusegw.meta.codec import INODE_SIZE
from fusegw.meta.history import decode_past, split_key
from fusegw.meta.schema import CHUNK, EXTENT, HISTORY, HOLE, SNAPSHOT, Snapshot
from fusegw.meta.view import View

CHUNKS_MAX = 1 << 19
"""Counted at a time, at some 100 bytes each."""
_KEYS_PER_LOOK = 1024
_CHUNK_END = 1 << 64
_LENGTH_SHIFT = 32
_REFERENCES = (1 << _LENGTH_SHIFT) - 1
_OWNER = slice(INODE_SIZE)


class Holdings(msgspec.Struct, frozen=True):
    """What one snapshot holds; bytes of files without their holes, and of chunks as they are stored."""

    logical_bytes: int
    stored_bytes: int
    unique_logical_bytes: int
    """Of them, what neither the present nor another snapshot has."""
    unique_stored_bytes: int


def holdings_of(
    view: View, snapshot: Snapshot, look: Callable[[], None], *, chunks_max: int = CHUNKS_MAX
) -> Holdings:
    """Count in the state that `view` shows; blocking. `look` is called now and then, and may raise."""
    counting = _Counting(view, snapshot, look, chunks_max)
    low = 0
    while low < _CHUNK_END:
        low = counting.scan(low)
    return Holdings(counting.logical, counting.stored, counting.unique_logical, counting.unique_stored)


class _Counting:
    """The figures, as they grow with each scan."""

    def __init__(self, view: View, snapshot: Snapshot, look: Callable[[], None], chunks_max: int) -> None:
        self._view = view
        self._seq = snapshot.seq
        self._next_inode = snapshot.next_inode
        self._look = look
        self._chunks_max = chunks_max
        self._others = [
            (seq, row.next_inode) for seq, row in view.rows(SNAPSHOT) if seq != snapshot.seq and not row.dying
        ]
        self.logical = self.stored = self.unique_logical = self.unique_stored = 0

    def scan(self, low: int) -> int:
        """Count the chunks from number `low` on; returns the first that must be left to another scan."""
        end = _CHUNK_END
        # Per chunk: references that are the snapshot's alone, and above them the bytes of files that it has
        # there.
        counted: dict[int, int] = {}
        for number, (key, present, past) in enumerate(self._keys()):
            if number % _KEYS_PER_LOOK == 0:
                self._look()
            found = self._seen(key, present, past)
            if found is None:
                continue
            (chunk, length), unique = found
            if low <= chunk < end:
                counted[chunk] = counted.get(chunk, 0) + (length << _LENGTH_SHIFT) + unique
                if len(counted) > self._chunks_max:
                    end = sorted(counted)[len(counted) // 2]
                    counted = {one: count for one, count in counted.items() if one < end}
        for number, (chunk, count) in enumerate(sorted(counted.items())):
            if number % _KEYS_PER_LOOK == 0:
                self._look()
            self._add(chunk, count & _REFERENCES, count >> _LENGTH_SHIFT)
        return end

    def _add(self, number: int, references: int, length: int) -> None:
        chunk = self._view.get(CHUNK, number)
        stored = 0 if chunk is None else chunk.stored
        self.logical += length
        self.stored += stored
        if chunk is not None and chunk.count == references:
            self.unique_logical += length
            self.unique_stored += stored

    def _seen(
        self, key: bytes, present: tuple[int, int] | None, past: list[tuple[int, bytes]]
    ) -> tuple[tuple[int, int], bool] | None:
        """The (chunk, length) that the snapshot has at an extent's key, and whether no other has this row."""
        owner = int.from_bytes(key[_OWNER], "big")
        if owner >= self._next_inode:
            return None
        below = -1
        for seq, row in past:
            if seq >= self._seq:
                extent = decode_past(EXTENT, EXTENT.decode_key(key), row)
                if extent is None or extent.chunk == HOLE:
                    return None
                alone = not any(below < other <= seq and owner < end for other, end in self._others)
                return (extent.chunk, extent.length), alone
            below = seq
        return None if present is None else (present, False)

    def _keys(self) -> Iterator[tuple[bytes, tuple[int, int] | None, list[tuple[int, bytes]]]]:
        """Each key of an extent: what is there now, as (chunk, length), and its history, oldest first."""
        histories = self._histories()
        key, rows = next(histories, (b"", []))
        for (ino, offset), extent in self._view.rows(EXTENT):
            raw = EXTENT.encode_key((ino, offset))
            while rows and key < raw:
                yield key, None, rows
                key, rows = next(histories, (b"", []))
            present = None if extent.chunk == HOLE else (extent.chunk, extent.length)
            if rows and key == raw:
                yield raw, present, rows
                key, rows = next(histories, (b"", []))
            else:
                yield raw, present, []
        while rows:
            yield key, None, rows
            key, rows = next(histories, (b"", []))

    def _histories(self) -> Iterator[tuple[bytes, list[tuple[int, bytes]]]]:
        """The history of extents by key."""
        code = bytes((EXTENT.code,))
        current, rows = b"", list[tuple[int, bytes]]()
        for key, row in self._view.rows(HISTORY, code):
            if key[:1] != code:
                break
            prefix, seq = split_key(key)
            if prefix != current:
                if rows:
                    yield current[1:-1], rows
                current, rows = prefix, []
            rows.append((seq, row))
        if rows:
            yield current[1:-1], rows
