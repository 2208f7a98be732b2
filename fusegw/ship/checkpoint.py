"""The checkpoint format: the whole metadata at one position of the log, bytes in, bytes out.
`docs/format.md` is its prose.

A checkpoint is a folder of objects, `checkpoints/<position>-<random>/`: parts numbered from 1, which hold the
rows as log records, and a manifest, which names them by size and hash and says which segment the state
belongs to. The manifest is written last, so a folder without one is nothing.

Every object is sealed on its own, under its own salt, bound to its volume, its folder and its number: none
opens in another's place. Nothing decoded is believed beyond the bounds below. Integers are big-endian.
"""

import re
import struct
from typing import Annotated, Self

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyzstd import compress

from fusegw.errors import Corrupt, UnknownFormat
from fusegw.keys.hierarchy import SALT_SIZE, VOLUME_ID_SIZE, VolumeKeys
from fusegw.meta.schema import EPOCH_MAX, HASH_SIZE, Head
from fusegw.packs.compress import decompress
from fusegw.packs.format import NONCE_SIZE, RAW_SIZE_MAX, TAG_SIZE, ZSTD

FORMAT_VERSION = 1
PREFIX = "checkpoints/"
MANIFEST = 0
"""Its number among the objects; parts count from 1."""
RANDOM_SIZE = 8
PARTS_MAX = 1 << 16
PART_BYTES = 8 << 20
"""Records at which a part is full."""
PART_BYTES_MAX = RAW_SIZE_MAX
"""Records in one part, before compression."""
OBJECT_BYTES_MAX = PART_BYTES_MAX + (1 << 20)
"""Size of any object of a checkpoint."""
LEVEL = 3

_MAGIC = b"FUSEGWC\x00"
_HEADER = struct.Struct(f">8sHHI{VOLUME_ID_SIZE}sQ{RANDOM_SIZE}sII{SALT_SIZE}s")
HEADER_SIZE = _HEADER.size
_SIZE = struct.Struct(">I")
_LABEL = b"fusegw checkpoint\x00\x00"
_NAME = re.compile(rf"([0-9]{{16}})-([0-9a-f]{{{2 * RANDOM_SIZE}}})")
_KEY = re.compile(rf"{PREFIX}({_NAME.pattern})/([0-9]{{6}}|manifest)")

