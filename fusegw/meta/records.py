"""Log records: rows of the index as bytes that mean the same in every gateway. Sans I/O.

A record is one row put or deleted:

    table code (1) · 1 put, 0 deleted (1) · key length (2) · value length (4) · key · value

Values are the index's stored form, checksum included, so a row that was damaged anywhere on its way is found
by whoever reads it. Records are applied in order; of several for one key the last counts.
"""

import struct
from collections.abc import Iterator
from zlib import crc32

from fusegw.errors import Corrupt
from fusegw.meta.schema import LOGGED_TABLES

Record = tuple[int, bytes, bytes | None]
"""Table code, key, value (None: deleted)."""

_HEAD = struct.Struct(">BBHI")
_CODES = {table.code: table for table in LOGGED_TABLES}
KEY_SIZE_MAX = 511
VALUE_SIZE_MAX = 1 << 17
"""Above the largest row: an xattr of 64 KiB."""


def encode_put(code: int, key: bytes, value: bytes) -> bytes:
    """The record of a row that has `value` (stored form) from now on."""
    return _HEAD.pack(code, 1, len(key), len(value)) + key + value


def encode_delete(code: int, key: bytes) -> bytes:
    """The record of a row that is gone from now on."""
    return _HEAD.pack(code, 0, len(key), 0) + key


def decode_records(data: bytes | memoryview, what: str) -> Iterator[Record]:
    """The records in `data`; Corrupt, naming `what`, for anything that is none."""
    view = memoryview(data)
    at, end = 0, len(view)
    head_size, unpack = _HEAD.size, _HEAD.unpack_from
    while at < end:
        if end - at < head_size:
            raise Corrupt(f"{what} ends within a record")
        code, put, key_size, value_size = unpack(view, at)
        table = _CODES.get(code)
        body = at + head_size
        at = body + key_size + value_size
        if (
            table is None
            or put > 1
            or at > end
            or not 0 < key_size <= KEY_SIZE_MAX
            or value_size > (VALUE_SIZE_MAX if put else 0)
        ):
            raise Corrupt(f"{what} has a record that makes no sense (table {code}, {key_size}+{value_size})")
        key = bytes(view[body : body + key_size])
        if not put:
            yield code, key, None
            continue
        value = bytes(view[body + key_size : at])
        if value_size < 4 or crc32(value[:-4], crc32(key, table.seed)) != int.from_bytes(value[-4:], "big"):
            raise Corrupt(f"{what} has a row of table {table.name!r} with a wrong checksum")
        yield code, key, value
