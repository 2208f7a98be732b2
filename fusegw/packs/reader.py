"""The reader of packs: from places of chunks to their bytes, from memory, the cache or the store.

Promises: what `read` returns has passed its tag, its length and its chunk id. A cached copy that does not
pass is dropped and the store asked once; only when that copy fails as well, or there is none, the chunk is
Corrupt. Neighbouring blocks that are missing come in one request, and a block that another thread is fetching
is not fetched again.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from fusegw.errors import Corrupt, NotFound
from fusegw.packs.compress import decompress
from fusegw.packs.fetch import Fetched, Fetcher, PackRanges, Range, merge
from fusegw.packs.format import Location, PackCipher, PackKeys
from fusegw.store.base import ObjectStore

CIPHERS_MAX = 256
"""Packs whose keys are kept ready."""


class ChunkRef(msgspec.Struct, frozen=True, gc=False):
    """All it takes to read one chunk."""

    chunk_id: bytes
    location: Location
    pack_id: bytes
    key_version: int
    salt: bytes
    pack_size: int
    """Bytes of the whole pack; 0 while it is open."""


class PackReader:
    """Reads the chunks of one volume. Thread-safe, blocking."""

    def __init__(
        self,
        cache: PackRanges,
        store: ObjectStore,
        keys: PackKeys,
        *,
        chunk_id_of: Callable[[bytes], bytes],
        peek: Callable[[Location], bytes | None],
        request_max_bytes: int = 8 << 20,
    ) -> None:
        """chunk_id_of: the id of a chunk's bytes. peek: `PackWriter.peek`, for records not yet in a file."""
        self._cache = cache
        self._chunk_id_of = chunk_id_of
        self._peek = peek
        self._fetcher = Fetcher(cache, store, request_max_bytes=request_max_bytes)
        self._cipher = lru_cache(CIPHERS_MAX)(
            lambda version, pack_id, salt: PackCipher(keys, version, pack_id, salt)
        )

    def read(self, refs: Sequence[ChunkRef]) -> list[bytes]:
        """The chunks, in that order; holds them and the blocks fetched for them in memory.

        Corrupt names pack and record. NotFound when the store does not have the pack (any more): look the
        chunk up again before calling it damage. Unavailable and Denied as the store raises them.
        """
        chunks = [self._read_local(ref) for ref in refs]
        absent = [ref for ref, raw in zip(refs, chunks, strict=True) if raw is None]
        fetched = iter(self.fetch(absent) if absent else ())
        return [next(fetched) if raw is None else raw for raw in chunks]

    def fetch(self, refs: Sequence[ChunkRef]) -> list[bytes]:
        """As `read`, for chunks that `read_local` did not have: the cache does not count them again."""
        fetched = self._fetch(refs)
        return [self._read_fetched(ref, fetched.get(ref.pack_id, [])) for ref in refs]

    def read_local(self, refs: Sequence[ChunkRef]) -> list[bytes | None]:
        """The chunks as far as memory and cache have them whole; never waits for the store."""
        chunks: list[bytes | None] = []
        for ref in refs:
            sealed = self._sealed_local(ref)
            try:
                chunks.append(None if sealed is None else self._open(ref, sealed))
            except Corrupt:
                chunks.append(None)
        return chunks

    def read_nowait(self, ref: ChunkRef) -> bytes | None:
        """The chunk if it is in memory, the writer's or the kernel's, and whole; None: ask in a thread, which
        may wait. For small chunks: they are opened in the caller's thread."""
        place = ref.location
        sealed = None if ref.pack_size else self._peek(place)
        if sealed is None:
            sealed = self._cache.read_nowait(ref.pack_id.hex(), place.offset, place.stored)
        try:
            return None if sealed is None else self._open(ref, sealed)
        except Corrupt:
            return None

    def prefetch(self, refs: Sequence[ChunkRef]) -> int:
        """Bring what these chunks need from the store into the cache; bytes that were fetched and kept.

        Raises as `read`, but opens nothing.
        """
        return sum(
            fetched.end - fetched.start
            for pack_id, pieces in self._fetch(refs).items()
            for fetched in pieces
            if not self._cache.missing(pack_id.hex(), fetched.start, fetched.end - fetched.start)
        )

    def _read_local(self, ref: ChunkRef) -> bytes | None:
        """The chunk if memory or the cache has its bytes."""
        sealed = self._sealed_local(ref)
        if sealed is None:
            return None
        try:
            return self._open(ref, sealed)
        except Corrupt as damage:
            return self._read_again(ref, damage)

    def _sealed_local(self, ref: ChunkRef, *, counted: bool = True) -> bytes | None:
        place = ref.location
        sealed = None if ref.pack_size else self._peek(place)
        if sealed is None:
            sealed = self._cache.read(ref.pack_id.hex(), place.offset, place.stored, counted=counted)
        return sealed

    def _fetch(self, refs: Sequence[ChunkRef]) -> dict[bytes, list[Fetched]]:
        """Fetch the blocks these chunks lack, pack by pack. An open pack is not in the store; of one that is
        cut off nothing is fetched here: what is left of it has no whole blocks at its end."""
        lacking: dict[bytes, list[Range]] = {}
        for ref in refs:
            if ref.pack_size:
                place = ref.location
                ranges = lacking.setdefault(ref.pack_id, [])
                for start, length in self._cache.missing(
                    ref.pack_id.hex(), place.offset, place.stored, size=ref.pack_size
                ):
                    ranges.append((start, start + length))
        fetched = {}
        for pack_id, ranges in lacking.items():
            if ranges:
                try:
                    fetched[pack_id] = self._fetcher.blocks(pack_id, merge(ranges))
                except Corrupt:
                    pass
        return fetched

    def _read_fetched(self, ref: ChunkRef, fetched: Sequence[Fetched]) -> bytes:
        """The chunk from what was fetched, or the cache, which may have both halves of it; else by itself."""
        sealed = _cut(ref, fetched) or self._sealed_local(ref, counted=False) or self._exact(ref)
        try:
            return self._open(ref, sealed)
        except Corrupt as damage:
            return self._read_again(ref, damage)

    def _read_again(self, ref: ChunkRef, damage: Corrupt) -> bytes:
        """The chunk from the store after a copy of it was found damaged; the cache gets the new copy."""
        self._cache.invalidate(ref.pack_id.hex(), ref.location.offset, ref.location.stored)
        try:
            sealed = _cut(ref, self._fetch([ref]).get(ref.pack_id, ())) or self._exact(ref)
        except NotFound:
            raise Corrupt(f"{damage} (the store has no copy of the pack)") from damage
        return self._open(ref, sealed)

    def _exact(self, ref: ChunkRef) -> bytes:
        return self._fetcher.exact(ref.pack_id, ref.location.offset, ref.location.stored)

    def _open(self, ref: ChunkRef, sealed: bytes | memoryview) -> bytes:
        place = ref.location
        cipher = self._cipher(ref.key_version, ref.pack_id, ref.salt)
        payload = cipher.open(sealed, ref.chunk_id, place)
        try:
            raw = decompress(place.codec, payload, place.raw)
        except Corrupt as damage:
            raise Corrupt(f"{cipher.describe(place)}: {damage}") from damage
        if self._chunk_id_of(raw) != ref.chunk_id:
            raise Corrupt(f"{cipher.describe(place)} holds another chunk: restore it from another copy")
        return raw


def _cut(ref: ChunkRef, fetched: Sequence[Fetched]) -> memoryview | None:
    """The sealed chunk, if one of the reads brought all of it."""
    for piece in fetched:
        sealed = piece.cut(ref.location.offset, ref.location.stored)
        if sealed is not None:
            return sealed
    return None
