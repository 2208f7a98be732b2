"""docs/format.md, read as a second implementation would read it: nothing here uses `fusegw.keys` to decode.

The known volume below was written once by a seeded run. A refactor that changes one byte of what is written
under the same chance, or how it is read, fails here.
"""

import base64
import hashlib
import hmac
import struct

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from fusegw.keys import Secret, open_volume

KNOWN_RECOVERY_KEY = "FUSEGW-GV9CJV4-KP1T0SA-Q1E94KT-1NJWB4M-RJK0B2H-G0B0D2V-5CHDWME-274GSXA-5S23ER0"
KNOWN_SHA256 = {
    "keys/00000001": "3fb35b50ef0dad1a91b4953e4eb302a94cafa195b08d61c389f9e590dc88923d",
    "volume": "0fc279ae7ecda79c8c0b86c6f14cf7ae2c213cab074ddfa57a229d5ee5ff0ce0",
}
KNOWN_PACK_KEY = "c1dac3df626a9a32ef4ed4df5c4c5fe8be9c74da1bbf569fa0a7caf0b76b75c5"


def derive(key: bytes, salt: bytes, label: bytes, volume_id: bytes, context: bytes = b"") -> bytes:
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(extracted, label + b"\0" + volume_id + context + b"\x01", "sha256")


def payload_of(data: bytes, magic: bytes) -> bytes:
    found, version, zero, length = struct.unpack_from(">8sHHI", data)
    assert (found, version, zero, length) == (magic, 3, 0, len(data) - 48)
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    return data[16:-32]


def recovery_key_of(text: str) -> bytes:
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    prefix, *groups = text.split("-")
    assert (prefix, [len(group) for group in groups]) == ("FUSEGW", [7] * 9)
    bits = 0
    for index, group in enumerate(groups):
        value = 0
        for symbol in group[:6]:
            value = value * 32 + alphabet.index(symbol)
        digest = hashlib.sha256(b"fusegw recovery key v1\0" + bytes([index]) + value.to_bytes(4)).digest()
        assert alphabet.index(group[6]) == digest[0] % 32
        bits = bits << 30 | value
    key = (bits >> 14).to_bytes(32)
    whole = hashlib.sha256(b"fusegw recovery key v1\0" + key).digest()
    assert bits & 0x3FFF == int.from_bytes(whole[:2]) >> 2
    return key


def masters_of(slot: dict, volume_id: bytes, secret: bytes) -> dict[int, bytes]:  # type: ignore[type-arg]
    params = msgspec.msgpack.decode(slot["params"])
    salt = params["salt"]
    if slot["kind"] == "recovery":
        base = secret
    else:
        base = Argon2id(
            salt=salt,
            length=32,
            iterations=params["iterations"],
            lanes=params["lanes"],
            memory_cost=params["memory_kib"],
        ).derive(secret)
    context = slot["slot"].to_bytes(4) + slot["kind"].encode().ljust(32, b"\0")
    commitment = derive(base, salt, b"fusegw slot commitment v1", volume_id, context)
    assert commitment == slot["commitment"]
    wrap = derive(base, salt, b"fusegw slot wrap v1", volume_id, context)
    sealed = slot["sealed"]
    ring = AESGCM(wrap).decrypt(sealed[:12], sealed[12:], slot["params"] + commitment)
    return {int.from_bytes(ring[at : at + 4]): ring[at + 4 : at + 36] for at in range(0, len(ring), 36)}


@pytest.mark.parametrize("slot", [0, 1])
def test_the_document_is_enough_to_open_a_volume(bench, slot: int) -> None:
    objects = bench.objects()
    header = msgspec.msgpack.decode(payload_of(objects["volume"], b"FUSEGWV\0"))
    assert set(header) == {"volume_id", "name", "created_ns"}
    payload = payload_of(objects["keys/00000001"], b"FUSEGWK\0")
    mac, body = payload[:32], payload[32:]
    generation = msgspec.msgpack.decode(body)
    assert set(generation) == {
        "generation", "volume_id", "next_slot", "slots", "constants", "features", "extensions",
    }  # fmt: skip
    volume_id = generation["volume_id"]
    secret = [bench.passphrase.reveal(), recovery_key_of(bench.created.recovery_key)][slot]
    masters = masters_of(generation["slots"][slot], volume_id, secret)
    assert list(masters) == [1]
    mac_key = derive(masters[1], b"", b"fusegw key generation mac v1", volume_id)
    covered = len(objects["volume"]).to_bytes(4) + objects["volume"] + body
    assert hmac.digest(mac_key, covered, "sha256") == mac
    (constants,) = generation["constants"]
    key = derive(masters[1], constants["salt"], b"fusegw volume constants v1", volume_id, (1).to_bytes(4))
    plain = AESGCM(key).decrypt(constants["sealed"][:12], constants["sealed"][12:], None)
    keys = bench.created.keys
    assert plain == keys.chunk_id_key + keys.cutter_seed.to_bytes(8)
    pack_key = derive(masters[1], b"s" * 32, b"fusegw pack v1", volume_id, b"p" * 16)
    assert pack_key == keys.pack_key(1, b"s" * 32, b"p" * 16)


