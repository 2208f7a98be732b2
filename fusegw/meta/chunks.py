"""Chunks and the packs they lie in: numbering, reference counts, the dedup index, what is still alive.

Every function works inside an operation's `Change`. A chunk lives while extents refer to it; with the last
reference its row, its entry in the dedup index and its share of the pack's live bytes go. What then remains
in a stored pack is for collection to free.

A chunk whose bytes turn out to be damaged leaves the dedup index at once and is marked. When the same data
is written again, or good bytes of it are found, it is sealed anew and the marked chunk moves there under its
old number, so that every file that uses it is whole again.
"""

from collections.abc import Callable
from itertools import count
from typing import Protocol

from msgspec.structs import replace

from fusegw.clock import Clock
from fusegw.errors import Corrupt
from fusegw.meta.codec import decode_u64, encode_u64
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import (
    CHUNK,
    CHUNK_ID,
    CONDEMNED,
    COUNT_MAX,
    DAMAGED,
    PACK,
    PACK_LOCAL,
    PACK_OPEN,
    STATE,
    STATE_STORED,
    STATE_UNIQUE,
    Chunk,
    Condemned,
    Pack,
    PackLocal,
    chunk_key,
    damaged_key,
    numbered,
)


class PackIdentity(Protocol):
    """What a pack is called in the store, and what its key is made from."""

    @property
    def pack_id(self) -> bytes: ...
    @property
    def key_version(self) -> int: ...
    @property
    def salt(self) -> bytes: ...


