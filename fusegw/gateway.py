"""The gateway, one process for one mount: the composition root.

Start: the volume (`serving`) → the mount (`mounting`) → ready. End, whoever asks for it: unmount → the volume
ends, as `serving` says.
"""

import ctypes
import gc
import sys
from collections.abc import Callable

import trio

from cache.disk import Disk, OsDisk
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.config import GatewaySettings
from fusegw.errors import FusegwError
from fusegw.fuse.invalidation import Notices
from fusegw.fuse.operations import Operations
from fusegw.mounting import Mount
from fusegw.serving import Host, served_volume

SWITCH_S = 0.0005
"""How long a thread may keep the interpreter from the event loop; codecs let go of it anyway."""

_M_ARENA_MAX, _ARENAS_MAX = -8, 2
_GC_THRESHOLDS = (20_000, 20, 50)


def run(settings: GatewaySettings, *, on_ready: Callable[[], None], disk: Disk | None = None) -> None:
    """Serve the mount until it is unmounted; raises what kept it from being mounted, or ended it.

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
    notices = Notices()
    mount = Mount(settings, notices)
    host = Host(SystemClock(), SystemEntropy(), disk, mount.unmount, notices)

    def ready() -> None:
        _settle_memory()
        on_ready()

    (volume,) = settings.volumes
    async with served_volume(volume, host, Operations) as operations:
        failure = await mount.serve(operations, ready)
    if failure is not None:
        raise failure


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
