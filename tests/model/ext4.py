"""A real directory driven like the reference: by inode numbers, through descriptors held on every inode.

Numbers are handed out in the order of creation, as the reference does. `Incomparable` marks calls a process
cannot make the way a FUSE server gets them.
"""

import ctypes
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusegw.vfs.caller import Caller
from tests.model.reference import ROOT

_libc = ctypes.CDLL(None, use_errno=True)


class Incomparable(Exception):
    """The call would mean something else to the kernel."""


def is_ext4(directory: Path) -> bool:
    """Whether `directory` lies on an ext4 file system."""
    found = subprocess.run(
        ["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=True
    ).stdout
    return found.strip() == "ext2/ext3"


class RealTree:
    """The tree below `directory`, which must be empty; `close` lets go of its descriptors."""

    def __init__(self, directory: Path) -> None:
        self._fds = {ROOT: os.open(directory, os.O_RDONLY | os.O_DIRECTORY)}
        self._identity = {self._identify(self._fds[ROOT]): ROOT}
        self._next = ROOT + 1

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def stat(self, ino: int) -> os.stat_result:
        return os.fstat(self._fds[ino])

    def readdir(self, ino: int) -> list[tuple[bytes, int]]:
        names = os.listdir(f"/proc/self/fd/{self._fds[ino]}")
        return sorted((os.fsencode(name), self._number(ino, os.fsencode(name))) for name in names)

    def lookup(self, parent: int, name: bytes) -> int | None:
        if name in (b".", b".."):
            raise Incomparable
        try:
            return self._number(parent, name)
        except FileNotFoundError:
            return None

    def readlink(self, ino: int) -> bytes:
        if not stat.S_ISLNK(self.stat(ino).st_mode):
            raise Incomparable
        return os.readlink(b"", dir_fd=self._fds[ino])

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, who: Caller) -> int:
        with acting(who):
            os.mknod(name, mode, rdev, dir_fd=self._fds[parent])
        return self._made(parent, name)

    def mkdir(self, parent: int, name: bytes, mode: int, who: Caller) -> int:
        with acting(who):
            os.mkdir(name, mode, dir_fd=self._fds[parent])
        return self._made(parent, name)

    def symlink(self, parent: int, name: bytes, target: bytes, who: Caller) -> int:
        with acting(who):
            os.symlink(target, name, dir_fd=self._fds[parent])
        return self._made(parent, name)

    def link(self, ino: int, parent: int, name: bytes) -> int:
        os.link(self._path(ino), name, dst_dir_fd=self._fds[parent], follow_symlinks=True)
        return ino

    def unlink(self, parent: int, name: bytes) -> None:
        os.unlink(name, dir_fd=self._fds[parent])

    def rmdir(self, parent: int, name: bytes) -> None:
        os.rmdir(name, dir_fd=self._fds[parent])

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        if flags & 4:
            raise Incomparable
        if _libc.renameat2(self._fds[parent], name, self._fds[new_parent], new_name, flags):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def setattr(
        self,
        ino: int,
        *,
        who: Caller,
        mode: int | None = None,
        uid: int = -1,
        gid: int = -1,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> None:
        if who.uid:
            raise Incomparable
        if mode is not None:
            os.chmod(self._path(ino), mode)
        elif atime_ns is not None and mtime_ns is not None:
            os.utime(self._path(ino), ns=(atime_ns, mtime_ns))
        else:
            os.chown(self._path(ino), uid, gid)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        self._keepable(name)
        return os.getxattr(self._path(ino), name)

    def listxattr(self, ino: int) -> list[bytes]:
        names = (os.fsencode(name) for name in os.listxattr(self._path(ino)))
        return sorted(name for name in names if name != b"security.selinux")

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, who: Caller) -> None:
        self._keepable(name)
        if who.uid or name == b"security.capability" or (name.startswith(b"user.") and len(value) > 1000):
            raise Incomparable
        os.setxattr(self._path(ino), name, value, flags)

    def removexattr(self, ino: int, name: bytes) -> None:
        self._keepable(name)
        os.removexattr(self._path(ino), name)

    def _keepable(self, name: bytes) -> None:
        """The kernel answers for attributes that ext4 would not be asked about."""
        if name.startswith((b"security.", b"system.other")):
            raise Incomparable

    def _path(self, ino: int) -> str:
        return f"/proc/self/fd/{self._fds[ino]}"

    def _number(self, parent: int, name: bytes) -> int:
        found = os.stat(name, dir_fd=self._fds[parent], follow_symlinks=False)
        return self._identity[found.st_dev, found.st_ino]

    def _identify(self, fd: int) -> tuple[int, int]:
        found = os.fstat(fd)
        return found.st_dev, found.st_ino

    def _made(self, parent: int, name: bytes) -> int:
        found = os.stat(name, dir_fd=self._fds[parent], follow_symlinks=False)
        flags = os.O_RDONLY | os.O_DIRECTORY if stat.S_ISDIR(found.st_mode) else os.O_PATH
        fd = os.open(name, flags | os.O_NOFOLLOW, dir_fd=self._fds[parent])
        ino, self._next = self._next, self._next + 1
        self._fds[ino] = fd
        self._identity[self._identify(fd)] = ino
        return ino


@contextmanager
def acting(who: Caller) -> Iterator[None]:
    """This process as `who`; being refused for want of rights makes the call incomparable."""
    groups: Any = os.getgroups()
    if who.uid:
        os.setgroups(list(who.groups))  # type: ignore[arg-type]
        os.setegid(who.gid)
        os.seteuid(who.uid)
    try:
        yield
    except PermissionError:
        if who.uid:
            raise Incomparable from None
        raise
    finally:
        if who.uid:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)
