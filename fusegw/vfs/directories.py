"""What operations on names share: finding a directory and what its names stand for, and the changes an entry
that comes or goes makes to its directory and its inode.

A row another row refers to and that is not there is damage (`Corrupt`), never "no such file".
"""

import errno
from typing import Protocol

from msgspec.structs import replace

from fusegw.errors import Corrupt
from fusegw.meta.metadata import Change
from fusegw.meta.past import Readable
from fusegw.meta.schema import COOKIE_MAX, DIRENT, INODE, REAP, ROOT_INODE, Dirent, Inode
from fusegw.vfs.inodes import Inodes

NAME_MAX = 255
"""Longest name, in bytes."""
LINKS_MAX = 65_000
"""Most names of a file."""
SUBDIRECTORIES_MAX = (1 << 32) - 3
DIRECTORY_SIZE = 4096
"""`Inode.size` of every directory."""
DOT, DOTDOT = b".", b".."
DOTS = frozenset((DOT, DOTDOT))
SNAPSHOTS, VERSIONS = b".snapshots", b".previous-versions"
"""Directories in the root that are shown and not kept: the volume's snapshots by name, and by time."""
_SHOWN = frozenset((SNAPSHOTS, VERSIONS))
_TAKEN = DOTS | _SHOWN
KIND_DIRECTORY = 0o4
"""`Dirent.kind` of a directory."""


class InodeSource(Protocol):
    """Where inodes are found as callers see them."""

    def get(self, ino: int) -> Inode | None:
        """The inode, None when there is none."""


class Directories:
    """Names and inodes of one volume, as operations on names find them. Loop thread only."""

    def __init__(self, rows: Readable, inodes: InodeSource) -> None:
        self._get = rows.get
        self._find = inodes.get

    def directory(self, ino: int) -> Inode:
        """The directory `ino`; OSError ESTALE, ENOTDIR."""
        directory = self._get(INODE, ino)
        if directory is None:
            raise OSError(errno.ESTALE, f"inode {ino} is gone")
        if not directory.is_dir:
            raise OSError(errno.ENOTDIR, f"inode {ino} is no directory")
        return directory

    def vacancy(self, parent: int, name: bytes) -> Inode:
        """The directory a new `name` may be put into; OSError EEXIST, ENOENT (it was removed), and more."""
        directory = self.directory(parent)
        if name in _TAKEN and (name in DOTS or is_shown(parent, name)):
            raise OSError(errno.EEXIST, f"{name!r} is taken in directory {parent}")
        if not directory.nlink or not 0 < len(name) <= NAME_MAX:
            raise no_such(directory, name)
        if self._get(DIRENT, (parent, name)) is not None:
            raise OSError(errno.EEXIST, f"{name!r} is there already in directory {parent}")
        check_cookies(directory)
        return directory

    def entry(self, parent: int, name: bytes) -> Dirent:
        """What `name` is in `parent`, to be taken away; OSError ENOENT, ENOTDIR, ENAMETOOLONG, ESTALE, EROFS
        (a directory of snapshots)."""
        entry = self._get(DIRENT, (parent, name)) if len(name) <= NAME_MAX else None
        if entry is None:
            if is_shown(parent, name):
                raise OSError(errno.EROFS, f"{name!r} holds the volume's snapshots and stays")
            raise no_such(self.directory(parent), name)
        return entry

    def named(self, entry: Dirent, parent: int, name: bytes) -> Inode:
        """The inode an entry stands for."""
        inode = self._find(entry.ino)
        if inode is None:
            raise dangling(parent, name, entry.ino)
        return inode


def is_shown(parent: int, name: bytes) -> bool:
    """Whether the name is that of a directory that is shown and not kept."""
    return parent == ROOT_INODE and name in _SHOWN


def drop_link(change: Change, inodes: Inodes, inode: Inode, now: int) -> bool:
    """The inode has lost a name; True when that was its last one and it waits to be reaped."""
    left = 0 if inode.is_dir else inode.nlink - 1
    if left:
        inodes.put(change, replace(inode, nlink=left, ctime_ns=now))
        return False
    inodes.put(change, replace(inode, nlink=0, ctime_ns=now, parent=0))
    change.put(REAP, inode.ino, 0)
    return True


def check_cookies(directory: Inode) -> None:
    """OSError ENOSPC when it has no readdir position left for another entry."""
    if directory.next_cookie > COOKIE_MAX:
        raise OSError(errno.ENOSPC, f"directory {directory.ino} has had as many entries as it can")


def no_such(directory: Inode, name: bytes) -> OSError:
    """The error for a name that is not in `directory` and, if it is too long, can never be."""
    if len(name) > NAME_MAX and directory.nlink:
        return OSError(errno.ENAMETOOLONG, f"name of {len(name)} bytes, {NAME_MAX} are allowed")
    return OSError(errno.ENOENT, f"no {name!r} in directory {directory.ino}")


def dangling(parent: int, name: bytes, ino: int) -> Corrupt:
    """The error for a name whose inode has no row."""
    return Corrupt(
        f"metadata is damaged: {name!r} in directory {parent} names inode {ino}, which has no row; "
        "restore the state directory from a copy"
    )
