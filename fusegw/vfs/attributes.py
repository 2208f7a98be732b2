"""Mode, owner and times of an inode, and what changing one does to the others.

As on Linux: changing the owner of anything but a directory clears set-user-id, set-group-id (where the
group may execute) and its capabilities; set-group-id is kept only for callers in the group; the access ACL
follows the mode.
"""

import errno
import stat

from msgspec.structs import replace

from fusegw.clock import Clock
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import TIME_NS_MAX, TIME_NS_MIN, XATTR, Inode
from fusegw.vfs import acl
from fusegw.vfs.caller import Caller
from fusegw.vfs.inodes import Inodes

CAPABILITY = b"security.capability"


class Attributes:
    """The attributes of one volume's inodes. Loop thread only."""

    def __init__(self, metadata: Metadata, inodes: Inodes, *, clock: Clock) -> None:
        self._metadata = metadata
        self._inodes = inodes
        self._clock = clock

    def setattr(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        caller: Caller | None = None,
    ) -> Inode:
        """Change what is given and return the inode; its ctime becomes now unless given.

        Times in ns since 1970; one beyond what a row holds becomes the nearest that it does. No caller means
        the gateway itself, which is privileged. OSError ESTALE, EOPNOTSUPP (mode of a symlink).
        """
        inode = self._inodes.get(ino)
        if inode is None:
            raise OSError(errno.ESTALE, f"inode {ino} is gone")
        change = self._metadata.change()
        new_mode = inode.mode
        if mode is not None:
            if stat.S_ISLNK(new_mode):
                raise OSError(errno.EOPNOTSUPP, f"inode {ino} is a symlink, it has no mode of its own")
            new_mode = stat.S_IFMT(new_mode) | mode & 0o7777
            if new_mode & stat.S_ISGID and caller is not None:
                group = inode.gid if gid is None else gid
                if not caller.keeps_setgid(group):
                    new_mode &= ~stat.S_ISGID
            self._follow(change, ino, new_mode)
        if uid is not None or gid is not None:
            new_mode = self._disarm(change, inode, new_mode, caller)
        inode = replace(
            inode,
            mode=new_mode,
            uid=inode.uid if uid is None else uid,
            gid=inode.gid if gid is None else gid,
            atime_ns=inode.atime_ns if atime_ns is None else _stored(atime_ns),
            mtime_ns=inode.mtime_ns if mtime_ns is None else _stored(mtime_ns),
            ctime_ns=self._clock.time_ns() if ctime_ns is None else _stored(ctime_ns),
        )
        self._inodes.put(change, inode)
        change.merge()
        return inode

    def _follow(self, change: Change, ino: int, mode: int) -> None:
        """Keep the access ACL in step with a new mode."""
        value = self._metadata.get(XATTR, (ino, acl.ACCESS_ACL))
        if value is not None:
            entries = acl.parse(value)
            if entries is not None:
                change.put(XATTR, (ino, acl.ACCESS_ACL), acl.encode(acl.with_mode(entries, mode)))

    def _disarm(self, change: Change, inode: Inode, mode: int, caller: Caller | None) -> int:
        """Take the privileges away that came with the old owner; returns the mode that is left."""
        if inode.is_dir:
            return mode
        if self._metadata.get(XATTR, (inode.ino, CAPABILITY)) is not None:
            change.delete(XATTR, (inode.ino, CAPABILITY))
        mode &= ~stat.S_ISUID
        if mode & stat.S_ISGID and (
            mode & stat.S_IXGRP or (caller is not None and not caller.keeps_setgid(inode.gid))
        ):
            mode &= ~stat.S_ISGID
        return mode


def _stored(time_ns: int) -> int:
    return max(TIME_NS_MIN, min(time_ns, TIME_NS_MAX))
