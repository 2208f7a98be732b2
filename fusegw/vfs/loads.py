"""Chunks on their way into memory, each loaded once however many readers wait for it.

Those of one batch go to the pack reader together, in a worker thread: from memory or the cache in few
threads, and what is not there from the store in many, so that readers who wait for the store never hold up
those who need not. The few take what a reader waits for first, then what is read ahead, each in the order in
which it was asked for: a sequential reader comes to the first of it first.
"""

import errno
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import trio

from fusegw.errors import Corrupt, FusegwError, NotFound, Unavailable
from fusegw.meta.chunks import Chunks
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import CHUNK, Chunk, Pack
from fusegw.packs.format import Location
from fusegw.packs.reader import ChunkRef, PackReader

log = logging.getLogger(__name__)


class Load:
    """A chunk on its way; `error` when it cannot be had."""

    __slots__ = ("done", "error", "raw")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.raw: bytes | None = None
        self.error: FusegwError | OSError | None = None

    async def wait(self) -> bytes:
        """The chunk's bytes; raises why they cannot be had."""
        await self.done.wait()
        if self.raw is None:
            raise self.error or OSError(errno.EINTR, "read was cancelled")
        return self.raw


class _Batch(msgspec.Struct, frozen=True, gc=False):
    loads: dict[int, Load]
    refs: list[ChunkRef]


