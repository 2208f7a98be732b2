"""Reads packs back from the store in the background, all of them in turn, a little each day.

Two cursors over the numbers of packs: every pack is read once soon after it was stored, and all stored packs
are read again and again, so many bytes a day as `daily_share` of the volume's stored data says. What may be
read accrues while the volume is mounted, up to a day's worth. A pack is read whole, in few large requests,
and compared with the hash that was taken when it was sealed, so every byte of it is covered; after each the
scrub rests for several times as long as that took.

What does not fit is looked at once more, then chunk by chunk; damaged chunks go to the `Mender`: stored anew
from the cache where that has them, marked otherwise. The cursors are kept (`Scrubbed`), so the next mount
goes on where this one stopped. A fenced gateway does nothing more.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec
import trio
from blake3 import blake3
from msgspec.structs import replace

from fusegw.check.reading import store_reader, verify
from fusegw.clock import Clock
from fusegw.errors import Corrupt, FusegwError, Invalid, NotFound
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import (
    CHUNK,
    LOCAL,
    LOCAL_SCRUB,
    PACK,
    PACK_LOCAL,
    PACK_NUMBER_END,
    STATE_STORED,
    Pack,
    Scrubbed,
    decode_scrubbed,
    encode_scrubbed,
)
from fusegw.packs.format import PACK_SIZE_MAX, object_key
from fusegw.ship.log import LogShipper
from fusegw.store.base import ObjectStore
from fusegw.vfs.contents import Piece
from fusegw.vfs.loads import chunk_ref
from fusegw.vfs.mending import Mender, Suspect

log = logging.getLogger(__name__)
_Given = TypeVar("_Given")
_Result = TypeVar("_Result")
DAY_S = 86400.0
_TICK_S = 20.0
_REST = 3.0
"""Rest for so many times as long as a pack took."""
_REQUEST_BYTES = 8 << 20
_PROBLEMS_MAX = 20
_ROWS_PER_TURN = 512


class ScrubFigures(msgspec.Struct):
    """Since the mount."""

    packs: int = 0
    nbytes: int = 0
    damaged_chunks: int = 0
    """Found; those mended included."""
    mended_chunks: int = 0
    problems: list[str] = []
    """The newest ones."""
    error: FusegwError | None = None
    """What keeps it from going on at present."""


class Scrub:
    """Of one volume, which this gateway writes. Loop thread only; `run` must be running."""

    def __init__(
        self,
        metadata: Metadata,
        store: ObjectStore,
        keys: VolumeKeys,
        mender: Mender,
        log_shipper: LogShipper,
        *,
        clock: Clock,
        daily_share: float,
    ) -> None:
        self._metadata = metadata
        self._store = store
        self._reader = store_reader(store, keys)
        self._mender = mender
        self._log = log_shipper
        self._clock = clock
        self._daily_share = daily_share
        self._allowance = 0.0
        self._limiter = trio.CapacityLimiter(1)
        self.figures = ScrubFigures()
        row = metadata.get(LOCAL, LOCAL_SCRUB)
        self.state = self._beginning() if row is None else decode_scrubbed(row)

    def _beginning(self) -> Scrubbed:
        """What is there before the first scrub is old."""
        newest = next(self._metadata.scan(PACK, 0, PACK_NUMBER_END, reverse=True), None)
        return Scrubbed(fresh=0 if newest is None else newest[0] + 1)

    @property
    def pass_done(self) -> float | None:
        """How much of the present pass is done, 0 to 1; None for an empty volume."""
        total = self._metadata.number(STATE_STORED)
        return min(self.state.pass_bytes / total, 1.0) if total else None

    async def run(self) -> None:
        """Scrub until cancelled, or fenced."""
        if not self._daily_share:
            return
        before = self._clock.monotonic()
        while self._log.fenced is None:
            await trio.sleep(_TICK_S)
            now = self._clock.monotonic()
            self.accrue(now - before)
            before = now
            try:
                while await self.step(rest=True):
                    pass
                self.figures.error = None
            except FusegwError as error:
                if self.figures.error is None:
                    log.warning("the scrub does not get on, trying again: %s", error)
                self.figures.error = error

    def accrue(self, seconds: float) -> None:
        """So much time has passed: more may be read."""
        daily = self._metadata.number(STATE_STORED) * self._daily_share
        # However small the share, a pack is in reach in the end.
        self._allowance = min(self._allowance + daily * seconds / DAY_S, max(daily, float(PACK_SIZE_MAX)))

    async def step(self, *, rest: bool = False) -> bool:
        """Read one pack, if one is due: a new one, or the next in turn; False when none is. Raises as the
        store does, then the same pack is due again."""
        if self._log.fenced is not None:
            return False
        begun = self._clock.monotonic()
        if (new := await self._next(self.state.fresh, wait_for_stored=True)) is not None:
            await self._look(*new)
            self._keep(replace(self.state, fresh=new[0] + 1))
        elif (due := await self._next(self.state.cursor)) is not None and due[1].size <= self._allowance:
            await self._look(*due)
            self._allowance -= due[1].size
            self._keep(replace(self.state, cursor=due[0] + 1, pass_bytes=self.state.pass_bytes + due[1].size))
        elif due is None and self.state.cursor:
            now = self._clock.time_ns()
            self._keep(
                replace(self.state, cursor=0, pass_bytes=0, passes=self.state.passes + 1, ended_ns=now)
            )
            return False
        else:
            return False
        if rest:
            await trio.sleep((self._clock.monotonic() - begun) * _REST)
        return True

    async def _next(self, low: int, *, wait_for_stored: bool = False) -> tuple[int, Pack] | None:
        """The first stored pack from `low` on in which chunks live; with `wait_for_stored` none behind one
        that is on its way."""
        while True:
            rows = 0
            for number, pack in self._metadata.scan(PACK, low, PACK_NUMBER_END):
                low, rows = number + 1, rows + 1
                if self._metadata.get(PACK_LOCAL, number) is not None:
                    if wait_for_stored:
                        return None
                elif pack.live and pack.size:
                    return number, pack
                if rows == _ROWS_PER_TURN:
                    break
            if rows < _ROWS_PER_TURN:
                return None
            await trio.lowlevel.checkpoint()

    def _keep(self, state: Scrubbed) -> None:
        """Durable with the next group commit; what a crash takes back is read again."""
        self.state = state
        with self._metadata.change() as change:
            change.put(LOCAL, LOCAL_SCRUB, encode_scrubbed(state))

    async def _look(self, number: int, pack: Pack) -> None:
        problem = await self._from_store(self._examine, pack)
        if problem is not None:
            problem = await self._from_store(self._examine, pack)
        self.figures.packs += 1
        self.figures.nbytes += pack.size
        if problem is None:
            return
        now = self._metadata.get(PACK, number)
        if now is None or not now.live or self._log.fenced is not None:
            return  # It went meanwhile, as nobody needed it any more.
        jobs = await trio.to_thread.run_sync(self._chunks_of, number, pack, limiter=self._limiter)
        bad = await self._from_store(self._damaged, jobs)
        damaged = [Suspect(chunk, number) for chunk in bad]
        mended = await self._mender.mend(damaged, repair=True)
        self.figures.damaged_chunks += len(damaged)
        self.figures.mended_chunks += len(mended.whole)
        self.figures.problems = [*self.figures.problems, problem][-_PROBLEMS_MAX:]
        log.error(
            "the scrub found damage: %s; %d chunks of it are damaged, %d of them were stored anew from the "
            "cache; fusegw check names the files that need the others",
            *(problem, len(damaged), len(mended.whole)),
        )

    async def _from_store(self, work: Callable[[_Given], _Result], given: _Given) -> _Result:
        """Work that only reads the store: the end of the gateway does not wait for it."""
        return await trio.to_thread.run_sync(work, given, limiter=self._limiter, abandon_on_cancel=True)

    def _examine(self, pack: Pack) -> str | None:
        """Blocking: why the object is not what was sealed; raises what says nothing about it."""
        key = object_key(pack.pack_id)
        hashed = blake3()
        try:
            for start in range(0, pack.size, _REQUEST_BYTES):
                hashed.update(self._store.get_range(key, start, min(_REQUEST_BYTES, pack.size - start)))
        except NotFound:
            return f"object {key} is missing from {self._store.url}"
        except (Corrupt, Invalid) as error:
            return f"object {key} is cut off: {error}"
        return None if hashed.digest() == pack.digest else f"object {key} is not what was stored there"

    def _chunks_of(self, number: int, pack: Pack) -> list[tuple[int, Piece]]:
        """Blocking: the chunks that lie in a pack."""
        jobs = []
        with self._metadata.view() as view:
            for chunk_number, chunk in view.sound(CHUNK):
                if chunk.pack == number:
                    ref = chunk_ref(chunk, pack)
                    jobs.append((chunk_number, Piece(0, chunk.raw, chunk_number, 0, ref)))
        return jobs

    def _damaged(self, jobs: list[tuple[int, Piece]]) -> list[int]:
        """Blocking: the numbers of those whose records do not open."""
        return [
            number
            for batch in verify(self._reader, jobs)
            for number, _, verdict in batch
            if verdict is not None
        ]
