"""The rows that a volume has most of beside inodes: entries of directories, extents and chunks. Sans I/O.

A million small files have a million of each, so what is usual takes few bytes, and a flag or the row's length
says what is not.
"""

import struct

import msgspec

from fusegw.meta.codec import INODE_SIZE, decode_u40, encode_u40

HOLE = 0
"""`Extent.chunk` of a range that was never written."""
EPOCH_SHIFT = 40
_N_MASK = (1 << EPOCH_SHIFT) - 1
_U16_MAX, _U32_MAX = (1 << 16) - 1, (1 << 32) - 1
_KIND_BITS, _KIND_MASK = 4, 15
_EXTENT = struct.Struct(">QI")
_EXTENT_WIDE = struct.Struct(">QQI")
_WIDE_PACK, _WIDE_RECORD, _COUNT = 1, 2, 4
"""Flags of a chunk's row: what does not fit into fewer bytes, or is not as usual."""
_CHUNK = tuple(
    struct.Struct(
        ">BB32sIII"
        + ("Q" if flags & _WIDE_PACK else "HI")
        + ("I" if flags & _WIDE_RECORD else "H")
        + ("I" if flags & _COUNT else "")
    )
    for flags in range(8)
)


def numbered(epoch: int, n: int) -> int:
    """The `n`th chunk or pack number of an epoch."""
    return (epoch << EPOCH_SHIFT) | n


class Dirent(msgspec.Struct, frozen=True, gc=False):
    """A name in a directory: what it names, and its place in readdir."""

    ino: int
    cookie: int
    kind: int
    """File type: `stat.S_IFMT(mode) >> 12`, below 16."""


class Extent(msgspec.Struct, frozen=True, gc=False):
    """`length` bytes of a file from `chunk_offset` of chunk number `chunk`; HOLE reads as zeros."""

    length: int
    chunk: int
    chunk_offset: int


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A stored piece of data: identity, place in its pack, number of extents that refer to it."""

    chunk_id: bytes
    pack: int
    record: int
    offset: int
    stored: int
    raw: int
    codec: int
    count: int


def encode_dirent(entry: Dirent) -> bytes:
    """The stored form."""
    place = entry.cookie << _KIND_BITS | entry.kind
    return encode_u40(entry.ino) + place.to_bytes((place.bit_length() + 7) // 8, "big")


def decode_dirent(row: bytes) -> Dirent:
    """The entry in `encode_dirent`'s bytes."""
    place = int.from_bytes(row[INODE_SIZE:], "big")
    return Dirent(decode_u40(row[:INODE_SIZE]), place >> _KIND_BITS, place & _KIND_MASK)


def encode_extent(extent: Extent) -> bytes:
    """The stored form; most begin with their chunk and are short."""
    if extent.chunk_offset or extent.length > _U32_MAX:
        return _EXTENT_WIDE.pack(extent.length, extent.chunk, extent.chunk_offset)
    return _EXTENT.pack(extent.chunk, extent.length)


def decode_extent(row: bytes) -> Extent:
    """The extent in `encode_extent`'s bytes."""
    if len(row) == _EXTENT.size:
        chunk, length = _EXTENT.unpack(row)
        return Extent(length, chunk, 0)
    return Extent(*_EXTENT_WIDE.unpack(row))


def encode_chunk(chunk: Chunk) -> bytes:
    """The stored form, without its number."""
    epoch, n = chunk.pack >> EPOCH_SHIFT, chunk.pack & _N_MASK
    flags = 0
    pack: tuple[int, ...] = (epoch, n)
    count: tuple[int, ...] = ()
    if epoch > _U16_MAX or n > _U32_MAX:
        flags, pack = _WIDE_PACK, (chunk.pack,)
    if chunk.record > _U16_MAX:
        flags |= _WIDE_RECORD
    if chunk.count != 1:
        flags, count = flags | _COUNT, (chunk.count,)
    return _CHUNK[flags].pack(
        flags,
        chunk.codec,
        chunk.chunk_id,
        chunk.offset,
        chunk.stored,
        chunk.raw,
        *pack,
        chunk.record,
        *count,
    )


def decode_chunk(row: bytes) -> Chunk:
    """The chunk in `encode_chunk`'s bytes."""
    flags = row[0]
    _, codec, chunk_id, offset, stored, raw, *rest = _CHUNK[flags].unpack(row)
    count = rest.pop() if flags & _COUNT else 1
    record = rest.pop()
    pack = rest[0] if flags & _WIDE_PACK else numbered(*rest)
    return Chunk(chunk_id, pack, record, offset, stored, raw, codec, count)
