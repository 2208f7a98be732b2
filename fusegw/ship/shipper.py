"""Ships packs: closes them in time, enters them as closed, uploads them in parallel, frees them for eviction.

The way of a pack and what a crash leaves at each step: records written → synced and referred to by a commit
(start: closed at its last committed record) → closed, its digest in the index (start: uploaded) → PUT
(start: found in the store) → its local row deleted and committed → unpinned in the cache. A pack that dies
before it is stored is dropped, after the commit that took its last reference. An upload that fails is tried
again for ever, with jittered back-off; the mount does not notice but for the room it lacks.
"""

import logging
from collections.abc import Callable

import trio
from blake3 import blake3
from msgspec.structs import replace

from cache import PackCache
from fusegw.clock import Entropy
from fusegw.errors import Corrupt, Exists, FusegwError
from fusegw.meta.chunks import Chunks
from fusegw.meta.committer import Committer
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import PACK, PACK_CLOSED, PACK_LOCAL, PACK_NUMBER_END, Pack
from fusegw.packs.closing import ClosedPack
from fusegw.packs.format import object_key
from fusegw.packs.writer import PackWriter
from fusegw.ship.health import Health
from fusegw.store.base import ObjectStore

log = logging.getLogger(__name__)
_TEND_S = 0.25
_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 30.0


class _Unstored:
    """A pack that is not in the store: since when, and how far ingest was when it was closed."""

    __slots__ = ("closed_at", "opened_ns", "queued")

    def __init__(self, opened_ns: int, closed_at: int | None) -> None:
        self.opened_ns = opened_ns
        self.closed_at = closed_at
        self.queued = False


