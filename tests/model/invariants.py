"""What must hold between the tables of an index at any time (see `fusegw.meta.schema`)."""

import stat
from collections import Counter

from fusegw.meta.history import extent_chunk
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import (
    CHUNK,
    CHUNK_ID,
    CONDEMNED,
    DAMAGED,
    DIRENT,
    EXTENT,
    HISTORY,
    HOLE,
    INODE,
    INODE_MAX,
    PACK,
    PACK_LOCAL,
    POSITION,
    REAP,
    ROOT_INODE,
    STATE_BYTES,
    STATE_FILES,
    STATE_STORED,
    STATE_UNIQUE,
    chunk_key,
    damaged_key,
)

_END = 1 << 62


def check_index(metadata: Metadata) -> None:
    """Every invariant; call it with nothing pending (all tables are scanned in LMDB)."""
    inodes = dict(metadata.scan(INODE, 0, INODE_MAX + 1))
    dirents = dict(metadata.scan(DIRENT, (0, b""), (INODE_MAX + 1, b"")))
    positions = dict(metadata.scan(POSITION, (0, 0), (INODE_MAX + 1, 0)))
    reap = dict(metadata.scan(REAP, 0, INODE_MAX + 1))
    _check_names(inodes, dirents, positions, reap)
    references: Counter[int] = Counter()
    covered: Counter[int] = Counter()
    allocated: Counter[int] = Counter()
    for (ino, offset), extent in metadata.scan(EXTENT, (0, 0), (INODE_MAX + 1, 0)):
        assert offset == covered[ino], f"inode {ino}: gap or overlap at {offset}"
        covered[ino] += extent.length
        if extent.chunk != HOLE:
            references[extent.chunk] += 1
            allocated[ino] += extent.length
    for key, row in metadata.scan(HISTORY, b"", b"\xff"):
        if (chunk := extent_chunk(key, row)) != HOLE:
            references[chunk] += 1
    for ino, inode in inodes.items():
        if stat.S_ISREG(inode.mode):
            assert covered[ino] == inode.size, f"inode {ino}: size {inode.size}, extents {covered[ino]}"
            assert allocated[ino] == inode.allocated, f"inode {ino}: allocation"
    assert set(covered) <= set(inodes)
    chunks = dict(metadata.scan(CHUNK, 0, _END))
    assert {number: chunk.count for number, chunk in chunks.items()} == dict(references)
    for key, number in metadata.scan(CHUNK_ID, b"", b"\xff" * 17):
        assert chunk_key(chunks[number].chunk_id) == key
        assert metadata.get(DAMAGED, damaged_key(chunks[number].chunk_id, number)) is None
    for key, _ in metadata.scan(DAMAGED, b"", b"\xff" * 25):
        number = int.from_bytes(key[-8:], "big")
        assert damaged_key(chunks[number].chunk_id, number) == key
    live = Counter(chunk.pack for chunk in chunks.values())
    live_bytes: Counter[int] = Counter()
    for chunk in chunks.values():
        live_bytes[chunk.pack] += chunk.stored
    for number, pack in metadata.scan(PACK, 0, _END):
        assert (pack.live, pack.live_bytes) == (live.pop(number, 0), live_bytes[number]), f"pack {number:#x}"
    assert not live, "chunks in packs without a row"
    for number, _ in metadata.scan(CONDEMNED, 0, _END):
        pack = metadata.get(PACK, number)
        assert pack is not None and not pack.live, f"pack {number:#x} is condemned"
        assert metadata.get(PACK_LOCAL, number) is None
    assert metadata.number(STATE_UNIQUE) == sum(chunk.raw for chunk in chunks.values())
    assert metadata.number(STATE_STORED) == sum(chunk.stored for chunk in chunks.values())
    assert metadata.number(STATE_BYTES) == sum(allocated.values())
    assert metadata.number(STATE_FILES) == len(inodes) - len(reap)


def _check_names(inodes: dict, dirents: dict, positions: dict, reap: dict) -> None:
    links = Counter(entry.ino for entry in dirents.values())
    children = Counter(parent for parent, _ in dirents)
    subdirectories: Counter[int] = Counter()
    for (parent, name), entry in dirents.items():
        child = inodes[entry.ino]
        assert positions.pop((parent, entry.cookie)) == name
        assert entry.kind == stat.S_IFMT(child.mode) >> 12
        assert entry.cookie < inodes[parent].next_cookie
        if stat.S_ISDIR(child.mode):
            subdirectories[parent] += 1
            assert child.parent == parent
    assert not positions, "positions without an entry"
    for ino, inode in inodes.items():
        if stat.S_ISDIR(inode.mode):
            assert inode.entries == children[ino]
            dead = ino in reap
            assert inode.nlink == (0 if dead else 2 + subdirectories[ino])
            assert links[ino] == (0 if dead or ino == ROOT_INODE else 1)
        else:
            assert inode.nlink == links[ino]
            assert (ino in reap) == (inode.nlink == 0)
