"""The pack format: golden bytes, a reading of docs/format.md by hand, and that nothing altered passes."""

import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fusegw.errors import Corrupt, FusegwError, UnknownFormat
from fusegw.packs.format import (
    HEADER_SIZE,
    RAW,
    RAW_SIZE_MAX,
    RECORD_OVERHEAD,
    RECORDS_MAX,
    TRAILER_SIZE,
    ZSTD,
    Entry,
    Header,
    Location,
    PackCipher,
    decode_header,
    decode_trailer,
    encode_header,
    encode_trailer,
    footer_size,
    object_key,
)
from fusegw.packs.verify import verify_pack
from tests.packs.fakes import VOLUME_ID, FakeKeys, OneKey, chunk_id_of

PACK_ID = bytes(range(100, 116))
SALT = bytes(range(200, 232))
HELLO = b"hello"
ZEROS = bytes(64)
ZEROS_ZSTD = bytes.fromhex("28b52ffd204003020000")
"""64 zero bytes as a zstd frame of one run-length block, written by hand."""

GOLDEN = (
    # magic, version, zero, key version, volume id
    "46555345475750000001000000000007000102030405060708090a0b0c0d0e0f"
    # pack id
    "6465666768696a6b6c6d6e6f70717273"
    # salt
    "c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7"
    # record 0: nonce, sealed chunk, tag
    "00000000000000000000000081f529bb2aec1d1a9837c2f6936792b10f262cbbd9"
    # record 1
    "010101010101010101010101824268d5d5e62fb76c07202a9540276ba44e47076707efe6b097"
    # footer
    "ffffffffffffffffffffffff2ac5c19b5be752c786e8e9692001de34aa80fc6328572351968b6976"
    "f124abb78af43dd913b2c15bc27b3d5a9a4e63f99e8d481e7cd9f2c8be762f38d0f165feded96f35"
    "5fe19d7a1f38c1c2655874501237bbbff9df2bcf716b2945a4520e8f386a49fa82fe7e49e9f6f3c8"
    "c2951bb6f002"
    # trailer
    "0000007e000100004655534547575045"
)


def build(keys: FakeKeys, pack_id: bytes = PACK_ID) -> tuple[bytes, list[Entry]]:
    """A pack of two records with fixed nonces."""
    cipher = PackCipher(keys, 7, pack_id, SALT)
    entries: list[Entry] = []
    data = cipher.header
    for raw, codec, payload in ((HELLO, RAW, HELLO), (ZEROS, ZSTD, ZEROS_ZSTD)):
        place = Location(9, len(entries), len(data), len(payload) + RECORD_OVERHEAD, len(raw), codec)
        data += cipher.seal(payload, chunk_id_of(raw), place, bytes([len(entries)] * 12))
        entries.append((chunk_id_of(raw), place))
    footer = cipher.seal_footer(entries, len(data), bytes([255] * 12))
    return data + footer + encode_trailer(len(footer)), entries


def check(data: bytes, keys: FakeKeys | None = None) -> list[Entry]:
    return verify_pack(data, keys or FakeKeys(), pack_id=PACK_ID, number=9, chunk_id_of=chunk_id_of)


def test_golden_bytes() -> None:
    data, entries = build(FakeKeys())
    assert data.hex() == GOLDEN
    assert check(data) == entries


def test_reads_as_the_document_says() -> None:
    """An independent reading of docs/format.md, with nothing of the code under test."""
    data, _ = build(FakeKeys())
    header = data[:80]
    magic, version, zero, key_version, volume_id, pack_id, salt = struct.unpack(">8sHHI16s16s32s", header)
    assert (magic, version, zero) == (b"FUSEGWP\0", 1, 0)
    aead = AESGCM(FakeKeys().pack_key(key_version, salt, pack_id))
    length, version, zero, magic = struct.unpack(">IHH8s", data[-16:])
    assert (version, zero, magic, volume_id) == (1, 0, b"FUSEGWPE", VOLUME_ID)
    footer_at = len(data) - 16 - length
    footer = data[footer_at:-16]
    binding = b"fusegw footer\0\0\0" + header + footer_at.to_bytes(4, "big")
    table = aead.decrypt(footer[:12], footer[12:], binding)
    assert len(table) == 2 * 49
    for row, expected in zip((table[:49], table[49:]), (HELLO, ZEROS_ZSTD), strict=True):
        _, offset, stored, _, _, _ = struct.unpack(">IIIIB32s", row)
        sealed = data[offset : offset + stored]
        assert aead.decrypt(sealed[:12], sealed[12:], b"fusegw record\0\0\0" + header + row) == expected


