"""The packs that the index needs against the list of those in the store, and who needs what is missing.

A pack that is on its way (it has a local row) need not be there yet; one without living chunks need not be
there any more.
"""

from collections.abc import Callable, Iterator

import msgspec

from fusegw.check.damages import Damages
from fusegw.errors import Corrupt, Invalid, UnknownFormat
from fusegw.meta.history import decode_row, history_prefix, split_key
from fusegw.meta.schema import CHUNK, EXTENT, HISTORY, PACK, PACK_LOCAL, Pack
from fusegw.meta.view import View
from fusegw.packs.format import (
    HEADER_SIZE,
    TRAILER_SIZE,
    Header,
    PackCipher,
    PackKeys,
    decode_trailer,
    encode_header,
    object_key,
)
from fusegw.store.base import ObjectStore


class Packs(msgspec.Struct):
    """What comparing the lists gave."""

    needed: int = 0
    """That living chunks lie in, and that must be in the store."""
    unknown: dict[str, int] = {}
    """Sizes of objects that the index does not know: of a crash, or of another writer, or newer than it."""
    broken: dict[int, str] = {}
    """Keys of those that are missing, or of another size, by pack number."""
    missing: set[int] = set()
    """Of them, those that are not there at all."""


def compare_packs(view: View, store: ObjectStore, damages: Damages) -> Packs:
    """Blocking: one listing. Raises what the store raises."""
    local = {number for number, _ in view.sound(PACK_LOCAL)}
    known = set()
    needed = {}
    for number, pack in view.sound(PACK):
        key = object_key(pack.pack_id)
        if pack.live and number not in local:
            needed[key] = (number, pack.size)
        else:
            known.add(key)
    found = Packs(needed=len(needed))
    for info in store.list("packs/"):
        number, size = needed.pop(info.key, (0, 0))
        if number and info.size != size:
            damages.of(info.key, f"object {info.key} has {info.size} bytes, {size} were written")
            found.broken[number] = info.key
        elif not number and info.key not in known:
            found.unknown[info.key] = info.size
    for key, (number, _) in needed.items():
        damages.of(key, f"object {key} is missing from {store.url}")
        found.broken[number] = key
        found.missing.add(number)
    return found


def check_packs(view: View, store: ObjectStore, damages: Damages) -> Packs:
    """`compare_packs`, and the files that need a broken one."""
    found = compare_packs(view, store, damages)
    if found.broken:
        chunks = {number: chunk.pack for number, chunk in view.sound(CHUNK) if chunk.pack in found.broken}
        for ino, chunk in suffering(view, chunks.__contains__):
            damages.of(found.broken[chunks[chunk]], "").needed_by(ino)
    return found


def suffering(view: View, is_broken: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
    """(inode, chunk number) of every extent that refers to a broken chunk, those of snapshots included."""
    for (ino, _), extent in view.sound(EXTENT):
        if is_broken(extent.chunk):
            yield ino, extent.chunk
    for key, row in view.sound(HISTORY, history_prefix(EXTENT, (0, 0))):
        if key[0] != EXTENT.code:
            return
        (ino, _), past = decode_row(EXTENT, split_key(key)[0], row)
        if past is not None and is_broken(past.chunk):
            yield ino, past.chunk


def frame_problem(store: ObjectStore, keys: PackKeys, pack: Pack) -> str | None:
    """What is wrong with header, footer or trailer of a stored pack: all that is no record.

    Blocking. NotFound and what else the store raises.
    """
    key = object_key(pack.pack_id)
    what = f"object {key}"
    try:
        header = Header(pack.key_version, keys.volume_id, pack.pack_id, pack.salt)
        if store.get_range(key, 0, HEADER_SIZE) != encode_header(header):
            return f"{what} has a damaged header"
        trailer = store.get_range(key, pack.size - TRAILER_SIZE, TRAILER_SIZE)
        length = decode_trailer(trailer, pack.size, what)
        start = pack.size - TRAILER_SIZE - length
        cipher = PackCipher(keys, pack.key_version, pack.pack_id, pack.salt)
        records = len(cipher.open_footer(store.get_range(key, start, length), start, 0))
    except (Corrupt, UnknownFormat, Invalid) as error:
        return str(error)
    if records != pack.records:
        return f"{what} has {records} records, {pack.records} were written"
    return None
