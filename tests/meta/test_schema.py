"""Rows as bytes: every table's rows come back as they were, keys sort as bytes like they do as values, sizes
stay small, and a damaged row is never read as anything."""

import stat
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusegw.errors import Corrupt, UnknownFormat
from fusegw.keys.framing import FORMAT_VERSION
from fusegw.meta import schema
from fusegw.meta.codec import Table
from fusegw.meta.schema import (
    CHUNK,
    CHUNK_ID,
    CONDEMNED,
    DAMAGED,
    DIRENT,
    EXTENT,
    GATEWAY,
    HISTORY,
    INODE,
    LOCAL,
    LOG_SEALED,
    LOG_TAIL,
    ORPHAN,
    PACK,
    PACK_LOCAL,
    POSITION,
    QUOTA,
    QUOTA_USED,
    REAP,
    SNAPSHOT,
    STATE,
    XATTR,
    Chunk,
    Commit,
    Condemned,
    Dirent,
    Extent,
    Head,
    Inode,
    Orphan,
    Pack,
    PackLocal,
    Quota,
    Sealed,
    Snapshot,
    Used,
)
from fusegw.meta.snapshot import SLOT_MAX
from tests.meta.indexes import commit, open_index, underneath

u8, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 32, 64))
time_ns = st.integers(-(1 << 63), (1 << 63) - 1)
file_time_ns = st.integers(schema.TIME_NS_MIN, schema.TIME_NS_MAX)
ids = st.integers(1, (1 << 40) - 1)
kinds = st.integers(0, 15)
sizes = st.integers(0, (1 << 63) - 1)
small = st.integers(0, 3)
names = st.binary(min_size=1, max_size=255)
_permissions = st.integers(0, 0o7777)


def inodes(ino: int) -> st.SearchStrategy[Inode]:
    """Inodes of every type, with what only that type has."""
    common: dict[str, Any] = {
        "ino": st.just(ino),
        "generation": st.one_of(u32, small),
        "nlink": st.one_of(u32, small),
        "uid": st.one_of(u32, small),
        "gid": st.one_of(u32, small),
        "size": st.one_of(sizes, small),
        "allocated": st.one_of(sizes, small),
        "atime_ns": st.one_of(file_time_ns, small),
        "mtime_ns": st.one_of(file_time_ns, small),
        "ctime_ns": st.one_of(file_time_ns, small),
        "quota": st.one_of(u32, small),
    }
    special: dict[int, dict[str, Any]] = {
        stat.S_IFREG: {},
        stat.S_IFIFO: {},
        stat.S_IFSOCK: {},
        stat.S_IFDIR: {"parent": u64, "next_cookie": u64, "entries": u64},
        stat.S_IFLNK: {"target": st.binary(min_size=1, max_size=4095)},
        stat.S_IFCHR: {"rdev": u64},
        stat.S_IFBLK: {"rdev": u64},
    }
    return st.one_of(
        st.builds(Inode, mode=_permissions.map(kind.__or__), **common, **more)
        for kind, more in special.items()
    )


pair = st.tuples(ids, u64)
named = st.tuples(ids, names)
_heads = st.builds(Head, u64, st.binary(min_size=32, max_size=32), u32, u64)
_packs = st.builds(
    Pack,
    st.binary(min_size=16, max_size=16),
    u32,
    st.binary(min_size=32, max_size=32),
    u32,
    u32,
    u32,
    u64,
    st.sampled_from([b"", b"d" * 32]),
)
_chunks = st.builds(
    Chunk, st.binary(min_size=32, max_size=32), st.one_of(u64, small), st.one_of(u32, small), u32, u32, u32,
    u8, st.one_of(u32, small),
)  # fmt: skip


def snapshots(seq: int) -> st.SearchStrategy[Snapshot]:
    """Snapshots with this sequence."""
    signed = st.integers(-(1 << 63), (1 << 63) - 1)
    name = st.text(
        st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=60
    )
    return st.builds(
        Snapshot, st.just(seq), name, st.integers(1, SLOT_MAX), signed, u64, u64, u64, signed,
        st.integers(0, 2), st.booleans(),
    )  # fmt: skip


