"""Puts one volume together: the only place that builds its parts, starts their tasks and ends them in order.

Tasks of a writer, all in one nursery: ingest, idle files, reaper, recutter, retagger, scrub, shippers of
packs and log, collector, snapshot scheduler, committer. A volume for reading has none, a standby only the one
that follows the log: nothing is ever pending there, so that a promotion may put new parts, built for the new
epoch, in the place of the old ones, over the same index and cache.

Orderly end of a writer: no new requests → data in memory into packs → packs closed → last commit → uploads,
for a bounded time → tasks cancelled → files closed. When the body raises, the volume is closed as it stands,
as a crash would leave it.
"""

import errno
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import trio
from msgspec.structs import replace

from cache import PackCache
from cache.errors import CacheError, CacheInUse
from fusegw.check.scrub import Scrub
from fusegw.collect.collector import Collector
from fusegw.collect.deletion import Deletion
from fusegw.collect.passes import Parts, Rules
from fusegw.collect.rewrite import LivingSource
from fusegw.errors import Busy, FusegwError, Invalid
from fusegw.identity import record_identity
from fusegw.index import Source, open_index
from fusegw.ingest.cutter import Cutter
from fusegw.ingest.effort import Effort
from fusegw.ingest.pipeline import Pipeline
from fusegw.meta.chunks import Chunks
from fusegw.meta.committer import Committer
from fusegw.meta.history import History
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import Head
from fusegw.packs.reader import PackReader
from fusegw.packs.writer import PackWriter
from fusegw.ship.checkpointer import Checkpointer, Schedule
from fusegw.ship.follow import Follower
from fusegw.ship.health import Health
from fusegw.ship.kept import KeptRecord
from fusegw.ship.log import LogShipper
from fusegw.ship.resume import known_names, resume, unstored_names
from fusegw.ship.shipper import Shipper
from fusegw.vfs.attributes import Attributes
from fusegw.vfs.clone import Cloner
from fusegw.vfs.files import Files
from fusegw.vfs.fragments import Fragments
from fusegw.vfs.inodes import Inodes
from fusegw.vfs.mending import Mender
from fusegw.vfs.namespace import Namespace
from fusegw.vfs.pressure import Pressure
from fusegw.vfs.quotas import Quotas
from fusegw.vfs.reading import Reading
from fusegw.vfs.reaper import Reaper
from fusegw.vfs.recut import Recutter
from fusegw.vfs.retag import Retagger
from fusegw.vfs.rollback import Rollback
from fusegw.vfs.scheduler import Scheduler
from fusegw.vfs.snapshots import Snapshots
from fusegw.vfs.usage import Usage
from fusegw.vfs.volume import Volume
from fusegw.vfs.whereabouts import Whereabouts
from fusegw.vfs.xattrs import Xattrs

log = logging.getLogger(__name__)
WAITING_WRITES_MAX = 96
"""Writes held back at a time; well below the tasks that serve requests."""


class Runtime(msgspec.Struct):
    """A running volume and the parts that reports are made from; only a promotion changes them."""

    source: Source
    volume: Volume
    metadata: Metadata
    cache: PackCache
    pipeline: Pipeline
    committer: Committer
    shipper: Shipper
    log: LogShipper
    checkpointer: Checkpointer
    reading: Reading
    recutter: Recutter
    mender: Mender
    scrub: Scrub
    collector: Collector
    health: Health
    usage: Usage
    quotas: Quotas
    retagger: Retagger
    scheduler: Scheduler
    whereabouts: Whereabouts
    chunks: Chunks
    writer: PackWriter
    tasks: trio.Nursery
    """Where its tasks run."""
    renewed: Callable[[], None] = lambda: None
    """Called when a standby shows a newer state."""
    follower: Follower | None = None
    """Of a standby; none once it is promoted."""

    @property
    def head(self) -> Head:
        """The newest segment of the log that this volume shows."""
        return self.log.head if self.follower is None else self.follower.shown

    @property
    def epoch(self) -> int:
        """The reign it is in."""
        return self.head.epoch


