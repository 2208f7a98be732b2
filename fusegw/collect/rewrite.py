"""Reading what is alive in packs that are to be rewritten: few and large requests, nothing kept.

Chunks come in the order of their numbers, which is that in which they were written, so that data written
together lies together again. What the cache has is taken from there; the rest is fetched in spans that
bridge small gaps, held in memory for the burst, and never put into the cache, which belongs to the readers.
A chunk that cannot be had whole is left where it is.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

import msgspec

from cache import PackCache
from fusegw.errors import Corrupt, NotFound
from fusegw.meta.schema import Chunk, Pack
from fusegw.packs.fetch import Range
from fusegw.packs.format import PackKeys, object_key
from fusegw.packs.reader import PackReader
from fusegw.store.base import ObjectStore
from fusegw.vfs.loads import chunk_ref

log = logging.getLogger(__name__)
BURST_STORED_BYTES = 32 << 20
BURST_RAW_BYTES = 64 << 20
"""What is held in memory at one time."""
GAP_BYTES = 256 << 10
"""Bytes that nobody needs, read to save a request."""
REQUEST_BYTES = 8 << 20


class Living(msgspec.Struct, frozen=True, gc=False):
    """A chunk to be moved, as it lay when the pass looked."""

    number: int
    chunk: Chunk


def bursts(living: Sequence[Living], *, stored_max: int = BURST_STORED_BYTES) -> Iterator[list[Living]]:
    """`living` in order, in parts of bounded size."""
    part: list[Living] = []
    stored = raw = 0
    for one in living:
        stored += one.chunk.stored
        raw += one.chunk.raw
        part.append(one)
        if stored >= stored_max or raw >= BURST_RAW_BYTES:
            yield part
            part, stored, raw = [], 0, 0
    if part:
        yield part


def spans(living: Sequence[Living]) -> list[Range]:
    """What to read of one pack to have these chunks of it: (first byte, end), ascending."""
    joined: list[Range] = []
    for start, end in sorted((one.chunk.offset, one.chunk.offset + one.chunk.stored) for one in living):
        if joined and start - joined[-1][1] <= GAP_BYTES:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


class LivingSource:
    """Where the chunks of one volume's packs are read for their rewriting. Blocking; one burst at a time."""

    def __init__(
        self, cache: PackCache, store: ObjectStore, keys: PackKeys, *, chunk_id_of: Callable[[bytes], bytes]
    ) -> None:
        self._cache = cache
        self._store = store
        self._held: dict[str, list[tuple[int, bytes]]] = {}
        self._reader = PackReader(self, store, keys, chunk_id_of=chunk_id_of, peek=lambda place: None)
        self.requests = 0
        """To the store, since the start."""
        self.read_bytes = 0
        """From the store."""

    def load(self, burst: Sequence[Living], packs: dict[int, Pack]) -> list[tuple[int, int, bytes, bytes]]:
        """Number, pack, id and raw bytes of those of the burst that can be had whole; `packs` has the rows of
        their packs. Raises Unavailable and Denied as the store does."""
        try:
            self._hold(burst, packs)
            found = []
            for one in burst:
                ref = chunk_ref(one.chunk, packs[one.chunk.pack])
                try:
                    (raw,) = self._reader.read([ref])
                except (Corrupt, NotFound) as error:
                    log.error("a chunk cannot be read, it stays in its pack: %s", error)
                    continue
                found.append((one.number, one.chunk.pack, one.chunk.chunk_id, raw))
            return found
        finally:
            self._held.clear()

    def _hold(self, burst: Sequence[Living], packs: dict[int, Pack]) -> None:
        by_pack: dict[int, list[Living]] = {}
        for one in burst:
            pack = packs[one.chunk.pack]
            name, place = pack.pack_id.hex(), one.chunk
            if self._cache.missing(name, place.offset, place.stored, size=pack.size):
                by_pack.setdefault(place.pack, []).append(one)
        for number, lacking in by_pack.items():
            pack = packs[number]
            try:
                self._held[pack.pack_id.hex()] = [
                    (at, self._get(pack, at, min(at + REQUEST_BYTES, end)))
                    for start, end in spans(lacking)
                    for at in range(start, end, REQUEST_BYTES)
                ]
            except (Corrupt, NotFound):
                pass  # the reader asks for each chunk alone, and says what is wrong

    def _get(self, pack: Pack, start: int, end: int) -> bytes:
        self.requests += 1
        self.read_bytes += end - start
        return self._store.get_range(object_key(pack.pack_id), start, end - start)

    # What the reader sees as its cache.

    def read(self, name: str, offset: int, length: int, *, counted: bool = True) -> bytes | None:
        """From what is held, else from the cache."""
        parts: list[bytes] = []
        at, end = offset, offset + length
        for start, data in self._held.get(name, ()):
            if start <= at < start + len(data):
                parts.append(data[at - start : end - start])
                at = min(end, start + len(data))
            if at == end:
                return b"".join(parts)
        return self._cache.read(name, offset, length, counted=False)

    def read_nowait(self, name: str, offset: int, length: int) -> bytes | None:
        """Nothing: whoever reads here may wait."""

    def missing(self, name: str, offset: int, length: int, *, size: int | None = None) -> list[Range]:
        """All of it: asked for after it was not found, or found damaged."""
        return [(offset, length)]

    def fill(self, name: str, offset: int, data: bytes) -> None:
        """Nothing is kept."""

    def invalidate(self, name: str, offset: int, length: int) -> None:
        """These bytes are bad."""
        self._held.pop(name, None)
        self._cache.invalidate(name, offset, length)
