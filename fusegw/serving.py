"""One volume within the gateway: from opening its store to the last upload.

Start: store → keys → volume (a new epoch, the packs of the last run closed) → control socket. End: control
socket closed → data in memory into packs → last commit → uploads for a bounded time → files closed. Whoever
shows the volume does so inside `served_volume`, so that no request can come while the volume ends.
"""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol, TypeVar

import msgspec
import trio

from cache.disk import Disk
from fusegw.assembly import Runtime, promote, running_volume
from fusegw.clock import Clock, Entropy
from fusegw.config import VolumeSettings
from fusegw.control import server
from fusegw.errors import Busy, Invalid
from fusegw.fuse.invalidation import Notices
from fusegw.fuse.operations import Operations
from fusegw.hooks import Hooks
from fusegw.identity import Identity
from fusegw.index import Source
from fusegw.keys.volume import OpenedVolume, StoredVolume, read_volume, unlock
from fusegw.meta.rebuild import Changed
from fusegw.metering import SAVE_INTERVAL_S, Meter
from fusegw.policy import policy_of, store_policy_of
from fusegw.restoring import Restoring
from fusegw.service import Service
from fusegw.sharing import Sharing
from fusegw.store.base import ObjectStore
from fusegw.store.counting import TrafficCounter
from fusegw.store.opening import open_store
from fusegw.store.options import directory_of
from fusegw.store.probe import check_create_only
from fusegw.store.retry import RetryPolicy
from fusegw.vfs.reading import DECODED_BYTES_MAX
from fusegw.vfs.volume import Volume

UNLIMITED_BYTES = 1 << 50
"""Room shown for a store that has no bound of its own."""
RETRIES = RetryPolicy(elapsed_max_s=20.0)
"""For one request; uploads are then tried again for ever, and reads fail with EIO."""

_Handlers = TypeVar("_Handlers", bound=Operations, covariant=True)


class Host(msgspec.Struct, frozen=True):
    """What the volumes of one gateway have in common."""

    clock: Clock
    entropy: Entropy
    disk: Disk
    """Makes the system calls on cache files."""
    unmount: Callable[[], Awaitable[None]]
    """Begin an orderly end of the gateway; Busy when the mount is in use."""
    notices: Notices
    """For the kernel, of what did not change through it."""
    sharing: Sharing
    """Offers what the volumes say of shares."""
    unlocking: trio.CapacityLimiter | None = None
    """Derivations of keys at a time, each of which takes the memory that its slot says; None: no limit."""
    codecs: trio.CapacityLimiter | None = None
    """Threads that cut, compress and seal, for all volumes together; None: each has its own."""
    decoded_bytes_max: int = DECODED_BYTES_MAX
    """Chunks that each volume keeps decoded for its readers."""


class Handlers(Protocol[_Handlers]):
    """Makes the handlers of a volume."""

    def __call__(self, volume: Volume, *, volume_number: int, snapshots_visible: bool) -> _Handlers: ...


