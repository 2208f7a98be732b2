"""Compares what a gateway says of its files with what the store alone gives back."""

from pathlib import Path

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import CHUNK, DIRENT, EXTENT, HOLE, INODE, INODE_MAX, PACK, XATTR, Pack
from fusegw.meta.unshipped import Standing
from fusegw.packs.format import object_key
from fusegw.ship.recover import recover
from fusegw.store.base import ObjectStore

EVERY_NAME = (0, b""), (INODE_MAX + 1, b"")


def recovered(store: ObjectStore, keys: VolumeKeys, place: Path) -> Metadata:
    """The index that the store alone gives."""
    clock = SystemClock()
    recover(place, store, keys, metadata_limit_bytes=1 << 30, clock=clock)
    return Metadata(place, size_max_bytes=1 << 30, clock=clock)


def rows_of(metadata: Metadata, ino: int) -> list[object]:
    """All that makes the file: its row, attributes, names, entries, and where its data lie."""
    rows: list[object] = [metadata.get(INODE, ino)]
    rows += metadata.scan(XATTR, (ino, b""), (ino + 1, b""))
    rows += [
        (key, entry.cookie, entry.ino)
        for key, entry in metadata.scan(DIRENT, *EVERY_NAME)
        if ino in (entry.ino, key[0])
    ]
    for key, extent in metadata.scan(EXTENT, (ino, 0), (ino + 1, 0)):
        chunk = metadata.get(CHUNK, extent.chunk)
        assert chunk is not None or extent.chunk == HOLE, f"extent {key} has no chunk"
        rows.append((key, extent, None if chunk is None else (chunk.chunk_id, chunk.pack, chunk.offset)))
    return rows


def packs_of(metadata: Metadata, ino: int) -> list[Pack]:
    """The packs its data lie in."""
    packs = []
    for _, extent in metadata.scan(EXTENT, (ino, 0), (ino + 1, 0)):
        if (chunk := metadata.get(CHUNK, extent.chunk)) is not None:
            pack = metadata.get(PACK, chunk.pack)
            assert pack is not None, f"chunk {extent.chunk:#x} has no pack"
            packs.append(pack)
    return packs


def check_claims(runtime: Runtime, store: ObjectStore, keys: VolumeKeys, place: Path) -> dict[int, Standing]:
    """AssertionError if anything that is called stored is not in the store as it is here; what is said of
    each inode.

    Without giving up the loop: nothing changes here meanwhile.
    """
    metadata = runtime.metadata
    inodes = [ino for ino, _ in metadata.scan(INODE, 0, INODE_MAX + 1)]
    said = {ino: runtime.volume.files.standing(ino) for ino in inodes}
    safe = [ino for ino in inodes if said[ino] is Standing.STORED]
    there = recovered(store, keys, place)
    try:
        for ino in safe:
            assert rows_of(there, ino) == rows_of(metadata, ino), f"inode {ino} is not in the store"
            assert runtime.volume.inodes.get(ino) == there.get(INODE, ino), f"inode {ino} is not in the store"
            for pack in packs_of(there, ino):
                assert store.head(object_key(pack.pack_id)).size == pack.size
    finally:
        there.close()
    return said
