"""From written bytes to chunks in the index: worker threads encode, the event loop merges.

A `Job` is some ranges of one file. Workers take jobs in order; in a thread each range is cut, every piece
gets its keyed id, is looked up in the dedup index and, when it is new, goes through the pack writer
(compress, seal, write). Back on the loop the jobs are *merged* strictly in the order they were submitted:
each hit is looked up again in the same operation that refers to it (it may be gone by then; the raw bytes
are kept until here), chunks and extents enter the index in one change.

Tasks and their states: `submit` → waiting → (worker) encoding → encoded → (head of the order) merged. A job
whose encoding fails stays and is tried again; `error` says why and everybody who waits in `merged` is told,
so a full disk delays data but never loses it. A `Reseal` takes the same way with chunks that are known and
get another place. Nothing here blocks the loop but `store`, which is for a few
small pieces.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import trio
from blake3 import blake3

from fusegw.errors import Busy, Corrupt, Full, FusegwError
from fusegw.ingest.cutter import Cut, Cutter
from fusegw.ingest.effort import Effort
from fusegw.meta.chunks import Chunks
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import CHUNK, HOLE, Chunk, Extent
from fusegw.packs.format import Location
from fusegw.packs.writer import PackWriter

log = logging.getLogger(__name__)
_RETRY_S = 0.5
_PORTION_BYTES = 1 << 20

Data = bytes | bytearray
_Fresh = tuple[bytes, memoryview]
"""Id and raw bytes of a chunk that is not in the index."""
Placed = list[tuple[int, list[Extent]]]
"""Per range its file offset and the extents that now hold it."""
Merge = Callable[[Change, Placed], None]
"""Places the extents in the file, referring to their chunks as far as it keeps them; must not fail."""


class Range(msgspec.Struct, gc=False):
    """Bytes at a file offset; `cuts` when they are already known."""

    offset: int
    data: Data
    cuts: list[Cut] | None = None


class _Piece(msgspec.Struct, gc=False):
    """A cut piece: a hole has no id, a dedup hit no location."""

    length: int
    chunk_id: bytes | None
    location: Location | None


class Job(msgspec.Struct):
    """Ranges of one file on their way; `merge` places their extents.

    Its bytes are claimed from the cache budget by who made it; `claimed` of them the pack writer gives back,
    the rest (holes, known chunks) is the maker's to give back after the merge.
    """

    ranges: list[Range]
    merge: Merge
    lost: Callable[[FusegwError], None]
    """Told when the metadata is damaged where the data should go."""
    number: int = 0
    claimed: int = 0
    pieces: list[list[_Piece]] | None = None

    @property
    def nbytes(self) -> int:
        return sum(len(part.data) for part in self.ranges)


class Reseal(msgspec.Struct):
    """Chunks that are to leave the packs they lie in: sealed anew one behind the other, under their numbers.

    The merge moves those that still lie in the pack named here; the others died, or were moved meanwhile.
    """

    chunks: list[tuple[int, int, bytes, bytes]]
    """Number, pack, id and raw bytes of each."""
    number: int = 0
    claimed: int = 0
    pieces: list[Location] | None = None
    """Where they were sealed."""
    moved: int = 0
    """Of them, after the merge."""
    moved_bytes: int = 0
    """Sealed, where they are now."""

    @property
    def nbytes(self) -> int:
        return sum(len(raw) for _, _, _, raw in self.chunks)


_Work = Job | Reseal
_Append = Callable[[Job, list[_Fresh]], list[Location]]


class Pipeline:
    """The ingest of one volume. `run` must be running; the rest is for the loop's thread."""

    def __init__(
        self,
        metadata: Metadata,
        chunks: Chunks,
        writer: PackWriter,
        cutter: Cutter,
        *,
        chunk_id_key: bytes,
        threads: int,
        limiter: trio.CapacityLimiter | None = None,
        effort: Effort | None = None,
    ) -> None:
        """`threads` jobs at a time are encoded, as far as `limiter` lets them, which others may share."""
        self._metadata = metadata
        self._chunks = chunks
        self._writer = writer
        self._cutter = cutter
        self._chunk_id_key = chunk_id_key
        self._threads = threads
        self._effort = effort or Effort()
        self._limiter = limiter or trio.CapacityLimiter(threads)
        self._waiting: deque[_Work] = deque()
        self._order: deque[_Work] = deque()
        self._idle = trio.lowlevel.ParkingLot()
        self._progress = trio.Event()
        self._moved: dict[Location, Location] = {}
        self._holders = 0
        self.submitted = 0
        """Number of the newest job; jobs count from 1."""
        self.merged_number = 0
        """All jobs up to this one are in the index."""
        self.bytes_in_flight = 0
        self.error: FusegwError | None = None
        """Why encoding does not get on at present; None when it does."""
        self.raw_bytes = 0
        """Bytes that came in since the start, holes included."""
        self.new_bytes = 0
        """Those of them that were not known and went into packs."""

    def chunk_id(self, data: Data | memoryview) -> bytes:
        """The keyed BLAKE3-256 of a chunk's raw bytes."""
        return blake3(data, key=self._chunk_id_key).digest()

    def submit(self, job: _Work) -> int:
        """Queue a job; returns its number, to wait for with `merged`."""
        self.submitted += 1
        job.number = self.submitted
        self.bytes_in_flight += job.nbytes
        self._waiting.append(job)
        self._order.append(job)
        self._idle.unpark()
        return job.number

    async def merged(self, number: int) -> None:
        """Wait until all jobs up to `number` are in the index; raises what keeps them from it."""
        while self.merged_number < number:
            await self._progress.wait()
            if self.merged_number < number and self.error is not None:
                raise type(self.error)(str(self.error))

    async def room(self, bytes_max: int) -> None:
        """Wait until at most `bytes_max` are in flight; raises what keeps it from going down."""
        while self.bytes_in_flight > bytes_max:
            await self._progress.wait()
            if self.bytes_in_flight > bytes_max and self.error is not None:
                raise type(self.error)(str(self.error))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is merged meanwhile: no commit then refers to a pack that is younger than this call.

        Encoding goes on, so a short hold costs nothing but a little latency.
        """
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._merge_ready()

    def store(self, job: Job) -> None:
        """Encode and merge a small job here and now, without a thread.

        Raises Busy while merging is held, or as the pack writer does; then nothing of it is in the index and
        it can be submitted.
        """
        if self._holders:
            raise Busy("merging is held")
        job.pieces = [self._encode_range(job, part, self._append_now) for part in job.ranges]
        try:
            self._merge(job)
        except BaseException:
            job.pieces = None
            raise

    def relocate(self, moves: dict[Location, Location]) -> None:
        """The pack writer sealed records anew elsewhere: rows and jobs follow."""
        self._moved.update(moves)
        with self._metadata.change() as change:
            for number, chunk in self._metadata.unsaved(CHUNK):
                place = Location(chunk.pack, chunk.record, chunk.offset, chunk.stored, chunk.raw, chunk.codec)
                if place in moves:
                    self._chunks.move(change, number, _row(chunk.chunk_id, moves[place], chunk.count))

    async def run(self) -> None:
        """Encode and merge until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._threads):
                nursery.start_soon(self._worker)

    async def _worker(self) -> None:
        while True:
            while not self._waiting:
                await self._idle.park()
            job = self._waiting.popleft()
            while job.pieces is None:
                try:
                    await trio.to_thread.run_sync(self._encode, job, limiter=self._limiter)
                    self.error = None
                except (FusegwError, OSError) as error:
                    self._fail(error)
                    await trio.sleep(_RETRY_S)
            self._merge_ready()
            if self.error is not None:
                await trio.sleep(_RETRY_S)

    def _encode(self, job: _Work) -> None:
        if isinstance(job, Reseal):
            raws = [(chunk_id, memoryview(raw)) for _, _, chunk_id, raw in job.chunks]
            job.pieces = self._append(job, raws)
        else:
            job.pieces = [self._encode_range(job, part, self._append) for part in job.ranges]

    def _append(self, job: _Work, fresh: list[_Fresh]) -> list[Location]:
        """In a worker thread, in portions small against what the writer may hold in memory."""
        locations = []
        portion: list[_Fresh] = []
        nbytes = 0
        for chunk in fresh:
            portion.append(chunk)
            nbytes += len(chunk[1])
            if nbytes >= _PORTION_BYTES or chunk is fresh[-1]:
                claimed = min(nbytes, job.nbytes - job.claimed)
                level = self._effort.beside(self.bytes_in_flight)
                locations += self._writer.append_many(portion, claimed=claimed, level=level)
                job.claimed += claimed
                portion, nbytes = [], 0
        return locations

    def _append_now(self, job: Job, fresh: list[_Fresh]) -> list[Location]:
        """On the loop, without waiting for the disk."""
        locations = []
        level = self._effort.at_once()
        for chunk_id, raw in fresh:
            location = self._writer.append_nowait(chunk_id, raw, claimed=len(raw), level=level)
            if location is None:
                raise Full("too much sealed data waits for the disk")
            job.claimed += len(raw)
            locations.append(location)
        return locations

    def _encode_range(self, job: Job, part: Range, append: _Append) -> list[_Piece]:
        cuts = part.cuts if part.cuts is not None else self._cutter.cut(part.data)
        view = memoryview(part.data)
        pieces = []
        fresh: list[_Fresh] = []
        own: set[bytes] = set()
        position = 0
        for length, hole in cuts:
            if hole:
                pieces.append(_Piece(length, None, None))
            else:
                raw = view[position : position + length]
                chunk_id = self.chunk_id(raw)
                if chunk_id not in own and not self._metadata.find_chunk(chunk_id):
                    own.add(chunk_id)
                    fresh.append((chunk_id, raw))
                pieces.append(_Piece(length, chunk_id, None))
            position += length
        if fresh:
            places = dict(zip((chunk_id for chunk_id, _ in fresh), append(job, fresh), strict=True))
            for piece in pieces:
                if piece.chunk_id is not None:
                    piece.location = places.get(piece.chunk_id)
        return pieces

    def _merge_ready(self) -> None:
        while self._order and self._order[0].pieces is not None and not self._holders:
            job = self._order[0]
            try:
                self._merge(job)
            except Corrupt as error:
                log.error("written data is lost: %s", error)
                if isinstance(job, Job):
                    job.lost(error)
            except (FusegwError, OSError) as error:
                job.pieces = None
                self._waiting.appendleft(job)
                self._idle.unpark()
                self._fail(error)
                return
            self._order.popleft()
            self.merged_number = job.number
            self.bytes_in_flight -= job.nbytes
        self._signal()

    def _merge(self, job: _Work) -> None:
        assert job.pieces is not None
        if isinstance(job, Reseal):
            self._move(job, job.pieces)
        else:
            self._enter(job.ranges, job.pieces, job.merge)

    def _move(self, job: Reseal, places: list[Location]) -> None:
        with self._metadata.change() as change:
            for (number, pack, chunk_id, _), place in zip(job.chunks, places, strict=True):
                chunk = change.get(CHUNK, number)
                if chunk is None or chunk.pack != pack:
                    continue
                row = _row(chunk_id, self._present(place), chunk.count)
                self._chunks.move(change, number, row)
                job.moved += 1
                job.moved_bytes += row.stored

    def _enter(self, ranges: Sequence[Range], encoded: Sequence[list[_Piece]], merge: Merge) -> None:
        """One change: chunks, held by a reference of our own until `merge` has placed their extents."""
        with self._metadata.change() as change:
            placed: Placed = []
            for part, pieces in zip(ranges, encoded, strict=True):
                extents = []
                position = 0
                for piece in pieces:
                    extents.append(self._extent(change, piece, part, position))
                    position += piece.length
                placed.append((part.offset, extents))
            merge(change, placed)
            for _, extents in placed:
                for extent in extents:
                    if extent.chunk != HOLE:
                        self._chunks.unrefer(change, extent.chunk)
        self._count(ranges, encoded)

    def _extent(self, change: Change, piece: _Piece, part: Range, position: int) -> Extent:
        if piece.chunk_id is None:
            return Extent(piece.length, HOLE, 0)
        number = self._chunks.find(change, piece.chunk_id)
        if number is None:
            place = piece.location
            if place is None:
                raw = memoryview(part.data)[position : position + piece.length]
                place = self._writer.append(piece.chunk_id, raw, level=self._effort.at_once())
            number = self._chunks.add(change, _row(piece.chunk_id, self._present(place), 0))
        self._chunks.refer(change, number)
        return Extent(piece.length, number, 0)

    def _present(self, place: Location) -> Location:
        """Where the record is that was sealed there."""
        while place in self._moved:
            place = self._moved[place]
        return place

    def _count(self, ranges: Sequence[Range], encoded: Sequence[list[_Piece]]) -> None:
        self.raw_bytes += sum(len(part.data) for part in ranges)
        self.new_bytes += sum(
            piece.length for pieces in encoded for piece in pieces if piece.location is not None
        )

    def _fail(self, error: FusegwError | OSError) -> None:
        if self.error is None:
            log.error("written data cannot go into packs, keeping it and trying again: %s", error)
        self.error = error if isinstance(error, FusegwError) else Full(f"pack cannot be written: {error}")
        self._signal()

    def _signal(self) -> None:
        progress, self._progress = self._progress, trio.Event()
        progress.set()


def _row(chunk_id: bytes, place: Location, references: int) -> Chunk:
    return Chunk(
        chunk_id, place.pack, place.record, place.offset, place.stored, place.raw, place.codec, references
    )
