"""The row of an inode: what every object has in front, what only its type has behind. Sans I/O."""

import stat
import struct

import msgspec

FIRST_COOKIE = 3
"""Readdir positions below are never given out."""
TIME_NS_MAX = (1 << 71) - 1
TIME_NS_MIN = -(1 << 71)
"""The times a row holds, some 74,800 years each way from 1970."""
_WIDE_GENERATION, _WIDE_IDS, _LINKS, _WIDE_SIZES, _WIDE_TIMES = 1, 2, 4, 8, 16
"""Flags of a row: what does not fit into fewer bytes, or is not as usual."""
_INODE = tuple(
    struct.Struct(
        ">BH"
        + ("I" if flags & _WIDE_GENERATION else "H")
        + ("II" if flags & _WIDE_IDS else "HH")
        + ("II" if flags & _LINKS else "")
        + ("QQ" if flags & _WIDE_SIZES else "I")
        + ("bQbQbQ" if flags & _WIDE_TIMES else "Iqq")
    )
    for flags in range(32)
)
"""By flags. A wide time is one signed number of 9 bytes, its highest byte (signed) before the lower eight;
else the first one says how long before the last one it is."""
_U16_MAX, _U32_MAX = (1 << 16) - 1, (1 << 32) - 1
_I64_MIN, _I64_MAX = -(1 << 63), (1 << 63) - 1
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
    flags = 0
    if inode.generation > _U16_MAX:
        flags |= _WIDE_GENERATION
    ids: tuple[int, ...] = (inode.uid, inode.gid)
    if inode.uid > _U16_MAX or inode.gid > _U16_MAX:
        flags |= _WIDE_IDS
    if inode.nlink != 1 or inode.quota:
        flags |= _LINKS
        ids = (*ids, inode.nlink, inode.quota)
    sizes: tuple[int, ...] = (inode.size,)
    if inode.size != inode.allocated or inode.size > _U32_MAX:
        flags |= _WIDE_SIZES
        sizes = (inode.size, inode.allocated)
    atime_ns, mtime_ns, ctime_ns = inode.atime_ns, inode.mtime_ns, inode.ctime_ns
    times: tuple[int, ...] = (ctime_ns - atime_ns, mtime_ns, ctime_ns)
    if not (
        0 <= ctime_ns - atime_ns <= _U32_MAX
        and _I64_MIN <= mtime_ns <= _I64_MAX
        and _I64_MIN <= ctime_ns <= _I64_MAX
    ):
        flags |= _WIDE_TIMES
        times = (
            *(atime_ns >> 64, atime_ns & _LOW),
            *(mtime_ns >> 64, mtime_ns & _LOW),
            *(ctime_ns >> 64, ctime_ns & _LOW),
        )
    head = _INODE[flags].pack(flags, inode.mode, inode.generation, *ids, *sizes, *times)
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
    flags = row[0]
    layout = _INODE[flags]
    _, mode, generation, uid, gid, *rest = layout.unpack_from(row)
    nlink, quota, at = 1, 0, 0
    if flags & _LINKS:
        nlink, quota = rest[:2]
        at = 2
    size = allocated = rest[at]
    if flags & _WIDE_SIZES:
        at += 1
        allocated = rest[at]
    if flags & _WIDE_TIMES:
        atime_ns, mtime_ns, ctime_ns = (
            high << 64 | low for high, low in zip(rest[at + 1 :: 2], rest[at + 2 :: 2], strict=True)
        )
    else:
        before, mtime_ns, ctime_ns = rest[at + 1 :]
        atime_ns = ctime_ns - before
    kind = stat.S_IFMT(mode)
    parent, next_cookie, entries, rdev, target = 0, FIRST_COOKIE, 0, 0, b""
    if kind == stat.S_IFDIR:
        parent, next_cookie, entries = _DIRECTORY.unpack_from(row, layout.size)
    elif kind == stat.S_IFLNK:
        target = row[layout.size :]
    elif kind in (stat.S_IFBLK, stat.S_IFCHR):
        rdev = _U64.unpack_from(row, layout.size)[0]
    return Inode(
        ino, generation, mode, nlink, uid, gid, size, allocated,
        atime_ns, mtime_ns, ctime_ns, quota, rdev, parent, next_cookie, entries, target,
    )  # fmt: skip
