"""The key hierarchy: known answers for every label, and nothing shown."""

import copy
import hmac
import pickle

import msgspec
import pytest

from fusegw.errors import Corrupt, Full, Invalid
from fusegw.keys import KdfParameters, VolumeKeys, hierarchy, kdf

VOLUME_ID = bytes(range(16))
SALT = bytes(range(100, 132))
PACK_ID = bytes(range(200, 216))
MASTERS = {1: b"\x01" * 32, 2: b"\x02" * 32}


def make_keys() -> VolumeKeys:
    return VolumeKeys(VOLUME_ID, MASTERS, chunk_id_key=b"c" * 32, cutter_seed=7)


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 by hand, one block."""
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


# Written down once, by the function above and not by the code under test. Each is part of the format.
KNOWN = {
    "fusegw pack v1": "c002fcfbe939023c4bdd54e632b7c8e45d6427cd5a5ce126c8450dd5b6679911",
    "fusegw log v1": "ba8cf8c36a8653305a895e46f8c2ad73b06bca627ff354ac50f40d711d7395e4",
    "fusegw checkpoint v1": "aec2d2e19904d03572b621002e687676d3433c0c453275eba02221f8906a5d2d",
    "fusegw volume constants v1": "febaa5c7d935e52a7e4da084d31844c88ce412e4e869401a7c42fc3727b11ec4",
    "fusegw key generation mac v1": "990655f925bff0b56465f489aab76fe59895c70a57c014b4dbf7d643b26ec07e",
    "fusegw slot commitment v1": "390ab459677ad18abe3b2fa067ff4ecfc3681c24ab3c87170e9b52bddd588623",
    "fusegw slot wrap v1": "54f499a15e7502932c10b0dbf28004a60ddb98fad89605f6946efd96217c363a",
}


@pytest.mark.parametrize(
    ("label", "context", "salt"),
    [
        (b"fusegw pack v1", PACK_ID, SALT),
        (b"fusegw log v1", b"", SALT),
        (b"fusegw checkpoint v1", b"", SALT),
        (b"fusegw volume constants v1", (2).to_bytes(4), SALT),
        (b"fusegw key generation mac v1", b"", b""),
        (b"fusegw slot commitment v1", (3).to_bytes(4) + b"recovery".ljust(32, b"\0"), SALT),
        (b"fusegw slot wrap v1", (3).to_bytes(4) + b"recovery".ljust(32, b"\0"), SALT),
    ],
    ids=lambda value: value.decode() if value[:7] == b"fusegw " else "",
)
def test_known_answers(label: bytes, context: bytes, salt: bytes) -> None:
    answer = hierarchy.expand(MASTERS[2], salt, label, VOLUME_ID, context)
    assert answer == hkdf(MASTERS[2], salt, label + b"\0" + VOLUME_ID + context)
    assert answer.hex() == KNOWN[label.decode()]
    for other in ((label + b" ", VOLUME_ID, context), (label, VOLUME_ID[::-1], context)):
        assert hierarchy.expand(MASTERS[2], salt, *other) != answer


def test_labels_are_those_of_the_known_answers() -> None:
    labels = {value.decode() for name, value in vars(hierarchy).items() if name.startswith("LABEL_")}
    assert labels == set(KNOWN)
    assert len(set(KNOWN.values())) == len(KNOWN)


def test_object_keys_use_their_labels() -> None:
    keys = make_keys()
    assert keys.pack_key(2, SALT, PACK_ID).hex() == KNOWN["fusegw pack v1"]
    assert keys.log_key(2, SALT).hex() == KNOWN["fusegw log v1"]
    assert keys.checkpoint_key(2, SALT).hex() == KNOWN["fusegw checkpoint v1"]


def test_pack_keys_differ_by_version_salt_pack_and_volume() -> None:
    keys = make_keys()
    elsewhere = VolumeKeys(b"x" * 16, MASTERS, chunk_id_key=b"c" * 32, cutter_seed=7)
    derived = {
        keys.pack_key(1, SALT, PACK_ID),
        keys.pack_key(2, SALT, PACK_ID),
        keys.pack_key(2, SALT[::-1], PACK_ID),
        keys.pack_key(2, SALT, PACK_ID[::-1]),
        elsewhere.pack_key(2, SALT, PACK_ID),
    }
    assert len(derived) == 5
    assert keys.pack_key(1, SALT, PACK_ID) == make_keys().pack_key(1, SALT, PACK_ID)


def test_current_version_is_the_newest() -> None:
    keys = make_keys()
    assert keys.current_version == 2
    assert keys.versions == (1, 2)


def test_unknown_version_is_damage_and_named() -> None:
    with pytest.raises(Corrupt, match=r"key version 3 .*1, 2"):
        make_keys().pack_key(3, SALT, PACK_ID)


@pytest.mark.parametrize(("salt", "pack_id"), [(SALT[1:], PACK_ID), (SALT, PACK_ID + b"x")])
def test_sizes_are_checked(salt: bytes, pack_id: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        make_keys().pack_key(1, salt, pack_id)
    if salt != SALT:
        with pytest.raises(ValueError, match="expected"):
            make_keys().log_key(1, salt)


def test_keys_are_never_shown_encoded_copied_or_changed() -> None:
    keys = make_keys()
    shown = f"{keys} {keys!r} {[keys]}"
    assert VOLUME_ID.hex() in shown
    for secret in (*MASTERS.values(), keys.chunk_id_key):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
    for attempt in (pickle.dumps, copy.copy, msgspec.json.encode):
        with pytest.raises(TypeError):
            attempt(keys)
    with pytest.raises(AttributeError):
        keys.current_version = 1


def test_argon2id_known_answer() -> None:
    derived = kdf.derive(b"secret", SALT, KdfParameters(memory_kib=19456, iterations=2, lanes=1))
    assert derived.hex() == "361860df68d1fbb253cd50afc0e59e30a87315d6057ff60bc5b2bb977103cb47"


def test_default_cost_is_the_second_recommendation_of_rfc_9106() -> None:
    assert KdfParameters(memory_kib=65536, iterations=3, lanes=4) == kdf.DEFAULT_KDF
    kdf.DEFAULT_KDF.check()


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        (KdfParameters(memory_kib=19455), "memory_kib is 19455"),
        (KdfParameters(memory_kib=1048577), "memory_kib is 1048577"),
        (KdfParameters(iterations=1), "iterations is 1"),
        (KdfParameters(iterations=17), "iterations is 17"),
        (KdfParameters(lanes=0), "lanes is 0"),
        (KdfParameters(lanes=17), "lanes is 17"),
        (KdfParameters(lanes=-1), "lanes is -1"),
        (KdfParameters(memory_kib=1048576, iterations=5), "memory_kib × iterations"),
    ],
)
def test_costs_out_of_bounds_are_refused_before_any_work(parameters: KdfParameters, named: str) -> None:
    with pytest.raises(Invalid, match=named):
        kdf.derive(b"secret", SALT, parameters)


@pytest.mark.parametrize(
    "parameters",
    [KdfParameters(19456, 2, 1), KdfParameters(1048576, 4, 16), KdfParameters(262144, 16, 16)],
)
def test_bounds_themselves_are_allowed(parameters: KdfParameters) -> None:
    parameters.check()


def test_too_little_memory_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hungry:
        def __init__(self, **cost: object) -> None:
            pass

        def derive(self, secret: bytes) -> bytes:
            raise MemoryError

    monkeypatch.setattr(kdf, "Argon2id", Hungry)
    with pytest.raises(Full, match="64 MiB"):
        kdf.derive(b"secret", SALT, kdf.DEFAULT_KDF)


def test_hand_made_hkdf_is_right() -> None:
    """RFC 5869, test case 1, first block."""
    derived = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert derived.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
