"""Extent maps and reference counts against a byte map, on a real index."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusegw.clock import SystemClock
from fusegw.errors import Corrupt
from fusegw.meta.chunks import Chunks
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import (
    CHUNK,
    CHUNK_ID,
    EXTENT,
    HOLE,
    INODE,
    INODE_MAX,
    PACK,
    Chunk,
    Extent,
    Inode,
    chunk_key,
)
from fusegw.packs.format import PackInfo
from fusegw.vfs import extents

INO = 7
PIECE = 16


@pytest.fixture
def metadata(tmp_path: Path):
    index = Metadata(tmp_path / "meta", size_max_bytes=1 << 30, reserve_bytes=4096)
    yield index
    index.close()


def new_chunks(metadata: Metadata) -> Chunks:
    return Chunks(
        metadata,
        epoch=1,
        clock=SystemClock(),
        describe=lambda n: PackInfo(n, n.to_bytes(16, "big"), 1, bytes(32)),
    )


def new_chunk(chunks: Chunks, change: Change, seed: int) -> int:
    return chunks.add(change, Chunk(seed.to_bytes(32, "little"), 1, seed, 0, 10, PIECE, 0, 0))


def check(metadata: Metadata, row: Inode, expected: list[tuple[int, int]]) -> None:
    """The map reads as `expected` (chunk, offset) per byte; counts and allocation agree."""
    change = metadata.change()
    actual: list[tuple[int, int]] = []
    references: dict[int, int] = {}
    allocated = 0
    for (_, offset), extent in change.scan(EXTENT, (INO, 0), (INO + 1, 0)):
        assert offset == len(actual), "extents leave a gap or overlap"
        assert extent.length > 0
        if extent.chunk == HOLE:
            actual += [(HOLE, 0)] * extent.length
        else:
            actual += [(extent.chunk, extent.chunk_offset + i) for i in range(extent.length)]
            references[extent.chunk] = references.get(extent.chunk, 0) + 1
            allocated += extent.length
    assert actual == expected
    assert row.size == len(expected)
    assert row.allocated == allocated
    rows = dict(change.scan(CHUNK, 0, 1 << 63))
    assert {number: chunk.count for number, chunk in rows.items()} == references
    pack = metadata.get(PACK, 1)
    assert (pack.live if pack else 0) == len(rows)
    for number, chunk in rows.items():
        assert change.get(CHUNK_ID, chunk_key(chunk.chunk_id)) == number


def wipe(metadata: Metadata) -> None:
    """What a failed example left."""
    with metadata.change() as change:
        for table in (EXTENT, CHUNK):
            low, high = ((0, 0), (INODE_MAX + 1, 0)) if table is EXTENT else (0, 1 << 63)
            for key, row in list(change.scan(table, low, high)):
                change.delete(table, key)
                if table is CHUNK:
                    change.delete(CHUNK_ID, chunk_key(row.chunk_id))
        change.delete(PACK, 1)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["data", "hole", "cut", "extend", "again"]), st.integers(0, 60), st.integers(1, 40)
    ),
    max_size=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(OPERATIONS)
def test_map_reads_back_and_counts_agree(metadata: Metadata, operations: list[tuple[str, int, int]]) -> None:
    wipe(metadata)
    chunks = new_chunks(metadata)
    row = Inode(INO, 1, 0o100644, 1, 0, 0, 0, 0, 0, 0, 0)
    expected: list[tuple[int, int]] = []
    last = 0
    for seed, (name, offset, length) in enumerate(operations, 1):
        with metadata.change() as change:
            if name in ("data", "again"):
                if name == "data" or not last or change.get(CHUNK, last) is None:
                    last = new_chunk(chunks, change, seed)
                pieces = []
                for start in range(0, length, PIECE):
                    pieces.append(Extent(min(PIECE, length - start), last, 0))
                row = extents.place(change, chunks, row, offset, pieces, length)
                expected += [(HOLE, 0)] * (offset - len(expected))
                expected[offset : offset + length] = [(last, i % PIECE) for i in range(length)]
            elif name == "hole":
                row = extents.place(change, chunks, row, offset, [Extent(length, HOLE, 0)], length)
                expected += [(HOLE, 0)] * (offset - len(expected))
                expected[offset : offset + length] = [(HOLE, 0)] * length
            elif name == "cut":
                row = extents.cut(change, chunks, row, offset)
                del expected[offset:]
            else:
                row = extents.extend(change, row, offset)
                expected += [(HOLE, 0)] * (offset - len(expected))
            change.put(INODE, INO, row)
        if seed % 3 == 0:
            metadata.freeze()
            metadata.save()
            metadata.saved()
        check(metadata, row, expected)
    with metadata.change() as change:
        rest: Inode | None = row
        while rest is not None:
            rest = extents.free_some(change, chunks, rest, 2)
        change.delete(INODE, INO)
    assert not list(metadata.scan(EXTENT, (INO, 0), (INO + 1, 0)))
    assert not list(metadata.scan(CHUNK, 0, 1 << 63))


def test_clipped_pieces_are_not_referred_to(metadata: Metadata) -> None:
    chunks = new_chunks(metadata)
    with metadata.change() as change:
        first, second = new_chunk(chunks, change, 1), new_chunk(chunks, change, 2)
        row = Inode(INO, 1, 0o100644, 1, 0, 0, 0, 0, 0, 0, 0)
        row = extents.place(
            change, chunks, row, 0, [Extent(PIECE, first, 0), Extent(PIECE, second, 0)], PIECE - 1
        )
        for chunk in (first, second):
            chunks.refer(change, chunk)
            chunks.unrefer(change, chunk)
    check(metadata, row, [(first, i) for i in range(PIECE - 1)])


def test_neighbouring_holes_are_one_extent(metadata: Metadata) -> None:

    row = Inode(INO, 1, 0o100644, 1, 0, 0, 0, 0, 0, 0, 0)
    with metadata.change() as change:
        for size in (1 << 30, 1 << 35, 1 << 40):
            row = extents.extend(change, row, size)
    assert [extent.length for _, extent in metadata.scan(EXTENT, (INO, 0), (INO + 1, 0))] == [1 << 40]


def test_missing_chunk_row_is_damage(metadata: Metadata) -> None:
    with metadata.change() as change, pytest.raises(Corrupt, match="0x63"):
        new_chunks(metadata).refer(change, 99)


def test_a_hole_longer_than_any_chunk_is_written_into(metadata: Metadata) -> None:
    """What is left of it has no place in a chunk, which would not fit into its row."""
    chunks = new_chunks(metadata)
    with metadata.change() as change:
        row = Inode(INO, 1, 0o100644, 1, 0, 0, 0, 0, 0, 0, 0)
        row = extents.extend(change, row, 1 << 41)
        number = new_chunk(chunks, change, 1)
        for offset in (0, 1 << 40, (1 << 41) - PIECE):
            row = extents.place(change, chunks, row, offset, [Extent(PIECE, number, 0)], PIECE)
    assert metadata.freeze()
    metadata.save()
    metadata.saved()
    holes = [row for _, row in metadata.scan(EXTENT, (INO, 0), (INO + 1, 0)) if row.chunk == HOLE]
    assert [hole.chunk_offset for hole in holes] == [0, 0]