@asynccontextmanager
async def served_volume(
    settings: VolumeSettings, host: Host, handlers: Handlers[_Handlers]
) -> AsyncIterator[_Handlers]:
    """The handlers of the volume, open and under control; it ends in good order after the block.

    Raises what keeps it from being opened, and whatever breaks it later.
    """
    counter = TrafficCounter()
    opening = partial(
        open_store,
        settings.store,
        clock=host.clock,
        entropy=host.entropy,
        policy=RETRIES,
        counter=counter,
    )
    store = await trio.to_thread.run_sync(opening)
    try:
        # It only reads, and a store that does not answer may keep it for long.
        stored = await trio.to_thread.run_sync(_read_volume, settings, store, abandon_on_cancel=True)
        opened = await trio.to_thread.run_sync(unlock, stored, settings.secret, limiter=host.unlocking)
        refuse_to_write = partial(_refuse_to_write, settings, opened, store, host.entropy)
        if not settings.read_only:
            await trio.to_thread.run_sync(refuse_to_write)
        source = Source(
            store=store,
            keys=opened.keys,
            meta_dir=settings.paths.meta_dir,
            cache_dir=settings.own_cache_dir,
            cache_size_bytes=settings.cache_size_bytes,
            tuning=settings.tuning,
            clock=host.clock,
            entropy=host.entropy,
            free_bytes=_room_of(settings),
            read_only=settings.read_only,
            fixed_at=settings.fixed_at,
            follow=settings.follow,
            writer=f"gateway {socket.gethostname()} (pid {os.getpid()})",
            identity=_identity_of(settings),
            snapshots=settings.snapshots,
            disk=host.disk,
            codecs=host.codecs,
            decoded_bytes_max=host.decoded_bytes_max,
        )
        async with running_volume(source) as runtime:
            operations = handlers(
                runtime.volume,
                volume_number=settings.volume_number,
                snapshots_visible=settings.snapshots_visible,
            )
            if settings.read_only:
                operations.refuse_changes("volume is mounted read-only")

            def show_whole() -> None:
                """Nobody sees the volume in the midst of a rollback."""
                if runtime.volume.rollback.is_pending:
                    operations.hold()
                else:
                    operations.go_on()

            async def settle(changed: Changed) -> None:
                await host.notices.send(operations.stale(changed))
                host.sharing.look()

            async def promote_here() -> None:
                await trio.to_thread.run_sync(refuse_to_write)
                await promote(runtime, switch=lambda: operations.accept_changes(runtime.volume))
                show_whole()
                host.sharing.look()

            runtime.renewed = show_whole
            if runtime.follower is not None:
                runtime.follower.settle_with(settle)
                show_whole()
            elif runtime.volume.rollback.is_pending:
                raise Busy(
                    "a rollback of the volume is not finished; mount it for writing, which finishes it, or "
                    "take an older state"
                )
            meter = _meter_of(settings, runtime, counter, host.clock)
            runtime.tasks.start_soon(keep_totals, meter)
            hooks = Hooks(settings, runtime, host.clock)
            async with trio.open_nursery() as nursery:
                service = Service(
                    settings,
                    runtime,
                    hooks,
                    meter,
                    host.sharing,
                    host.clock,
                    Restoring(runtime, operations, settle, nursery),
                    unmount=host.unmount,
                    promote=promote_here,
                )
                nursery.start_soon(service.sample)
                nursery.start_soon(_as_writer, runtime, hooks.run)
                nursery.start_soon(_as_writer, runtime, partial(_refuse_once_fenced, runtime, operations))
                await nursery.start(server.serve, settings.paths.socket_file, service)
                with host.sharing.volume(settings, runtime):
                    yield operations
                nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(meter.save)
        await hooks.finish()
    finally:
        store.close()


def _meter_of(settings: VolumeSettings, runtime: Runtime, counter: TrafficCounter, clock: Clock) -> Meter:
    return Meter(
        settings.paths.traffic_file,
        counter,
        # What is cut anew goes the way of written data, and nobody wrote it.
        ingested=lambda: max(0, runtime.pipeline.raw_bytes - runtime.recutter.statistics().nbytes),
        clock=clock,
    )


async def keep_totals(meter: Meter) -> None:
    """Save them now and then, until cancelled: after the last upload."""
    while True:
        await trio.sleep(SAVE_INTERVAL_S)
        await trio.to_thread.run_sync(meter.save)


async def _as_writer(runtime: Runtime, task: Callable[[], Awaitable[None]]) -> None:
    """The task, for a standby from its promotion on."""
    if runtime.follower is not None:
        await runtime.follower.promoted.wait()
    await task()


async def _refuse_once_fenced(runtime: Runtime, operations: Operations) -> None:
    """Go on reading, change nothing any more, once another gateway has taken the volume over."""
    await runtime.log.until_fenced()
    operations.refuse_changes("another gateway took the volume over")
    runtime.recutter.stop()


def _identity_of(settings: VolumeSettings) -> Identity:
    return Identity(
        volume=settings.volume,
        number=settings.volume_number,
        mountpoint=str(settings.mountpoint),
        policy=policy_of(settings),
        store=store_policy_of(settings.store),
    )


def _read_volume(settings: VolumeSettings, store: ObjectStore) -> StoredVolume:
    stored = read_volume(store)
    # Before the secret is tried: that another volume has other keys says nothing of this one's.
    if stored.header.volume_id != settings.volume_id:
        raise Invalid(
            f"{store.url} holds volume {stored.header.volume_id.hex()}, volume {settings.volume!r} is "
            f"{settings.volume_id.hex()}; check the store's address"
        )
    return stored


def _refuse_to_write(
    settings: VolumeSettings, opened: OpenedVolume, store: ObjectStore, entropy: Entropy
) -> None:
    """Raises why this gateway must not write the volume."""
    opened.check_writable(name=settings.volume, advice=", or mount it with -o ro")
    if not settings.unsafe_no_fencing:
        check_create_only(store, entropy, advice="or mount it with -o ro")


def _room_of(settings: VolumeSettings) -> Callable[[], int]:
    directory = directory_of(settings.store)
    if directory is None:
        return lambda: UNLIMITED_BYTES

    def free() -> int:
        try:
            figures = os.statvfs(directory)
        except OSError:
            return 0
        return figures.f_bavail * figures.f_frsize

    return free
