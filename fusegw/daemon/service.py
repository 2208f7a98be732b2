"""One mounted volume from the outside: what comes before and after the gateway itself, and how to end it.

Start, in this order: take the volume's lock; clear what a killed gateway of this volume left mounted; check
the mount point; make the directories; run the gateway. The lock is given back by the kernel when the process
ends, so "the lock is free" means that everything the gateway had accepted is safe on this host's disks.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fusegw import __version__
from fusegw.clock import Clock
from fusegw.config import GatewaySettings, VolumePaths, VolumeSettings
from fusegw.control.client import ControlClient
from fusegw.daemon import lock, mountpoint
from fusegw.daemon.lock import Holder, last_holder, present_holder
from fusegw.errors import Busy, Denied, NotFound
from fusegw.registry import Registry

POLL_S = 0.05

_log = logging.getLogger(__name__)


class Gateway(Protocol):
    """`fusegw.gateway.run`: blocks until unmounted or told to end; raises before `on_ready` if it cannot."""

    def __call__(self, settings: GatewaySettings, *, on_ready: Callable[[], None]) -> None: ...


def serve_gateway(
    settings: GatewaySettings, gateway: Gateway, *, on_ready: Callable[[], None], nonempty: bool = False
) -> None:
    """Hold the volume, prepare its places and run `gateway`; returns when it has ended in good order.

    Once per process: the volume is held until the process ends.

    `nonempty` allows a mount point with files in it, which the mount hides.
    """
    place = str(settings.mountpoint)
    source = settings.options.fsname
    for volume in settings.volumes:
        before = lock.hold_for_life(volume.paths, mountpoint=place)
        for dead in {place, before.mountpoint if before else ""} - {""}:
            mountpoint.clear_dead(dead, source)
    mountpoint.check_mountpoint(place, nonempty=nonempty)
    for volume in settings.volumes:
        _make_directories(volume)
    make_private(settings.log_file.parent)

    def ready() -> None:
        _log.info("volume %s is mounted on %s (fusegw %s)", source, place, __version__)
        on_ready()

    gateway(settings, on_ready=ready)
    _log.info("volume %s is unmounted", source)


def stop_volume(
    paths: VolumePaths,
    *,
    lazy: bool,
    timeout_s: float,
    clock: Clock,
    on_wait: Callable[[Holder], None] = lambda holder: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Unmount the volume and wait until its gateway has ended; with `lazy` only detach it and return.

    NotFound when it is not mounted, Busy while files are in use or after `timeout_s`. A mount left dead by a
    killed gateway is cleared. `on_wait` is called between two looks.
    """
    holder = present_holder(paths)
    if holder is None:
        _clear_left_behind(paths)
        return
    deadline = clock.monotonic() + timeout_s
    asked = False
    while True:
        if not asked:
            asked = _ask_to_end(paths, holder, lazy=lazy)
        if lazy and asked:
            return
        present = present_holder(paths)
        if present is None or present.pid != holder.pid != 0:
            return
        if clock.monotonic() >= deadline:
            raise Busy(
                f"volume {paths.name!r}: its gateway (pid {present.pid}) has not ended within "
                f"{timeout_s:g} s; see {paths.log_file}, or call fusegw umount again to wait longer"
            )
        holder = present
        on_wait(holder)
        sleep(POLL_S)


def volume_on(registry: Registry, state_dir: Path, place: str) -> str:
    """The name of the volume that is, or was last, mounted on `place`; NotFound when it is none of ours."""
    for name in registry.volumes():
        paths = VolumePaths(state_dir, name)
        holder = present_holder(paths) or last_holder(paths)
        if holder is not None and holder.mountpoint == place:
            return name
    entry = mountpoint.mounted_on(place)
    if entry is not None and entry.fs_type == mountpoint.FS_TYPE:
        raise NotFound(
            f"{place}: volume {entry.source!r} is mounted there, but from another state directory than "
            f"{state_dir}; name that one with --state-dir"
        )
    raise NotFound(f"no volume of {state_dir} is mounted on {place}")


def make_private(directory: Path) -> None:
    """Create `directory` (0700, with its parents); Denied when that fails."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Denied(f"directory {directory} cannot be created: {error.strerror}") from None


def _ask_to_end(paths: VolumePaths, holder: Holder, *, lazy: bool) -> bool:
    """Whether the gateway now knows that it is to end; not yet when it is still starting."""
    entry = mountpoint.mounted_on(holder.mountpoint) if holder.mountpoint else None
    if entry is not None and (entry.fs_type, entry.source) == (mountpoint.FS_TYPE, paths.name):
        mountpoint.unmount(holder.mountpoint, lazy=lazy)
        return True
    try:
        ControlClient(paths.socket_file).shutdown()
    except NotFound:
        return False
    return True


def _clear_left_behind(paths: VolumePaths) -> None:
    last = last_holder(paths)
    if last is not None and last.mountpoint:
        with lock.volume_lock(paths):
            if mountpoint.clear_dead(last.mountpoint, paths.name):
                return
    raise NotFound(f"volume {paths.name!r} is not mounted")


def _make_directories(settings: VolumeSettings) -> None:
    paths = settings.paths
    for directory in (paths.volume_dir, paths.socket_file.parent, settings.cache_dir):
        make_private(directory)
    try:
        # The socket's own mode is not enough on systems that ignore it: the directory keeps others out.
        paths.socket_file.parent.chmod(0o700)
    except OSError as error:
        raise Denied(f"directory {paths.socket_file.parent}: {error.strerror}") from None