def test_the_same_chance_writes_the_same_bytes(bench) -> None:
    written = {key: hashlib.sha256(data).hexdigest() for key, data in bench.objects().items()}
    assert written == KNOWN_SHA256
    assert bench.created.recovery_key == KNOWN_RECOVERY_KEY


def test_the_known_volume_opens(bench) -> None:
    store = bench.with_objects({key: base64.b64decode(text) for key, text in KNOWN_OBJECTS.items()})
    for secret in (Secret.passphrase("correct horse battery staple"), Secret.recovery(KNOWN_RECOVERY_KEY)):
        opened = open_volume(store, secret)
        assert opened.header.name == "vol"
        assert opened.keys.pack_key(1, b"s" * 32, b"p" * 16).hex() == KNOWN_PACK_KEY


KNOWN_OBJECTS = {
    "keys/00000001": (
        "RlVTRUdXSwAAAwAAAAADCKghIgTBfbgEmDzWRN+4VmAWUeIeAXkgGXPDxRtkuxzTh6pnZW5lcmF0aW9uAal2b2x1bWVfaWTE"
        "EPWxZSJKWLeR32rx2DA+Yc2pbmV4dF9zbG90A6VzbG90c5KHpHNsb3QBpGtpbmSqcGFzc3BocmFzZaVsYWJlbKVmaXJzdKpj"
        "cmVhdGVkX25zzxeXnP7o+l4ApnBhcmFtc8RJhKptZW1vcnlfa2lizUwAqml0ZXJhdGlvbnMCpWxhbmVzAaRzYWx0xCD+2La4"
        "NX5EzTEpkDrB1FWXokL98R+PKxo588PmkxFDUapjb21taXRtZW50xCCz++vmQ46nbDNnL/9pujKW/hXqFA4s4Ow71mO2SS1l"
        "BqZzZWFsZWTEQNy+1Afj5rYFuZ6DBijtycSpy8PxWm1++O7Y4uT0YVCuLnyMOK06vYsY/KbxLQQnqv7RkNGCWzohIlZ9WWul"
        "e02HpHNsb3QCpGtpbmSocmVjb3ZlcnmlbGFiZWyocmVjb3ZlcnmqY3JlYXRlZF9uc88Xl5z/JJUoAKZwYXJhbXPEKIGkc2Fs"
        "dMQg3adIph4Cmoo/QVsCShRs8NmKmOHPmZZh+We9r98OczeqY29tbWl0bWVudMQgZ5jh5vvTSRwNFQJagGfAaBiIAW27sM6U"
        "09roLH7QlASmc2VhbGVkxEBCDBP49dQPbOB50bmSf9knrrdNFey7McUI6VD2ChQ6bu+S7+GzQrhq5qjwmDKsbjsHLxRUyLvG"
        "62svLeY/RRmDqWNvbnN0YW50c5GDp3ZlcnNpb24BpHNhbHTEIIc3bwe8uBKH/cjAOI/ogcOgZhlw7z9t8BSN7X6KNIiNpnNl"
        "YWxlZMREOWyrO4DSf1jfERo7anUzM/3IdLzU8a8K2gAFHJYqkWggVSCFE+MjoR+Q5eYdS/TF1hJQwCq+aW41HT6Hlzy1uxtU"
        "VkuoZmVhdHVyZXODqmNvbXBhdGlibGWQtHJlYWRfb25seV9jb21wYXRpYmxlkKxpbmNvbXBhdGlibGWQqmV4dGVuc2lvbnOA"
        "I3hSLp5vx/Eevhj5RUw767sgqA3anLlYLF3URA120Tw="
    ),
    "volume": (
        "RlVTRUdXVgAAAwAAAAAAOoOpdm9sdW1lX2lkxBD1sWUiSli3kd9q8dgwPmHNpG5hbWWjdm9sqmNyZWF0ZWRfbnPPF5ec/nHE"
        "ygD72rChiB0QmmqH8QNad15NBwbW0PHA8oTqmZIbiTibUA=="
    ),
}
