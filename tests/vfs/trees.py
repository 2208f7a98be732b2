"""A namespace on an index of its own, driven like the reference; the clock is the test's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import INODE, ROOT_INODE, XATTR, Inode
from fusegw.vfs.attributes import Attributes
from fusegw.vfs.caller import Caller
from fusegw.vfs.fresh import create_volume_root
from fusegw.vfs.inodes import Inodes
from fusegw.vfs.namespace import Namespace
from fusegw.vfs.usage import Usage
from fusegw.vfs.xattrs import Xattrs

ROOT = ROOT_INODE
ADMIN = Caller(0, 0)
USER = Caller(1000, 100, 0, (200,))
START = 10**18


class SettableClock:
    """Time is what the test says, in ns."""

    def __init__(self) -> None:
        self.now = START

    def time_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1e9


class Tree:
    """Namespace, attributes and xattrs of an index in `directory`: the parts, and the reference's methods."""

    def __init__(self, directory: Path) -> None:
        self.clock = SettableClock()
        self.directory = directory
        self.unlinked: list[int] = []
        """Inodes reported to have lost their last name."""
        self._open(1)

    def _open(self, epoch: int) -> None:
        self.epoch = epoch
        self.metadata = Metadata(self.directory, size_max_bytes=1 << 30, reserve_bytes=4096)
        if self.metadata.get(INODE, ROOT) is None:
            with self.metadata.change() as change:
                create_volume_root(
                    change, volume_id=b"v" * 16, epoch=epoch, clock=self.clock, uid=0, gid=0, mode=0o755
                )
        self.usage = Usage(self.metadata)
        self.inodes = Inodes(self.metadata, self.usage)
        self.namespace = Namespace(
            self.metadata, self.inodes, epoch=epoch, clock=self.clock, unlinked=self.unlinked.append
        )
        self.attributes = Attributes(self.metadata, self.inodes, clock=self.clock)
        self.xattrs = Xattrs(self.metadata, self.inodes, clock=self.clock, standing=self.metadata.standing)

    def commit(self) -> None:
        """Everything merged so far is in LMDB."""
        if self.metadata.freeze():
            self.metadata.save()
            self.metadata.saved()

    def reopen(self) -> None:
        """Go on in the next epoch with what was committed."""
        self.metadata.close()
        self._open(self.epoch + 1)

    # what the reference has, with its names and results

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """mknod, mkdir, symlink, link, lookup, unlink, rmdir, rename, readlink."""
        method = getattr(self.namespace, name)

        def call(**arguments: Any) -> Any:
            if "who" in arguments:
                arguments["caller"] = arguments.pop("who")
            result = method(**arguments)
            return result.ino if isinstance(result, Inode) else result

        return call

    def readdir(self, ino: int) -> list[tuple[bytes, int]]:
        return [(name, inode.ino) for name, _, inode in self.namespace.readdir(ino, 0)]

    def stat(self, ino: int) -> Inode:
        inode = self.inodes.get(ino)
        assert inode is not None
        return inode

    def setattr(self, ino: int, *, who: Caller = ADMIN, **changes: int) -> None:
        self.attributes.setattr(ino, caller=who, **changes)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        return self.xattrs.get(ino, name)

    def listxattr(self, ino: int) -> list[bytes]:
        return self.xattrs.list(ino)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0, who: Caller = ADMIN) -> None:
        self.xattrs.set(ino, name, value, flags, who)

    def removexattr(self, ino: int, name: bytes) -> None:
        self.xattrs.remove(ino, name)

    def reap(self, ino: int) -> None:
        """Drop an unlinked inode's rows, as the reaper would."""
        with self.metadata.change() as change:
            for key, _ in list(change.scan(XATTR, (ino, b""), (ino + 1, b""))):
                change.delete(XATTR, key)
            self.inodes.delete(change, ino)


@contextmanager
def failing(code: int) -> Iterator[None]:
    """Expects an OSError of this errno."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == code


@contextmanager
def new_tree() -> Iterator[Tree]:
    """A tree in a directory that goes with it, for tests that make many."""
    with TemporaryDirectory() as directory:
        tree = Tree(Path(directory))
        try:
            yield tree
        finally:
            tree.metadata.close()