TABLES: dict[str, tuple[Table[Any, Any], st.SearchStrategy[Any], Any]] = {
    "state": (STATE, names, st.binary(max_size=100)),
    "inode": (INODE, ids, inodes),
    "dirent": (DIRENT, named, st.builds(Dirent, ids, ids, kinds)),
    "position": (POSITION, st.tuples(ids, ids), names),
    "xattr": (XATTR, named, st.binary(max_size=1000)),
    "extent": (EXTENT, pair, st.builds(Extent, u64, u64, st.one_of(u32, st.just(0)))),
    "chunk": (CHUNK, u64, _chunks),
    "chunk_id": (CHUNK_ID, st.binary(min_size=8, max_size=8), u64),
    "pack": (PACK, u64, _packs),
    "reap": (REAP, ids, u64),
    "gateway": (GATEWAY, names, st.binary(max_size=300)),
    "damaged": (DAMAGED, st.binary(min_size=16, max_size=16), u64),
    "condemned": (CONDEMNED, u64, st.builds(Condemned, time_ns, u64)),
    "snapshot": (SNAPSHOT, u64, snapshots),
    "history": (HISTORY, names, st.binary(max_size=300)),
    "quota": (QUOTA, u32, st.builds(Quota, u8, u32, u64, u64, u64)),
    "quota_used": (QUOTA_USED, u32, st.builds(Used, time_ns, time_ns)),
    "pack_local": (PACK_LOCAL, u64, st.builds(PackLocal, u8, time_ns, u64)),
    "local": (LOCAL, names, st.binary(max_size=300)),
    "log_tail": (LOG_TAIL, u64, st.builds(Commit, time_ns, st.binary(max_size=300))),
    "log_sealed": (LOG_SEALED, u64, st.builds(Sealed, _heads, st.binary(max_size=300))),
    "orphan": (ORPHAN, st.binary(min_size=16, max_size=16), st.builds(Orphan, time_ns, u64, u64)),
}
"""Each table with its keys and its values (for inodes: the values of a key)."""


def _row(data: st.DataObject, name: str) -> tuple[Table[Any, Any], Any, Any]:
    table, keys, values = TABLES[name]
    key = data.draw(keys)
    return table, key, data.draw(values(key) if callable(values) else values)


def test_every_table_is_covered() -> None:
    assert [table for table, _, _ in TABLES.values()] == list(schema.TABLES)


@pytest.mark.parametrize("name", TABLES)
@given(data=st.data())
def test_rows_come_back_as_they_were(name: str, data: st.DataObject) -> None:
    table, key, value = _row(data, name)
    raw_key = table.encode_key(key)
    assert table.decode_key(raw_key) == key
    assert table.decode(key, raw_key, table.encode(raw_key, value)) == value
    assert len(raw_key) <= 511, "longest key LMDB takes"


@pytest.mark.parametrize("name", TABLES)
@given(data=st.data())
def test_keys_sort_alike_as_values_and_as_bytes(name: str, data: st.DataObject) -> None:
    table, keys, _ = TABLES[name]
    some = data.draw(st.lists(keys, max_size=10))
    assert [table.decode_key(raw) for raw in sorted(map(table.encode_key, some))] == sorted(some)


@pytest.mark.parametrize("name", TABLES)
@given(data=st.data())
def test_any_flipped_bit_is_damage(name: str, data: st.DataObject) -> None:
    table, key, value = _row(data, name)
    raw_key = table.encode_key(key)
    stored = bytearray(table.encode(raw_key, value))
    bit = data.draw(st.integers(0, len(stored) * 8 - 1))
    stored[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Corrupt, match=table.name):
        table.decode(key, raw_key, bytes(stored))


@pytest.mark.parametrize("stored", [b"", b"\0\0\0"])
def test_a_row_too_short_for_its_checksum_is_damage(stored: bytes) -> None:
    with pytest.raises(Corrupt):
        STATE.decode(b"key", b"key", stored)


