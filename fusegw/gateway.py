"""The gateway, one process for one mount: the composition root.

Start: the volume, or all of a unified mount side by side (`serving`, `members`) → the mount (`mounting`) →
ready. End, whoever asks for it: unmount → the volumes end side by side, as `serving` says.

What several volumes share: the threads that cut, compress and seal, since they are bound by processors; the
memory for decoded chunks, as far as each keeps enough to read ahead. Threads that wait for a store are each
volume's own, as are its caches on disk, which have a share each of the budget.
"""

import ctypes
import gc
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import msgspec
import trio

from cache.disk import Disk, OsDisk
from exports.audit import AuditLog
from exports.nfs import NfsServer
from exports.server import Server
from exports.smb import SmbServer
from fusegw.clock import Clock, SystemClock, SystemEntropy
from fusegw.config import GatewaySettings, VolumeSettings
from fusegw.daemon import lock, mountpoint
from fusegw.daemon.process import Ready
from fusegw.errors import Unavailable, telling
from fusegw.fuse.forest import Forest
from fusegw.fuse.invalidation import Notices
from fusegw.fuse.operations import Operations
from fusegw.fuse.owed import Owed
from fusegw.fuse.routing import Alone
from fusegw.members import Members
from fusegw.mounting import Mount
from fusegw.serving import Host, served_volume
from fusegw.sharing import Sharing
from fusegw.vfs.reading import DECODED_BYTES_MAX

SWITCH_S = 0.0005
"""How long a thread may keep the interpreter from the event loop; codecs let go of it anyway."""
DECODED_BYTES_MIN = 24 << 20
"""What each of several volumes may keep decoded: a reader's window and what is on its way."""
UNIFIED_FSID = 0x6675736567770000

_M_TRIM_THRESHOLD, _TRIM_BYTES = -1, 128 << 20
_M_MMAP_THRESHOLD, _MMAP_BYTES = -3, 32 << 20
_M_ARENA_MAX, _ARENAS_MAX = -8, 2
_LOOP_NICE = -10
_GC_THRESHOLDS = (20_000, 20, 50)

log = logging.getLogger(__name__)


def run(
    settings: GatewaySettings,
    *,
    on_ready: Ready,
    disk: Disk | None = None,
    clock: Clock | None = None,
    loop_clock: trio.abc.Clock | None = None,
) -> None:
    """Serve the mount until it is unmounted; raises what kept it from being mounted, or ended it.

    `disk` makes the system calls on cache files; `clock` says what time it is, and `loop_clock` when those
    who wait for a time wake up (default: the operating system's).
    """
    sys.setswitchinterval(SWITCH_S)
    _keep_memory()
    _put_requests_first()
    try:
        trio.run(_gateway, settings, on_ready, disk or OsDisk(), clock or SystemClock(), clock=loop_clock)
    except BaseExceptionGroup as group:
        raise telling(group) from group