def test_every_flipped_bit_is_noticed() -> None:
    data, _ = build(FakeKeys())
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises((Corrupt, UnknownFormat)):
                check(bytes(flipped))


def test_every_truncation_and_any_longer_pack_is_noticed() -> None:
    data, _ = build(FakeKeys())
    for size in range(len(data)):
        with pytest.raises((Corrupt, UnknownFormat)):
            check(data[:size])
    for position in range(len(data) + 1):
        with pytest.raises((Corrupt, UnknownFormat)):
            check(data[:position] + b"\0" + data[position:])


def test_a_record_opens_nowhere_else() -> None:
    """Even under one key, each particular of a record is bound."""
    data, entries = build(OneKey())
    cipher = PackCipher(OneKey(), 7, PACK_ID, SALT)
    (chunk_id, place), (other_id, other) = entries
    sealed = data[place.offset : place.offset + place.stored]
    assert cipher.open(sealed, chunk_id, place) == HELLO
    wrong: list[tuple[PackCipher, bytes, Location]] = [
        (cipher, other_id, place),
        (cipher, chunk_id, Location(9, 1, place.offset, place.stored, place.raw, place.codec)),
        (cipher, chunk_id, Location(9, 0, place.offset + 1, place.stored, place.raw, place.codec)),
        (cipher, chunk_id, Location(9, 0, place.offset, place.stored, place.raw + 1, place.codec)),
        (cipher, chunk_id, Location(9, 0, place.offset, place.stored, place.raw, ZSTD)),
        (cipher, chunk_id, Location(9, 0, place.offset, place.stored + 1, place.raw, place.codec)),
        (cipher, other_id, other),
        (PackCipher(OneKey(), 7, bytes(16), SALT), chunk_id, place),
        (PackCipher(OneKey(), 8, PACK_ID, SALT), chunk_id, place),
        (PackCipher(OneKey(), 7, PACK_ID, bytes(32)), chunk_id, place),
    ]
    for where, what, how in wrong:
        with pytest.raises(Corrupt, match="record"):
            where.open(sealed, what, how)
    stranger = OneKey()
    stranger.volume_id = bytes(16)
    with pytest.raises(Corrupt):
        PackCipher(stranger, 7, PACK_ID, SALT).open(sealed, chunk_id, place)


def test_swapped_records_and_packs_are_noticed() -> None:
    keys = OneKey()
    data, entries = build(keys)
    cipher = PackCipher(keys, 7, PACK_ID, SALT)
    _, first = entries[0]
    _, second = entries[1]
    one = data[first.offset : first.offset + first.stored]
    two = data[second.offset : second.offset + second.stored]
    # A forger who had the key could write a footer for the swapped order; the records still do not open.
    places = [
        (entries[1][0], Location(9, 0, 80, second.stored, second.raw, second.codec)),
        (entries[0][0], Location(9, 1, 80 + second.stored, first.stored, first.raw, first.codec)),
    ]
    end = 80 + len(one) + len(two)
    footer = cipher.seal_footer(places, end, bytes(12))
    with pytest.raises(Corrupt, match="record 0"):
        check(data[:80] + two + one + footer + encode_trailer(len(footer)), keys)
    elsewhere, _ = build(keys, bytes(16))
    with pytest.raises(Corrupt):
        check(data[:80] + elsewhere[80:], keys)
    assert check(data, keys)


