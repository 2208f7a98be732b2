"""A gateway from the outside: what comes before and after the gateway itself, and how to end it.

Start, in this order: take the locks of its volumes; clear what a killed gateway of theirs left mounted; check
the mount point; make the directories; run the gateway. A lock is given back by the kernel when the process
ends, so "the lock is free" means that everything the gateway had accepted is safe on this host's disks.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from fusegw import __version__
from fusegw.clock import Clock
from fusegw.config import GatewaySettings, MissingVolume, VolumePaths, VolumeSettings
from fusegw.control.client import ControlClient
from fusegw.daemon import lock, mountpoint
from fusegw.daemon.lock import Holder, last_holder, present_holder
from fusegw.daemon.process import Ready
from fusegw.errors import Busy, Denied, FusegwError, NotFound
from fusegw.registry import Registry

POLL_S = 0.05
ENDING_WAIT_S = 30.0
"""How long a gateway that is about to end is waited for by one that wants its volume."""
_UNMOUNTED_S = 1.0
"""How long a gateway may answer commands after its mount is gone."""

_log = logging.getLogger(__name__)


class Gateway(Protocol):
    """`fusegw.gateway.run`: blocks until unmounted or told to end; raises before `on_ready` if it cannot."""

    def __call__(self, settings: GatewaySettings, *, on_ready: Ready) -> None: ...


def serve_gateway(
    settings: GatewaySettings, gateway: Gateway, *, on_ready: Ready, nonempty: bool = False
) -> None:
    """Hold the volumes, prepare their places and run `gateway`; returns when it has ended in good order.

    Once per process: the volumes are held until the process ends. A volume of a unified mount that somebody
    else holds is missing from it.

    `nonempty` allows a mount point with files in it, which the mount hides.
    """
    place, source = str(settings.mountpoint), settings.options.fsname
    settings = _holding(settings)
    mountpoint.clear_dead(place, source)
    mountpoint.check_mountpoint(place, nonempty=nonempty)
    for volume in settings.volumes:
        _make_directories(volume)
    make_private(settings.log_file.parent)

    def ready(*warnings: str) -> None:
        what = "all volumes together are" if settings.unified else f"volume {source} is"
        _log.info("%s mounted on %s (fusegw %s)", what, place, __version__)
        on_ready(*warnings)

    gateway(settings, on_ready=ready)
    _log.info("%s is unmounted", place)


def _holding(settings: GatewaySettings) -> GatewaySettings:
    """The settings without the volumes that are held elsewhere; the others are held, and clear of mounts that
    their holders before left dead. The first's error when there is no other."""
    place = str(settings.mountpoint)
    held: list[VolumeSettings] = []
    missing: list[MissingVolume] = []
    for volume in settings.volumes:
        try:
            before = lock.hold_for_life(volume.paths, mountpoint=place, unified=settings.unified)
        except Busy as error:
            missing.append(MissingVolume(volume.paths, error))
            continue
        held.append(volume)
        if before is not None and before.mountpoint:
            mountpoint.clear_dead(before.mountpoint, before.source(volume.volume))
    if missing and not (held and settings.unified):
        raise missing[0].error
    for one in settings.missing:
        with suppress(Busy):
            lock.hold_for_life(one.paths, mountpoint=place, unified=True, missing=str(one.error))
    return msgspec.structs.replace(settings, volumes=tuple(held), missing=(*settings.missing, *missing))


def stop_volume(
    paths: VolumePaths,
    *,
    lazy: bool,
    timeout_s: float,
    clock: Clock,
    on_wait: Callable[[Holder], None] = lambda holder: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Unmount the volume, with all others of a unified mount, and wait until its gateway has ended; with
    `lazy` only detach it and return.

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
            log_file = paths.unified_log_file if present.unified else paths.log_file
            raise Busy(
                f"volume {paths.name!r}: its gateway (pid {present.pid}) has not ended within "
                f"{timeout_s:g} s; see {log_file}, or call fusegw umount again to wait longer"
            )
        holder = present
        on_wait(holder)
        sleep(POLL_S)


def lasting_holder(
    paths: VolumePaths,
    *,
    clock: Clock,
    on_wait: Callable[[Holder], None] = lambda holder: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Holder | None:
    """Who holds the volume, None when it is free.

    umount(8) returns while the gateway still makes its data safe; one whose mount is gone is given
    `ENDING_WAIT_S` to end. `on_wait` is called between two looks.
    """
    begun = clock.monotonic()
    while True:
        holder = present_holder(paths)
        if holder is None or not holder.mountpoint or _is_seen(paths, holder):
            return holder
        waited = clock.monotonic() - begun
        if waited > (_UNMOUNTED_S if paths.socket_file.exists() else ENDING_WAIT_S):
            return holder
        on_wait(holder)
        sleep(POLL_S)


def volume_on(registry: Registry, state_dir: Path, place: str) -> str:
    """The name of a volume that is, or was last, mounted on `place`, alone or with others; NotFound when none
    of ours is."""
    for look in (present_holder, last_holder):
        for name in registry.volumes():
            holder = look(VolumePaths(state_dir, name))
            if holder is not None and place in (holder.mountpoint, holder.seen_at(name)):
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


def _is_seen(paths: VolumePaths, holder: Holder) -> bool:
    """Whether the mount of `holder` is where it says."""
    entry = mountpoint.mounted_on(holder.mountpoint) if holder.mountpoint else None
    ours = (mountpoint.FS_TYPE, holder.source(paths.name))
    return entry is not None and (entry.fs_type, entry.source) == ours


def _ask_to_end(paths: VolumePaths, holder: Holder, *, lazy: bool) -> bool:
    """Whether the gateway now knows that it is to end; not yet when it is still starting."""
    if _is_seen(paths, holder):
        try:
            mountpoint.unmount(holder.mountpoint, lazy=lazy)
            return True
        except Busy:
            if not _serves_shares(paths):
                raise
        # Its servers may be all that uses it: the gateway ends them before it tries.
    try:
        ControlClient(paths.socket_file).shutdown()
    except NotFound:
        return False
    return True


def _serves_shares(paths: VolumePaths) -> bool:
    try:
        return bool(ControlClient(paths.socket_file).status().servers)
    except FusegwError:
        return False


def _clear_left_behind(paths: VolumePaths) -> None:
    last = last_holder(paths)
    if last is not None and last.mountpoint:
        with lock.volume_lock(paths):
            if mountpoint.clear_dead(last.mountpoint, last.source(paths.name)):
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
