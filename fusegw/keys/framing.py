"""The frame around both key objects: magic, format version, length, payload, SHA-256. Sans I/O.

The digest is no protection against anyone; it tells an accident (a flipped bit, a cut-off upload) from a
wrong passphrase, and says so before the expensive key derivation. What authenticates is the MAC inside.
The format version stands for the whole volume: packs, log, checkpoints and what their records hold. The first
ten bytes keep their meaning in every later one, so that a fusegw that cannot read a volume says so before it
asks for a secret, reads anything else or writes.
"""

import hashlib
import struct
from typing import TypeVar

import msgspec

import fusegw
from fusegw.errors import Corrupt, UnknownFormat

FORMAT_VERSION = 3
MAGIC_SIZE = 8
DIGEST_SIZE = 32

_T = TypeVar("_T")
_PREFIX = struct.Struct(">8sHHI")
PREFIX_SIZE = _PREFIX.size


def frame(magic: bytes, payload: bytes) -> bytes:
    """The bytes of an object in the current format version."""
    head = _PREFIX.pack(magic, FORMAT_VERSION, 0, len(payload)) + payload
    return head + hashlib.sha256(head).digest()


def unframe(magic: bytes, data: bytes, what: str) -> bytes:
    """The payload of `data`. `what` names the object in errors: UnknownFormat when it is not ours or of
    another format version, Corrupt when its length or digest is wrong."""
    if len(data) < PREFIX_SIZE + DIGEST_SIZE:
        raise Corrupt(f"{what} is cut off at {len(data)} bytes: restore it from another copy")
    found, version, reserved, length = _PREFIX.unpack_from(data)
    if found != magic:
        raise UnknownFormat(f"{what} was not written by fusegw: check the store's address")
    if version > FORMAT_VERSION:
        raise UnknownFormat(
            f"{what} has format version {version}, fusegw {fusegw.__version__} knows up to {FORMAT_VERSION}: "
            "upgrade fusegw"
        )
    if 0 < version < FORMAT_VERSION:
        raise UnknownFormat(
            f"{what} has format version {version}, fusegw {fusegw.__version__} reads {FORMAT_VERSION} only: "
            "use the fusegw that wrote it"
        )
    if version == 0 or reserved != 0 or len(data) != PREFIX_SIZE + length + DIGEST_SIZE:
        raise Corrupt(f"{what} has a damaged head: restore it from another copy")
    if hashlib.sha256(data[:-DIGEST_SIZE]).digest() != data[-DIGEST_SIZE:]:
        raise Corrupt(f"{what} does not match its checksum: restore it from another copy")
    return data[PREFIX_SIZE:-DIGEST_SIZE]


def decode(body: bytes, decoder: msgspec.msgpack.Decoder[_T], what: str) -> _T:
    """msgpack `body` as what `decoder` makes of it, checked against its bounds; Corrupt names `what`.

    Decoders are made when their module is imported: two threads that meet a type for the first time at the
    same moment can crash msgspec, and volumes are opened side by side.
    """
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        problem = f"{what} has a body that cannot be read: restore it from another copy"
    raise Corrupt(problem)
