"""What the kernel has mounted here, whether a directory can take a mount, and taking a mount away.

A FUSE mount whose process is gone stays in the mount table and answers everything with ENOTCONN ("Transport
endpoint is not connected"): called dead here. The kernel cannot tell whose it was beyond its type and
source, so only the holder of a volume's lock may conclude that a dead mount of that volume is its own to
clear.
"""

import ctypes
import errno
import os
import re
import stat
import subprocess
from collections.abc import Collection
from pathlib import Path

import msgspec

from fusegw.errors import Busy, Denied, Exists, FusegwError, Invalid, NotFound

FS_TYPE = "fuse.fusegw"

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class MountEntry(msgspec.Struct, frozen=True):
    """One line of the kernel's mount table."""

    path: str
    fs_type: str
    source: str
    """For `FS_TYPE` the name of the volume, or what stands for all of them."""


def parse_mountinfo(data: bytes) -> list[MountEntry]:
    """The entries of a /proc/PID/mountinfo, in the order of mounting."""
    entries = []
    for line in data.splitlines():
        left, _, right = line.partition(b" - ")
        fields, rest = left.split(b" "), right.split(b" ")
        if len(fields) >= 5 and len(rest) >= 2:
            entries.append(MountEntry(_unescape(fields[4]), os.fsdecode(rest[0]), _unescape(rest[1])))
    return entries


def mounts() -> list[MountEntry]:
    """What is mounted in this mount namespace."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())


def mounted_on(path: str) -> MountEntry | None:
    """The topmost mount on exactly `path` (absolute, no symlinks), if any."""
    return next((entry for entry in reversed(mounts()) if entry.path == path), None)


def canonical(path: Path) -> str:
    """`path` absolute and without symlinks, also when a dead mount lies on it."""
    return os.path.realpath(path)


def is_dead(path: str) -> bool:
    """Whether `path` is a FUSE mount that no process serves any more."""
    try:
        # Not stat: the kernel would answer that from its attribute cache for long after.
        os.statvfs(path)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def check_mountpoint(path: str, *, nonempty: bool, own: Collection[str] = ()) -> None:
    """Return if a mount can be made on `path`; otherwise raise what is wrong with it.

    NotFound, Invalid (no directory), Denied, Busy (a mount is there), Exists (not empty, unless `nonempty`).
    A dead mount of one of the sources in `own` is no obstacle: `clear_dead` takes it away.
    """
    entry = mounted_on(path)
    if entry is not None:
        if not is_dead(path):
            raise Busy(
                f"mount point {path}: {entry.source} ({entry.fs_type}) is mounted there; unmount that first"
            )
        if entry.fs_type != FS_TYPE or entry.source not in own:
            raise Busy(
                f"mount point {path}: a dead mount of {entry.source} ({entry.fs_type}) lies there; "
                f"clear it with fusegw umount {path}, or umount -l {path}"
            )
        return
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise Invalid(f"mount point {path} is not a directory")
        with os.scandir(path) as content:
            if not nonempty and next(content, None) is not None:
                raise Exists(
                    f"mount point {path} is not empty; choose an empty directory, or hide what is in it "
                    "with -o nonempty"
                )
    except FileNotFoundError:
        raise NotFound(f"mount point {path} does not exist; create the directory first") from None
    except NotADirectoryError:
        raise Invalid(f"mount point {path} is not a directory") from None
    except OSError as error:
        raise Denied(f"mount point {path} cannot be used: {error.strerror}") from None


def clear_dead(path: str, source: str) -> bool:
    """Detach dead mounts of `source` from `path`; whether there was one. The lock of the volume, or of one of
    several in it, is held."""
    cleared = False
    while (entry := mounted_on(path)) is not None and (entry.fs_type, entry.source) == (FS_TYPE, source):
        if not is_dead(path):
            break
        unmount(path, lazy=True)
        cleared = True
    return cleared


def unmount(path: str, *, lazy: bool) -> None:
    """Take the mount off `path`. Busy while files on it are in use, unless `lazy`; NotFound without one."""
    if os.geteuid() == 0:
        _unmount_as_root(path, lazy=lazy)
    else:
        _unmount_as_user(path, lazy=lazy)


def _unmount_as_root(path: str, *, lazy: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)) == 0:
        return
    raise _unmount_error(path, ctypes.get_errno())


def _unmount_as_user(path: str, *, lazy: bool) -> None:
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", path]
    try:
        environment = {"LC_ALL": "C", "PATH": os.defpath}
        result = subprocess.run(command, capture_output=True, env=environment, check=False)
    except FileNotFoundError:
        raise FusegwError("fusermount3 is missing: install the package fuse3") from None
    if result.returncode != 0:
        text = os.fsdecode(result.stderr).strip()
        raise _unmount_error(path, errno.EBUSY) if "busy" in text else Denied(f"{path}: {text}")


def _unmount_error(path: str, code: int) -> FusegwError:
    if code == errno.EBUSY:
        return Busy(
            f"{path} is in use (fuser -vm {path} shows by whom); close what is open there, or use --lazy"
        )
    if code in (errno.EINVAL, errno.ENOENT):
        return NotFound(f"{path} is not mounted")
    return Denied(f"{path} cannot be unmounted: {os.strerror(code)}")


def _unescape(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))
