"""The pack format: bytes in, bytes out, no I/O, no clock, no chance. `docs/format.md` is its prose.

    header (80) · record · record · … · sealed footer · trailer (16)

A record is one chunk, compressed and sealed: nonce (12) · ciphertext · tag (16). The associated data binds
the whole header, the record's number, its offset, codec, raw length and chunk id, so a record opens nowhere
but where it was sealed. The footer is the sealed table of the records, under a label of its own.

Promises: what is encoded here decodes here, byte for byte; nothing decoded is believed beyond the bounds
below; bytes that were not sealed under the pack's key raise Corrupt. Integers are big-endian.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fusegw.errors import Corrupt, UnknownFormat

FORMAT_VERSION = 1
VOLUME_ID_SIZE = 16
PACK_ID_SIZE = 16
SALT_SIZE = 32
KEY_SIZE = 32
CHUNK_ID_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16
RECORD_OVERHEAD = NONCE_SIZE + TAG_SIZE
HEADER_SIZE = 80
TRAILER_SIZE = 16

RAW = 0
ZSTD = 1
CODECS = (RAW, ZSTD)

RAW_SIZE_MAX = 16 << 20
"""Largest chunk, in bytes before compression."""
RECORD_SIZE_MAX = RAW_SIZE_MAX + RECORD_OVERHEAD
"""Largest record: what compression would make longer is stored raw."""
RECORDS_MAX = 1 << 16
"""Most records in one pack: bounds the footer, and how many random nonces one key ever sees."""
PACK_SIZE_MAX = 1 << 30
"""Largest pack in bytes; writers stay far below."""

_MAGIC = b"FUSEGWP\x00"
_TRAILER_MAGIC = b"FUSEGWPE"
_HEADER = struct.Struct(f">8sHHI{VOLUME_ID_SIZE}s{PACK_ID_SIZE}s{SALT_SIZE}s")
_TRAILER = struct.Struct(">IHH8s")
_ENTRY = struct.Struct(f">IIIIB{CHUNK_ID_SIZE}s")
_RECORD_BINDING = _ENTRY
_FOOTER_BINDING = struct.Struct(">I")
_RECORD_LABEL = b"fusegw record\x00\x00\x00"
_FOOTER_LABEL = b"fusegw footer\x00\x00\x00"
FOOTER_ENTRY_SIZE = _ENTRY.size
FOOTER_SIZE_MAX = RECORD_OVERHEAD + FOOTER_ENTRY_SIZE * RECORDS_MAX


class PackKeys(Protocol):
    """What packs need of a volume's keys."""

    @property
    def volume_id(self) -> bytes: ...

    @property
    def current_version(self) -> int:
        """Version of the master key that new packs use."""
        ...

    def pack_key(self, version: int, salt: bytes, pack_id: bytes) -> bytes:
        """The 32-byte key of one pack. Corrupt when the volume has no master of that version."""
        ...


class PackInfo(msgspec.Struct, frozen=True, gc=False):
    """What a pack is called and what its key is made from."""

    number: int
    """(epoch << 40) | n."""
    pack_id: bytes
    """16 random bytes."""
    key_version: int
    salt: bytes
    """32 random bytes."""

    @property
    def name(self) -> str:
        """Its file in the cache."""
        return self.pack_id.hex()


class Location(msgspec.Struct, frozen=True, gc=False):
    """Where a chunk lies: record number and byte range of a pack. Sizes in bytes."""

    pack: int
    """Pack number."""
    record: int
    """Counts from 0 in each pack."""
    offset: int
    """From the start of the pack."""
    stored: int
    """With nonce and tag."""
    raw: int
    """Before compression."""
    codec: int


Entry = tuple[bytes, Location]
"""A chunk id and where the chunk lies: a row of the footer."""


class Header(msgspec.Struct, frozen=True, gc=False):
    """The first 80 bytes of a pack."""

    key_version: int
    volume_id: bytes
    pack_id: bytes
    salt: bytes


def object_key(pack_id: bytes) -> str:
    """The pack's key in the store."""
    name = pack_id.hex()
    return f"packs/{name[:2]}/{name}"


def pack_id_of(key: str) -> bytes | None:
    """The pack whose object has this key; None when it is no pack's."""
    name = key.rpartition("/")[2]
    try:
        pack_id = bytes.fromhex(name)
    except ValueError:
        return None
    return pack_id if len(pack_id) == PACK_ID_SIZE and object_key(pack_id) == key else None


def encode_header(header: Header) -> bytes:
    """The 80 bytes a pack begins with."""
    return _HEADER.pack(
        _MAGIC, FORMAT_VERSION, 0, header.key_version, header.volume_id, header.pack_id, header.salt
    )


def decode_header(data: bytes | memoryview, what: str) -> Header:
    """The header at the start of `data`; nothing in it is authenticated until a record or the footer opens.

    `what` names the pack in errors: UnknownFormat when it is not ours or too new, Corrupt when it is damaged.
    """
    if len(data) < HEADER_SIZE:
        raise Corrupt(f"{what} is cut off at {len(data)} bytes: restore it from another copy")
    magic, version, reserved, key_version, volume_id, pack_id, salt = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise UnknownFormat(f"{what} is not a pack of fusegw: check the store's address")
    if version > FORMAT_VERSION:
        raise UnknownFormat(
            f"{what} has pack format {version}, this fusegw knows up to {FORMAT_VERSION}: upgrade fusegw"
        )
    if version == 0 or reserved != 0:
        raise Corrupt(f"{what} has a damaged header: restore it from another copy")
    return Header(key_version, volume_id, pack_id, salt)


