"""A key generation, `keys/<8 digits>`: all slots, the feature flags, the sealed constants, one MAC. Sans I/O.

Generations are immutable objects. A change writes the next one whole; the highest is the valid one. What
is in it may be believed only after `authenticate`, save for what decides whether it can be read at all
(format version, incompatible features) and which slots to try.
"""

import hmac
import struct
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import fusegw
from fusegw.clock import Entropy
from fusegw.errors import Corrupt, UnknownFormat
from fusegw.keys.framing import decode, frame, unframe
from fusegw.keys.hierarchy import (
    KEY_SIZE,
    LABEL_CONSTANTS,
    LABEL_GENERATION_MAC,
    SALT_SIZE,
    VolumeKeys,
    expand,
)
from fusegw.keys.slots import NONCE_SIZE, Slot, check_slot

MAGIC = b"FUSEGWK\x00"
GENERATION_MAX = 99_999_999
GENERATION_SIZE_MAX = 1 << 20
SLOTS_MAX = 32
VERSIONS_MAX = 64
MAC_SIZE = 32

_CONSTANTS = struct.Struct(f">{KEY_SIZE}sQ")
_CONSTANTS_SEALED_SIZE = NONCE_SIZE + _CONSTANTS.size + 16
_Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9.-]{0,63}\Z")]


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A feature the volume uses: its name and the first fusegw version that knows it."""

    name: _Name
    since: _Name


_Features = Annotated[tuple[Feature, ...], msgspec.Meta(max_length=64)]


class Features(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Feature flags, by what a fusegw that does not know one may do: anything, read, nothing."""

    compatible: _Features = ()
    read_only_compatible: _Features = ()
    incompatible: _Features = ()


KNOWN_FEATURES: frozenset[str] = frozenset()
"""Names of features this version implements; none has been needed since format version 2."""


class SealedConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Chunk-id key and cutter seed, sealed under one master version; `sealed` is nonce, ciphertext, tag."""

    version: Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)]
    salt: Annotated[bytes, msgspec.Meta(min_length=SALT_SIZE, max_length=SALT_SIZE)]
    sealed: Annotated[
        bytes, msgspec.Meta(min_length=_CONSTANTS_SEALED_SIZE, max_length=_CONSTANTS_SEALED_SIZE)
    ]


class KeyGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The msgpack body of a key generation.

    `next_slot` is the number of the next slot added; numbers are never reused. `extensions` holds what
    compatible features need, by feature name: a fusegw that does not know one carries it over unchanged.
    """

    generation: Annotated[int, msgspec.Meta(ge=1, le=GENERATION_MAX)]
    volume_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    next_slot: Annotated[int, msgspec.Meta(ge=2, le=1 << 32)]
    slots: Annotated[tuple[Slot, ...], msgspec.Meta(min_length=1, max_length=SLOTS_MAX)]
    constants: Annotated[tuple[SealedConstants, ...], msgspec.Meta(min_length=1, max_length=VERSIONS_MAX)]
    features: Features
    extensions: Annotated[
        dict[_Name, Annotated[bytes, msgspec.Meta(max_length=8192)]], msgspec.Meta(max_length=64)
    ]


_GENERATIONS = msgspec.msgpack.Decoder(KeyGeneration)


def seal_constants(keys: VolumeKeys, version: int, entropy: Entropy) -> SealedConstants:
    """The volume's constants under one master version."""
    salt, nonce = entropy.token(SALT_SIZE), entropy.token(NONCE_SIZE)
    key = expand(keys.master_keys()[version], salt, LABEL_CONSTANTS, keys.volume_id, version.to_bytes(4))
    plain = _CONSTANTS.pack(keys.chunk_id_key, keys.cutter_seed)
    return SealedConstants(version, salt, nonce + AESGCM(key).encrypt(nonce, plain, None))


def encode_generation(generation: KeyGeneration, keys: VolumeKeys, header: bytes) -> bytes:
    """The bytes of a generation, authenticated under the newest master; `header` is the object `volume`."""
    body = msgspec.msgpack.encode(generation)
    masters = keys.master_keys()
    return frame(MAGIC, _mac(masters[keys.current_version], keys.volume_id, header, body) + body)


