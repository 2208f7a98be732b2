"""Reading settled file data: extents to chunks, chunks from memory, cache or store, read-ahead on
sequential access.

Decoded chunks are kept in a small memory of their own (most reads ask for a part of a chunk). Those that are
not there are loaded by `fusegw.vfs.loads`.

A sequential reader has two windows before it. What lies in the near one is decoded. As long as that has to
come from the store, what lies in the far one is brought into the cache, in requests that are as large as
possible: each costs the store, the network and this host more than the bytes in it.
"""

import errno
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec
import trio

from fusegw.errors import FusegwError
from fusegw.meta.chunks import Chunks
from fusegw.meta.metadata import Metadata
from fusegw.meta.past import Past, Readable
from fusegw.meta.schema import HOLE, Extent, Inode
from fusegw.packs.reader import ChunkRef, PackReader
from fusegw.vfs import extents
from fusegw.vfs.loads import Load, Loads

log = logging.getLogger(__name__)
DECODED_BYTES_MAX = 48 << 20
"""Chunks kept decoded, unless said otherwise."""
_LOAD_BYTES = 2 << 20
"""Raw bytes one load asks for at most."""
_SMALL_BYTES = 32 << 10
_SMALL_RAW_BYTES = 128 << 10
"""Stored and raw bytes of a chunk that is opened without a thread when it is in memory: some 0.1 ms."""
_WINDOW_MIN = 1 << 20
_STREAMS_MAX = 256
_LOADS_MAX = 64
"""Chunks on their way beyond which nothing is read ahead."""
_FAR = 4
"""Size of the far window, in near ones."""
_FAR_STEP = 1.5
"""What is fetched together there, in near windows; at a file's end it may be less."""
_FAR_STEPS_MAX = 4
"""Such fetches at one time, of all readers."""
_FAR_REST_S = 30.0
"""How long the far window rests when a step had nothing to fetch, or the cache had no room for it."""


class _Stream(msgspec.Struct, gc=False):
    """A sequential reader: where it is expected next, how far it was fetched for, in the near and in the far
    window, and how far to look ahead."""

    expected: int = 0
    fetched: int = 0
    far: int = 0
    window: int = 0


