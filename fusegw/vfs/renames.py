"""rename(2): the rules of what may take whose name, and the rows that change when it does.

Checks come in the order of Linux, so that of several errors the same one is reported. Renaming a name to
another one of the same inode does nothing and succeeds.
"""

import errno

from msgspec.structs import replace

from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import DIRENT, INODE, POSITION, ROOT_INODE, Dirent, Inode
from fusegw.vfs.crossing import Crossings
from fusegw.vfs.directories import (
    DOTS,
    KIND_DIRECTORY,
    NAME_MAX,
    SUBDIRECTORIES_MAX,
    Directories,
    check_cookies,
    drop_link,
    is_shown,
    no_such,
)
from fusegw.vfs.inodes import Inodes

NOREPLACE = 1
EXCHANGE = 2


class Renames:
    """Renames in one volume. Loop thread only."""

    def __init__(
        self, metadata: Metadata, inodes: Inodes, directories: Directories, crossings: Crossings
    ) -> None:
        self._get = metadata.get
        self._inodes = inodes
        self._directories = directories
        self._crossings = crossings

    def rename(
        self,
        change: Change,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
        now: int,
    ) -> int:
        """Put the rows of the rename into the empty `change`; returns the inode that lost its last name, or
        0.
        """
        if flags not in (0, NOREPLACE, EXCHANGE):
            raise OSError(errno.EINVAL, f"rename cannot honour flags {flags:#x}")
        directory = self._directories.directory(parent)
        new_directory = directory if new_parent == parent else self._directories.directory(new_parent)
        if name in DOTS or new_name in DOTS:
            code = errno.EEXIST if flags == NOREPLACE and name not in DOTS else errno.EBUSY
            raise OSError(code, "a directory's own names stay")
        source = self._directories.entry(parent, name)
        target = self._get(DIRENT, (new_parent, new_name)) if len(new_name) <= NAME_MAX else None
        if target is None:
            if is_shown(new_parent, new_name):
                raise OSError(errno.EEXIST, f"{new_name!r} holds the volume's snapshots and stays")
            if flags == EXCHANGE or not new_directory.nlink or not 0 < len(new_name) <= NAME_MAX:
                raise no_such(new_directory, new_name)
            check_cookies(new_directory)
        elif flags == NOREPLACE:
            raise OSError(errno.EEXIST, f"{new_name!r} is there already in directory {new_parent}")
        if new_parent != parent:
            self._check_crossing(source, parent, target, new_directory, flags)
        if target is None:
            self._move(change, directory, name, source, new_directory, new_name, None, now)
            return 0
        if target.ino == source.ino:
            return 0
        if flags == EXCHANGE:
            self._exchange(change, directory, name, source, new_directory, new_name, target, now)
            return 0
        self._check_replacing(source, target, new_name)
        replaced = self._directories.named(target, new_parent, new_name)
        self._move(change, directory, name, source, new_directory, new_name, target, now)
        return replaced.ino if drop_link(change, self._inodes, replaced, now) else 0

    def _check_crossing(
        self, source: Dirent, parent: int, target: Dirent | None, new_directory: Inode, flags: int
    ) -> None:
        """No directory may move into itself, nor take the place of one it lies in; link counts have a
        limit.
        """
        if source.kind == KIND_DIRECTORY and self._is_above(source.ino, new_directory.ino):
            raise OSError(errno.EINVAL, "a directory cannot move into itself")
        if target is not None and target.kind == KIND_DIRECTORY:
            if self._is_above(target.ino, parent):
                code = errno.EINVAL if flags == EXCHANGE else errno.ENOTEMPTY
                raise OSError(code, "the target contains the source")
        elif source.kind == KIND_DIRECTORY and new_directory.nlink >= SUBDIRECTORIES_MAX:
            raise OSError(errno.EMLINK, f"directory {new_directory.ino} has too many subdirectories")

    def _check_replacing(self, source: Dirent, target: Dirent, new_name: bytes) -> None:
        if target.kind != KIND_DIRECTORY:
            if source.kind == KIND_DIRECTORY:
                raise OSError(errno.ENOTDIR, f"{new_name!r} is no directory")
        elif source.kind != KIND_DIRECTORY:
            raise OSError(errno.EISDIR, f"{new_name!r} is a directory")
        elif self._directories.directory(target.ino).entries:
            raise OSError(errno.ENOTEMPTY, f"directory {new_name!r} is not empty")

    def _is_above(self, ino: int, descendant: int) -> bool:
        """Whether the directory `ino` is `descendant` or contains it."""
        while descendant not in (ino, ROOT_INODE, 0):
            descendant = self._directories.directory(descendant).parent
        return descendant == ino

    def _move(
        self,
        change: Change,
        directory: Inode,
        name: bytes,
        source: Dirent,
        new_directory: Inode,
        new_name: bytes,
        target: Dirent | None,
        now: int,
    ) -> None:
        """`source` takes the new name, in the place of `target` when that is there."""
        inode = self._directories.named(source, directory.ino, name)
        if new_directory is not directory or target is not None:
            inode = self._crossings.moved(change, inode, directory, new_directory)
        change.delete(DIRENT, (directory.ino, name))
        change.delete(POSITION, (directory.ino, source.cookie))
        moved, gone, fresh = source.kind == KIND_DIRECTORY, 0, 1
        cookie = new_directory.next_cookie
        if target is None:
            change.put(POSITION, (new_directory.ino, cookie), new_name)
        else:
            cookie, gone, fresh = target.cookie, target.kind == KIND_DIRECTORY, 0
        change.put(DIRENT, (new_directory.ino, new_name), Dirent(source.ino, cookie, source.kind))
        if new_directory is directory:
            came, left, subdirectories = fresh - 1, 0, -gone
        else:
            came, left, subdirectories = fresh, 1, moved - gone
            change.put(
                INODE,
                directory.ino,
                replace(
                    directory,
                    nlink=directory.nlink - moved,
                    mtime_ns=now,
                    ctime_ns=now,
                    entries=directory.entries - left,
                ),
            )
        change.put(
            INODE,
            new_directory.ino,
            replace(
                new_directory,
                nlink=new_directory.nlink + subdirectories,
                mtime_ns=now,
                ctime_ns=now,
                next_cookie=new_directory.next_cookie + fresh,
                entries=new_directory.entries + came,
            ),
        )
        self._arrive(change, inode, new_directory.ino, now)

    def _exchange(
        self,
        change: Change,
        directory: Inode,
        name: bytes,
        source: Dirent,
        new_directory: Inode,
        new_name: bytes,
        target: Dirent,
        now: int,
    ) -> None:
        """Each takes the other's name and place."""
        first = self._directories.named(source, directory.ino, name)
        second = self._directories.named(target, new_directory.ino, new_name)
        first, second = self._crossings.exchanged(change, first, second, directory, new_directory)
        change.put(DIRENT, (directory.ino, name), Dirent(target.ino, source.cookie, target.kind))
        change.put(DIRENT, (new_directory.ino, new_name), Dirent(source.ino, target.cookie, source.kind))
        subdirectories = (source.kind == KIND_DIRECTORY) - (target.kind == KIND_DIRECTORY)
        if new_directory is directory:
            change.put(INODE, directory.ino, replace(directory, mtime_ns=now, ctime_ns=now))
        else:
            for inode, more in ((directory, -subdirectories), (new_directory, subdirectories)):
                change.put(
                    INODE, inode.ino, replace(inode, nlink=inode.nlink + more, mtime_ns=now, ctime_ns=now)
                )
        self._arrive(change, first, new_directory.ino, now)
        self._arrive(change, second, directory.ino, now)

    def _arrive(self, change: Change, inode: Inode, parent: int, now: int) -> None:
        if inode.is_dir:
            change.put(INODE, inode.ino, replace(inode, parent=parent, ctime_ns=now))
        else:
            self._inodes.put(change, replace(inode, ctime_ns=now))