class Shipper:
    """The uploads of one volume. Loop thread only; `run` must be running.

    `ingest_progress` gives (jobs submitted, jobs merged): a pack without living chunks is dead only when no
    job that may still refer to it is on its way. `freed` is called when the cache has room again.
    """

    def __init__(
        self,
        metadata: Metadata,
        chunks: Chunks,
        committer: Committer,
        writer: PackWriter,
        cache: PackCache,
        store: ObjectStore,
        health: Health,
        *,
        entropy: Entropy,
        high_watermark: float,
        parallelism: int,
        ingest_progress: Callable[[], tuple[int, int]],
        freed: Callable[[], None],
    ) -> None:
        self._metadata = metadata
        self._chunks = chunks
        self._committer = committer
        self._writer = writer
        self._cache = cache
        self._store = store
        self._health = health
        self._entropy = entropy
        self._high_watermark = high_watermark
        self._parallelism = parallelism
        self._ingest_progress = ingest_progress
        self._freed = freed
        self._unstored: dict[int, _Unstored] = {}
        self._queue: dict[int, None] = {}
        self._uploading: set[int] = set()
        self._entered: list[int] = []
        self._dropped: list[tuple[int, Pack]] = []
        """Entered as closed, and given up: what follows waits for a commit, however often that fails."""
        self._idle = trio.lowlevel.ParkingLot()
        self.progress = trio.Event()
        """Set, and replaced, whenever an upload succeeded or failed or a pack was dropped."""
        self._tending = trio.Lock()
        self._promised: frozenset[int] = frozenset()
        self._limiter = trio.CapacityLimiter(parallelism)
        self.stored_packs = 0
        self.stored_bytes = 0
        """Since the start."""
        for number, local in metadata.scan(PACK_LOCAL, 0, PACK_NUMBER_END):
            self._unstored[number] = _Unstored(local.opened_ns, 0)
            if local.state == PACK_CLOSED:
                self._enqueue(number)

    async def stored(self, numbers: frozenset[int]) -> bool:
        """Wait until none of these packs waits for the store; False when one died and was dropped.

        While they are waited for they are dropped only when their room is needed or the store does not
        answer, so that what refers to them gets into the store in the end.
        """
        self._promised = numbers
        try:
            while any(number in self._unstored for number in numbers):
                await self.progress.wait()
        finally:
            self._promised = frozenset()
        return all(self._metadata.get(PACK, number) is not None for number in numbers)

    async def run(self) -> None:
        """Tend and upload until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tend_for_ever)
            for _ in range(self._parallelism):
                nursery.start_soon(self._upload_for_ever)

    async def close(self) -> None:
        """Close the packs and enter them, for an orderly end; they are uploaded after the next start."""
        await self._tend(close=True)

    async def _tend_for_ever(self) -> None:
        while True:
            await trio.sleep(_TEND_S)
            try:
                await self._tend(close=self._short_of_room())
            except (FusegwError, OSError) as error:
                log.error("packs cannot be closed, trying again: %s", error)
                await trio.sleep(_BACKOFF_FIRST_S)

    def _short_of_room(self) -> bool:
        """Writers wait for room, and nothing that could make some is on its way."""
        return not self._queue and self._cache.fill_ratio() >= self._high_watermark

    async def _tend(self, *, close: bool) -> None:
        async with self._tending:
            for number in list(self._chunks.opened_packs):
                self._unstored[number] = _Unstored(self._chunks.opened_packs.pop(number), None)
            if close:
                await trio.to_thread.run_sync(self._writer.close_current)
            for pack in self._writer.take_closed():
                self._enter_closed(pack)
                self._entered.append(pack.number)
            if self._entered:
                await self._committer.commit()
                for number in self._entered:
                    self._enqueue(number)
                self._entered.clear()
            await self._drop_dead()

    def _enter_closed(self, closed: ClosedPack) -> None:
        with self._metadata.change() as change:
            pack = change.get(PACK, closed.number)
            if pack is None:
                # Nothing of it is merged yet, or ever will be.
                pack = self._chunks.enter_pack(change, closed.number, first_chunk=0)
            change.put(
                PACK,
                closed.number,
                replace(pack, size=closed.size, records=closed.records, digest=closed.hash),
            )
            local = change.get(PACK_LOCAL, closed.number)
            assert local is not None, "a pack that is not stored has a local row"
            change.put(PACK_LOCAL, closed.number, replace(local, state=PACK_CLOSED))
            if not pack.live:
                self._chunks.dead_packs.add(closed.number)
        self._chunks.opened_packs.pop(closed.number, None)
        submitted, _ = self._ingest_progress()
        self._unstored[closed.number] = _Unstored(local.opened_ns, submitted)

    def _enqueue(self, number: int) -> None:
        self._queue[number] = None
        self._idle.unpark()

    async def _drop_dead(self) -> None:
        """Forget packs that died before they were stored: rows first, files after the commit."""
        dropped: list[tuple[int, Pack]] = []
        _, merged = self._ingest_progress()
        for number in list(self._chunks.dead_packs):
            unstored = self._unstored.get(number)
            pack = self._metadata.get(PACK, number)
            if pack is None or pack.live or unstored is None:
                self._chunks.dead_packs.discard(number)
            elif number in self._uploading or (number in self._promised and not self._may_break_promise()):
                continue
            elif self._is_done_with(number, unstored) and merged >= (unstored.closed_at or 0):
                self._chunks.dead_packs.discard(number)
                self._queue.pop(number, None)
                dropped.append((number, pack))
        with self._metadata.change() as change:
            for number, _ in dropped:
                change.delete(PACK, number)
                change.delete(PACK_LOCAL, number)
        self._dropped += dropped
        if not self._dropped:
            return
        await self._committer.commit()
        for number, pack in self._dropped:
            await trio.to_thread.run_sync(self._cache.discard, pack.pack_id.hex())
            self._unstored.pop(number, None)
        self._dropped.clear()
        self._signal()

    def _may_break_promise(self) -> bool:
        return self._health.error is not None or self._cache.fill_ratio() >= self._high_watermark

    def _is_done_with(self, number: int, unstored: _Unstored) -> bool:
        """Closed, or given up by the writer after its records went elsewhere."""
        return unstored.closed_at is not None or not self._writer.holds(number)

    async def _upload_for_ever(self) -> None:
        """What failed goes back to the queue, behind the others: there it can be dropped when it dies."""
        backoff_s = _BACKOFF_FIRST_S
        while True:
            while not self._queue:
                await self._idle.park()
            number = next(iter(self._queue))
            del self._queue[number]
            self._uploading.add(number)
            try:
                stored = await self._upload(number)
            finally:
                self._uploading.discard(number)
            if stored:
                backoff_s = _BACKOFF_FIRST_S
            else:
                self._queue[number] = None
                await trio.sleep(self._entropy.uniform(backoff_s / 2, backoff_s))
                backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)

    async def _upload(self, number: int) -> bool:
        """One attempt; True when the pack is stored and done with."""
        pack = self._metadata.get(PACK, number)
        assert pack is not None, "a queued pack has a row"
        try:
            await trio.to_thread.run_sync(self._put, pack, limiter=self._limiter)
            with self._metadata.change() as change:
                change.delete(PACK_LOCAL, number)
            await self._committer.commit()
        except FusegwError as error:
            if self._health.error is None:
                log.warning("pack %s is not in the store yet, trying again: %s", pack.pack_id.hex(), error)
            self._health.failed(error)
            self._signal()
            return False
        await trio.to_thread.run_sync(self._cache.unpin, pack.pack_id.hex())
        self._health.succeeded(pack.size)
        self._unstored.pop(number, None)
        self.stored_packs += 1
        self.stored_bytes += pack.size
        self._signal()
        return True

    def _put(self, pack: Pack) -> None:
        """Blocking: the spool's bytes, checked against the digest taken at sealing, into the store."""
        name = pack.pack_id.hex()
        key = object_key(pack.pack_id)
        data = self._cache.read_pinned(name, pack.size)
        if data is None or blake3(data).digest() != pack.digest:
            raise Corrupt(
                f"pack {name} in the cache is not what was sealed, it is kept and not uploaded; "
                "check the cache's disk, then write the files it belongs to again"
            )
        try:
            self._store.put(key, data, create_only=True)
        except Exists:
            if self._store.get(key, size_max=pack.size) != data:
                raise Corrupt(f"object {key} in the store holds other bytes than pack {name}") from None

    def _signal(self) -> None:
        progress, self.progress = self.progress, trio.Event()
        progress.set()
        self._freed()
