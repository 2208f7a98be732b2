"""The names of a volume: what they stand for, how they come, move and go, and in which order they are listed.

Every operation is synchronous: it reads, validates, and only then puts its rows and merges them as one
change, so it happens whole or not at all and nothing else runs in between. Failures are OSErrors with the
errno Linux's ext4 gives. Permission to do it was checked before; what the caller's identity still decides
is who owns a new object and whether it keeps set-group-id.

A directory's entries are listed by *cookie*. A new entry gets the directory's next one, so listing goes on
behind any cookie whatever happened in the meantime: entries that stay are seen exactly once. An entry that
is replaced (rename over it, exchange) hands its cookie on to what takes its name.
"""

import errno
import stat
from collections.abc import Callable

from msgspec.structs import replace

from fusegw.clock import Clock
from fusegw.meta.codec import encode_u64
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import (
    DIRENT,
    INODE,
    INODE_MAX,
    POSITION,
    REAP,
    STATE,
    STATE_NEXT_INODE,
    XATTR,
    Dirent,
    Inode,
)
from fusegw.vfs import acl
from fusegw.vfs.caller import Caller
from fusegw.vfs.crossing import Crossings
from fusegw.vfs.directories import (
    DIRECTORY_SIZE,
    DOT,
    DOTS,
    KIND_DIRECTORY,
    LINKS_MAX,
    SUBDIRECTORIES_MAX,
    drop_link,
)
from fusegw.vfs.inodes import Inodes
from fusegw.vfs.names import Names
from fusegw.vfs.renames import Renames

TARGET_MAX = 4095
"""Longest symlink target, in bytes."""
_NODE_KINDS = frozenset((stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK))
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_SETGID_EXEC = stat.S_ISGID | stat.S_IXGRP
_KIND_SHIFT = 12