def decode_generation(data: bytes, number: int, volume_id: bytes, what: str) -> KeyGeneration:
    """Read generation `number` of a volume, not yet authenticated.

    UnknownFormat names the feature or version that this fusegw lacks; Corrupt what is out of bounds.
    """
    body = unframe(MAGIC, data, what)[MAC_SIZE:]
    generation = decode(body, _GENERATIONS, what)
    unknown = [f for f in generation.features.incompatible if f.name not in KNOWN_FEATURES]
    if unknown:
        raise UnknownFormat(
            f"{what}: the volume uses {_described(unknown)}, fusegw {fusegw.__version__} cannot open it: "
            "upgrade fusegw"
        )
    slots = [slot.slot for slot in generation.slots]
    if (
        generation.generation != number
        or generation.volume_id != volume_id
        or len(set(slots)) != len(slots)
        or max(slots) >= generation.next_slot
    ):
        raise Corrupt(f"{what} belongs to another volume or place, or contradicts itself: restore it")
    for slot in generation.slots:
        check_slot(slot, what)
    return generation


def authenticate(
    data: bytes, generation: KeyGeneration, masters: dict[int, bytes], header: bytes, what: str
) -> VolumeKeys:
    """Check the MAC over `data` (as decoded into `generation`) and over `header`, then unseal the constants.

    The keys of the volume, or Corrupt.
    """
    payload = unframe(MAGIC, data, what)
    tag, body = payload[:MAC_SIZE], payload[MAC_SIZE:]
    expected = _mac(masters[max(masters)], generation.volume_id, header, body)
    if not hmac.compare_digest(tag, expected):
        raise Corrupt(
            f"{what} or the volume header beside it was changed by something other than fusegw: restore both"
        )
    if sorted(masters) != [sealed.version for sealed in generation.constants]:
        raise Corrupt(f"{what}: slot and constants name different master versions: restore it")
    opened = {_open_constants(sealed, masters, generation.volume_id, what) for sealed in generation.constants}
    if len(opened) != 1:
        raise Corrupt(f"{what}: the constants of the volume differ between master versions: restore it")
    chunk_id_key, cutter_seed = opened.pop()
    return VolumeKeys(generation.volume_id, masters, chunk_id_key=chunk_id_key, cutter_seed=cutter_seed)


def read_only_features(generation: KeyGeneration) -> tuple[Feature, ...]:
    """Features that this version does not know and that therefore allow it to read only."""
    return tuple(f for f in generation.features.read_only_compatible if f.name not in KNOWN_FEATURES)


def refuse_change(generation: KeyGeneration, what: str) -> None:
    """Raise UnknownFormat when this version may only read the volume."""
    unknown = read_only_features(generation)
    if unknown:
        raise UnknownFormat(
            f"{what}: the volume uses {_described(unknown)}, fusegw {fusegw.__version__} may only read it: "
            "upgrade fusegw to change its keys"
        )


def _open_constants(
    sealed: SealedConstants, masters: dict[int, bytes], volume_id: bytes, what: str
) -> tuple[bytes, int]:
    key = expand(masters[sealed.version], sealed.salt, LABEL_CONSTANTS, volume_id, sealed.version.to_bytes(4))
    try:
        plain = AESGCM(key).decrypt(sealed.sealed[:NONCE_SIZE], sealed.sealed[NONCE_SIZE:], None)
    except InvalidTag:
        plain = b""
    if not plain:
        raise Corrupt(f"{what}: the constants under master version {sealed.version} are damaged: restore it")
    chunk_id_key, cutter_seed = _CONSTANTS.unpack(plain)
    if not 1 <= cutter_seed < 1 << 63:
        raise Corrupt(f"{what}: the cutter's seed is out of bounds: restore it")
    return chunk_id_key, cutter_seed


def _mac(master: bytes, volume_id: bytes, header: bytes, body: bytes) -> bytes:
    key = expand(master, b"", LABEL_GENERATION_MAC, volume_id)
    return hmac.digest(key, len(header).to_bytes(4) + header + body, "sha256")


def _described(features: list[Feature] | tuple[Feature, ...]) -> str:
    return ", ".join(f"{f.name!r} (since fusegw {f.since})" for f in features)