def test_a_row_moved_to_another_key_or_table_is_damage() -> None:
    stored = POSITION.encode(POSITION.encode_key((1, 3)), b"name")
    assert POSITION.decode((1, 3), POSITION.encode_key((1, 3)), stored) == b"name"
    with pytest.raises(Corrupt):
        POSITION.decode((1, 4), POSITION.encode_key((1, 4)), stored)
    with pytest.raises(Corrupt):
        EXTENT.decode((1, 3), EXTENT.encode_key((1, 3)), stored)


@pytest.mark.parametrize(
    ("kind", "special", "end"),
    [
        (stat.S_IFREG, {}, b""),
        (
            stat.S_IFDIR,
            {"parent": 1, "next_cookie": 7, "entries": 1 << 40},
            struct.pack(">3Q", 1, 7, 1 << 40),
        ),
        (stat.S_IFLNK, {"target": b"../there"}, b"../there"),
        (stat.S_IFCHR, {"rdev": 0x1_0000_0005}, struct.pack(">Q", 0x1_0000_0005)),
    ],
)
@given(times=st.tuples(file_time_ns, file_time_ns, file_time_ns))
def test_the_row_of_an_inode_is_that_of_the_format_document(
    kind: int, special: dict[str, Any], end: bytes, times: tuple[int, int, int]
) -> None:
    """Decoded by what docs/format.md says, not by the code that wrote it."""
    row = INODE.encode(
        INODE.encode_key(5),
        Inode(5, 9, kind | 0o6755, 2, 3, 1 << 31, 4, 6, *times, quota=8, **special),
    )[:-4]
    wide = struct.calcsize(">BHH2I2I2Q")
    assert row[0] & ~16 == 2 + 4 + 8
    assert struct.unpack_from(">BHH2I2I2Q", row)[1:] == (kind | 0o6755, 9, 3, 1 << 31, 2, 8, 4, 6)
    if row[0] & 16:
        found = tuple(
            int.from_bytes(row[at : at + 9], "big", signed=True) for at in (wide, wide + 9, wide + 18)
        )
    else:
        before, mtime_ns, ctime_ns = struct.unpack_from(">Iqq", row, wide)
        found = (ctime_ns - before, mtime_ns, ctime_ns)
    assert found == times
    assert row[wide + (27 if row[0] & 16 else 20) :] == end


def test_usual_rows_are_those_of_the_format_document() -> None:
    """Decoded by what docs/format.md says, not by the code that wrote it."""
    times = (1_700_000_000_000_000_000, 1_600_000_000_000_000_000, 1_700_000_000_000_000_007)
    inode = INODE.encode(INODE.encode_key(5), Inode(5, 9, stat.S_IFREG | 0o644, 1, 3, 4, 10, 10, *times))[:-4]
    assert inode == struct.pack(">BHHHHIIqq", 0, stat.S_IFREG | 0o644, 9, 3, 4, 10, 7, times[1], times[2])
    assert INODE.encode_key(5) == bytes((0, 0, 0, 0, 5))
    entry = DIRENT.encode(DIRENT.encode_key((1, b"n")), Dirent(5, 0x1234, 8))[:-4]
    assert entry == bytes((0, 0, 0, 0, 5)) + bytes((0x01, 0x23, 0x48))
    assert EXTENT.encode(b"", Extent(10, 7, 0))[:-4] == struct.pack(">QI", 7, 10)
    assert EXTENT.encode(b"", Extent(10, 7, 1))[:-4] == struct.pack(">QQI", 10, 7, 1)
    chunk_id = bytes(range(32))
    chunk = CHUNK.encode(b"", Chunk(chunk_id, schema.numbered(2, 3), 4, 5, 6, 7, 1, 1))[:-4]
    assert chunk == struct.pack(">BB32sIIIHIH", 0, 1, chunk_id, 5, 6, 7, 2, 3, 4)
    wide = CHUNK.encode(b"", Chunk(chunk_id, schema.numbered(1 << 16, 3), 1 << 16, 5, 6, 7, 1, 2))[:-4]
    assert wide == struct.pack(
        ">BB32sIIIQII", 7, 1, chunk_id, 5, 6, 7, schema.numbered(1 << 16, 3), 1 << 16, 2
    )


