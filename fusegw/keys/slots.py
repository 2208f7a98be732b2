"""A key slot: the volume's master keys, sealed under a key made from one secret. Sans I/O.

    passphrase, key file ─ Argon2id ─┐
    recovery key (256 bits) ─────────┴─ base key ─┬─ HKDF "commitment" ─ stored beside the seal
                                                   └─ HKDF "wrap" ─ AES-256-GCM over the key ring

The commitment is checked before anything is opened: AES-GCM alone lets a forger make one ciphertext that
opens under many keys, and so test many passphrases with one slot. It also tells a wrong secret (no
commitment fits) from a damaged slot (it fits and the seal does not).

A slot of a kind this version does not know is kept byte for byte and listed by name.
"""

import hmac
import struct
from collections.abc import Mapping
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fusegw.clock import Entropy
from fusegw.errors import Corrupt, Invalid
from fusegw.keys import kdf
from fusegw.keys.framing import decode
from fusegw.keys.hierarchy import KEY_SIZE, LABEL_SLOT_COMMIT, LABEL_SLOT_WRAP, expand
from fusegw.keys.kdf import KdfParameters
from fusegw.keys.secret import Secret

KINDS_OPENED = ("passphrase", "keyfile", "recovery")
"""Slot kinds this version opens. `aws-kms` is reserved for a key that AWS KMS wraps."""

LABEL_SIZE_MAX = 64
NONCE_SIZE = 12
SALT_SIZE = 32

_RING_ENTRY = struct.Struct(f">I{KEY_SIZE}s")


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One slot as stored; `params`, `commitment` and `sealed` mean what the kind says."""

    slot: Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)]
    kind: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9-]{1,32}\Z")]
    label: Annotated[str, msgspec.Meta(max_length=LABEL_SIZE_MAX)]
    created_ns: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    params: Annotated[bytes, msgspec.Meta(max_length=4096)]
    commitment: Annotated[bytes, msgspec.Meta(max_length=4096)]
    sealed: Annotated[bytes, msgspec.Meta(max_length=4096)]


class SlotInfo(msgspec.Struct, frozen=True):
    """What may be shown of a slot. `opens` is False for a kind that only a newer fusegw knows."""

    slot: int
    kind: str
    label: str
    created_ns: int
    opens: bool


class _Argon2Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`params` of a passphrase or keyfile slot."""

    memory_kib: int
    iterations: int
    lanes: int
    salt: Annotated[bytes, msgspec.Meta(min_length=SALT_SIZE, max_length=SALT_SIZE)]


class _RecoveryParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`params` of a recovery slot: its 256 random bits need no stretching."""

    salt: Annotated[bytes, msgspec.Meta(min_length=SALT_SIZE, max_length=SALT_SIZE)]


_ARGON2 = msgspec.msgpack.Decoder(_Argon2Params)
_RECOVERY = msgspec.msgpack.Decoder(_RecoveryParams)


def check_label(label: str) -> None:
    """Raise Invalid for a label that is too long or could play tricks on a terminal."""
    if len(label) > LABEL_SIZE_MAX or not label.isprintable():
        raise Invalid(f"a slot label has at most {LABEL_SIZE_MAX} printable characters")


def check_slot(slot: Slot, what: str) -> None:
    """Raise Corrupt unless everything in a slot of a known kind is within its bounds."""
    if not slot.label.isprintable():
        raise Corrupt(f"{what}: slot {slot.slot} has an impossible label")
    if slot.kind not in KINDS_OPENED:
        return
    if slot.kind != "recovery":
        parameters, _ = _argon2_params(slot, what)
        try:
            parameters.check()
        except Invalid as error:
            raise Corrupt(f"{what}: slot {slot.slot}: {error}") from error
    else:
        decode(slot.params, _RECOVERY, f"{what}: slot {slot.slot}")


def info_of(slot: Slot) -> SlotInfo:
    """The part of a slot that may be shown."""
    return SlotInfo(
        slot=slot.slot,
        kind=slot.kind,
        label=slot.label,
        created_ns=slot.created_ns,
        opens=slot.kind in KINDS_OPENED,
    )


def seal_slot(
    secret: Secret,
    masters: Mapping[int, bytes],
    *,
    volume_id: bytes,
    slot: int,
    label: str,
    created_ns: int,
    parameters: KdfParameters,
    entropy: Entropy,
) -> Slot:
    """A slot that `secret` opens, holding every master version given. Blocks for the key derivation."""
    check_label(label)
    salt = entropy.token(SALT_SIZE)
    if secret.kind == "recovery":
        params = msgspec.msgpack.encode(_RecoveryParams(salt))
        base = secret.reveal()
    else:
        params = msgspec.msgpack.encode(
            _Argon2Params(parameters.memory_kib, parameters.iterations, parameters.lanes, salt)
        )
        base = kdf.derive(secret.reveal(), salt, parameters)
    context = _context(slot, secret.kind)
    commitment = expand(base, salt, LABEL_SLOT_COMMIT, volume_id, context)
    wrap = expand(base, salt, LABEL_SLOT_WRAP, volume_id, context)
    nonce = entropy.token(NONCE_SIZE)
    ring = b"".join(_RING_ENTRY.pack(version, masters[version]) for version in sorted(masters))
    sealed = nonce + AESGCM(wrap).encrypt(nonce, ring, params + commitment)
    return Slot(
        slot=slot,
        kind=secret.kind,
        label=label,
        created_ns=created_ns,
        params=params,
        commitment=commitment,
        sealed=sealed,
    )


def parameters_of(slot: Slot, what: str) -> KdfParameters | None:
    """The Argon2id cost of a slot; None for a kind without one."""
    return None if slot.kind not in ("passphrase", "keyfile") else _argon2_params(slot, what)[0]


def open_slot(slot: Slot, secret: Secret, *, volume_id: bytes, what: str) -> dict[int, bytes] | None:
    """The master keys in a slot, by version; None when the secret is not this slot's.

    Blocks for the key derivation. Corrupt when the secret fits and the rest does not.
    """
    if slot.kind != secret.kind:
        return None
    if secret.kind == "recovery":
        salt = decode(slot.params, _RECOVERY, what).salt
        base = secret.reveal()
    else:
        parameters, salt = _argon2_params(slot, what)
        base = kdf.derive(secret.reveal(), salt, parameters)
    context = _context(slot.slot, slot.kind)
    commitment = expand(base, salt, LABEL_SLOT_COMMIT, volume_id, context)
    if not hmac.compare_digest(commitment, slot.commitment):
        return None
    wrap = expand(base, salt, LABEL_SLOT_WRAP, volume_id, context)
    nonce, sealed = slot.sealed[:NONCE_SIZE], slot.sealed[NONCE_SIZE:]
    try:
        ring = AESGCM(wrap).decrypt(nonce, sealed, slot.params + commitment)
        masters = dict(_RING_ENTRY.iter_unpack(ring))
    except (InvalidTag, ValueError, struct.error):
        masters = {}
    if not masters:
        raise Corrupt(
            f"{what}: the secret is right, but slot {slot.slot} is damaged: open with another slot's"
        )
    return masters


def _argon2_params(slot: Slot, what: str) -> tuple[KdfParameters, bytes]:
    params = decode(slot.params, _ARGON2, f"{what}: slot {slot.slot}")
    return KdfParameters(params.memory_kib, params.iterations, params.lanes), params.salt


def _context(slot: int, kind: str) -> bytes:
    """What a slot's keys are bound to beside the volume: its number, and its kind in 32 bytes."""
    return slot.to_bytes(4) + kind.encode("ascii").ljust(32, b"\x00")
