"""What a running gateway answers on its control socket: figures of its parts, and sync, cache drop, promote,
collection, shares, snapshots, shutdown."""

import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import trio

from fusegw.assembly import Runtime
from fusegw.clock import Clock
from fusegw.config import VolumeSettings
from fusegw.control.protocol import (
    CacheDropReply,
    CacheStatsReply,
    CollectReply,
    CollectWish,
    FileStatusReply,
    MendItem,
    MendReply,
    PromoteReply,
    QuotasReply,
    QuotaStatus,
    QuotaWish,
    ScrubStatus,
    ShareChange,
    SharesReply,
    ShutdownReply,
    StatusReply,
    StoreHealth,
    SyncProgress,
    SyncReply,
    TrafficReply,
)
from fusegw.control.snapshots import (
    CloneReply,
    CloneWish,
    DiffReply,
    DiffWish,
    ScheduleReply,
    ScheduleWish,
    SnapshotChange,
    SnapshotReply,
    SnapshotsReply,
)
from fusegw.errors import Fenced, Invalid, NotFound
from fusegw.hooks import Hooks
from fusegw.meta.schema import PACK, PACK_LOCAL, PACK_NUMBER_END
from fusegw.metering import Meter
from fusegw.quotas import change_quota, quota_list, quotas_near
from fusegw.restoring import Restoring
from fusegw.sharing import Sharing
from fusegw.ship.anchor import anchor_text
from fusegw.snapshots import SnapshotControl
from fusegw.store.base import DELETE_BATCH_MAX
from fusegw.vfs.mending import Suspect
from fusegw.vfs.unstored import unstored_bytes

RATE_WINDOW_S = 30.0
SAMPLE_S = 1.0


