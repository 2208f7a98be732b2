"""Checks a whole pack, every byte of it: for tests and tools, not for reading."""

from collections.abc import Callable

from fusegw.errors import Corrupt
from fusegw.packs.compress import decompress
from fusegw.packs.format import (
    HEADER_SIZE,
    TRAILER_SIZE,
    Entry,
    PackCipher,
    PackKeys,
    decode_header,
    decode_trailer,
)


def verify_pack(
    data: bytes,
    keys: PackKeys,
    *,
    pack_id: bytes,
    number: int = 0,
    chunk_id_of: Callable[[bytes], bytes] | None = None,
) -> list[Entry]:
    """The records of the pack `data`, all of which opened. `number` goes into their locations.

    chunk_id_of: also compare the id of each chunk. Corrupt or UnknownFormat at the first byte that is not as
    it was sealed; bytes between records must be zero.
    """
    what = f"pack {pack_id.hex()}"
    header = decode_header(data, what)
    if header.volume_id != keys.volume_id or header.pack_id != pack_id:
        raise Corrupt(f"{what} says it is pack {header.pack_id.hex()} of volume {header.volume_id.hex()}")
    footer_at = len(data) - TRAILER_SIZE - decode_trailer(data[-TRAILER_SIZE:], len(data), what)
    cipher = PackCipher(keys, header.key_version, pack_id, header.salt)
    entries = cipher.open_footer(data[footer_at:-TRAILER_SIZE], footer_at, number)
    end = HEADER_SIZE
    for chunk_id, place in entries:
        if any(data[end : place.offset]):
            raise Corrupt(f"{what} has bytes before record {place.record} that belong to nothing")
        end = place.offset + place.stored
        raw = decompress(place.codec, cipher.open(data[place.offset : end], chunk_id, place), place.raw)
        if chunk_id_of is not None and chunk_id_of(raw) != chunk_id:
            raise Corrupt(f"{cipher.describe(place)} holds another chunk")
    if end != footer_at:
        raise Corrupt(f"{what} has {footer_at - end} bytes before its footer that belong to nothing")
    return entries
