"""The gateway of one mounted volume, from opening the store to the last upload: the composition root.

Start: store → keys → volume (a new epoch, the packs of the last run closed) → control socket → mount → ready.
End, whoever asks for it: unmount → data in memory into packs → last commit → uploads for a bounded time →
files closed. The volume runs inside `running_volume`, what talks to the outside inside its body, so that no
request can come while the volume ends.

SIGTERM, SIGINT and SIGHUP unmount even when the mount is in use; what is still open there gets ENOTCONN. A
second signal, while uploads are waited for, ends the process at once: what was acknowledged is safe on the
disks of this host.
"""

import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial

import trio

from cache.disk import Disk, OsDisk
from fusegw.assembly import Runtime, running_volume
from fusegw.clock import Clock, Entropy, SystemClock, SystemEntropy
from fusegw.config import GatewaySettings
from fusegw.control import server
from fusegw.daemon import mountpoint
from fusegw.errors import Busy, FusegwError, Invalid, UnknownFormat
from fusegw.fuse.mount import Session
from fusegw.fuse.operations import Operations
from fusegw.identity import Identity
from fusegw.index import Source
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.keys.volume import read_volume, unlock
from fusegw.policy import policy_of, store_policy_of
from fusegw.service import Service
from fusegw.store import open_store
from fusegw.store.base import ObjectStore
from fusegw.store.options import directory_of
from fusegw.store.probe import probe_create_only
from fusegw.store.retry import RetryPolicy

UNLIMITED_BYTES = 1 << 50
"""Room shown for a store that has no bound of its own."""
LEAVE_S = 2.0
"""How long a mount that was detached may go on serving what is open on it."""
RETRIES = RetryPolicy(elapsed_max_s=20.0)
"""For one request; uploads are then tried again for ever, and reads fail with EIO."""
BUSY_S = 1.0
"""How long a mount in use is tried again."""
SWITCH_S = 0.0005
"""How long a thread may keep the interpreter from the event loop; codecs let go of it anyway."""

_M_ARENA_MAX, _ARENAS_MAX = -8, 2
_GC_THRESHOLDS = (20_000, 20, 50)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

log = logging.getLogger(__name__)


def run(settings: GatewaySettings, *, on_ready: Callable[[], None], disk: Disk | None = None) -> None:
    """Serve the volume until it is unmounted; raises what kept it from being mounted, or ended it.

    `disk` makes the system calls on cache files (default: the operating system's).
    """
    sys.setswitchinterval(SWITCH_S)
    # Each thread would get a heap of its own, and each would keep what it once held of chunks and blocks.
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS_MAX)
    try:
        trio.run(_gateway, settings, on_ready, disk or OsDisk())
    except BaseExceptionGroup as group:
        raise _first(group) from group


async def _gateway(settings: GatewaySettings, on_ready: Callable[[], None], disk: Disk) -> None:
    clock, entropy = SystemClock(), SystemEntropy()
    store = open_store(settings.store, clock=clock, entropy=entropy, policy=RETRIES)
    try:
        source = Source(
            store=store,
            keys=await trio.to_thread.run_sync(_open_keys, settings, store, entropy),
            meta_dir=settings.paths.meta_dir,
            cache_dir=settings.cache_dir / settings.volume_id.hex(),
            cache_size_bytes=settings.cache_size_bytes,
            tuning=settings.tuning,
            clock=clock,
            entropy=entropy,
            free_bytes=_room_of(settings),
            read_only=settings.options.read_only,
            writer=f"gateway {socket.gethostname()} (pid {os.getpid()})",
            identity=_identity_of(settings),
            disk=disk,
        )
        async with running_volume(source) as runtime:
            failure = await _Mounted(settings, runtime, clock).serve(on_ready)
    finally:
        store.close()
    if failure is not None:
        raise failure


def _identity_of(settings: GatewaySettings) -> Identity:
    return Identity(
        volume=settings.volume,
        number=settings.volume_number,
        mountpoint=str(settings.mountpoint),
        policy=policy_of(settings),
        store=store_policy_of(settings.store),
    )


def _open_keys(settings: GatewaySettings, store: ObjectStore, entropy: Entropy) -> VolumeKeys:
    stored = read_volume(store)
    # Before the secret is tried: that another volume has other keys says nothing of this one's.
    if stored.header.volume_id != settings.volume_id:
        raise Invalid(
            f"{store.url} holds volume {stored.header.volume_id.hex()}, volume {settings.volume!r} is "
            f"{settings.volume_id.hex()}; check the store's address"
        )
    opened = unlock(stored, settings.secret)
    if opened.read_only_required and not settings.options.read_only:
        names = ", ".join(feature.name for feature in opened.unknown_features)
        raise UnknownFormat(
            f"volume {settings.volume!r} uses what this fusegw can only read ({names}): "
            "mount it with -o ro, or with a newer fusegw"
        )
    trusting = settings.options.read_only or settings.unsafe_no_fencing
    if not trusting and not probe_create_only(store, entropy):
        raise Invalid(
            f"{store.url} ignores conditional writes (If-None-Match): two gateways could overwrite each "
            "other unnoticed; use a store that honours them, or mount it with -o ro"
        )
    return opened.keys