class Service:
    """The control handler of one volume (`fusegw.control.server.Handler`). Loop thread only.

    `unmount` begins an orderly end and raises Busy when the mount is in use. `promote` makes a standby the
    writer, or raises why not. `sample` must be running.
    """

    def __init__(
        self,
        settings: VolumeSettings,
        runtime: Runtime,
        hooks: Hooks,
        meter: Meter,
        sharing: Sharing,
        clock: Clock,
        restoring: Restoring,
        *,
        unmount: Callable[[], Awaitable[None]],
        promote: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._hooks = hooks
        self._meter = meter
        self._sharing = sharing
        self._restoring = restoring
        self._snapshots = SnapshotControl(runtime, restoring, clock)
        self._clock = clock
        self._unmount = unmount
        self._promote = promote
        self._taken_in: deque[tuple[float, int]] = deque()

    async def sample(self) -> None:
        """Keep the last half minute of what came in, until cancelled."""
        while True:
            now = self._clock.monotonic()
            self._taken_in.append((now, self._runtime.pipeline.raw_bytes))
            while self._taken_in[0][0] < now - RATE_WINDOW_S:
                self._taken_in.popleft()
            await trio.sleep(SAMPLE_S)

    async def status(self) -> StatusReply:
        """See `StatusReply`."""
        runtime, settings, follower = self._runtime, self._settings, self._runtime.follower
        newest, collection = runtime.checkpointer.newest, runtime.collector.status()
        backlog, upload_rate = self._backlog(), runtime.health.upload_rate_bytes_s
        snapshots = runtime.volume.snapshots
        latest = snapshots.newest
        return StatusReply(
            pid=os.getpid(),
            volume=settings.volume,
            mountpoint=str(settings.mountpoint),
            store_url=settings.store.url,
            read_only=runtime.source.read_only,
            epoch=runtime.epoch,
            backlog_bytes=backlog,
            oldest_unshipped_s=self._oldest(),
            ingest_rate_bytes_s=self._ingest_rate(),
            upload_rate_bytes_s=upload_rate,
            eta_s=backlog / upload_rate if upload_rate else None,
            store_health=self._health(),
            files=runtime.usage.files,
            open_files=runtime.volume.files.open_count,
            logical_bytes=runtime.usage.nbytes,
            stored_bytes=runtime.chunks.stored_bytes,
            metadata_bytes=runtime.metadata.used_bytes,
            log_seq=runtime.head.seq,
            anchor=anchor_text(runtime.head) if runtime.head.seq else None,
            checkpoint_seq=None if newest is None else newest.name.seq,
            checkpoint_age_s=runtime.checkpointer.age_s,
            fenced=None if runtime.log.fenced is None else str(runtime.log.fenced),
            hook_last_error=self._hooks.last_error,
            follows=follower is not None,
            follow_lag_s=None if follower is None else follower.lag_s,
            behind_segments=None if follower is None else follower.behind_segments,
            follow_error=None if follower is None or follower.error is None else str(follower.error),
            scrub=self._scrub(),
            dead_bytes=None if collection.last is None else collection.last.dead_bytes,
            condemned_bytes=None if collection.last is None else collection.last.waiting_bytes,
            gc_last_unix_s=None if collection.last_pass_ns is None else collection.last_pass_ns / 1e9,
            gc_running=collection.running,
            gc_deleted_bytes=collection.deleted_bytes,
            gc_error=collection.error,
            snapshots=len(snapshots),
            newest_snapshot=None if latest is None else latest.name,
            newest_snapshot_unix_s=None if latest is None else latest.created_ns / 1e9,
            deleted_snapshots=snapshots.backlog,
            snapshot_schedule=self._snapshots.schedule(),
            servers=self._sharing.status(),
            share_problems=self._sharing.problems(settings.volume),
            quotas_near=await quotas_near(runtime.quotas, runtime.whereabouts),
        )

    async def file_status(self, inode: int) -> FileStatusReply:
        """See `FileStatusReply`."""
        volume = self._runtime.volume
        unstored = await unstored_bytes(self._runtime.metadata, volume.files, inode)
        found = volume.inodes.get(inode)
        if found is None:
            raise NotFound(f"volume {self._settings.volume!r} has no inode {inode}: was the file removed?")
        return FileStatusReply(
            state=volume.files.standing(inode).value,
            size_bytes=found.size,
            unstored_bytes=unstored,
            oldest_unshipped_s=self._oldest(),
        )

    async def cache_stats(self) -> CacheStatsReply:
        """See `CacheStatsReply`."""
        runtime, chunks = self._runtime, self._runtime.chunks
        stats = runtime.cache.stats()
        reads = stats.hits + stats.misses
        return CacheStatsReply(
            used_bytes=stats.used_bytes,
            budget_bytes=stats.budget_bytes,
            dirty_bytes=stats.dirty_bytes,
            hits=stats.hits,
            misses=stats.misses,
            hit_bytes=stats.hit_bytes,
            miss_bytes=stats.miss_bytes,
            evictions=stats.evictions,
            evicted_bytes=stats.evicted_bytes,
            hit_ratio=_ratio(stats.hits, reads),
            dedup_ratio=_ratio(runtime.usage.nbytes, chunks.unique_bytes),
            compression_ratio=_ratio(chunks.unique_bytes, chunks.stored_bytes),
        )

    async def cache_drop(self) -> CacheDropReply:
        """Evict all that the store has, from the disk and from memory."""
        self._runtime.reading.forget()
        return CacheDropReply(freed_bytes=await trio.to_thread.run_sync(self._runtime.cache.drop))

    async def traffic(self) -> TrafficReply:
        """See `TrafficReply`."""
        return TrafficReply(since_mount=self._meter.since_mount(), total=self._meter.total())

    async def sync(self, *, wait: bool) -> SyncReply:
        """Everything into packs and on its way; with `wait`, into the store. Read-only there is nothing to
        do.
        """
        if self._runtime.source.read_only:
            return SyncReply(complete=not self._backlog(), backlog_bytes=self._backlog())
        if wait:
            await self._runtime.volume.barrier()
            self._hooks.barrier_passed()
            return SyncReply(complete=True, backlog_bytes=self._backlog())
        await self._runtime.volume.sync()
        await self._runtime.shipper.close()
        backlog = self._backlog()
        return SyncReply(complete=not backlog, backlog_bytes=backlog)

    def progress(self) -> SyncProgress:
        """See `SyncProgress`."""
        collected, total = self._runtime.collector.progress
        return SyncProgress(
            backlog_bytes=self._backlog(),
            upload_rate_bytes_s=self._runtime.health.upload_rate_bytes_s,
            store_health=self._health(),
            collected_bytes=collected,
            collect_total_bytes=total,
        )

    async def promote(self) -> PromoteReply:
        """Make a standby the writer; Invalid when it is none, Unavailable and others when it cannot be."""
        begun = self._clock.monotonic()
        await self._promote()
        took_s = self._clock.monotonic() - begun
        return PromoteReply(epoch=self._runtime.epoch, log_seq=self._runtime.head.seq, took_s=took_s)

    async def mend(self, chunks: Sequence[MendItem], *, repair: bool) -> MendReply:
        """See `Mender`; Invalid when this gateway does not write the volume, Fenced when not any more."""
        runtime = self._runtime
        self._refuse_to_write("nothing can be mended here")
        suspects = [Suspect(one.number, one.pack, one.good) for one in chunks]
        mended = await runtime.mender.mend(suspects, repair=repair)
        return MendReply(whole=tuple(mended.whole), marked=mended.marked)

    async def collect(self, wish: CollectWish) -> CollectReply:
        """Make room in the store, or with `preview` tell what that would come to."""
        runtime = self._runtime
        if runtime.source.read_only:
            raise Invalid("the volume is mounted read-only: its writer collects")
        outcome = await runtime.collector.collect(
            budget=wish.budget_bytes, preview=wish.preview, look_for_orphans=wish.orphans
        )
        figures = msgspec.structs.asdict(outcome)
        return CollectReply(
            preview=wish.preview,
            put_requests=-(-outcome.written_bytes // self._settings.tuning.pack_size_bytes),
            delete_requests=-(-outcome.deleted_packs // DELETE_BATCH_MAX)
            + -(-outcome.deleted_orphans // DELETE_BATCH_MAX),
            **figures,
        )

    async def shares(self) -> SharesReply:
        """See `SharesReply`."""
        return self._sharing.listing(self._settings.volume)

    async def change_shares(self, change: ShareChange) -> SharesReply:
        """See `Sharing.change`."""
        return await self._sharing.change(self._settings.volume, change)

    async def quotas(self) -> QuotasReply:
        """See `QuotasReply`."""
        return await quota_list(self._runtime.quotas, self._runtime.whereabouts)

    async def change_quota(self, wish: QuotaWish) -> QuotaStatus:
        """See `fusegw.quotas.change_quota`; Invalid when this gateway does not write the volume, Fenced when
        not any more."""
        runtime = self._runtime
        self._refuse_to_write("its quotas are changed at its writer")
        changed = await change_quota(runtime.quotas, runtime.whereabouts, wish)
        await runtime.committer.commit()
        return changed

    async def snapshots(self) -> SnapshotsReply:
        """See `SnapshotControl`, as for the next one."""
        return self._snapshots.listing()

    async def snapshot(self, name: str) -> SnapshotReply:
        return await self._snapshots.shown(name)

    async def change_snapshots(self, change: SnapshotChange) -> SnapshotsReply:
        """See `SnapshotControl`; Invalid when this gateway does not write the volume, Fenced when not any
        more."""
        self._refuse_to_write("its snapshots are made and deleted at its writer")
        return await self._snapshots.change(change)

    async def clone(self, wish: CloneWish) -> CloneReply:
        """See `Restoring`, as for the next one; Invalid when this gateway does not write the volume, Fenced
        when not any more."""
        self._refuse_to_write("copies are made at its writer")
        return await self._restoring.clone(wish)

    async def diff(self, wish: DiffWish) -> DiffReply:
        return await self._restoring.diff(wish)

    async def schedule(self) -> ScheduleReply:
        """See `SnapshotControl`."""
        return ScheduleReply(status=self._snapshots.schedule())

    async def change_schedule(self, wish: ScheduleWish) -> ScheduleReply:
        """See `Scheduler.set`; Invalid when this gateway does not write the volume, Fenced when not any
        more."""
        self._refuse_to_write("its snapshot schedule is changed at its writer")
        await self._runtime.scheduler.set(wish.schedule)
        return await self.schedule()

    async def shutdown(self) -> ShutdownReply:
        """Begin to unmount; Busy when somebody is on the mount."""
        await self._unmount()
        return ShutdownReply(pid=os.getpid())

    def _refuse_to_write(self, what: str) -> None:
        if self._runtime.source.read_only:
            raise Invalid(f"volume {self._settings.volume!r} is mounted read-only: {what}")
        if self._runtime.log.fenced is not None:
            raise Fenced(str(self._runtime.log.fenced))

    def _backlog(self) -> int:
        """What the cache must keep. It learns of records in an open pack when they are synced, the index
        before."""
        metadata = self._runtime.metadata
        unstored = 0
        for number, _ in metadata.scan(PACK_LOCAL, 0, PACK_NUMBER_END):
            pack = metadata.get(PACK, number)
            if pack is not None:
                unstored += pack.size or pack.live_bytes
        return max(unstored, self._runtime.cache.stats().dirty_bytes)

    def _oldest(self) -> float | None:
        ages = (self._runtime.volume.files.oldest_dirty_s, self._runtime.log.oldest_unshipped_s)
        return max((age for age in ages if age is not None), default=None)

    def _ingest_rate(self) -> float:
        if not self._taken_in:
            return 0.0
        then, before = self._taken_in[0]
        elapsed = self._clock.monotonic() - then
        return (self._runtime.pipeline.raw_bytes - before) / elapsed if elapsed > 0 else 0.0

    def _scrub(self) -> ScrubStatus | None:
        runtime, scrub = self._runtime, self._runtime.scrub
        if runtime.source.read_only or not runtime.source.tuning.scrub_daily_share:
            return None
        state, figures = scrub.state, scrub.figures
        return ScrubStatus(
            pass_done=scrub.pass_done,
            passes=state.passes,
            last_pass_unix_s=state.ended_ns / 1e9 if state.passes else None,
            packs=figures.packs,
            read_bytes=figures.nbytes,
            damaged_chunks=figures.damaged_chunks,
            mended_chunks=figures.mended_chunks,
            problems=tuple(figures.problems),
            last_error=None if figures.error is None else str(figures.error),
        )

    def _health(self) -> StoreHealth:
        health = self._runtime.health.report()
        since = self._clock.time_ns() / 1e9 - health.since_s
        return StoreHealth(
            state=health.state,
            last_error=health.last_error or None,
            since_unix_s=None if health.state == "ok" else since,
        )


def _ratio(dividend: int, divisor: int) -> float | None:
    return dividend / divisor if divisor else None