class Reading:
    """The readers of one volume. Loop thread only; what is read ahead runs as tasks of `nursery`.

    Damage that is found is noted in the index, unless `read_only`.
    """

    def __init__(
        self,
        metadata: Metadata,
        chunks: Chunks,
        reader: PackReader,
        nursery: trio.Nursery,
        *,
        read_ahead_bytes: int,
        read_only: bool = False,
        decoded_bytes_max: int = DECODED_BYTES_MAX,
    ) -> None:
        self._reader = reader
        self._nursery = nursery
        self._read_ahead_bytes = read_ahead_bytes
        self._decoded_bytes_max = decoded_bytes_max
        self._metadata = metadata
        self._loads = Loads(
            metadata,
            chunks,
            reader,
            nursery,
            arrived=self._remember,
            absent=self._look_far,
            read_only=read_only,
        )
        self._decoded: OrderedDict[int, bytes] = OrderedDict()
        self._decoded_bytes = 0
        self._far_steps = 0
        self._far_wanted = False
        """Whether readers wait for the store."""
        self._far_rest_until = -math.inf
        self._streams: OrderedDict[tuple[int, int], _Stream] = OrderedDict()
        """By slot of the snapshot (0: the present) and inode."""

    async def read(self, row: Inode, offset: int, end: int, past: Past | None = None) -> bytes:
        """The bytes [offset, end) of the inode's row, the present one or that in `past`; end <= row.size.
        Errors name what is damaged."""
        rows: Readable = self._metadata if past is None else past
        slot = 0 if past is None else past.snapshot.slot
        while True:
            found = extents.covering(rows, row.ino, offset, end)
            self._look_ahead(rows, slot, row, offset, end)
            try:
                return await self.assemble(row.ino, found, offset, end)
            except (FusegwError, OSError):
                # The file may have been overwritten while its old chunks were being fetched.
                if extents.covering(rows, row.ino, offset, end) == found:
                    raise

    async def assemble(self, ino: int, found: list[tuple[int, Extent]], offset: int, end: int) -> bytes:
        """The bytes [offset, end) of exactly these extents, which the inode has at the time of the call."""
        sources = self._sources(found)
        parts: list[bytes | memoryview] = []
        position = offset
        for start, extent in found:
            if start > position:
                break
            stop = min(start + extent.length, end)
            if extent.chunk == HOLE:
                parts.append(bytes(stop - position))
            else:
                source = sources[extent.chunk]
                raw = source if isinstance(source, bytes) else await source.wait()
                first = extent.chunk_offset + position - start
                if first == 0 and stop - position == len(raw):
                    parts.append(raw)
                else:
                    parts.append(memoryview(raw)[first : first + stop - position])
            position = stop
        if position < end:
            raise OSError(errno.EIO, f"inode {ino} has no extent at offset {position}; run a check")
        if len(parts) == 1 and isinstance(parts[0], bytes):
            return parts[0]
        return b"".join(parts)

    def refresh_with(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """From now on `refresh` is awaited, which brings the index up to date, before a missing pack is
        damage."""
        self._loads.refresh_with(refresh)

    def forget(self) -> None:
        """Drop the decoded chunks, so that the next reads go to cache and store."""
        self._decoded.clear()
        self._decoded_bytes = 0
        self._streams.clear()

    def _sources(self, found: list[tuple[int, Extent]]) -> dict[int, bytes | Load]:
        """Per chunk its bytes, or the load that will have them; starts the loads that are missing."""
        sources: dict[int, bytes | Load] = {}
        missing: dict[int, ChunkRef] = {}
        for _, extent in found:
            number = extent.chunk
            if number == HOLE or number in sources or number in missing:
                continue
            raw = self._decoded.get(number)
            if raw is not None:
                self._decoded.move_to_end(number)
                sources[number] = raw
            elif (load := self._loads.get(number)) is not None:
                sources[number] = load
            else:
                # Where it lies is looked up while it is surely referred to.
                ref = self._loads.reference(number)
                small = self._small_now(number, ref)
                if small is None:
                    missing[number] = ref
                else:
                    sources[number] = small
        if missing:
            sources.update(self._loads.start(missing, ahead=False))
        return sources

    def _small_now(self, number: int, ref: ChunkRef) -> bytes | None:
        """A small chunk that is in memory is opened here and now: to reach a thread would take longer."""
        if ref.location.stored > _SMALL_BYTES or ref.location.raw > _SMALL_RAW_BYTES:
            return None
        raw = self._reader.read_nowait(ref)
        if raw is not None:
            self._remember(number, raw)
        return raw

    def _look_ahead(self, rows: Readable, slot: int, row: Inode, offset: int, end: int) -> None:
        stream = self._streams.get((slot, row.ino))
        if stream is None:
            stream = self._streams[slot, row.ino] = _Stream()
            if len(self._streams) > _STREAMS_MAX:
                self._streams.popitem(last=False)
        # The kernel's own read-ahead may ask for neighbouring ranges out of order.
        if abs(offset - stream.expected) > _WINDOW_MIN:
            stream.window = stream.fetched = stream.far = 0
        stream.expected = max(end, stream.expected) if stream.window else end
        stream.window = min(max(stream.window * 2, _WINDOW_MIN), self._read_ahead_bytes)
        if self._far_wanted and stream.window == self._read_ahead_bytes:
            self._look_far_ahead(rows, stream, row, end)
        target = min(end + stream.window, row.size)
        start = max(stream.fetched, end)
        if start >= row.size or target - start < min(stream.window // 2, _LOAD_BYTES, row.size - start):
            return
        if len(self._loads) > _LOADS_MAX:
            return
        batch: dict[int, ChunkRef] = {}
        nbytes = 0
        for _, extent in extents.covering(rows, row.ino, start, target):
            number = extent.chunk
            if number == HOLE or number in self._decoded or number in batch or self._loads.get(number):
                continue
            batch[number] = self._loads.reference(number)
            nbytes += extent.length
            if nbytes >= _LOAD_BYTES:
                self._loads.start(batch, ahead=True)
                batch, nbytes = {}, 0
        if batch:
            self._loads.start(batch, ahead=True)
        stream.fetched = target

    def _look_far_ahead(self, rows: Readable, stream: _Stream, row: Inode, end: int) -> None:
        start = max(stream.far, stream.fetched, end)
        step = min(int(_FAR_STEP * stream.window), row.size - start)
        if self._far_steps >= _FAR_STEPS_MAX or not 0 < step <= end + _FAR * stream.window - start:
            return
        target = start + step
        found = extents.covering(rows, row.ino, start, target)
        numbers = {extent.chunk: None for _, extent in found if extent.chunk != HOLE}
        stream.far = target
        self._nursery.start_soon(self._fetch_far, [self._loads.reference(number) for number in numbers])

    async def _fetch_far(self, refs: list[ChunkRef]) -> None:
        """Nobody waits for it: who needs what could not be had asks again, and is told why."""
        self._far_steps += 1
        kept = 0
        try:
            kept = await self._loads.prefetch(refs)
        except (FusegwError, OSError) as error:
            log.debug("nothing is fetched far ahead: %s", error)
        finally:
            self._far_steps -= 1
        if not kept:
            self._far_wanted = False
            self._far_rest_until = trio.current_time() + _FAR_REST_S

    def _look_far(self) -> None:
        """A reader has to wait for the store."""
        self._far_wanted = trio.current_time() >= self._far_rest_until

    def _remember(self, number: int, raw: bytes) -> None:
        if number not in self._decoded:
            self._decoded[number] = raw
            self._decoded_bytes += len(raw)
            while self._decoded_bytes > self._decoded_bytes_max and len(self._decoded) > 1:
                _, old = self._decoded.popitem(last=False)
                self._decoded_bytes -= len(old)