class Chunks:
    """The chunks of one volume as one epoch changes them. Loop thread only."""

    def __init__(
        self, metadata: Metadata, *, epoch: int, clock: Clock, describe: Callable[[int], PackIdentity]
    ) -> None:
        self._metadata = metadata
        self._epoch = epoch
        self._clock = clock
        self._describe = describe
        self._next = count(1)
        self.reload()
        self.opened_packs: dict[int, int] = {}
        """Packs entered in this epoch and when (ns since 1970); the shipper takes them over."""
        self.dead_packs: set[int] = set()
        """Packs whose last chunk died in this epoch; who drops or collects one takes it out."""

    def reload(self) -> None:
        """The index was changed from outside: take over what it says."""
        self.unique_bytes = self._metadata.number(STATE_UNIQUE)
        """Raw bytes of all chunks."""
        self.stored_bytes = self._metadata.number(STATE_STORED)
        """Sealed bytes of all chunks."""
        self._any_damaged = next(self._metadata.scan(DAMAGED, b"", b"\xff" * 25), None) is not None

    def find(self, change: Change, chunk_id: bytes) -> int | None:
        """The number of a chunk with this id that can take one more reference, None when there is none."""
        number = change.get(CHUNK_ID, chunk_key(chunk_id))
        if number is None:
            return None
        chunk = self.row(change, number)
        return number if chunk.chunk_id == chunk_id and chunk.count < COUNT_MAX else None

    def row(self, change: Change, number: int) -> Chunk:
        """The chunk's row; a missing one is Corrupt, never zeros."""
        chunk = change.get(CHUNK, number)
        if chunk is None:
            raise Corrupt(f"metadata has no row of chunk {number:#x} that a file refers to; run a check")
        return chunk

    def add(self, change: Change, chunk: Chunk) -> int:
        """Enter a chunk that was just sealed; its count must be 0 until `refer`. Returns its number.

        Damaged chunks of the same data move to its place, and it is one of them then.
        """
        healed = self._heal(change, chunk) if self._any_damaged else None
        if healed is not None:
            return healed
        number = numbered(self._epoch, next(self._next))
        change.put(CHUNK, number, chunk)
        change.put(CHUNK_ID, chunk_key(chunk.chunk_id), number)
        self._arrive(change, number, chunk)
        return number

    def pack(self, change: Change, number: int) -> Pack:
        """The pack's row; Corrupt when there is none."""
        pack = change.get(PACK, number)
        if pack is None:
            raise Corrupt(f"metadata has no row of pack {number:#x} that a chunk lies in; run a check")
        return pack

    def enter_pack(self, change: Change, number: int, *, first_chunk: int) -> Pack:
        """The row of a pack that the index does not know yet."""
        identity = self._describe(number)
        pack = Pack(identity.pack_id, identity.key_version, identity.salt, 0, 0, 0, 0, b"")
        self.opened_packs[number] = self._clock.time_ns()
        change.put(PACK, number, pack)
        change.put(PACK_LOCAL, number, PackLocal(PACK_OPEN, self.opened_packs[number], first_chunk))
        return pack

    def condemn(self, change: Change, number: int) -> bool:
        """The pack's object is to be deleted, when that harms nobody; False unless it is in the store and no
        chunk lies in it. No job that may still enter one must be on its way."""
        pack = change.get(PACK, number)
        if pack is None or pack.live or not pack.size or change.get(PACK_LOCAL, number) is not None:
            return False
        change.put(CONDEMNED, number, Condemned(self._clock.time_ns()))
        return True

    def refer(self, change: Change, number: int) -> None:
        """One more extent refers to the chunk."""
        chunk = self.row(change, number)
        change.put(CHUNK, number, replace(chunk, count=chunk.count + 1))

    def unrefer(self, change: Change, number: int) -> None:
        """One extent less; with the last the chunk is gone."""
        chunk = self.row(change, number)
        if chunk.count > 1:
            change.put(CHUNK, number, replace(chunk, count=chunk.count - 1))
            return
        change.delete(CHUNK, number)
        key = chunk_key(chunk.chunk_id)
        if change.get(CHUNK_ID, key) == number:
            change.delete(CHUNK_ID, key)
        elif self._any_damaged:
            _unmark(change, number, chunk)
        self._leave(change, chunk)

    def move(self, change: Change, number: int, chunk: Chunk) -> None:
        """The chunk was sealed anew elsewhere: `chunk` is its row with the new place.

        From there it can be referred to again, if it had left the dedup index.
        """
        self._leave(change, self.row(change, number))
        self._arrive(change, number, chunk)
        change.put(CHUNK, number, chunk)
        self._index(change, number, chunk)

    def distrust(self, change: Change, number: int) -> None:
        """The chunk's bytes are damaged: the next write of the same data stores them anew, for it too."""
        self._any_damaged = True
        mark_damaged(change, number, self.row(change, number).chunk_id, self._clock)

    def trust(self, change: Change, number: int) -> None:
        """The chunk's bytes are as they were sealed, whatever was thought of them."""
        self._index(change, number, self.row(change, number))

    def _index(self, change: Change, number: int, chunk: Chunk) -> None:
        """It can be referred to by new data; of several with the same id the newest is."""
        key = chunk_key(chunk.chunk_id)
        indexed = change.get(CHUNK_ID, key)
        if indexed is None or indexed < number:
            change.put(CHUNK_ID, key, number)
        if self._any_damaged:
            _unmark(change, number, chunk)

    def _heal(self, change: Change, chunk: Chunk) -> int | None:
        """Move the damaged chunks with this data to the place of `chunk`; the newest of them, None without
        any."""
        newest = None
        prefix = chunk_key(chunk.chunk_id)
        low, high = prefix, prefix + b"\xff" * 9
        for key, _ in list(change.scan(DAMAGED, low, high)):
            number = decode_u64(key[len(prefix) :])
            row = self.row(change, number)
            if row.chunk_id == chunk.chunk_id:
                self.move(change, number, replace(chunk, count=row.count))
                newest = number
        return newest

    def _arrive(self, change: Change, number: int, chunk: Chunk) -> None:
        """The chunk lies in its pack now, which is entered with its first one."""
        pack = change.get(PACK, chunk.pack)
        if pack is None:
            pack = self.enter_pack(change, chunk.pack, first_chunk=number)
        else:
            local = change.get(PACK_LOCAL, chunk.pack)
            if local is None:
                change.delete(CONDEMNED, chunk.pack)
            elif number < local.first_chunk:
                change.put(PACK_LOCAL, chunk.pack, replace(local, first_chunk=number))
        change.put(
            PACK, chunk.pack, replace(pack, live=pack.live + 1, live_bytes=pack.live_bytes + chunk.stored)
        )
        self._count(change, chunk.raw, chunk.stored)

    def _leave(self, change: Change, chunk: Chunk) -> None:
        pack = self.pack(change, chunk.pack)
        change.put(
            PACK, chunk.pack, replace(pack, live=pack.live - 1, live_bytes=pack.live_bytes - chunk.stored)
        )
        if pack.live == 1:
            self.dead_packs.add(chunk.pack)
        self._count(change, -chunk.raw, -chunk.stored)

    def _count(self, change: Change, raw: int, stored: int) -> None:
        self.unique_bytes += raw
        self.stored_bytes += stored
        change.put(STATE, STATE_UNIQUE, encode_u64(self.unique_bytes))
        change.put(STATE, STATE_STORED, encode_u64(self.stored_bytes))


def mark_damaged(change: Change, number: int, chunk_id: bytes, clock: Clock) -> None:
    """Take the chunk out of the dedup index, and remember that its data is to be had anew."""
    key = chunk_key(chunk_id)
    if change.get(CHUNK_ID, key) == number:
        change.delete(CHUNK_ID, key)
    if change.get(DAMAGED, damaged_key(chunk_id, number)) is None:
        change.put(DAMAGED, damaged_key(chunk_id, number), clock.time_ns())


def _unmark(change: Change, number: int, chunk: Chunk) -> None:
    key = damaged_key(chunk.chunk_id, number)
    if change.get(DAMAGED, key) is not None:
        change.delete(DAMAGED, key)
