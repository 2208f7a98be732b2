"""Chunks and the packs they lie in: numbering, reference counts, the dedup index, what is still alive.

Every function works inside an operation's `Change`. A chunk lives while extents refer to it; with the last
reference its row, its entry in the dedup index and its share of the pack's live bytes go. What then remains
in a stored pack is for collection to free.
"""

from collections.abc import Callable
from itertools import count
from typing import Protocol

from msgspec.structs import replace

from fusegw.clock import Clock
from fusegw.errors import Corrupt
from fusegw.meta.codec import encode_u64
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import (
    CHUNK,
    CHUNK_ID,
    COUNT_MAX,
    PACK,
    PACK_LOCAL,
    PACK_OPEN,
    STATE,
    STATE_STORED,
    STATE_UNIQUE,
    Chunk,
    Pack,
    PackLocal,
    chunk_key,
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
        """Enter a chunk that was just sealed; its count must be 0 until `refer`. Returns its number."""
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
        self._leave(change, chunk)

    def move(self, change: Change, number: int, chunk: Chunk) -> None:
        """The chunk was sealed anew elsewhere: `chunk` is its row with the new place."""
        self._leave(change, self.row(change, number))
        self._arrive(change, number, chunk)
        change.put(CHUNK, number, chunk)

    def distrust(self, change: Change, number: int) -> None:
        """The chunk's bytes are damaged: the next write of the same data stores them anew."""
        key = chunk_key(self.row(change, number).chunk_id)
        if change.get(CHUNK_ID, key) == number:
            change.delete(CHUNK_ID, key)

    def _arrive(self, change: Change, number: int, chunk: Chunk) -> None:
        """The chunk lies in its pack now, which is entered with its first one."""
        pack = change.get(PACK, chunk.pack)
        if pack is None:
            pack = self.enter_pack(change, chunk.pack, first_chunk=number)
        else:
            local = change.get(PACK_LOCAL, chunk.pack)
            if local is not None and number < local.first_chunk:
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