class Namespace(Names):
    """The directory tree of one volume, written in `epoch`. Loop thread only."""

    def __init__(
        self,
        metadata: Metadata,
        inodes: Inodes,
        *,
        epoch: int,
        clock: Clock,
        unlinked: Callable[[int], None],
    ) -> None:
        """`unlinked(ino)` is called after the merge of a change in which an inode lost its last name; that
        change holds the inode's reap row, and freeing it is up to the callee.
        """
        super().__init__(metadata, inodes)
        self._metadata = metadata
        self._inodes = inodes
        self._crossings = Crossings(inodes)
        self._renames = Renames(metadata, inodes, self._directories, self._crossings)
        self._epoch = epoch
        self._clock = clock
        self._unlinked = unlinked
        self.reload()

    def reload(self) -> None:
        """The index was changed from outside: take over what it says."""
        self._next_inode = self._metadata.number(STATE_NEXT_INODE)

    # making

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Inode:
        """A new file, fifo, socket or device; OSError EEXIST, EPERM, EINVAL, ENOSPC, EDQUOT and those of
        names.
        """
        kind = stat.S_IFMT(mode)
        if kind not in _NODE_KINDS:
            if kind == stat.S_IFDIR:
                raise OSError(errno.EPERM, "directories are made by mkdir")
            if kind:
                raise OSError(errno.EINVAL, f"cannot make a node of type {kind:#o}")
            kind = stat.S_IFREG
        directory = self._directories.vacancy(parent, name)
        if kind not in _DEVICES:
            rdev = 0
        return self._create(directory, name, kind | mode & 0o7777, caller, rdev=rdev)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Inode:
        """A new directory; OSError EEXIST, EMLINK, ENOSPC, EDQUOT and those of names."""
        directory = self._directories.vacancy(parent, name)
        if directory.nlink >= SUBDIRECTORIES_MAX:
            raise OSError(errno.EMLINK, f"directory {parent} has too many subdirectories")
        return self._create(directory, name, stat.S_IFDIR | mode & 0o1777, caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Inode:
        """A new symlink; OSError EEXIST, ENAMETOOLONG, ENOENT (empty target), ENOSPC, EDQUOT and those of
        names.
        """
        if not 0 < len(target) <= TARGET_MAX:
            code = errno.ENAMETOOLONG if target else errno.ENOENT
            raise OSError(code, f"symlink target of {len(target)} bytes, 1 to {TARGET_MAX} are allowed")
        directory = self._directories.vacancy(parent, name)
        return self._create(directory, name, stat.S_IFLNK | 0o777, caller, target=target)

    def link(self, ino: int, parent: int, name: bytes) -> Inode:
        """One more name of a file; OSError EEXIST, EPERM (directory), ENOENT (no name left), EMLINK, EXDEV
        (another quota).
        """
        inode = self._inode(ino)
        directory = self._directories.vacancy(parent, name)
        if inode.is_dir:
            raise OSError(errno.EPERM, f"inode {ino} is a directory")
        if not inode.nlink:
            raise OSError(errno.ENOENT, f"inode {ino} has no name any more")
        if inode.nlink >= LINKS_MAX:
            raise OSError(errno.EMLINK, f"inode {ino} has {LINKS_MAX} names already")
        now = self._clock.time_ns()
        change = self._metadata.change()
        if self._crossings.linked(change, inode, directory):
            inode = replace(inode, quota=directory.quota)
        inode = replace(inode, nlink=inode.nlink + 1, ctime_ns=now)
        self._inodes.put(change, inode)
        self._enter(change, directory, name, inode, now)
        change.merge()
        return inode

    def _create(
        self,
        directory: Inode,
        name: bytes,
        mode: int,
        caller: Caller,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Inode:
        self._inodes.usage.refuse_files(directory.quota)
        now = self._clock.time_ns()
        change = self._metadata.change()
        ino = self.take_number(change)
        is_dir = stat.S_ISDIR(mode)
        gid = caller.gid
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            if is_dir:
                mode |= stat.S_ISGID
            elif mode & _SETGID_EXEC == _SETGID_EXEC and not caller.keeps_setgid(gid):
                mode &= ~stat.S_ISGID
        default = self._get(XATTR, (directory.ino, acl.DEFAULT_ACL))
        if default is not None and not target:
            mode = _inherit(change, default, ino, mode)
        inode = Inode(
            ino, self._epoch, mode, 2 if is_dir else 1, caller.uid, gid,
            DIRECTORY_SIZE if is_dir else len(target), 0, now, now, now,
            quota=directory.quota, rdev=rdev, parent=directory.ino if is_dir else 0, target=target,
        )  # fmt: skip
        self._inodes.create(change, inode)
        self._enter(change, directory, name, inode, now)
        change.merge()
        return inode

    def take_number(self, change: Change) -> int:
        """The number of a new inode; OSError ENOSPC."""
        ino = self._next_inode
        if ino > INODE_MAX:
            raise OSError(errno.ENOSPC, "inode numbers are used up")
        self._next_inode = ino + 1
        change.put(STATE, STATE_NEXT_INODE, encode_u64(ino + 1))
        return ino

    def check_place(self, parent: int, name: bytes, *, over: bool) -> Inode:
        """The directory that something may be attached in; OSError as `attach`."""
        if over and name not in DOTS and self._get(DIRENT, (parent, name)) is not None:
            return self._directories.directory(parent)
        return self._directories.vacancy(parent, name)

    def attach(self, ino: int, subdirectories: int, parent: int, name: bytes, *, over: bool) -> None:
        """Give a whole tree that was made out of sight its name; its root has no link yet and its row in the
        reap table, and that many directories in it. `over`: what has the name goes, with all below it.

        OSError EEXIST, ENOTDIR, ENOENT, ESTALE, EMLINK, EBUSY (its quota is not the directory's any more),
        and those of names.
        """
        directory = self.check_place(parent, name, over=over)
        root = self._inode(ino)
        if root.quota != directory.quota:
            raise OSError(errno.EBUSY, f"the quota of directory {parent} was changed meanwhile, try again")
        now = self._clock.time_ns()
        change = self._metadata.change()
        gone = 0
        entry = self._get(DIRENT, (parent, name))
        if entry is not None:
            replaced = self._directories.named(entry, parent, name)
            if drop_link(change, self._inodes, replaced, now):
                gone = replaced.ino
        nlink = 2 + subdirectories if root.is_dir else 1
        named = replace(root, nlink=nlink, parent=parent if root.is_dir else 0, ctime_ns=now)
        change.put(INODE, ino, named)
        self._inodes.usage.moved(change, root, named)
        change.delete(REAP, ino)
        if entry is None:
            self._enter(change, directory, name, named, now)
        else:
            kind = named.mode >> _KIND_SHIFT
            change.put(DIRENT, (parent, name), Dirent(ino, entry.cookie, kind))
            nlink = directory.nlink + (kind == KIND_DIRECTORY) - (entry.kind == KIND_DIRECTORY)
            change.put(INODE, parent, replace(directory, nlink=nlink, mtime_ns=now, ctime_ns=now))
        self._finish(change, gone)

    def _enter(self, change: Change, directory: Inode, name: bytes, inode: Inode, now: int) -> None:
        cookie = directory.next_cookie
        kind = inode.mode >> _KIND_SHIFT
        change.put(DIRENT, (directory.ino, name), Dirent(inode.ino, cookie, kind))
        change.put(POSITION, (directory.ino, cookie), name)
        change.put(
            INODE,
            directory.ino,
            replace(
                directory,
                nlink=directory.nlink + (kind == KIND_DIRECTORY),
                mtime_ns=now,
                ctime_ns=now,
                next_cookie=cookie + 1,
                entries=directory.entries + 1,
            ),
        )

    # removing

    def unlink(self, parent: int, name: bytes) -> None:
        """Take a name away from what is no directory; OSError ENOENT, EISDIR and those of names."""
        if name in DOTS:
            self._directories.directory(parent)
            raise OSError(errno.EISDIR, "a directory's own names stay")
        entry = self._directories.entry(parent, name)
        if entry.kind == KIND_DIRECTORY:
            raise OSError(errno.EISDIR, f"{name!r} is a directory")
        self._remove(parent, name, entry)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory; OSError ENOENT, ENOTDIR, ENOTEMPTY, EINVAL (".") and those of names."""
        if name in DOTS:
            self._directories.directory(parent)
            raise OSError(errno.EINVAL if name == DOT else errno.ENOTEMPTY, "a directory's own names stay")
        entry = self._directories.entry(parent, name)
        if entry.kind != KIND_DIRECTORY:
            raise OSError(errno.ENOTDIR, f"{name!r} is no directory")
        if self._directories.directory(entry.ino).entries:
            raise OSError(errno.ENOTEMPTY, f"directory {name!r} is not empty")
        self._remove(parent, name, entry)

    def _remove(self, parent: int, name: bytes, entry: Dirent) -> None:
        inode = self._directories.named(entry, parent, name)
        directory = self._directories.directory(parent)
        now = self._clock.time_ns()
        change = self._metadata.change()
        change.delete(DIRENT, (parent, name))
        change.delete(POSITION, (parent, entry.cookie))
        change.put(
            INODE,
            parent,
            replace(
                directory,
                nlink=directory.nlink - (entry.kind == KIND_DIRECTORY),
                mtime_ns=now,
                ctime_ns=now,
                entries=directory.entries - 1,
            ),
        )
        gone = drop_link(change, self._inodes, inode, now)
        self._finish(change, inode.ino if gone else 0)

    # moving

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """Move a name, over what has the new one; RENAME_NOREPLACE and RENAME_EXCHANGE as in renameat2.

        OSError ENOENT, EEXIST, ENOTEMPTY, EISDIR, ENOTDIR, EINVAL (into itself, other flags), EBUSY (".",
        ".."), EXDEV and EDQUOT (another quota, see `Crossings`).
        """
        change = self._metadata.change()
        gone = self._renames.rename(change, parent, name, new_parent, new_name, flags, self._clock.time_ns())
        self._finish(change, gone)

    # inside

    def _finish(self, change: Change, gone: int) -> None:
        change.merge()
        if gone:
            self._unlinked(gone)


def _inherit(change: Change, default: bytes, ino: int, mode: int) -> int:
    """Give the new inode what its directory's default ACL says; returns the mode that goes with it."""
    if stat.S_ISDIR(mode):
        change.put(XATTR, (ino, acl.DEFAULT_ACL), default)
    entries = acl.parse(default)
    if entries is None:
        return mode
    access, mode = acl.inherit(entries, mode)
    if not acl.is_minimal(access):
        change.put(XATTR, (ino, acl.ACCESS_ACL), acl.encode(access))
    return mode
