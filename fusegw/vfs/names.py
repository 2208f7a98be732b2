"""The names of a volume as it is, or as a snapshot sees it: finding and listing, nothing that changes."""

import errno
import stat
from collections.abc import Iterator

from fusegw.errors import Corrupt
from fusegw.meta.past import Readable
from fusegw.meta.schema import COOKIE_MAX, DIRENT, POSITION, Inode
from fusegw.vfs.directories import DOT, DOTDOT, NAME_MAX, Directories, InodeSource, dangling, no_such


class Names:
    """The directory tree in `rows`, whose inodes `inodes` has. Loop thread only."""

    def __init__(self, rows: Readable, inodes: InodeSource) -> None:
        self._rows = rows
        self._get = rows.get
        self._find = inodes.get
        self._directories = Directories(rows, inodes)

    def lookup(self, parent: int, name: bytes) -> Inode | None:
        """What `name` stands for in `parent`, None when nothing.

        "." of any inode and ".." of a directory are how the kernel finds what it has forgotten; an inode
        without a name stays lost. OSError ENOTDIR, ENAMETOOLONG, ESTALE (`parent` is gone).
        """
        entry = self._get(DIRENT, (parent, name)) if len(name) <= NAME_MAX else None
        if entry is not None:
            inode = self._find(entry.ino)
            if inode is None:
                raise dangling(parent, name, entry.ino)
            return inode
        if name == DOT:
            inode = self._find(parent)
            if inode is None or not inode.nlink:
                raise OSError(errno.ESTALE, f"inode {parent} is gone")
            return inode
        directory = self._directories.directory(parent)
        if name == DOTDOT:
            return self._directories.directory(directory.parent)
        if len(name) > NAME_MAX and directory.nlink:
            raise no_such(directory, name)
        return None

    def readlink(self, ino: int) -> bytes:
        """A symlink's target; OSError EINVAL for anything else, ESTALE."""
        inode = self._inode(ino)
        if not stat.S_ISLNK(inode.mode):
            raise OSError(errno.EINVAL, f"inode {ino} is no symlink")
        return inode.target

    def readdir(self, ino: int, cookie: int) -> Iterator[tuple[bytes, int, Inode]]:
        """Entries behind `cookie` (0: all) as (name, its cookie, inode), without "." and "..".

        Consume it before the event loop runs anything else. OSError ENOTDIR, ESTALE.
        """
        self._directories.directory(ino)
        return self._entries(ino, cookie)

    # inside

    def _inode(self, ino: int) -> Inode:
        inode = self._find(ino)
        if inode is None:
            raise OSError(errno.ESTALE, f"inode {ino} is gone")
        return inode

    def _entries(self, ino: int, cookie: int) -> Iterator[tuple[bytes, int, Inode]]:
        if cookie > COOKIE_MAX:
            return
        find, get = self._find, self._get
        for (_, position), name in self._rows.scan(POSITION, (ino, cookie + 1), (ino + 1, 0)):
            entry = get(DIRENT, (ino, name))
            if entry is None:
                raise Corrupt(f"metadata is damaged: directory {ino} lists {name!r} and has no such entry")
            inode = find(entry.ino)
            if inode is None:
                raise dangling(ino, name, entry.ino)
            yield name, position, inode
