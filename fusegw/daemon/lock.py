"""One holder per volume on this host: an flock on `<state>/volumes/NAME/lock`.

The kernel frees the lock when its holder ends, however it ends. The text in the file names the holder for
messages; it outlives the holder and then tells where the volume was mounted last, which is how
a mount left dead by a killed gateway is recognised. The lock is never removed.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from fusegw.config import UNIFIED_SOURCE, VolumePaths
from fusegw.errors import Busy, Denied


class Holder(msgspec.Struct, frozen=True):
    """Who holds, or held last, the lock of a volume."""

    pid: int
    mountpoint: str
    """Empty when the volume is used by a command without a mount."""
    unified: bool = False
    """It is one of several volumes, a directory of the mount."""
    missing: str = ""
    """Why the gateway cannot show it at present; empty when it does, or is about to."""

    def source(self, volume: str) -> str:
        """What the mount table calls the mount of `volume`."""
        return UNIFIED_SOURCE if self.unified else volume

    def seen_at(self, volume: str) -> str:
        """The directory that shows the root of `volume`."""
        return f"{self.mountpoint}/{volume}" if self.unified else self.mountpoint

    def __str__(self) -> str:
        return f"pid {self.pid}, mounted on {self.mountpoint}" if self.mountpoint else f"pid {self.pid}"


def hold_for_life(
    paths: VolumePaths, *, mountpoint: str, unified: bool = False, missing: str = ""
) -> Holder | None:
    """Hold the volume until this process ends; gives the holder before. Busy names the present one.

    The descriptor is left open on purpose: a free lock then proves that the gateway's process is gone.
    """
    descriptor = _open(paths, create=True)
    try:
        return _take(descriptor, paths, Holder(os.getpid(), mountpoint, unified, missing))
    except Busy:
        os.close(descriptor)
        raise


@contextmanager
def volume_lock(paths: VolumePaths) -> Iterator[None]:
    """Hold the volume for the time of the block. Busy names the present holder."""
    descriptor = _open(paths, create=True)
    try:
        _take(descriptor, paths, Holder(os.getpid(), ""))
        yield
    finally:
        os.close(descriptor)


def present_holder(paths: VolumePaths) -> Holder | None:
    """Who holds the volume now; None when it is free."""
    return _look(paths, held=True)


def last_holder(paths: VolumePaths) -> Holder | None:
    """Who held the volume last, when nobody holds it now; None also when nobody ever did."""
    return _look(paths, held=False)


def note_missing(paths: VolumePaths, why: str) -> None:
    """Say why this process, which holds the volume, does not show it; "" when it does."""
    descriptor = os.open(paths.lock_file, os.O_RDWR | os.O_CLOEXEC)
    try:
        holder = _read(descriptor)
        assert holder is not None and holder.pid == os.getpid()
        text = msgspec.json.encode(msgspec.structs.replace(holder, missing=why))
        # One write, never shorter than what it covers: a reader sees the old text or the new one.
        os.pwrite(descriptor, text.ljust(os.fstat(descriptor).st_size), 0)
        os.ftruncate(descriptor, len(text))
    finally:
        os.close(descriptor)


def busy(paths: VolumePaths, holder: Holder | None) -> Busy:
    """The error of finding the volume held."""
    by = f" by {holder}" if holder else ""
    return Busy(f"volume {paths.name!r} is in use{by}; unmount it first with fusegw umount {paths.name}")


def _look(paths: VolumePaths, *, held: bool) -> Holder | None:
    try:
        descriptor = _open(paths, create=False)
    except FileNotFoundError:
        return None
    try:
        free = _try(descriptor)
        # A holder that has just begun may not have written its name yet.
        holder = _read(descriptor) or (None if free else Holder(0, ""))
        return holder if free != held else None
    finally:
        os.close(descriptor)


def _take(descriptor: int, paths: VolumePaths, holder: Holder) -> Holder | None:
    if not _try(descriptor):
        raise busy(paths, _read(descriptor))
    before = _read(descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, msgspec.json.encode(holder), 0)
    return before


def _open(paths: VolumePaths, *, create: bool) -> int:
    try:
        if create:
            paths.volume_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(paths.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return os.open(paths.lock_file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Denied(f"lock {paths.lock_file} of volume {paths.name!r}: {error.strerror}") from None


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(descriptor: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, 64 << 10, 0), type=Holder)
    except msgspec.DecodeError:
        return None