@pytest.mark.parametrize("beyond", [schema.TIME_NS_MAX + 1, schema.TIME_NS_MIN - 1])
def test_a_time_beyond_what_a_row_holds_is_not_written_as_another(beyond: int) -> None:
    inode = Inode(5, 1, stat.S_IFREG | 0o644, 1, 0, 0, 10, 10, 1, beyond, 1)
    with pytest.raises(struct.error):
        INODE.encode(INODE.encode_key(5), inode)


def test_what_the_log_holds_is_what_the_format_version_stands_for() -> None:
    """A fusegw takes tables and rows that it does not know for damage: who adds or changes one raises the
    format version, or has a feature flag, so that an older fusegw says "upgrade" before it reads any."""
    assert (FORMAT_VERSION, {table.code: table.name for table in schema.LOGGED_TABLES}) == (
        3,
        {
            1: "state", 2: "inode", 3: "dirent", 4: "position", 5: "xattr", 6: "extent", 7: "chunk",
            8: "chunk_id", 9: "pack", 10: "reap", 11: "gateway", 12: "damaged", 13: "condemned",
            14: "snapshot", 15: "history", 16: "quota", 17: "quota_used",
        },
    )  # fmt: skip


def test_a_small_file_takes_little_room() -> None:
    """One inode, name, position, extent and chunk with their keys: what a million small files multiply."""
    name = b"a-usual-name.txt"
    rows: list[tuple[Table[Any, Any], Any, Any]] = [
        (INODE, 5, Inode(5, 1, stat.S_IFREG | 0o644, 1, 0, 0, 10, 10, 1, 1, 1)),
        (DIRENT, (1, name), Dirent(5, 3, 8)),
        (POSITION, (1, 3), name),
        (EXTENT, (5, 0), Extent(10, 1, 0)),
        (CHUNK, 1, Chunk(bytes(32), 1, 0, 0, 50, 10, 1, 1)),
        (CHUNK_ID, bytes(8), 1),
    ]
    total = 0
    for table, key, value in rows:
        raw_key = table.encode_key(key)
        total += len(raw_key) + len(table.encode(raw_key, value))
    assert total <= 230


def test_damage_in_the_file_is_found_by_get_and_by_scan(tmp_path: Path) -> None:
    metadata = open_index(tmp_path)
    with metadata.change() as change:
        for cookie in (3, 4, 5):
            change.put(POSITION, (1, cookie), b"name %d" % cookie)
    commit(metadata)
    metadata.close()
    with underneath(tmp_path, "position") as transaction:
        raw_key = POSITION.encode_key((1, 4))
        stored = bytearray(transaction.get(raw_key))
        stored[0] ^= 1
        transaction.put(raw_key, bytes(stored))
    metadata = open_index(tmp_path)
    try:
        assert metadata.get(POSITION, (1, 3)) == b"name 3"
        for read in (
            lambda: metadata.get(POSITION, (1, 4)),
            lambda: list(metadata.scan(POSITION, (1, 0), (2, 0))),
            lambda: list(metadata.scan(POSITION, (1, 0), (2, 0), reverse=True)),
        ):
            with pytest.raises(Corrupt, match="'position'"):
                read()
        assert len(list(metadata.scan(POSITION, (1, 5), (2, 0)))) == 1
    finally:
        metadata.close()


def test_an_index_of_another_schema_is_refused(tmp_path: Path) -> None:
    metadata = open_index(tmp_path)
    with metadata.change() as change:
        change.put(STATE, schema.STATE_SCHEMA, (schema.SCHEMA_VERSION + 1).to_bytes(8, "big"))
    commit(metadata)
    metadata.close()
    with pytest.raises(UnknownFormat, match=f"schema {schema.SCHEMA_VERSION + 1}"):
        open_index(tmp_path)


def test_what_is_no_index_is_damage(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(Corrupt, match="is damaged"):
        open_index(tmp_path)
