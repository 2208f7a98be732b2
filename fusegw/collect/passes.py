"""One pass of collection, step by step.

Condemned packs whose time has come are deleted → orphans, now and then → packs that have become empty are
condemned → sparse and small ones are rewritten, burst by burst, through the pipeline like anything that is
written: their chunks move under their numbers, so no reference changes → the packs emptied thereby are
condemned → the log is shipped, and the rows learn from which position on they are not needed. So a pack is
never deleted in the pass that condemned it, and dedup never meets a pack that is to be deleted: without
chunks it has no ids.

A crash at any step leaves nothing to mend: a burst that was not merged left records nobody refers to, one
that was merged has moved; condemned rows wait for the next pass. What the store refuses ends the pass, what
cannot be read stays as it is.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import trio

from cache import PackCache
from fusegw.clock import Clock
from fusegw.collect import orphans
from fusegw.collect.deletion import Deletion, Doomed
from fusegw.collect.plan import Plan, choose
from fusegw.collect.rewrite import Living, LivingSource, bursts
from fusegw.collect.survey import Survey, living, survey
from fusegw.errors import FusegwError
from fusegw.ingest.pipeline import Pipeline, Reseal
from fusegw.meta.chunks import Chunks
from fusegw.meta.codec import encode_u64
from fusegw.meta.committer import Committer
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import (
    CONDEMNED,
    PACK,
    STATE,
    STATE_COLLECTED,
    Condemned,
    Orphan,
    Pack,
)
from fusegw.packs.format import object_key
from fusegw.ship.log import LogShipper
from fusegw.store.base import DELETE_BATCH_MAX, ObjectStore
from fusegw.vfs.mending import Mender, Suspect
from fusegw.vfs.pressure import Pressure

log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
ROUND_BYTES = 1 << 30
"""Living bytes whose rows are looked up at one time."""
_ROWS_PER_CHANGE = 1000
_GENTLY = 3.0
"""In the background, rest for so many times as long as a burst took."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What passes may do, and when there is one by itself."""

    interval_s: float
    """Between two passes; 0: only when asked for."""
    daily_bytes: int
    """Living bytes rewritten in a day at most, by passes that nobody asked for."""
    dead_share_max: float
    """Share of the stored bytes that may be dead before sparse packs are rewritten."""
    grace_s: float
    """From the time that a pack is known not to be needed to its deletion."""
    orphan_interval_s: float
    """Between two looks for orphans."""
    orphan_grace_s: float
    """From the look that found an orphan to its deletion."""
    pack_size: int


class Outcome(msgspec.Struct, kw_only=True):
    """What a pass did, or would do. Bytes are stored bytes."""

    deleted_packs: int = 0
    deleted_bytes: int = 0
    deleted_orphans: int = 0
    deleted_orphan_bytes: int = 0
    condemned_packs: int = 0
    condemned_bytes: int = 0
    rewritten_packs: int = 0
    rewritten_chunks: int = 0
    written_bytes: int = 0
    """Sealed anew."""
    read_bytes: int = 0
    """From the store."""
    read_requests: int = 0
    complete: bool = True
    """Whether all that is worth it was done; False when the budget or the cache's room came to an end."""
    stored_bytes: int = 0
    """Of all packs that are not condemned, afterwards."""
    dead_bytes: int = 0
    """Of them."""
    waiting_packs: int = 0
    """Condemned and still in the store."""
    waiting_bytes: int = 0
    orphans: int = 0
    """Objects that nobody knows, as of the last look."""
    orphan_bytes: int = 0


class Parts(msgspec.Struct, frozen=True):
    """The parts of the volume that a pass works with."""

    metadata: Metadata
    chunks: Chunks
    committer: Committer
    pipeline: Pipeline
    pressure: Pressure
    cache: PackCache
    log: LogShipper
    store: ObjectStore
    deletion: Deletion
    source: LivingSource
    mender: Mender
    clock: Clock