def _room_of(settings: GatewaySettings) -> Callable[[], int]:
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


class _Mounted:
    """What talks to the outside while the volume runs: the mount, the control socket, signals."""

    def __init__(self, settings: GatewaySettings, runtime: Runtime, clock: Clock) -> None:
        self._settings = settings
        self._place = str(settings.mountpoint)
        options = settings.options
        self._operations = Operations(runtime.volume, volume_number=settings.volume_number)
        if options.read_only:
            self._operations.refuse_changes("volume is mounted read-only")
        self._runtime = runtime
        self._session = Session(
            self._operations,
            settings.mountpoint,
            fsname=options.fsname,
            allow_other=options.allow_other,
            read_only=options.read_only,
            kernel_options=options.kernel_options,
        )
        self._service = Service(settings, runtime, clock, self._unmount)
        self._ready = False
        self._failure: Exception | None = None
        self._leaving = trio.Event()
        self._ended = trio.Event()

    async def serve(self, on_ready: Callable[[], None]) -> Exception | None:
        """Serve until unmounted; returns what broke a mount that had been ready, raises what kept it from
        it."""
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._unmount_on, signals)
                nursery.start_soon(self._leave)
                nursery.start_soon(self._service.sample)
                nursery.start_soon(self._refuse_once_fenced)
                await nursery.start(server.serve, self._settings.paths.socket_file, self._service)
                await nursery.start(self._serve_session)
                self._ready = True
                _settle_memory()
                on_ready()
                await self._ended.wait()
                nursery.cancel_scope.cancel()
        return self._failure

    async def _serve_session(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await self._session.serve(task_status=task_status)
            if not self._ready:
                raise FusegwError(f"{self._place} was unmounted before the gateway was ready; mount it again")
        except Exception as error:
            if not self._ready:
                raise
            log.critical("the mount broke, ending in good order", exc_info=error)
            self._failure = error
        finally:
            self._ended.set()

    async def _refuse_once_fenced(self) -> None:
        """Go on reading, change nothing any more, once another gateway has taken the volume over."""
        await self._runtime.log.until_fenced()
        self._operations.refuse_changes("another gateway took the volume over")
        self._runtime.recutter.stop()

    async def _leave(self) -> None:
        """Once the mount is detached: end, soon, even if files on it or copies of the mount are in use."""
        await self._leaving.wait()
        with trio.move_on_after(LEAVE_S):
            await self._ended.wait()
        self._session.end()

    async def _unmount_on(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            log.info("%s: unmounting %s", signal.Signals(number).name, self._place)
            try:
                await self._unmount()
            except FusegwError as error:
                log.warning("unmounting although it is not free: %s", error)
                await self._detach()

    async def _unmount(self) -> None:
        """Take the mount away; Busy, and nothing is changed, when it stays in use.

        What a process that just ended had open is let go of by the kernel a little later.
        """
        deadline = trio.current_time() + BUSY_S
        while True:
            try:
                await self._take_away(lazy=False)
                break
            except Busy:
                if trio.current_time() >= deadline:
                    raise
                await trio.sleep(BUSY_S / 20)
        self._leaving.set()

    async def _detach(self) -> None:
        """Take the mount away from under whoever uses it, with what mappings of files still hold saved."""
        with trio.move_on_after(LEAVE_S):
            await trio.to_thread.run_sync(_write_back, self._place, abandon_on_cancel=True)
        try:
            await self._take_away(lazy=True)
        except FusegwError as error:
            log.warning("%s", error)
        self._leaving.set()

    async def _take_away(self, *, lazy: bool) -> None:
        entry = mountpoint.mounted_on(self._place)
        if entry is not None and (entry.fs_type, entry.source) == (
            mountpoint.FS_TYPE,
            self._settings.options.fsname,
        ):
            await trio.to_thread.run_sync(partial(mountpoint.unmount, self._place, lazy=lazy))


def _write_back(place: str) -> None:
    """Have the kernel write all changed pages of the file system at `place`."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            log.warning("changed pages were not written: %s", os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


def _settle_memory() -> None:
    """What exists now stays: collections need not look at it again, and come more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that tells most of a group: one made for people before any other."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.append(_first(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in leaves if isinstance(error, FusegwError)), leaves[0])