_Hash = Annotated[bytes, msgspec.Meta(min_length=HASH_SIZE, max_length=HASH_SIZE)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Name(msgspec.Struct, frozen=True, order=True):
    """Which checkpoint: its folder in the store."""

    seq: int
    """The segment after which the state is the one written down."""
    random: bytes
    """Drawn anew for each attempt, so that no object is ever written twice."""

    def __str__(self) -> str:
        return f"{self.seq:016d}-{self.random.hex()}"

    @classmethod
    def of_key(cls, key: str) -> "tuple[Self, int] | None":
        """The checkpoint and the number of an object; None for a key that is none of a checkpoint."""
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        number = MANIFEST if match[4] == "manifest" else int(match[4])
        return cls(int(match[2]), bytes.fromhex(match[3])), number


class PartEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part as the manifest names it."""

    size: Annotated[int, msgspec.Meta(gt=0, le=OBJECT_BYTES_MAX)]
    """Of the object, in bytes."""
    hash: _Hash
    """BLAKE3-256 of the object."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What makes the parts a checkpoint."""

    epoch: Annotated[int, msgspec.Meta(ge=1, le=EPOCH_MAX)]
    hash: _Hash
    """BLAKE3-256 of the segment of its position."""
    time_ns: int
    """When that segment was sealed, by its writer's clock."""
    parts: Annotated[list[PartEntry], msgspec.Meta(max_length=PARTS_MAX)]
    raw_bytes: _Count
    """Of all parts, before compression."""
    rows: dict[str, _Count]
    """Of each table, those included that follow from others."""

    @property
    def stored_bytes(self) -> int:
        """Of all parts, as they lie in the store."""
        return sum(part.size for part in self.parts)


_MANIFESTS = msgspec.msgpack.Decoder(Manifest)


def object_key(name: Name, number: int) -> str:
    """The object's key in the store."""
    return f"{PREFIX}{name}/{'manifest' if number == MANIFEST else f'{number:06d}'}"


def digest(data: bytes) -> bytes:
    """What the manifest names a part by."""
    return blake3(data).digest()


def head_of(name: Name, manifest: Manifest) -> Head:
    """The place in the log that the checkpoint stands for."""
    return Head(name.seq, manifest.hash, manifest.epoch, 0)


def seal_part(
    records: bytes, name: Name, number: int, keys: VolumeKeys, *, salt: bytes, nonce: bytes
) -> bytes:
    """The object of part `number`. `salt` (32) and `nonce` (12) are fresh random bytes, never used again."""
    payload = _SIZE.pack(len(records)) + compress(records, LEVEL)
    return _sealed(payload, name, number, keys, salt, nonce)


def unseal_part(data: bytes, name: Name, number: int, keys: VolumeKeys) -> bytes:
    """The records in a part: Corrupt, UnknownFormat."""
    what = describe(name, number)
    payload = _opened(data, name, number, keys)
    if len(payload) < _SIZE.size:
        raise Corrupt(f"{what} has no payload")
    try:
        return decompress(ZSTD, payload[_SIZE.size :], _SIZE.unpack_from(payload)[0])
    except Corrupt:
        raise Corrupt(f"{what} has a body that cannot be read") from None


def seal_manifest(manifest: Manifest, name: Name, keys: VolumeKeys, *, salt: bytes, nonce: bytes) -> bytes:
    """The object of the manifest; salt and nonce as for a part."""
    return _sealed(msgspec.msgpack.encode(manifest), name, MANIFEST, keys, salt, nonce)


def unseal_manifest(data: bytes, name: Name, keys: VolumeKeys) -> Manifest:
    """The manifest in `data`: Corrupt, UnknownFormat."""
    try:
        return _MANIFESTS.decode(_opened(data, name, MANIFEST, keys))
    except msgspec.DecodeError as error:
        raise Corrupt(f"{describe(name, MANIFEST)} makes no sense: {error}") from None


def describe(name: Name, number: int) -> str:
    """The object, for messages."""
    return f"object {object_key(name, number)}"


def _sealed(payload: bytes, name: Name, number: int, keys: VolumeKeys, salt: bytes, nonce: bytes) -> bytes:
    version = keys.current_version
    header = _HEADER.pack(
        _MAGIC, FORMAT_VERSION, 0, version, keys.volume_id, name.seq, name.random, number, 0, salt
    )
    cipher = AESGCM(keys.checkpoint_key(version, salt))
    return header + nonce + cipher.encrypt(nonce, payload, _LABEL + header)


def _opened(data: bytes, name: Name, number: int, keys: VolumeKeys) -> bytes:
    what = describe(name, number)
    if len(data) < HEADER_SIZE + NONCE_SIZE + TAG_SIZE:
        raise Corrupt(f"{what} is cut off at {len(data)} bytes")
    (magic, version, zero, key_version, volume_id, seq, random, found, reserved, salt) = _HEADER.unpack_from(
        data
    )
    if magic != _MAGIC:
        raise Corrupt(f"{what} is not a part of a checkpoint of fusegw")
    if version > FORMAT_VERSION:
        raise UnknownFormat(
            f"{what} has format {version}, this fusegw knows up to {FORMAT_VERSION}: upgrade fusegw"
        )
    if version != FORMAT_VERSION or zero or reserved:
        raise Corrupt(f"{what} has a damaged header")
    if (volume_id, seq, random, found) != (keys.volume_id, name.seq, name.random, number):
        raise Corrupt(
            f"{what} belongs elsewhere: it is number {found} of checkpoint {seq:016d}-{random.hex()} of "
            f"volume {volume_id.hex()}"
        )
    view = memoryview(data)
    try:
        return AESGCM(keys.checkpoint_key(key_version, salt)).decrypt(
            view[HEADER_SIZE : HEADER_SIZE + NONCE_SIZE],
            view[HEADER_SIZE + NONCE_SIZE :],
            _LABEL + data[:HEADER_SIZE],
        )
    except (InvalidTag, Corrupt):
        raise Corrupt(f"{what} does not open: it is damaged") from None