def footer_size(records: int) -> int:
    """Bytes of the sealed footer of a pack with that many records."""
    return RECORD_OVERHEAD + _ENTRY.size * records


def encode_trailer(footer_length: int) -> bytes:
    """The last 16 bytes of a pack."""
    return _TRAILER.pack(footer_length, FORMAT_VERSION, 0, _TRAILER_MAGIC)


def decode_trailer(data: bytes | memoryview, pack_size: int, what: str) -> int:
    """Length of the sealed footer before the trailer `data`, in a pack of `pack_size` bytes; Corrupt."""
    if len(data) == TRAILER_SIZE:
        length, version, reserved, magic = _TRAILER.unpack(data)
        rows, rest = divmod(length - RECORD_OVERHEAD, _ENTRY.size)
        if (
            (version, reserved, magic) == (FORMAT_VERSION, 0, _TRAILER_MAGIC)
            and rest == 0
            and 1 <= rows <= RECORDS_MAX
            and HEADER_SIZE + length + TRAILER_SIZE <= pack_size <= PACK_SIZE_MAX
        ):
            return int(length)
    raise Corrupt(f"{what} has no trailer at its end: it is cut off or damaged; restore it from another copy")


class PackCipher:
    """Seals and opens the parts of one pack. Immutable and thread-safe.

    The caller draws the nonces: 12 fresh random bytes for each call, never used again with this pack.
    """

    def __init__(self, keys: PackKeys, key_version: int, pack_id: bytes, salt: bytes) -> None:
        """Corrupt when `keys` has no master of `key_version`."""
        self.pack_id = pack_id
        self.header = encode_header(Header(key_version, keys.volume_id, pack_id, salt))
        self._aead = AESGCM(keys.pack_key(key_version, salt, pack_id))
        self._record_prefix = _RECORD_LABEL + self.header
        self._footer_prefix = _FOOTER_LABEL + self.header

    def seal(self, payload: bytes | memoryview, chunk_id: bytes, location: Location, nonce: bytes) -> bytes:
        """The record's bytes; `payload` is the chunk as `location.codec` made it."""
        return nonce + self._aead.encrypt(nonce, payload, self._binding(chunk_id, location))

    def open(self, sealed: bytes | memoryview, chunk_id: bytes, location: Location) -> bytes:
        """The payload of a record that was sealed with just these particulars; Corrupt otherwise."""
        if len(sealed) == location.stored >= RECORD_OVERHEAD:
            view = memoryview(sealed)
            try:
                return self._aead.decrypt(
                    view[:NONCE_SIZE], view[NONCE_SIZE:], self._binding(chunk_id, location)
                )
            except InvalidTag:
                pass
        raise Corrupt(f"{self.describe(location)} does not open: it is damaged; restore it from another copy")

    def seal_footer(self, entries: Sequence[Entry], offset: int, nonce: bytes) -> bytes:
        """The sealed footer that begins at `offset`."""
        table = b"".join(
            [
                _ENTRY.pack(place.record, place.offset, place.stored, place.raw, place.codec, chunk_id)
                for chunk_id, place in entries
            ]
        )
        return nonce + self._aead.encrypt(nonce, table, self._footer_prefix + _FOOTER_BINDING.pack(offset))

    def open_footer(self, sealed: bytes | memoryview, offset: int, number: int) -> list[Entry]:
        """The table in a footer that begins at `offset`; Corrupt unless it was sealed there and makes sense.

        `number` is the pack's number, which the pack itself does not know.
        """
        view = memoryview(sealed)
        try:
            table = self._aead.decrypt(
                view[:NONCE_SIZE], view[NONCE_SIZE:], self._footer_prefix + _FOOTER_BINDING.pack(offset)
            )
        except InvalidTag:
            raise Corrupt(
                f"the footer of pack {self.pack_id.hex()} does not open: restore the pack from another copy"
            ) from None
        entries = [
            (chunk_id, Location(number, record, start, stored, raw, codec))
            for record, start, stored, raw, codec, chunk_id in _ENTRY.iter_unpack(table)
        ]
        if not _plausible(entries, offset):
            raise Corrupt(
                f"the footer of pack {self.pack_id.hex()} contradicts itself: restore it from another copy"
            )
        return entries

    def describe(self, location: Location) -> str:
        """Names a record in messages."""
        return f"record {location.record} of pack {self.pack_id.hex()}"

    def _binding(self, chunk_id: bytes, location: Location) -> bytes:
        return self._record_prefix + _RECORD_BINDING.pack(
            location.record, location.offset, location.stored, location.raw, location.codec, chunk_id
        )


def _plausible(entries: Iterable[Entry], end: int) -> bool:
    """Whether the rows ascend without overlap, lie before `end` and keep the bounds."""
    free, next_record = HEADER_SIZE, 0
    for _, place in entries:
        if (
            place.record < next_record
            or place.offset < free
            or not RECORD_OVERHEAD <= place.stored <= RECORD_SIZE_MAX
            or place.raw > RAW_SIZE_MAX
            or place.codec not in CODECS
            or (place.codec == RAW and place.stored != place.raw + RECORD_OVERHEAD)
        ):
            return False
        free, next_record = place.offset + place.stored, place.record + 1
    return next_record <= RECORDS_MAX and free <= end
