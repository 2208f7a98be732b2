"""A tree of files written below a directory of our own: names, data, metadata, holes, links.

Everything goes through descriptors of directories, and no symbolic link is ever followed, so names from an
index lead nowhere but below the root. A regular file is written beside the tree and moved to its name when
it is whole. Directories get their owner, mode and times at the end, when nothing is put into them any more.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fusegw.errors import Corrupt, Denied, Full, FusegwError
from fusegw.meta.schema import Inode

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Parts = tuple[bytes, ...]
"""The components of a path below the root."""


class Looks(msgspec.Struct, frozen=True):
    """What an inode is besides its name and data."""

    inode: Inode
    xattrs: dict[bytes, bytes]


class Tree:
    """Writes below `root`, which must not exist. Owners are kept when this is the superuser.

    The methods return what could not be kept, in words; errors of the disk come through `disk_errors`.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700)
        self._root = os.open(root, _DIRECTORY)
        self._directories: dict[Parts, Looks | None] = {(): None}
        self._privileged = os.geteuid() == 0

    def close(self) -> None:
        os.close(self._root)

    def lacks(self, parts: Parts) -> bool:
        """Whether `directory` was not called for it."""
        return self._directories.get(parts) is None

    def directory(self, parts: Parts, looks: Looks) -> None:
        """A directory, made now; it looks so after `finish`."""
        with self._inside(parts):
            self._directories[parts] = looks

    def file(self, parts: Parts, looks: Looks, spool: Path) -> list[str]:
        """Move the finished file `spool`, of the same file system, to its name."""
        descriptor = os.open(spool, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            problems = self._dress(descriptor, looks)
        finally:
            os.close(descriptor)
        _check(parts[-1])
        with self._inside(parts[:-1]) as directory:
            os.rename(os.fsencode(spool), parts[-1], dst_dir_fd=directory)
        return problems

    def link(self, parts: Parts, to: Parts) -> None:
        """Another name of what was written as `to`."""
        _check(parts[-1])
        with self._inside(to[:-1]) as source, self._inside(parts[:-1]) as directory:
            os.link(to[-1], parts[-1], src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)

    def special(self, parts: Parts, looks: Looks) -> list[str]:
        """A symbolic link, FIFO, socket or device node."""
        inode, name = looks.inode, parts[-1]
        _check(name)
        with self._inside(parts[:-1]) as directory:
            if stat.S_ISLNK(inode.mode):
                os.symlink(inode.target, name, dir_fd=directory)
            else:
                os.mknod(name, stat.S_IFMT(inode.mode) | 0o600, inode.rdev, dir_fd=directory)
            if self._privileged:
                os.chown(name, inode.uid, inode.gid, dir_fd=directory, follow_symlinks=False)
            problems = _set_xattrs(b"/proc/self/fd/%d/%s" % (directory, name), looks.xattrs)
            if not stat.S_ISLNK(inode.mode):
                os.chmod(name, stat.S_IMODE(inode.mode), dir_fd=directory)
            times = (inode.atime_ns, inode.mtime_ns)
            os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
        return problems

    def finish(self) -> list[str]:
        """Give all directories their looks, the deepest first."""
        problems = []
        for parts in sorted(self._directories, key=len, reverse=True):
            looks = self._directories[parts]
            if looks is not None:
                with self._inside(parts) as directory:
                    problems += self._dress(directory, looks)
        return problems

    @contextmanager
    def _inside(self, parts: Parts) -> Iterator[int]:
        """The descriptor of a directory; those on the way are made if they are not there."""
        descriptor = os.dup(self._root)
        try:
            for depth, name in enumerate(parts, start=1):
                _check(name)
                try:
                    os.mkdir(name, 0o700, dir_fd=descriptor)
                    self._directories.setdefault(parts[:depth], None)
                except FileExistsError:
                    pass
                below = os.open(name, _DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    def _dress(self, descriptor: int, looks: Looks) -> list[str]:
        inode = looks.inode
        if self._privileged:
            os.fchown(descriptor, inode.uid, inode.gid)
        problems = _set_xattrs(descriptor, looks.xattrs)
        os.fchmod(descriptor, stat.S_IMODE(inode.mode))
        os.utime(descriptor, ns=(inode.atime_ns, inode.mtime_ns))
        return problems


class Out:
    """Where one source is written to."""

    def __init__(self, directory: Path, source: str) -> None:
        self._top = directory / source
        self._trees: dict[bool, Tree] = {}
        self.spool = directory / ".fusegw-salvage.partial"
        self.tree(whole=True)

    def path(self, *, whole: bool) -> str | None:
        """Of the tree, None while nothing is in it."""
        return str(self._root(whole=whole)) if whole in self._trees else None

    def tree(self, *, whole: bool) -> Tree:
        """The tree of whole files, or the other one; made when it is first needed."""
        if whole not in self._trees:
            self._trees[whole] = Tree(self._root(whole=whole))
        return self._trees[whole]

    def new_spool(self) -> int:
        """A descriptor of the empty spool file."""
        self.spool.unlink(missing_ok=True)
        return os.open(self.spool, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def finish(self) -> list[str]:
        """Returns what could not be kept of directories."""
        return [problem for tree in self._trees.values() for problem in tree.finish()]

    def close(self) -> None:
        self.spool.unlink(missing_ok=True)
        for tree in self._trees.values():
            tree.close()

    def _root(self, *, whole: bool) -> Path:
        return self._top if whole else self._top.with_name(self._top.name + ".incomplete")


@contextmanager
def disk_errors(what: Path) -> Iterator[None]:
    """Turns the disk's refusals while `what` is written into Full, Denied or FusegwError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Full(f"{what}: no room left; free space, or salvage to another disk") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Denied(f"{what} cannot be written to: {error.strerror}") from None
        raise FusegwError(f"writing to {what} failed: {error}") from None


def _set_xattrs(target: int | bytes, xattrs: dict[bytes, bytes]) -> list[str]:
    problems = []
    for name, value in xattrs.items():
        try:
            os.setxattr(target, name, value, follow_symlinks=not isinstance(target, bytes))
        except OSError as error:
            word = name.decode("utf-8", "backslashreplace")
            problems.append(f"extended attribute {word} was not kept: {error.strerror}")
    return problems


def _check(name: bytes) -> None:
    if name in (b"", b".", b"..") or b"/" in name or b"\x00" in name:
        raise Corrupt(f"{name!r} is no name of a file: the index is damaged; restore it from a copy")
