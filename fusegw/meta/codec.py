"""Tables: how keys and values of the index become bytes.

Every value ends in a CRC-32 over table, key and value, since LMDB has no checksums of its own and a flipped
page must never read as a hole. A row that fails its check is `Corrupt` and names table and key.

Keys are encoded big-endian, so their byte order is the order of the Python keys (ints, or tuples of an int
and an int or bytes); merging scans rely on that.
"""

import struct
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar
from zlib import crc32

from fusegw.errors import Corrupt

K = TypeVar("K")
V = TypeVar("V")

_CRC = struct.Struct(">I")
CRC_SIZE = _CRC.size
_U64 = struct.Struct(">Q")
_U40 = struct.Struct(">BI")
_U40_U40 = struct.Struct(">BIBI")
_U40_U64 = struct.Struct(">BIQ")
_LOW = (1 << 32) - 1

INODE_SIZE = 5
"""Bytes of an inode number, which all keys begin with that have one."""


class Table(Generic[K, V]):
    """One database of the index: its name, its codecs, its number in the volume's log."""

    def __init__(
        self,
        name: str,
        *,
        encode_key: Callable[[K], bytes],
        decode_key: Callable[[bytes], K],
        encode_value: Callable[[V], bytes],
        decode_value: Callable[[K, bytes], V],
        code: int = 0,
        kept: bool = False,
    ) -> None:
        self.name = name
        self.code = code
        """Its number in log records and checkpoints; 0 for rows that describe this gateway only and never
        travel."""
        self.kept = kept
        """Whether snapshots see its rows as they were."""
        self.encode_key = encode_key
        self._decode_key = decode_key
        self.encode_value = encode_value
        """The value's bytes, without the checksum."""
        self.decode_value = decode_value
        self.seed = crc32(name.encode())

    def __repr__(self) -> str:
        return f"Table({self.name})"

    def decode_key(self, raw: bytes) -> K:
        """The key in its encoded form; Corrupt when that is none."""
        try:
            return self._decode_key(raw)
        except struct.error:
            raise Corrupt(
                f"metadata table {self.name!r} is damaged: {raw.hex()} is no key in it; restore the state "
                "directory from a copy"
            ) from None

    def encode(self, key: bytes, value: V) -> bytes:
        """The stored form of `value` under the encoded `key`."""
        body = self.encode_value(value)
        return body + _CRC.pack(crc32(body, crc32(key, self.seed)))

    def decode(self, key: K, raw_key: bytes, stored: bytes) -> V:
        """The value of a stored row; Corrupt when its checksum does not fit."""
        body = stored[:-CRC_SIZE]
        if len(stored) < CRC_SIZE or _CRC.unpack_from(stored, len(body))[0] != crc32(
            body, crc32(raw_key, self.seed)
        ):
            self.refuse(raw_key)
        return self.decode_value(key, body)

    def refuse(self, raw_key: bytes) -> NoReturn:
        """Corrupt, for a row whose checksum does not fit."""
        raise Corrupt(
            f"metadata row {raw_key.hex()} of table {self.name!r} is damaged (checksum mismatch); "
            "restore the state directory from a copy"
        )


def encode_u64(key: int) -> bytes:
    """A number as 8 big-endian bytes."""
    return _U64.pack(key)


def decode_u64(raw: bytes) -> int:
    """The number in 8 big-endian bytes."""
    value: int = _U64.unpack(raw)[0]
    return value


def encode_u40(key: int) -> bytes:
    """A number as 5 big-endian bytes."""
    return _U40.pack(key >> 32, key & _LOW)


def decode_u40(raw: bytes) -> int:
    """The number in 5 big-endian bytes."""
    high, low = _U40.unpack(raw)
    number: int = high << 32 | low
    return number


def encode_u40_name(key: tuple[int, bytes]) -> bytes:
    """A number and a byte string."""
    number, name = key
    return _U40.pack(number >> 32, number & _LOW) + name


def decode_u40_name(raw: bytes) -> tuple[int, bytes]:
    """The number and byte string of `encode_u40_name`."""
    high, low = _U40.unpack_from(raw)
    return high << 32 | low, raw[INODE_SIZE:]


def encode_u40_u40(key: tuple[int, int]) -> bytes:
    """Two numbers as 10 big-endian bytes."""
    first, second = key
    return _U40_U40.pack(first >> 32, first & _LOW, second >> 32, second & _LOW)


def decode_u40_u40(raw: bytes) -> tuple[int, int]:
    """The two numbers of `encode_u40_u40`."""
    first, first_low, second, second_low = _U40_U40.unpack(raw)
    return first << 32 | first_low, second << 32 | second_low


def encode_u40_u64(key: tuple[int, int]) -> bytes:
    """Two numbers as 5 and 8 big-endian bytes."""
    first, second = key
    return _U40_U64.pack(first >> 32, first & _LOW, second)


def decode_u40_u64(raw: bytes) -> tuple[int, int]:
    """The two numbers of `encode_u40_u64`."""
    high, low, second = _U40_U64.unpack(raw)
    return high << 32 | low, second


def identity(value: bytes) -> bytes:
    """Bytes that are their own stored form."""
    return value
