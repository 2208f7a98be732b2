"""The row of an inode: what every object has in front, what only its type has behind. Sans I/O."""

import stat
import struct

import msgspec

FIRST_COOKIE = 3
"""Readdir positions below are never given out."""
TIME_NS_MAX = (1 << 71) - 1
TIME_NS_MIN = -(1 << 71)
"""The times a row holds, some 74,800 years each way from 1970."""
_INODE = struct.Struct(">IHIIIIQQbQbQbQ")
"""A time is one signed number of 9 bytes, its highest byte (signed) before the lower eight."""
_DIRECTORY = struct.Struct(">QQQ")
_U64 = struct.Struct(">Q")
_LOW = (1 << 64) - 1


class Inode(msgspec.Struct, frozen=True, gc=False):
    """A file-system object. Times in ns since 1970, TIME_NS_MIN to TIME_NS_MAX; sizes in bytes."""

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
    atime_ns, mtime_ns, ctime_ns = inode.atime_ns, inode.mtime_ns, inode.ctime_ns
    head = _INODE.pack(
        inode.generation,
        inode.mode,
        inode.nlink,
        inode.uid,
        inode.gid,
        inode.quota,
        inode.size,
        inode.allocated,
        atime_ns >> 64,
        atime_ns & _LOW,
        mtime_ns >> 64,
        mtime_ns & _LOW,
        ctime_ns >> 64,
        ctime_ns & _LOW,
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
    (
        generation, mode, nlink, uid, gid, quota, size, allocated,
        atime_high, atime_low, mtime_high, mtime_low, ctime_high, ctime_low,
    ) = _INODE.unpack_from(row)  # fmt: skip
    kind = stat.S_IFMT(mode)
    parent, next_cookie, entries, rdev, target = 0, FIRST_COOKIE, 0, 0, b""
    if kind == stat.S_IFDIR:
        parent, next_cookie, entries = _DIRECTORY.unpack_from(row, _INODE.size)
    elif kind == stat.S_IFLNK:
        target = row[_INODE.size :]
    elif kind in (stat.S_IFBLK, stat.S_IFCHR):
        rdev = _U64.unpack_from(row, _INODE.size)[0]
    return Inode(
        ino, generation, mode, nlink, uid, gid, size, allocated,
        atime_high << 64 | atime_low, mtime_high << 64 | mtime_low, ctime_high << 64 | ctime_low,
        quota, rdev, parent, next_cookie, entries, target,
    )  # fmt: skip
