"""Rows that follow from other rows, and are left out where the whole index is written down.

Each directory entry has its readdir position. A chunk is in the dedup index under the first bytes of its id;
of several chunks with these bytes it is the newest, the one of the highest number. The exceptions (a chunk
whose data turned out to be damaged is taken out) are written down as they are.
"""

from fusegw.meta.schema import CHUNK_ID, POSITION, chunk_key

_INODE_SIZE = 8
_COOKIE = slice(8, 16)
_PACK = slice(32, 40)
_PACK_ID = slice(16)


def position_row(dirent_key: bytes, dirent: bytes) -> tuple[bytes, bytes]:
    """The stored position row of a stored dirent row."""
    key = dirent_key[:_INODE_SIZE] + dirent[_COOKIE]
    return key, POSITION.encode(key, dirent_key[_INODE_SIZE:])


def chunk_id_row(chunk_number: bytes, chunk: bytes) -> tuple[bytes, bytes]:
    """The stored dedup row of a stored chunk row."""
    key = chunk_key(chunk)
    return key, CHUNK_ID.encode(key, int.from_bytes(chunk_number, "big"))


def pack_of(chunk: bytes) -> int:
    """The number of the pack that a stored chunk row names."""
    return int.from_bytes(chunk[_PACK], "big")


def pack_id_of(pack: bytes) -> bytes:
    """The id of a stored pack row."""
    return pack[_PACK_ID]