class Loads:
    """Those of one volume, by chunk number. Loop thread only; runs as tasks of `nursery`.

    `arrived` is told of each chunk that came, `absent` that the store has to be asked for some. Damage that
    is found is noted in the index, unless `read_only`.
    """

    def __init__(
        self,
        metadata: Metadata,
        chunks: Chunks,
        reader: PackReader,
        nursery: trio.Nursery,
        *,
        arrived: Callable[[int, bytes], None],
        absent: Callable[[], None],
        read_only: bool = False,
        local_threads: int = 2,
        remote_threads: int = 16,
    ) -> None:
        self._metadata = metadata
        self._chunks = chunks
        self._reader = reader
        self._nursery = nursery
        self._on_arrival = arrived
        self._on_absence = absent
        self._read_only = read_only
        self._local = trio.CapacityLimiter(local_threads)
        self._remote = trio.CapacityLimiter(remote_threads)
        self._loads: dict[int, Load] = {}
        self._awaited: deque[_Batch] = deque()
        self._ahead: deque[_Batch] = deque()
        self._idle = local_threads
        self._refresh: Callable[[], Awaitable[None]] | None = None

    def __len__(self) -> int:
        return len(self._loads)

    def get(self, number: int) -> Load | None:
        """The load of this chunk, if it is on its way."""
        return self._loads.get(number)

    def reference(self, number: int) -> ChunkRef:
        """Where the chunk lies now; Corrupt when the index does not say it."""
        return reference(self._metadata.change(), self._chunks, number)

    def start(self, refs: dict[int, ChunkRef], *, ahead: bool) -> dict[int, Load]:
        """Begin to load chunks that are not on their way, which lie there; `ahead`: nobody waits for them."""
        loads = {number: Load() for number in refs}
        self._loads.update(loads)
        (self._ahead if ahead else self._awaited).append(_Batch(loads, list(refs.values())))
        if self._idle:
            self._idle -= 1
            self._nursery.start_soon(self._open_all)
        return loads

    async def prefetch(self, refs: list[ChunkRef]) -> int:
        """Bring what these chunks need from the store into the cache; bytes that were fetched and kept."""
        return await trio.to_thread.run_sync(self._reader.prefetch, refs, limiter=self._remote)

    def refresh_with(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """From now on `refresh` is awaited, which brings the index up to date, before a missing pack is
        damage."""
        self._refresh = refresh

    async def _open_all(self) -> None:
        """One of the few threads' work, as long as there is any."""
        token = trio.lowlevel.current_trio_token()
        try:
            while self._awaited or self._ahead:
                await trio.to_thread.run_sync(self._open_waiting, token, limiter=self._local)
        except BaseException:
            for waiting in (*self._awaited, *self._ahead):
                self._end(waiting)
            raise
        finally:
            self._idle += 1

    def _open_waiting(self, token: trio.lowlevel.TrioToken) -> None:
        """In a thread: batch after batch, without a way back to the loop and its next turn in between. What
        is given to the loop here comes to it before the news that this has ended."""
        while (batch := _first_of(self._awaited) or _first_of(self._ahead)) is not None:
            raws: list[bytes | None] = []
            try:
                with suppress(FusegwError, OSError):  # found again, chunk by chunk, by who fetches
                    raws = self._reader.read_local(batch.refs)
            finally:
                token.run_sync_soon(self._opened, batch, raws or [None] * len(batch.refs))

    def _opened(self, batch: _Batch, raws: list[bytes | None]) -> None:
        """What is here is handed out before the store is asked for the rest."""
        absent = _Batch({}, [])
        for (number, load), ref, raw in zip(batch.loads.items(), batch.refs, raws, strict=True):
            if raw is None:
                absent.loads[number] = load
                absent.refs.append(ref)
            else:
                self._arrived(number, load, raw)
        if absent.refs:
            self._on_absence()
            self._nursery.start_soon(self._fetch, absent)

    async def _fetch(self, batch: _Batch) -> None:
        """Chunks from the store; when one cannot be had, one by one, since the others are fine.

        A store that does not answer is not asked for each of them: readers wait for all those tries.
        """
        try:
            raws = await trio.to_thread.run_sync(self._reader.fetch, batch.refs, limiter=self._remote)
            for (number, load), raw in zip(batch.loads.items(), raws, strict=True):
                self._arrived(number, load, raw)
        except Unavailable as error:
            for load in batch.loads.values():
                load.error = error
        except (FusegwError, OSError):
            for (number, load), ref in zip(batch.loads.items(), batch.refs, strict=True):
                await self._read_alone(number, load, ref)
        finally:
            self._end(batch)

    async def _read_alone(self, number: int, load: Load, ref: ChunkRef) -> None:
        """Damage counts only where the chunk lies: it may have been moved while it was being fetched, and a
        pack that is gone may have been given up since this index knew of it."""
        while load.raw is None:
            load.error = None
            try:
                (raw,) = await trio.to_thread.run_sync(self._reader.read, [ref], limiter=self._remote)
                self._arrived(number, load, raw)
            except NotFound as error:
                load.error = Corrupt(f"a pack is missing, restore it from another copy: {error}")
                await self._refreshed()
            except (FusegwError, OSError) as error:
                load.error = error
            if not isinstance(load.error, Corrupt):
                return
            now = self._reference_if_any(number)
            if now is None or now == ref:
                if now is not None:
                    self._damaged(number, load.error)
                return
            ref = now

    async def _refreshed(self) -> None:
        """The index is as new as it can be had."""
        if self._refresh is not None:
            try:
                await self._refresh()
            except FusegwError as error:
                log.debug("the index cannot be refreshed: %s", error)

    def _arrived(self, number: int, load: Load, raw: bytes) -> None:
        self._loads.pop(number, None)
        load.raw = raw
        load.done.set()
        self._on_arrival(number, raw)

    def _end(self, batch: _Batch) -> None:
        """What has not arrived will not."""
        for number, load in batch.loads.items():
            if not load.done.is_set():
                self._loads.pop(number, None)
                load.done.set()

    def _reference_if_any(self, number: int) -> ChunkRef | None:
        return None if self._metadata.get(CHUNK, number) is None else self.reference(number)

    def _damaged(self, number: int, error: Corrupt) -> None:
        log.error(
            "a chunk is damaged in cache and store, the next write of the same data replaces it: %s", error
        )
        if not self._read_only:
            with self._metadata.change() as change:
                self._chunks.distrust(change, number)


def _first_of(batches: deque[_Batch]) -> _Batch | None:
    try:
        return batches.popleft()
    except IndexError:
        return None


def reference(change: Change, chunks: Chunks, number: int) -> ChunkRef:
    """All it takes to read the chunk where it lies now; Corrupt when the index does not say it."""
    chunk = chunks.row(change, number)
    return chunk_ref(chunk, chunks.pack(change, chunk.pack))


def chunk_ref(chunk: Chunk, pack: Pack) -> ChunkRef:
    """All it takes to read the chunk of that row, from its own and its pack's."""
    return ChunkRef(
        chunk_id=chunk.chunk_id,
        location=Location(chunk.pack, chunk.record, chunk.offset, chunk.stored, chunk.raw, chunk.codec),
        pack_id=pack.pack_id,
        pack_size=pack.size,
        key_version=pack.key_version,
        salt=pack.salt,
    )
