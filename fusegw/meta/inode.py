"""The row of an inode: what every object has in front, what only its type has behind. Sans I/O."""

import stat
import struct

import msgspec

FIRST_COOKIE = 3
"""Readdir positions below are never given out."""
_INODE = struct.Struct(">BIIIIIIQQqqq")
_DIRECTORY = struct.Struct(">QQQ")
_U64 = struct.Struct(">Q")
_INODE_ROW = 1


class Inode(msgspec.Struct, frozen=True, gc=False):
    """A file-system object. Times in ns since 1970 (signed), sizes in bytes."""

    ino: int
    generation: int
    """The epoch that created it."""
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    allocated: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    quota: int = 0
    """Number of the innermost quota it counts for (`fusegw.meta.quota`)."""
    rdev: int = 0
    """Device number of device nodes."""
    parent: int = 0
    """A directory's parent (the root is its own); 0 once unlinked, and for everything else."""
    next_cookie: int = FIRST_COOKIE
    entries: int = 0
    target: bytes = b""
    """What a symlink points at."""

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


def encode_inode(inode: Inode) -> bytes:
    """The stored form, without its number."""
    head = _INODE.pack(
        _INODE_ROW,
        inode.generation,
        inode.mode,
        inode.nlink,
        inode.uid,
        inode.gid,
        inode.quota,
        inode.size,
        inode.allocated,
        inode.atime_ns,
        inode.mtime_ns,
        inode.ctime_ns,
    )
    kind = stat.S_IFMT(inode.mode)
    if kind == stat.S_IFDIR:
        return head + _DIRECTORY.pack(inode.parent, inode.next_cookie, inode.entries)
    if kind == stat.S_IFLNK:
        return head + inode.target
    if kind in (stat.S_IFBLK, stat.S_IFCHR):
        return head + _U64.pack(inode.rdev)
    return head


def decode_inode(ino: int, row: bytes) -> Inode:
    """The inode with this number in `encode_inode`'s bytes."""
    (_, generation, mode, nlink, uid, gid, quota, size, allocated, atime, mtime, ctime) = _INODE.unpack_from(
        row
    )
    kind = stat.S_IFMT(mode)
    parent, next_cookie, entries, rdev, target = 0, FIRST_COOKIE, 0, 0, b""
    if kind == stat.S_IFDIR:
        parent, next_cookie, entries = _DIRECTORY.unpack_from(row, _INODE.size)
    elif kind == stat.S_IFLNK:
        target = row[_INODE.size :]
    elif kind in (stat.S_IFBLK, stat.S_IFCHR):
        rdev = _U64.unpack_from(row, _INODE.size)[0]
    return Inode(
        ino, generation, mode, nlink, uid, gid, size, allocated, atime, mtime, ctime,
        quota, rdev, parent, next_cookie, entries, target,
    )  # fmt: skip
