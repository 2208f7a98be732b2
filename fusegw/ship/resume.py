"""At a start: what became of the packs that were not in the store when the gateway ended.

A pack that was being written is closed at its last committed record; records that do not open are named in
the log, and the next write of the same data stores them anew. A closed one waits for its upload,
unless the store has it already (the reply was lost, or the crash came before its row was deleted). One
whose file is gone or short is a loss, named in the log; its row stays so that nobody takes it for stored.
"""

import logging

from msgspec.structs import replace

from cache import PackCache
from fusegw.clock import Clock, Entropy
from fusegw.errors import NotFound
from fusegw.meta.chunks import mark_damaged
from fusegw.meta.derived import pack_id_of
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import (
    CHUNK,
    EPOCH_SHIFT,
    PACK,
    PACK_CLOSED,
    PACK_LOCAL,
    PACK_NUMBER_END,
    PACK_OPEN,
    PackLocal,
    numbered,
)
from fusegw.packs.format import Location, PackInfo, PackKeys, object_key
from fusegw.packs.recover import close_torn
from fusegw.store.base import ObjectStore

log = logging.getLogger(__name__)


def unstored_names(metadata: Metadata) -> set[str]:
    """Cache names of the packs that only this gateway holds: never to be evicted."""
    names = set()
    for number, _ in metadata.scan(PACK_LOCAL, 0, PACK_NUMBER_END):
        pack = metadata.get(PACK, number)
        if pack is not None:
            names.add(pack.pack_id.hex())
    return names


def known_names(metadata: Metadata, names: set[str]) -> set[str]:
    """Those of these cache names that packs of the volume have. Blocking.

    Most of what a cache holds is new: the newest rows are looked at first, and no more than it takes.
    """
    wanted, found = set(map(bytes.fromhex, names)), set()
    with metadata.view() as view:
        for _, stored in view.stored(PACK, reverse=True):
            if (pack_id := pack_id_of(stored)) in wanted:
                found.add(pack_id.hex())
                if len(found) == len(wanted):
                    break
    return found


def resume(
    metadata: Metadata,
    cache: PackCache,
    keys: PackKeys,
    store: ObjectStore,
    entropy: Entropy,
    clock: Clock,
) -> None:
    """Bring all unstored packs to "closed" or "stored". Blocking; commits; before anything else runs."""
    for number, local in list(metadata.scan(PACK_LOCAL, 0, PACK_NUMBER_END)):
        if local.state == PACK_OPEN:
            _close(metadata, cache, keys, entropy, clock, number, local)
        else:
            _look_for(metadata, cache, store, number)
    if metadata.freeze():
        metadata.save()
        metadata.saved()


def _close(
    metadata: Metadata,
    cache: PackCache,
    keys: PackKeys,
    entropy: Entropy,
    clock: Clock,
    number: int,
    local: PackLocal,
) -> None:
    pack = metadata.get(PACK, number)
    assert pack is not None, "a local pack has a row"
    info = PackInfo(number, pack.pack_id, pack.key_version, pack.salt)
    committed = _committed(metadata, number, local.first_chunk)
    result = close_torn(cache, keys, info, list(committed.values()), entropy=entropy)
    with metadata.change() as change:
        if not pack.live:
            change.delete(PACK, number)
            change.delete(PACK_LOCAL, number)
            return
        if result.pack is not None:
            closed = result.pack
            pack = replace(pack, size=closed.size, records=closed.records, digest=closed.hash)
            change.put(PACK, number, pack)
        change.put(PACK_LOCAL, number, replace(local, state=PACK_CLOSED))
        lost = {place.record for _, place in result.damaged}
        for chunk, (chunk_id, place) in committed.items():
            if place.record in lost:
                log.error("pack %s lost record %d (chunk %s)", info.name, place.record, chunk_id.hex())
                mark_damaged(change, chunk, chunk_id, clock)


def _committed(metadata: Metadata, number: int, first_chunk: int) -> dict[int, tuple[bytes, Location]]:
    """By chunk number, the records of an open pack that the index refers to."""
    end = numbered((number >> EPOCH_SHIFT) + 1, 0)
    return {
        chunk_number: (
            chunk.chunk_id,
            Location(chunk.pack, chunk.record, chunk.offset, chunk.stored, chunk.raw, chunk.codec),
        )
        for chunk_number, chunk in metadata.scan(CHUNK, first_chunk, end)
        if chunk.pack == number
    }


def _look_for(metadata: Metadata, cache: PackCache, store: ObjectStore, number: int) -> None:
    pack = metadata.get(PACK, number)
    assert pack is not None, "a local pack has a row"
    name = pack.pack_id.hex()
    if cache.size(name) == pack.size:
        return
    try:
        stored = store.head(object_key(pack.pack_id)).size == pack.size
    except NotFound:
        stored = False
    if stored:
        with metadata.change() as change:
            change.delete(PACK_LOCAL, number)
        cache.unpin(name)
    else:
        log.error("pack %s was never stored and its cache file is gone or short: its data are lost", name)