def _keep_memory() -> None:
    """Settings of the C library's malloc (mallopt(3)).

    Buffers of a MiB and more come and go with every request; taken from the kernel and given back each time,
    all their pages would be found and cleared anew. Each thread would get a heap of its own, and each would
    keep what it once held of chunks and blocks.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_ARENA_MAX, _ARENAS_MAX)
    libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)


def _put_requests_first() -> None:
    """The event loop gets a processor before the threads that compress, and before other programs, if it may
    (as root) and nobody gave this process a priority of its own; what it starts has the usual one.

    A request that comes while both processors compress would wait for its turn several times over.
    """
    if os.sched_getscheduler(0) != os.SCHED_OTHER or os.getpriority(os.PRIO_PROCESS, 0):
        return
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, _LOOP_NICE)


async def _gateway(settings: GatewaySettings, on_ready: Ready, disk: Disk, clock: Clock) -> None:
    notices, entropy, owed = Notices(), SystemEntropy(), Owed()
    sharing = Sharing(
        _servers(settings, clock, owed),
        settings.mountpoint,
        wanted=settings.shares,
        entropy=entropy,
        is_mounted=partial(_is_mounted, settings),
    )
    mount = Mount(settings, notices, sharing)
    host = Host(clock, entropy, disk, mount.unmount, notices, sharing)

    def ready(*warnings: str) -> None:
        _settle_memory()
        on_ready(*warnings)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sharing.run)
        if settings.unified:
            forest = Forest(notices, clock=clock, owed=owed)
            failure = await _serve_together(settings, mount, forest, _together(host, settings), ready)
        else:
            (volume,) = settings.volumes
            async with served_volume(volume, host, partial(Operations, owed=owed)) as operations:
                failure = await mount.serve(Alone(operations), ready)
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _servers(settings: GatewaySettings, clock: Clock, owed: Owed) -> list[Server]:
    """One for each protocol that shares may be offered over."""

    def now_s() -> float:
        return clock.time_ns() / 1e9

    wanted = settings.servers.audit
    audit = AuditLog(settings.servers_dir / "audit", wanted, now_s) if wanted.enabled else None
    nfs = NfsServer(
        settings.servers.nfs,
        settings.servers_dir / "nfs",
        mountpoint=settings.mountpoint,
        fsid=_fsid(settings),
        now_s=now_s,
        kept_waiting=owed.kept_waiting,
        audit=audit,
    )
    smb = SmbServer(
        settings.servers.smb, settings.servers_dir / "smb", kept_waiting=owed.kept_waiting, audit=audit
    )
    return [smb, nfs]


def _fsid(settings: GatewaySettings) -> int:
    """What NFS handles know the mount by: the same for the same volume on any host, and for all unified
    mounts, in which the number of a node says which volume it is of."""
    if settings.unified:
        return UNIFIED_FSID
    return int.from_bytes(settings.volumes[0].volume_id[:8], "big") | 1


def _is_mounted(settings: GatewaySettings) -> bool:
    entry = mountpoint.mounted_on(str(settings.mountpoint))
    ours = (mountpoint.FS_TYPE, settings.options.fsname)
    return entry is not None and (entry.fs_type, entry.source) == ours


def _together(host: Host, settings: GatewaySettings) -> Host:
    """The host as each of several volumes sees it."""
    threads = max(volume.tuning.codec_threads or os.cpu_count() or 1 for volume in settings.volumes)
    decoded = max(DECODED_BYTES_MIN, DECODED_BYTES_MAX // len(settings.volumes))
    return msgspec.structs.replace(
        host,
        unlocking=trio.CapacityLimiter(1),
        codecs=trio.CapacityLimiter(threads),
        decoded_bytes_max=decoded,
    )


async def _serve_together(
    settings: GatewaySettings, mount: Mount, forest: Forest, host: Host, on_ready: Ready
) -> Exception | None:
    """Serve the volumes that can be opened, one at least; returns what broke a mount that had been ready."""

    @asynccontextmanager
    async def show(volume: VolumeSettings) -> AsyncIterator[None]:
        handlers = partial(forest.branch, volume.volume)
        async with served_volume(volume, host, handlers) as branch, forest.shown(branch):
            yield

    members = Members(settings.volumes, show, _note)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(members.run)
        await members.tried()
        if len(members.missing) == len(settings.volumes):
            raise next(iter(members.missing.values()))
        failure = await mount.serve(forest, lambda: on_ready(*_warnings(settings, members)))
        members.end()
    return failure or members.failure


def _warnings(settings: GatewaySettings, members: Members) -> list[str]:
    """A line for each volume that belongs into the mount and is not there."""
    missing = {one.paths.name: one.error for one in settings.missing} | members.missing
    return [
        f"volume {name} is missing from the mount: {error}"
        + ("; it is tried again in the background" if isinstance(error, Unavailable) else "")
        for name, error in missing.items()
    ]


def _note(volume: VolumeSettings, why: str) -> None:
    try:
        lock.note_missing(volume.paths, why)
    except OSError as error:
        log.warning("status will not tell about volume %s: %s", volume.volume, error)


def _settle_memory() -> None:
    """What exists now stays: collections need not look at it again, and come more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