class Pass:
    """One pass, on the event loop. `stopped` is asked before each step."""

    def __init__(
        self,
        parts: Parts,
        rules: Rules,
        *,
        budget: int,
        gently: bool,
        passed_over: dict[int, int],
        stopped: Callable[[], bool],
    ) -> None:
        """`budget` is what may be rewritten, in living bytes; `passed_over` are packs with chunks that cannot
        be read, and how many chunks those had then; it adds to them."""
        self._parts = parts
        self._rules = rules
        self._budget = budget
        self._gently = gently
        self._passed_over = passed_over
        self._stopped = stopped
        self._before = 0
        self.outcome = Outcome()
        self.total_bytes = 0
        """Living bytes to be rewritten, as far as known."""

    async def run(self, *, look_for_orphans: bool) -> Outcome:
        """The whole pass. Fenced, Unavailable and others as the store and the log raise them."""
        await self._note_shipped()
        await self._delete_due()
        if look_for_orphans:
            await self._look_for_orphans()
        await self._delete_orphans()
        found = await self._condemn_empty()
        self._before = max((one.number for one in found.candidates), default=0) + 1
        await self._rewrite()
        await self._note_shipped()
        await self._measure()
        if self.outcome.waiting_packs:
            # A change, so that a volume at rest gets the checkpoints that let older positions go.
            with self._parts.metadata.change() as change:
                change.put(STATE, STATE_COLLECTED, encode_u64(self._parts.clock.time_ns()))
        return self.outcome

    async def preview(self) -> Outcome:
        """What `run` would do, from the index and a look at the store; nothing is changed."""
        parts, outcome = self._parts, self.outcome
        now_ns = parts.clock.time_ns()
        await parts.committer.commit()
        with parts.metadata.view() as view:
            due = await trio.to_thread.run_sync(parts.deletion.due, view, now_ns)
        outcome.deleted_packs, outcome.deleted_bytes = len(due), sum(one.pack.size for one in due)
        for _, orphan in await self._due_orphans():
            outcome.deleted_orphans += 1
            outcome.deleted_orphan_bytes += orphan.size
        found = await self._survey(None)
        plan = self._choose(found, self._budget)
        outcome.condemned_packs = found.figures.empty + len(plan.packs)
        outcome.condemned_bytes = found.figures.empty_bytes + sum(one.size for one in plan.packs)
        outcome.rewritten_packs, outcome.written_bytes = len(plan.packs), plan.live_bytes
        outcome.read_bytes, outcome.complete = plan.live_bytes, plan.complete
        outcome.read_requests = len(plan.packs)
        await self._measure()
        return outcome

    # deleting

    async def _note_shipped(self) -> None:
        """Ship the log, and write down from which position on the condemned packs are not needed."""
        parts = self._parts
        await parts.committer.commit()
        with parts.metadata.view() as view:
            numbers = [number for number, row in view.rows(CONDEMNED) if not row.seq]
            commit = view.commit
        if not numbers:
            return
        if parts.log.head.commit < commit:
            await parts.log.barrier()
        seq, now_ns = parts.log.head.seq, parts.clock.time_ns()
        for batch in _batches(numbers, _ROWS_PER_CHANGE):
            with parts.metadata.change() as change:
                for number in batch:
                    row = change.get(CONDEMNED, number)
                    if row is not None and not row.seq:
                        change.put(CONDEMNED, number, Condemned(now_ns, seq))
            await parts.committer.commit()

    async def _delete_due(self) -> None:
        parts = self._parts
        with parts.metadata.view() as view:
            due = await trio.to_thread.run_sync(parts.deletion.due, view, parts.clock.time_ns())
        for batch in _batches(due, DELETE_BATCH_MAX):
            if self._stopped():
                return
            await self._delete(batch)

    async def _delete(self, batch: Sequence[Doomed]) -> None:
        """References counted again → the log looked at → DELETE → rows and cache."""
        parts = self._parts
        with parts.metadata.view() as view:
            needed = await trio.to_thread.run_sync(parts.deletion.needed, view, batch)
        gone = [one for one in batch if one.number not in needed and self._is_empty(one.number)]
        await trio.to_thread.run_sync(parts.deletion.delete, [object_key(one.pack.pack_id) for one in gone])
        with parts.metadata.change() as change:
            for one in batch:
                if one in gone:
                    change.delete(PACK, one.number)
                else:
                    log.error("pack %s is needed, it is not deleted: run a check", one.pack.pack_id.hex())
                    self._passed_over[one.number] = one.pack.live
                change.delete(CONDEMNED, one.number)
        await parts.committer.commit()
        for one in gone:
            await trio.to_thread.run_sync(parts.cache.discard, one.pack.pack_id.hex())
            self.outcome.deleted_packs += 1
            self.outcome.deleted_bytes += one.pack.size

    def _is_empty(self, number: int) -> bool:
        pack = self._parts.metadata.get(PACK, number)
        return pack is not None and not pack.live

    async def _look_for_orphans(self) -> None:
        parts = self._parts
        now_ns, head = parts.clock.time_ns(), parts.log.head
        await trio.to_thread.run_sync(orphans.look, parts.metadata, parts.store, head, now_ns)
        parts.metadata.renew()

    async def _delete_orphans(self) -> None:
        parts = self._parts
        for batch in _batches(await self._due_orphans(), DELETE_BATCH_MAX):
            if self._stopped():
                return
            keys = [object_key(pack_id) for pack_id, _ in batch]
            await trio.to_thread.run_sync(parts.deletion.delete, keys)
            log.info("deleted %d objects that no metadata knows", len(batch))
            ids = [pack_id for pack_id, _ in batch]
            await trio.to_thread.run_sync(orphans.forget, parts.metadata, ids)
            parts.metadata.renew()
            self.outcome.deleted_orphans += len(batch)
            self.outcome.deleted_orphan_bytes += sum(orphan.size for _, orphan in batch)

    async def _due_orphans(self) -> list[tuple[bytes, Orphan]]:
        parts, now_ns = self._parts, self._parts.clock.time_ns()
        grace_ns = self._rules.orphan_grace_s * 1e9
        with parts.metadata.view() as view:
            old = await trio.to_thread.run_sync(orphans.remembered, view)
        old = [(pack_id, orphan) for pack_id, orphan in old if now_ns - orphan.since_ns >= grace_ns]
        if not old:
            return []
        horizon = await trio.to_thread.run_sync(parts.deletion.horizon)
        return [(pack_id, orphan) for pack_id, orphan in old if orphan.seq <= horizon]

    # condemning and rewriting

    async def _condemn_empty(self) -> Survey:
        """Condemn what holds nothing; what the packs are like before that."""
        parts = self._parts
        # Jobs on their way may still enter chunks into packs that are stored already.
        submitted = parts.pipeline.submitted
        found = await self._survey(self._before or None)
        await parts.pipeline.merged(submitted)
        for batch in _batches(found.empty, _ROWS_PER_CHANGE):
            with parts.metadata.change() as change:
                for number in batch:
                    if parts.chunks.condemn(change, number):
                        self.outcome.condemned_packs += 1
                        self.outcome.condemned_bytes += parts.chunks.pack(change, number).size
            await parts.committer.commit()
        return found

    async def _rewrite(self) -> None:
        budget = self._budget
        while not self._stopped():
            found = await self._survey(self._before)
            plan = self._choose(found, min(budget, ROUND_BYTES))
            self.total_bytes = max(
                self.total_bytes, self.outcome.written_bytes + self._choose(found, budget).live_bytes
            )
            beyond = plan.live_bytes > budget and self.outcome.rewritten_packs > 0
            if not plan.packs or beyond:
                self.outcome.complete = plan.complete and not beyond
                return
            if not await self._rewrite_packs(plan):
                self.outcome.complete = False
                return
            budget = max(0, budget - plan.live_bytes)
            await self._condemn_empty()

    def _choose(self, found: Survey, bound: int) -> Plan:
        rules = self._rules
        return choose(
            found.candidates,
            found.figures,
            dead_share_max=rules.dead_share_max,
            pack_size=rules.pack_size,
            bound=bound,
        )

    async def _rewrite_packs(self, plan: Plan) -> bool:
        """Move what is alive in these packs; False when there was no room for it, or it was to stop."""
        parts = self._parts
        numbers = [one.number for one in plan.packs]
        with parts.metadata.view() as view:
            alive, packs = await trio.to_thread.run_sync(living, view, numbers)
        for burst in bursts(alive, stored_max=self._rules.pack_size):
            begun = parts.clock.monotonic()
            if self._stopped() or not await self._move(burst, packs):
                return False
            if self._gently:
                await trio.sleep(_GENTLY * (parts.clock.monotonic() - begun))
        for number in numbers:
            if self._is_empty(number):
                self.outcome.rewritten_packs += 1
            elif (pack := parts.metadata.get(PACK, number)) is not None:
                self._passed_over[number] = pack.live
        return True

    async def _move(self, burst: Sequence[Living], packs: dict[int, Pack]) -> bool:
        """Read a burst and seal it anew; in the index on return. False without room in the cache."""
        parts = self._parts
        nbytes = sum(one.chunk.raw for one in burst)
        if not parts.pressure.calm or not await parts.pressure.admit_spare(nbytes):
            return False
        requests, read = parts.source.requests, parts.source.read_bytes
        try:
            loaded = await trio.to_thread.run_sync(parts.source.load, burst, packs)
        except BaseException:
            parts.pressure.release(nbytes)
            raise
        await self._mark_unreadable(burst, {number for number, _, _, _ in loaded})
        job = Reseal(loaded)
        parts.pressure.release(nbytes - job.nbytes)
        if loaded:
            number = parts.pipeline.submit(job)
            while parts.pipeline.merged_number < number:
                try:
                    await parts.pipeline.merged(number)
                except FusegwError:
                    pass  # The pipeline keeps the job and tries again.
            parts.pressure.release(job.nbytes - job.claimed)
        self.outcome.rewritten_chunks += job.moved
        self.outcome.written_bytes += job.moved_bytes
        self.outcome.read_requests += parts.source.requests - requests
        self.outcome.read_bytes += parts.source.read_bytes - read
        return True

    async def _mark_unreadable(self, burst: Sequence[Living], loaded: set[int]) -> None:
        """What neither cache nor store has whole leaves the dedup index, to be stored anew when it comes."""
        lost = [Suspect(one.number, one.chunk.pack) for one in burst if one.number not in loaded]
        if lost:
            await self._parts.mender.mend(lost, repair=False)

    # looking

    async def _survey(self, before: int | None) -> Survey:
        parts = self._parts
        await parts.committer.commit()
        end = before if before is not None else 1 << 64
        with parts.metadata.view() as view:
            look = partial(survey, view, passed_over=self._passed_over, before=end)
            return await trio.to_thread.run_sync(look)

    async def _measure(self) -> None:
        """What there is afterwards."""
        found = await self._survey(None)
        outcome = self.outcome
        outcome.stored_bytes, outcome.dead_bytes = found.figures.nbytes, found.figures.dead_bytes
        outcome.waiting_packs, outcome.waiting_bytes = found.waiting_packs, found.waiting_bytes
        with self._parts.metadata.view() as view:
            there = await trio.to_thread.run_sync(orphans.remembered, view)
        outcome.orphans, outcome.orphan_bytes = len(there), sum(orphan.size for _, orphan in there)


def _batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