def test_labels_keep_footers_and_records_apart() -> None:
    keys = OneKey()
    data, entries = build(keys)
    cipher = PackCipher(keys, 7, PACK_ID, SALT)
    start = entries[1][1].offset + entries[1][1].stored
    footer = data[start:-TRAILER_SIZE]
    assert cipher.open_footer(footer, start, 9) == entries
    with pytest.raises(Corrupt):
        cipher.open_footer(footer, start - 1, 9)
    with pytest.raises(Corrupt):
        cipher.open(footer, bytes(32), Location(9, 2, start, len(footer), 98, RAW))


@pytest.mark.parametrize(
    "places",
    [
        [(1, 80, 33, 5, RAW), (0, 113, 33, 5, RAW)],
        [(0, 80, 33, 5, RAW), (0, 113, 33, 5, RAW)],
        [(0, 80, 33, 5, RAW), (1, 112, 33, 5, RAW)],
        [(0, 79, 33, 5, RAW)],
        [(0, 80, 27, 5, ZSTD)],
        [(0, 80, 33, 6, RAW)],
        [(0, 80, 33, 5, 2)],
        [(0, 80, 33, RAW_SIZE_MAX + 1, ZSTD)],
        [(0, 180, 33, 5, RAW)],
        [(RECORDS_MAX, 80, 33, 5, RAW)],
    ],
)
def test_a_footer_that_contradicts_itself_is_refused(places: list[tuple[int, int, int, int, int]]) -> None:
    cipher = PackCipher(FakeKeys(), 7, PACK_ID, SALT)
    footer = cipher.seal_footer([(bytes(32), Location(9, *place)) for place in places], 200, bytes(12))
    with pytest.raises(Corrupt, match="contradicts itself"):
        cipher.open_footer(footer, 200, 9)


def test_a_pack_with_a_gap_must_have_zeros_there() -> None:
    cipher = PackCipher(FakeKeys(), 7, PACK_ID, SALT)
    place = Location(9, 3, 90, 33, 5, RAW)
    sealed = cipher.seal(HELLO, chunk_id_of(HELLO), place, bytes(12))
    footer = cipher.seal_footer([(chunk_id_of(HELLO), place)], 123, bytes([1] * 12))
    tail = footer + encode_trailer(len(footer))
    assert check(cipher.header + bytes(10) + sealed + tail) == [(chunk_id_of(HELLO), place)]
    with pytest.raises(Corrupt, match="belong to nothing"):
        check(cipher.header + bytes(9) + b"\1" + sealed + tail)


def test_headers_say_what_is_wrong() -> None:
    header = encode_header(Header(7, VOLUME_ID, PACK_ID, SALT))
    assert len(header) == HEADER_SIZE
    assert decode_header(header + b"more", "it") == Header(7, VOLUME_ID, PACK_ID, SALT)
    cases: list[tuple[bytes, type[FusegwError], str]] = [
        (b"X" + header[1:], UnknownFormat, "not a pack"),
        (header[:9] + b"\2" + header[10:], UnknownFormat, "upgrade"),
        (header[:9] + b"\0" + header[10:], Corrupt, "damaged"),
        (header[:11] + b"\1" + header[12:], Corrupt, "damaged"),
        (header[:-1], Corrupt, "cut off"),
    ]
    for data, error, message in cases:
        with pytest.raises(error, match=message):
            decode_header(data, "it")


def test_trailers_keep_their_bounds() -> None:
    length = footer_size(2)
    assert decode_trailer(encode_trailer(length), 80 + length + 16, "it") == length
    for wrong, size in (
        (length, 80 + length + 15),
        (length, (1 << 30) + 1),
        (length + 1, 1 << 20),
        (footer_size(0), 1 << 20),
        (footer_size(RECORDS_MAX + 1), 1 << 24),
        (0, 1 << 20),
    ):
        with pytest.raises(Corrupt):
            decode_trailer(encode_trailer(wrong), size, "it")


def test_object_key() -> None:
    assert object_key(PACK_ID) == "packs/64/6465666768696a6b6c6d6e6f70717273"
