"""Objects under packs' names that no row knows: uploads of a gateway that crashed or was fenced before its
metadata was shipped.

Found by a rare LIST. One is deleted only when it was already unknown at an earlier look, long ago by this
gateway's own clock (the store's is not asked), and no position before that look is kept any more. Since pack
ids never come back, no kept position can know it then. Our own uploads have durable rows before they begin,
and the rows are read after the list; those of another gateway that took over since mean that we are fenced,
and nothing is deleted.
"""

from collections.abc import Iterator

from fusegw.meta.codec import decode_u64, encode_u64
from fusegw.meta.metadata import Metadata, Row
from fusegw.meta.schema import LOCAL, LOCAL_ORPHANS_LOOKED, ORPHAN, PACK, Head, Orphan
from fusegw.meta.view import View
from fusegw.packs.format import pack_id_of
from fusegw.store.base import ObjectStore

REMEMBERED_MAX = 100_000


def looked_ns(metadata: Metadata) -> int | None:
    """When the store was last listed for orphans (ns since 1970); None: never by this index."""
    row = metadata.get(LOCAL, LOCAL_ORPHANS_LOOKED)
    return None if row is None else decode_u64(row)


def look(metadata: Metadata, store: ObjectStore, head: Head, now_ns: int) -> dict[bytes, Orphan]:
    """Blocking: list the store and remember what is unknown; all orphans by pack id, with what is known of
    them since they were first seen. `renew` the metadata afterwards."""
    unknown = _unknown(metadata, store)
    with metadata.view() as view:
        before = dict(view.rows(ORPHAN))
    found = {
        pack_id: before.get(pack_id, Orphan(now_ns, head.seq, size)) for pack_id, size in unknown.items()
    }
    metadata.write(_changes(before, found, now_ns))
    return found


def remembered(view: View) -> list[tuple[bytes, Orphan]]:
    """Blocking: the orphans of the last look that are not deleted yet."""
    return list(view.rows(ORPHAN))


def forget(metadata: Metadata, pack_ids: list[bytes]) -> None:
    """Blocking: these objects are gone. `renew` the metadata afterwards."""
    metadata.write((ORPHAN, pack_id, None) for pack_id in pack_ids)


def _unknown(metadata: Metadata, store: ObjectStore) -> dict[bytes, int]:
    with metadata.view() as view:
        known = {pack.pack_id for _, pack in view.rows(PACK)}
    unknown: dict[bytes, int] = {}
    for entry in store.list("packs/"):
        pack_id = pack_id_of(entry.key)
        if pack_id is not None and pack_id not in known:
            unknown[pack_id] = entry.size
            if len(unknown) >= REMEMBERED_MAX:
                break
    with metadata.view() as view:  # what was uploaded while the list was read
        for _, pack in view.rows(PACK):
            unknown.pop(pack.pack_id, None)
    return unknown


def _changes(before: dict[bytes, Orphan], found: dict[bytes, Orphan], now_ns: int) -> Iterator[Row]:
    for pack_id in before.keys() - found.keys():
        yield ORPHAN, pack_id, None
    for pack_id in found.keys() - before.keys():
        yield ORPHAN, pack_id, found[pack_id]
    yield LOCAL, LOCAL_ORPHANS_LOOKED, encode_u64(now_ns)
