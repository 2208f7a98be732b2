"""A file system in memory on pyfuse3's own loop: `memoryfs MOUNTPOINT`, until it is unmounted or killed.

It has what cp, rsync and rm ask for, and nothing is kept. Names and attributes are valid for as long as
fusegw's are, so the kernel asks for the same.
"""

import errno
import os
import stat
import sys
import time
from collections.abc import Sequence

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields

VALID_S = 86_400.0
BLOCK_BYTES = 512


class Node:
    """A file, a directory or a symbolic link."""

    def __init__(self, number: int, mode: int, context: RequestContext | None = None) -> None:
        self.children: dict[bytes, Node] = {}
        self.data = bytearray()
        now = time.time_ns()
        self.attributes = EntryAttributes()
        self.attributes.st_ino = number
        self.attributes.st_mode = mode
        self.attributes.st_nlink = 2 if stat.S_ISDIR(mode) else 1
        self.attributes.st_uid = context.uid if context else 0
        self.attributes.st_gid = context.gid if context else 0
        self.attributes.st_atime_ns = self.attributes.st_mtime_ns = self.attributes.st_ctime_ns = now
        self.attributes.entry_timeout = self.attributes.attr_timeout = VALID_S

    def resized(self) -> None:
        self.attributes.st_size = len(self.data)
        self.attributes.st_blocks = -(-len(self.data) // BLOCK_BYTES)
        self.attributes.st_mtime_ns = self.attributes.st_ctime_ns = time.time_ns()


class MemoryFs(pyfuse3.Operations):
    """Handles are the numbers of inodes."""

    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self._nodes = {pyfuse3.ROOT_INODE: Node(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o755)}
        self._newest: int = pyfuse3.ROOT_INODE
        self._absent = EntryAttributes()
        self._absent.st_ino, self._absent.entry_timeout = 0, VALID_S
        self._listed: dict[int, list[tuple[bytes, Node]]] = {}

    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        node = self._nodes[parent].children.get(name)
        return self._absent if node is None else node.attributes

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._nodes[inode].attributes

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._nodes[inode]
        if fields.update_size:
            del node.data[attr.st_size :]
            node.data.extend(bytes(attr.st_size - len(node.data)))
            node.resized()
        for wanted, name in (
            (fields.update_uid, "st_uid"),
            (fields.update_gid, "st_gid"),
            (fields.update_atime, "st_atime_ns"),
            (fields.update_mtime, "st_mtime_ns"),
        ):
            if wanted:
                setattr(node.attributes, name, getattr(attr, name))
        if fields.update_mode:
            node.attributes.st_mode = stat.S_IFMT(node.attributes.st_mode) | stat.S_IMODE(attr.st_mode)
        node.attributes.st_ctime_ns = time.time_ns()
        return node.attributes

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._made(parent, name, stat.S_IFDIR | mode, ctx).attributes

    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        node = self._made(parent, name, stat.S_IFLNK | 0o777, ctx)
        node.data[:] = target
        node.resized()
        return node.attributes

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return bytes(self._nodes[inode].data)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self._made(parent, name, mode, ctx)
        return FileInfo(fh=node.attributes.st_ino), node.attributes

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return bytes(self._nodes[fh].data[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        node = self._nodes[fh]
        node.data.extend(bytes(max(0, off - len(node.data))))
        node.data[off : off + len(buf)] = buf
        node.resized()
        return len(buf)

    async def rename(
        self,
        parent_old: int,
        name_old: bytes,
        parent_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        if flags:
            raise FUSEError(errno.EINVAL)
        node = self._child(parent_old, name_old)
        del self._nodes[parent_old].children[name_old]
        self._nodes[parent_new].children[name_new] = node

    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        """Nobody has it open here."""
        self._child(parent, name).data.clear()
        del self._nodes[parent].children[name]

    async def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        if self._child(parent, name).children:
            raise FUSEError(errno.ENOTEMPTY)
        del self._nodes[parent].children[name]

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if start_id == 0:
            self._listed[fh] = list(self._nodes[fh].children.items())
        for place, (name, node) in enumerate(self._listed[fh][start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, name, node.attributes, place):
                return

    async def releasedir(self, fh: int) -> None:
        self._listed.pop(fh, None)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Numbers are not given back: the process does not live long."""

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        pass

    async def fsync(self, fh: int, datasync: bool) -> None:
        pass

    def _child(self, parent: int, name: bytes) -> Node:
        try:
            return self._nodes[parent].children[name]
        except KeyError:
            raise FUSEError(errno.ENOENT) from None

    def _made(self, parent: int, name: bytes, mode: int, context: RequestContext) -> Node:
        children = self._nodes[parent].children
        if name in children:
            raise FUSEError(errno.EEXIST)
        self._newest += 1
        node = children[name] = self._nodes[self._newest] = Node(self._newest, mode, context)
        return node


def serve(mountpoint: str) -> None:
    pyfuse3.init(MemoryFs(), mountpoint, {"default_permissions", "fsname=memory"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    os.umask(0)
    serve(sys.argv[1])