@asynccontextmanager
async def running_volume(source: Source) -> AsyncIterator[Runtime]:
    """A volume open for writing in a new epoch, its tasks running; or open for reading in the epoch it is in.

    Raises Busy (in use), Invalid (cache unusable, or never written and read-only), Corrupt, UnknownFormat, or
    what the store raises.
    """
    metadata = await trio.to_thread.run_sync(open_index, source)
    try:
        cache = await trio.to_thread.run_sync(_open_cache, metadata, source)
        try:
            if not source.read_only:
                await trio.to_thread.run_sync(
                    resume, metadata, cache, source.keys, source.store, source.entropy, source.clock
                )
            async with trio.open_nursery() as nursery:
                runtime = _build(source, metadata, cache, Health(source.clock), nursery)
                if source.follow:
                    runtime.follower = _follower(runtime)
                    runtime.reading.refresh_with(runtime.follower.refresh)
                    nursery.start_soon(runtime.follower.run)
                elif not source.read_only:
                    _start(runtime)
                    await runtime.volume.resume()
                yield runtime
                if not runtime.source.read_only:
                    with trio.CancelScope(shield=True):
                        await _finish(runtime, source.unmount_wait_s)
                        for chunk_id, place in runtime.writer.take_damaged():
                            log.error("chunk %s of pack %#x is lost", chunk_id.hex(), place.pack)
                nursery.cancel_scope.cancel()
        finally:
            cache.close()
    finally:
        metadata.close()


async def promote(runtime: Runtime, *, switch: Callable[[], None]) -> None:
    """Make a standby the writer, in a new epoch. `switch` is called when the runtime has the writer's parts
    and the kernel's references are theirs, before any task runs.

    Invalid when it is no standby; otherwise as `Follower.take_over`. When it raises, nothing has changed.
    """
    if runtime.follower is None:
        raise Invalid("the volume follows no other gateway: there is nothing to promote")

    def reign() -> None:
        source = replace(runtime.source, read_only=False, follow=False)
        new = _build(source, runtime.metadata, runtime.cache, runtime.health, runtime.tasks)
        new.volume.adopt(runtime.volume)
        new.renewed = runtime.renewed
        for name in Runtime.__struct_fields__:
            setattr(runtime, name, getattr(new, name))
        switch()
        _record_identity(runtime)
        _start(runtime)

    await runtime.follower.take_over(runtime.source.writer, reign)
    await runtime.volume.resume()


def _record_identity(runtime: Runtime) -> None:
    """As at the mount of a writer, but that it goes on when the disk is full: the committer tries again."""
    identity = runtime.source.identity
    try:
        if identity is not None:
            record_identity(runtime.metadata, identity)
    except FusegwError as error:
        log.warning("the gateway's identity is not in the volume yet: %s", error)


def _follower(runtime: Runtime) -> Follower:
    source = runtime.source

    def reload() -> None:
        runtime.volume.namespace.reload()
        runtime.chunks.reload()
        runtime.volume.snapshots.reload()
        runtime.renewed()

    return Follower(
        runtime.metadata,
        source.store,
        source.keys,
        runtime.health,
        clock=source.clock,
        entropy=source.entropy,
        interval_s=source.tuning.follow_pause_s,
        reload=reload,
    )


def _open_cache(metadata: Metadata, source: Source) -> PackCache:
    try:
        return PackCache(
            source.cache_dir,
            source.cache_size_bytes,
            pinned=unstored_names(metadata),
            known=partial(known_names, metadata),
            monotonic=source.clock.monotonic,
            disk=source.disk,
        )
    except CacheInUse as error:
        raise Busy(str(error)) from None
    except CacheError as error:
        raise Invalid(str(error)) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise Invalid(f"the disk of the cache {source.cache_dir} is full; free space on it") from None
        raise Invalid(f"the cache {source.cache_dir} cannot be used: {error}") from None


