"""Rows that follow from other rows, and are left out where the whole index is written down.

Each directory entry has its readdir position. A chunk is in the dedup index under the first bytes of its id;
of several chunks with these bytes it is the newest, the one of the highest number. The exceptions (a chunk
whose data turned out to be damaged is taken out) are written down as they are.
"""

from fusegw.meta.codec import CRC_SIZE, INODE_SIZE, encode_u40
from fusegw.meta.schema import CHUNK, CHUNK_ID, DIRENT, POSITION, chunk_key

_PACK_ID = slice(16)


def position_row(dirent_key: bytes, dirent: bytes) -> tuple[bytes, bytes]:
    """The stored position row of a stored dirent row."""
    name = dirent_key[INODE_SIZE:]
    key = dirent_key[:INODE_SIZE] + encode_u40(DIRENT.decode_value((0, name), dirent[:-CRC_SIZE]).cookie)
    return key, POSITION.encode(key, name)


def chunk_id_row(chunk_number: bytes, chunk: bytes) -> tuple[bytes, bytes]:
    """The stored dedup row of a stored chunk row."""
    key = chunk_key(CHUNK.decode_value(0, chunk[:-CRC_SIZE]).chunk_id)
    return key, CHUNK_ID.encode(key, int.from_bytes(chunk_number, "big"))


def pack_of(chunk: bytes) -> int:
    """The number of the pack that a stored chunk row names."""
    return CHUNK.decode_value(0, chunk[:-CRC_SIZE]).pack


def pack_id_of(pack: bytes) -> bytes:
    """The id of a stored pack row."""
    return pack[_PACK_ID]
