"""Reading settled file data: extents to chunks, chunks from memory, cache or store, read-ahead on
sequential access.

Decoded chunks are kept in a small memory of their own (most reads ask for a part of a chunk). A chunk is
loaded once however many readers wait for it; loads of neighbouring chunks go to the pack reader together,
in worker threads.
"""

import errno
import logging
from collections import OrderedDict

import msgspec
import trio

from fusegw.errors import Corrupt
from fusegw.meta.chunks import Chunks
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import HOLE, Extent, Inode
from fusegw.packs.format import Location
from fusegw.packs.reader import ChunkRef, PackReader
from fusegw.vfs import extents

log = logging.getLogger(__name__)
_LOAD_BYTES = 2 << 20
"""Raw bytes one load asks for at most."""
_WINDOW_MIN = 1 << 20
_STREAMS_MAX = 256


class _Load:
    """A chunk on its way; `error` when it cannot be had."""

    __slots__ = ("done", "error", "raw")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.raw: bytes | None = None
        self.error: Exception | None = None


class _Stream(msgspec.Struct, gc=False):
    """A sequential reader: where it is expected next, how far it was fetched for, how far to look ahead."""

    expected: int = 0
    fetched: int = 0
    window: int = 0


class Reading:
    """Readers of one volume. Loop thread only; loads run in the nursery given to `run`."""

    def __init__(
        self,
        metadata: Metadata,
        chunks: Chunks,
        reader: PackReader,
        *,
        read_ahead_bytes: int,
        decoded_bytes_max: int = 48 << 20,
        threads: int = 4,
    ) -> None:
        self._metadata = metadata
        self._chunks = chunks
        self._reader = reader
        self._read_ahead_bytes = read_ahead_bytes
        self._decoded_bytes_max = decoded_bytes_max
        self._limiter = trio.CapacityLimiter(threads)
        self._decoded: OrderedDict[int, bytes] = OrderedDict()
        self._decoded_bytes = 0
        self._loads: dict[int, _Load] = {}
        self._streams: OrderedDict[int, _Stream] = OrderedDict()
        self._send, self._receive = trio.open_memory_channel[list[int]](64)

    async def read(self, row: Inode, offset: int, end: int) -> bytes:
        """The bytes [offset, end) of the inode's row; end <= row.size. EIO names what is damaged."""
        found = extents.covering(self._metadata.change(), row.ino, offset, end)
        self._look_ahead(row, offset, end)
        parts: list[bytes | memoryview] = []
        position = offset
        for start, extent in found:
            if start > position:
                break
            stop = min(start + extent.length, end)
            if extent.chunk == HOLE:
                parts.append(bytes(stop - position))
            else:
                raw = self._decoded.get(extent.chunk)
                if raw is None:
                    raw = await self._chunk(extent.chunk, found)
                else:
                    self._decoded.move_to_end(extent.chunk)
                first = extent.chunk_offset + position - start
                if first == 0 and stop - position == len(raw):
                    parts.append(raw)
                else:
                    parts.append(memoryview(raw)[first : first + stop - position])
            position = stop
        if position < end:
            raise OSError(errno.EIO, f"inode {row.ino} has no extent at offset {position}; run a check")
        if len(parts) == 1 and isinstance(parts[0], bytes):
            return parts[0]
        return b"".join(parts)

    def forget(self) -> None:
        """Drop the decoded chunks, so that the next reads go to cache and store."""
        self._decoded.clear()
        self._decoded_bytes = 0
        self._streams.clear()

    async def run(self) -> None:
        """Carry out read-ahead until cancelled."""
        async with trio.open_nursery() as nursery:
            async for numbers in self._receive:
                nursery.start_soon(self._load_quietly, numbers)

    async def _chunk(self, number: int, neighbours: list[tuple[int, Extent]]) -> bytes:
        load = self._loads.get(number)
        if load is None:
            raw = self._decoded.get(number)
            if raw is not None:
                return raw
            numbers = [number]
            numbers += [e.chunk for _, e in neighbours if e.chunk not in (HOLE, number)]
            wanted = [n for n in dict.fromkeys(numbers) if n not in self._loads and n not in self._decoded]
            load = self._loads[number] = _Load()
            for other in wanted[1:]:
                self._loads[other] = _Load()
            await self._load(wanted)
        else:
            await load.done.wait()
        if load.error is not None:
            raise load.error
        assert load.raw is not None
        return load.raw

    def _look_ahead(self, row: Inode, offset: int, end: int) -> None:
        stream = self._streams.get(row.ino)
        if stream is None:
            stream = self._streams[row.ino] = _Stream()
            if len(self._streams) > _STREAMS_MAX:
                self._streams.popitem(last=False)
        # The kernel's own read-ahead may ask for neighbouring ranges out of order.
        if abs(offset - stream.expected) > _WINDOW_MIN:
            stream.window = stream.fetched = 0
        stream.expected = max(end, stream.expected) if stream.window else end
        stream.window = min(max(stream.window * 2, _WINDOW_MIN), self._read_ahead_bytes)
        target = min(end + stream.window, row.size)
        start = max(stream.fetched, end)
        if start >= row.size or target - start < min(stream.window // 2, row.size - start):
            return
        batch: list[int] = []
        nbytes = 0
        for _, extent in extents.covering(self._metadata.change(), row.ino, start, target):
            number = extent.chunk
            if number == HOLE or number in self._decoded or number in self._loads or number in batch:
                continue
            batch.append(number)
            nbytes += extent.length
            if nbytes >= _LOAD_BYTES:
                self._announce(batch)
                batch, nbytes = [], 0
        if batch:
            self._announce(batch)
        stream.fetched = target

    def _announce(self, numbers: list[int]) -> None:
        try:
            self._send.send_nowait(numbers)
        except trio.WouldBlock:
            return
        for number in numbers:
            self._loads[number] = _Load()

    async def _load_quietly(self, numbers: list[int]) -> None:
        await self._load(numbers)

    async def _load(self, numbers: list[int]) -> None:
        """Load chunks whose `_Load`s were announced; errors are left in them."""
        loads = [(number, self._loads[number]) for number in numbers]
        try:
            refs = [self._reference(number) for number in numbers]
            raws = await trio.to_thread.run_sync(self._reader.read, refs, limiter=self._limiter)
            for (number, load), raw in zip(loads, raws, strict=True):
                load.raw = raw
                self._remember(number, raw)
        except Exception as error:
            if len(numbers) > 1:
                await self._load_singly(loads)
            else:
                loads[0][1].error = error
                if isinstance(error, Corrupt):
                    self._damaged(numbers[0], error)
        finally:
            for number, load in loads:
                self._loads.pop(number, None)
                if load.raw is None and load.error is None:
                    load.error = OSError(errno.EINTR, "read was cancelled")
                load.done.set()

    async def _load_singly(self, loads: list[tuple[int, _Load]]) -> None:
        """One of several could not be had: find out which, the others are fine."""
        for number, load in loads:
            try:
                refs = [self._reference(number)]
                raws = await trio.to_thread.run_sync(self._reader.read, refs, limiter=self._limiter)
                load.raw = raws[0]
            except Exception as error:
                load.error = error
                if isinstance(error, Corrupt):
                    self._damaged(number, error)

    def _reference(self, number: int) -> ChunkRef:
        change = self._metadata.change()
        chunk = self._chunks.row(change, number)
        pack = self._chunks.pack(change, chunk.pack)
        return ChunkRef(
            chunk_id=chunk.chunk_id,
            location=Location(chunk.pack, chunk.record, chunk.offset, chunk.stored, chunk.raw, chunk.codec),
            pack_id=pack.pack_id,
            pack_size=pack.size,
            key_version=pack.key_version,
            salt=pack.salt,
        )

    def _remember(self, number: int, raw: bytes) -> None:
        if number not in self._decoded:
            self._decoded[number] = raw
            self._decoded_bytes += len(raw)
            while self._decoded_bytes > self._decoded_bytes_max and len(self._decoded) > 1:
                _, old = self._decoded.popitem(last=False)
                self._decoded_bytes -= len(old)

    def _damaged(self, number: int, error: Corrupt) -> None:
        log.error(
            "a chunk is damaged in cache and store, the next write of the same data replaces it: %s", error
        )
        with self._metadata.change() as change:
            self._chunks.distrust(change, number)