def _build(
    source: Source, metadata: Metadata, cache: PackCache, health: Health, nursery: trio.Nursery
) -> Runtime:
    """The parts, for the epoch the index is in."""
    tuning, clock, keys, epoch = source.tuning, source.clock, source.keys, metadata.head.epoch
    threads = tuning.codec_threads or os.cpu_count() or 1
    writer = PackWriter(
        cache,
        keys,
        epoch=epoch,
        entropy=source.entropy,
        size_max_bytes=tuning.pack_size_bytes,
    )
    chunks = Chunks(metadata, epoch=epoch, clock=clock, describe=writer.describe)
    history = History(metadata, refer=chunks.refer, unrefer=chunks.unrefer)
    cutter = Cutter(seed=keys.cutter_seed, average_bytes=tuning.chunk_size_bytes)
    pipeline = Pipeline(
        metadata,
        chunks,
        writer,
        cutter,
        chunk_id_key=keys.chunk_id_key,
        threads=threads,
        limiter=source.codecs,
        effort=Effort(tuning.compression_level, unstored_bytes=cache.pinned_bytes),
    )

    async def sync_packs() -> bool:
        moves = await trio.to_thread.run_sync(writer.sync)
        if moves:
            pipeline.relocate(moves)
        return bool(moves)

    committer = Committer(metadata, sync_packs, interval_s=tuning.commit_interval_s)
    pressure = Pressure(
        cache,
        high_watermark=tuning.high_watermark,
        wait_s=tuning.write_wait_s,
        waiters_max=WAITING_WRITES_MAX,
    )
    shipper = Shipper(
        metadata,
        chunks,
        committer,
        writer,
        cache,
        source.store,
        health,
        entropy=source.entropy,
        high_watermark=tuning.high_watermark,
        parallelism=tuning.upload_parallelism,
        ingest_progress=lambda: (pipeline.submitted, pipeline.merged_number),
        freed=pressure.freed,
    )
    usage = Usage(metadata)
    inodes = Inodes(metadata, usage)
    reader = PackReader(cache, source.store, keys, chunk_id_of=pipeline.chunk_id, peek=writer.peek)
    reading = Reading(
        metadata,
        chunks,
        reader,
        nursery,
        read_ahead_bytes=tuning.read_ahead_bytes,
        read_only=source.read_only,
        decoded_bytes_max=source.decoded_bytes_max,
    )
    fragments = Fragments(small_bytes=tuning.chunk_size_bytes // 8)
    files = Files(
        metadata,
        inodes,
        chunks,
        usage,
        pipeline,
        cutter,
        reading,
        committer,
        pressure,
        fragments,
        clock=clock,
    )
    checkpointer = Checkpointer(
        source.store,
        keys,
        KeptRecord(metadata, epoch),
        began=metadata.head,
        schedule=Schedule(
            tuning.checkpoint_interval_s, tuning.checkpoint_log_size_bytes, tuning.checkpoint_retention_s
        ),
        clock=clock,
        entropy=source.entropy,
    )
    log_shipper = LogShipper(
        metadata,
        committer,
        shipper,
        source.store,
        keys,
        health,
        settle=files.settle_all,
        held=pipeline.held,
        offer=checkpointer.offer,
        clock=clock,
        entropy=source.entropy,
        ship_interval_s=tuning.ship_interval_s,
    )
    mender = Mender(metadata, chunks, pipeline, committer, reader, pressure)
    scrub = Scrub(
        metadata,
        source.store,
        keys,
        mender,
        log_shipper,
        clock=clock,
        daily_share=tuning.scrub_daily_share,
    )
    recutter = Recutter(metadata, inodes, chunks, usage, pipeline, cutter, reading, pressure, fragments)
    reaper = Reaper(metadata, inodes, chunks, usage, files, committer, clock=clock)
    namespace = Namespace(metadata, inodes, epoch=epoch, clock=clock, unlinked=reaper.unlinked)
    cloner = Cloner(metadata, inodes, namespace, chunks, committer, reaper, epoch=epoch, clock=clock)
    retagger = Retagger(metadata, inodes, committer)
    snapshots = Snapshots(metadata, history, committer, files, reading, epoch=epoch, clock=clock)
    rollback = Rollback(
        metadata,
        history,
        snapshots,
        committer,
        chunks,
        usage,
        files,
        reaper,
        retagger,
        quiet=recutter.turn,
    )
    volume = Volume(
        metadata,
        committer,
        log_shipper,
        usage,
        inodes=inodes,
        namespace=namespace,
        attributes=Attributes(metadata, inodes, clock=clock),
        xattrs=Xattrs(metadata, inodes, clock=clock, standing=files.standing),
        files=files,
        reaper=reaper,
        snapshots=snapshots,
        rollback=rollback,
        cloner=cloner,
        free_bytes=source.free_bytes,
    )
    return Runtime(
        source,
        volume,
        metadata,
        cache,
        pipeline,
        committer,
        shipper,
        log_shipper,
        checkpointer,
        reading,
        recutter,
        mender,
        scrub,
        _collector(source, metadata, chunks, committer, pipeline, pressure, cache, log_shipper, mender),
        health,
        usage,
        Quotas(metadata, inodes, changed=retagger.look),
        retagger,
        Scheduler(metadata, committer, snapshots, configured=source.snapshots, clock=clock),
        Whereabouts(metadata),
        chunks,
        writer,
        nursery,
    )


def _collector(
    source: Source,
    metadata: Metadata,
    chunks: Chunks,
    committer: Committer,
    pipeline: Pipeline,
    pressure: Pressure,
    cache: PackCache,
    log_shipper: LogShipper,
    mender: Mender,
) -> Collector:
    tuning, store, keys = source.tuning, source.store, source.keys
    rules = Rules(
        interval_s=tuning.gc_interval_s,
        daily_bytes=tuning.gc_daily_bytes,
        dead_share_max=tuning.gc_dead_share,
        grace_s=tuning.gc_grace_s,
        orphan_interval_s=tuning.gc_orphan_interval_s,
        orphan_grace_s=tuning.gc_orphan_grace_s,
        pack_size=tuning.pack_size_bytes,
    )
    parts = Parts(
        metadata,
        chunks,
        committer,
        pipeline,
        pressure,
        cache,
        log_shipper,
        store,
        Deletion(store, keys, grace_s=rules.grace_s, head=lambda: log_shipper.head),
        LivingSource(cache, store, keys, chunk_id_of=pipeline.chunk_id),
        mender,
        source.clock,
    )
    return Collector(parts, rules)


def _start(runtime: Runtime) -> None:
    """The tasks of a writer."""
    volume, tasks = runtime.volume, runtime.tasks
    for task in (runtime.committer.run, runtime.pipeline.run, volume.files.run, volume.reap):
        tasks.start_soon(task)
    tasks.start_soon(volume.snapshots.run)
    tasks.start_soon(runtime.recutter.run)
    tasks.start_soon(runtime.retagger.run)
    tasks.start_soon(runtime.scrub.run)
    tasks.start_soon(_ship, runtime)


async def _ship(runtime: Runtime) -> None:
    """All ways into the store, and what changes the volume by the clock; a fenced gateway changes nothing any
    more."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.shipper.run)
        nursery.start_soon(runtime.checkpointer.run)
        nursery.start_soon(runtime.collector.run)
        nursery.start_soon(runtime.scheduler.run)
        await runtime.log.run()
        nursery.cancel_scope.cancel()


async def _finish(runtime: Runtime, wait_s: float) -> None:
    """Everything durable here, then everything stored, as far as that is possible."""
    runtime.recutter.stop()
    runtime.collector.stop()
    runtime.scheduler.stop()
    try:
        await runtime.volume.sync()
        await runtime.shipper.close()
        await runtime.committer.commit()
    except (FusegwError, OSError) as error:
        log.critical("unmounted with data that could not be saved on this machine: %s", error)
        return
    try:
        with trio.move_on_after(wait_s) as scope:
            await runtime.log.barrier()
        if scope.cancelled_caught:
            raise FusegwError(f"not finished after {wait_s:.0f} s")
    except FusegwError as error:
        log.warning(
            "unmounted with data that is safe in the cache but not yet in the store (it is sent after the "
            "next mount, keep the cache): %s",
            error,
        )
