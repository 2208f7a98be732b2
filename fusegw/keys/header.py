"""The object `volume`: who this volume is. Written once, never changed. Sans I/O.

Its create-only PUT decides which of two racing inits wins. It carries no MAC of its own: the key generation's
MAC covers its bytes.
"""

import re
from typing import Annotated

import msgspec

from fusegw.errors import Corrupt, Invalid
from fusegw.keys.framing import decode, frame, unframe

VOLUME_OBJECT = "volume"
VOLUME_SIZE_MAX = 4096
MAGIC = b"FUSEGWV\x00"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME_WORDS = "1 to 64 of A-Z a-z 0-9 . _ - beginning with a letter or digit"


class VolumeHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Identity of a volume; the fields are those of the object's msgpack body."""

    volume_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    name: Annotated[str, msgspec.Meta(max_length=64)]
    created_ns: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


_HEADERS = msgspec.msgpack.Decoder(VolumeHeader)


def check_volume_name(name: str) -> None:
    """Raise Invalid unless `name` can name a volume, and so a directory and a socket."""
    if not _NAME.fullmatch(name):
        raise Invalid(f"{name!r} cannot name a volume: use {_NAME_WORDS}")


def encode_header(header: VolumeHeader) -> bytes:
    """The bytes of the object `volume`."""
    check_volume_name(header.name)
    return frame(MAGIC, msgspec.msgpack.encode(header))


def decode_header(data: bytes, what: str) -> VolumeHeader:
    """The header in the bytes of `volume`, not yet authenticated. UnknownFormat or Corrupt, naming `what`."""
    header = decode(unframe(MAGIC, data, what), _HEADERS, what)
    if not _NAME.fullmatch(header.name):
        raise Corrupt(f"{what} holds an impossible volume name: restore it from another copy")
    return header
