"""The check of an index passes what operations leave, and finds each invariant that is broken underneath."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from fusegw.check.damages import INDEX, Damages
from fusegw.check.index import check_index
from fusegw.check.numbers import Numbers
from fusegw.clock import SystemClock
from fusegw.meta import schema
from fusegw.meta.history import ABSENT, history_key, history_prefix
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.quota import ACTIVE
from fusegw.meta.schema import (
    CHUNK,
    CHUNK_ID,
    CONDEMNED,
    DAMAGED,
    DIRENT,
    EXTENT,
    HISTORY,
    INODE,
    PACK,
    PACK_LOCAL,
    PACK_NUMBER_END,
    POSITION,
    QUOTA,
    QUOTA_USED,
    REAP,
    ROOT_INODE,
    SNAPSHOT,
    STATE,
    STATE_BYTES,
    STATE_FILES,
    STATE_NEXT_INODE,
    STATE_NEXT_QUOTA,
    XATTR,
    Chunk,
    Condemned,
    Dirent,
    Extent,
    Inode,
    Pack,
    PackLocal,
    Quota,
    Snapshot,
    Used,
    damaged_key,
)
from fusegw.store.memory import MemoryStore
from tests.faults.support import ROOT_USER, content, source, volume, write_file
from tests.meta.indexes import commit, open_index, underneath

ROOT = Path(__file__).parents[2]


async def make(tmp_path: Path) -> None:
    """An index with files, links, directories, an extended attribute, holes and damage that was found."""
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        names = runtime.volume.namespace
        below = names.mkdir(ROOT_INODE, b"dir", 0o755, ROOT_USER).ino
        names.mkdir(below, b"deeper", 0o755, ROOT_USER)
        ino = await write_file(runtime, b"file", content(1, 200_000))
        await write_file(runtime, b"same", content(1, 200_000))
        await write_file(runtime, b"small", b"content")
        names.link(ino, below, b"link")
        runtime.volume.xattrs.set(ino, b"user.tag", b"value", 0, ROOT_USER)
        names.symlink(below, b"symlink", b"target", ROOT_USER)
        limited = names.mkdir(ROOT_INODE, b"limited", 0o755, ROOT_USER).ino
        runtime.quotas.set(limited, files_max=9)
        runtime.quotas.set(names.mkdir(limited, b"deeper", 0o755, ROOT_USER).ino, bytes_max=1 << 30)
        await write_file(runtime, b"counted", content(2, 50_000))
        names.rename(ROOT_INODE, b"counted", limited, b"counted", 0)
        await runtime.volume.barrier()
        number = next(number for number, _ in runtime.metadata.scan(CHUNK, 0, PACK_NUMBER_END))
        with runtime.metadata.change() as change:
            runtime.chunks.distrust(change, number)
        await runtime.volume.barrier()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made")
    trio.run(make, directory)
    return directory / "meta"


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of the index, to be broken."""
    return Path(shutil.copytree(made, tmp_path / "meta"))


def problems(metadata: Metadata) -> list[str]:
    damages = Damages()
    with metadata.view() as view:
        check_index(view, damages)
    assert all(found.object == INDEX for found in damages.found())
    return [found.problem for found in damages.found()]


def first(change: Change, table: Any, low: Any, high: Any) -> tuple[Any, Any]:
    return next(iter(change.scan(table, low, high)))


def chunk(change: Change) -> tuple[int, Chunk]:
    """The newest one, which is not marked."""
    return next(iter(change.scan(CHUNK, 0, PACK_NUMBER_END, reverse=True)))


def pack(change: Change) -> tuple[int, Pack]:
    number, row = first(change, PACK, 0, PACK_NUMBER_END)
    return number, row


def entry(change: Change, directory: int, name: bytes) -> Dirent:
    found = change.get(DIRENT, (directory, name))
    assert found is not None
    return found


def inode(change: Change, name: bytes) -> Inode:
    found = change.get(INODE, entry(change, ROOT_INODE, name).ino)
    assert found is not None
    return found


def extent(change: Change) -> tuple[tuple[int, int], Extent]:
    ino = inode(change, b"file").ino
    key, row = first(change, EXTENT, (ino, 0), (ino + 1, 0))
    return key, row


def put_inode(change: Change, name: bytes, **changes: Any) -> None:
    row = inode(change, name)
    change.put(INODE, row.ino, replace(row, **changes))


def put_extent(change: Change, **changes: Any) -> None:
    key, row = extent(change)
    change.put(EXTENT, key, replace(row, **changes))


def put_chunk(change: Change, **changes: Any) -> None:
    number, row = chunk(change)
    change.put(CHUNK, number, replace(row, **changes))


def put_pack(change: Change, **changes: Any) -> None:
    number, row = pack(change)
    change.put(PACK, number, replace(row, **changes))


def put_entry(change: Change, name: bytes, **changes: Any) -> None:
    change.put(DIRENT, (ROOT_INODE, name), replace(entry(change, ROOT_INODE, name), **changes))


def circle(change: Change) -> None:
    """dir → deeper → dir, cut off from the root; every link and count fits."""
    below = entry(change, ROOT_INODE, b"dir")
    deeper = entry(change, below.ino, b"deeper")
    root, inner = change.get(INODE, ROOT_INODE), change.get(INODE, deeper.ino)
    assert root is not None and inner is not None
    change.delete(DIRENT, (ROOT_INODE, b"dir"))
    change.delete(POSITION, (ROOT_INODE, below.cookie))
    change.put(INODE, ROOT_INODE, replace(root, entries=root.entries - 1, nlink=root.nlink - 1))
    change.put(DIRENT, (deeper.ino, b"dir"), replace(below, cookie=3))
    change.put(POSITION, (deeper.ino, 3), b"dir")
    change.put(INODE, deeper.ino, replace(inner, entries=1, nlink=3, next_cookie=4))
    put = change.get(INODE, below.ino)
    assert put is not None
    change.put(INODE, below.ino, replace(put, parent=deeper.ino))


def mark(change: Change) -> None:
    number, row = chunk(change)
    change.put(DAMAGED, damaged_key(row.chunk_id, number), 1)


BREAKS: dict[str, tuple[Callable[[Change], None], str]] = {
    "a name without an inode": (lambda c: put_entry(c, b"file", ino=999), "does not exist"),
    "an entry of another type": (lambda c: put_entry(c, b"file", kind=4), "another type"),
    "a cookie from nowhere": (lambda c: put_entry(c, b"file", cookie=1 << 40), "place never given out"),
    "an entry without a position": (
        lambda c: c.delete(POSITION, (ROOT_INODE, entry(c, ROOT_INODE, b"file").cookie)),
        "not at its place",
    ),
    "a position without an entry": (
        lambda c: c.put(POSITION, (ROOT_INODE, 1 << 39), b"ghost"),
        "positions without an entry",
    ),
    "too many links": (lambda c: put_inode(c, b"file", nlink=3), "has 2 names, 3 links"),
    "a file without a name": (
        lambda c: c.put(INODE, 900, replace(inode(c, b"small"), ino=900, nlink=0, size=0, allocated=0)),
        "has no name, and is not to be freed",
    ),
    "a living file in the reap queue": (
        lambda c: c.put(REAP, inode(c, b"file").ino, 0),
        "is to be freed, though it has a name",
    ),
    "reaping what is not there": (lambda c: c.put(REAP, 999, 0), "is to be freed, and does not exist"),
    "a directory that counts wrong": (lambda c: put_inode(c, b"dir", entries=7), "has 3 entries, says 7"),
    "a directory with other links": (lambda c: put_inode(c, b"dir", nlink=9), "has 9 links, expected 3"),
    "a directory elsewhere": (lambda c: put_inode(c, b"dir", parent=77), "lies elsewhere"),
    "a circle": (circle, "cannot be reached from the root"),
    "an attribute of nobody": (lambda c: c.put(XATTR, (999, b"user.x"), b""), "extended attribute"),
    "a shorter extent": (lambda c: put_extent(c, length=10), "gap or overlap"),
    "extents of nobody": (lambda c: c.put(EXTENT, (999, 0), Extent(1, 0, 0)), "extents belong to inode 999"),
    "a size beyond the extents": (lambda c: put_inode(c, b"file", size=300_000), "its extents cover 200000"),
    "a wrong allocation": (lambda c: put_inode(c, b"file", allocated=5), "says 5"),
    "an extent past its chunk": (lambda c: put_extent(c, chunk_offset=1), "is shorter than an extent"),
    "an extent of no chunk": (lambda c: put_extent(c, chunk=12345), "no row of chunk"),
    "a wrong count": (lambda c: put_chunk(c, count=40), "references, says 40"),
    "a chunk in no pack": (lambda c: put_chunk(c, pack=4711), "which has no row"),
    "a chunk past its pack": (lambda c: put_chunk(c, offset=1 << 30), "where no record can be"),
    "a wrong number of living chunks": (lambda c: put_pack(c, live=99), "says 99"),
    "a wrong number of living bytes": (lambda c: put_pack(c, live_bytes=99), "of 99"),
    "a pack that nobody writes": (lambda c: put_pack(c, digest=b""), "never closed"),
    "a waiting pack without a row": (
        lambda c: c.put(PACK_LOCAL, 4711, PackLocal(2, 0, 0)),
        "waits for the store and has no row",
    ),
    "a dedup entry that leads nowhere": (lambda c: c.put(CHUNK_ID, bytes(16), 4711), "the dedup index leads"),
    "a dedup entry of another chunk": (
        lambda c: c.put(CHUNK_ID, bytes(16), chunk(c)[0]),
        "the dedup index leads",
    ),
    "a mark of nothing": (lambda c: c.put(DAMAGED, bytes(24), 1), "another one or none"),
    "a damaged chunk that can be hit": (mark, "is damaged, and the dedup index leads to it"),
    "a needed pack that is to be deleted": (
        lambda c: c.put(CONDEMNED, chunk(c)[1].pack, Condemned(1, 1)),
        "is to be deleted, and is needed",
    ),
    "deleting a pack that is not there": (
        lambda c: c.put(CONDEMNED, 4711, Condemned(1, 1)),
        "is to be deleted, and is needed or does not exist",
    ),
    "a wrong number of files": (lambda c: c.put(STATE, STATE_FILES, bytes(8)), "for 'files'"),
    "a wrong number of bytes": (lambda c: c.put(STATE, STATE_BYTES, bytes(8)), "for 'bytes'"),
    "a quota that counts wrong": (
        lambda c: c.put(QUOTA_USED, 1, Used(50_000, 4)),
        "says 50000 bytes and 4 files are used, the inodes make 50000 and 3",
    ),
    "a quota that does not count": (lambda c: c.delete(QUOTA_USED, 2), "does not say what is used"),
    "a count of no quota": (lambda c: c.put(QUOTA_USED, 7, Used(1, 1)), "usage of quota 7"),
    "a quota in one that is not there": (
        lambda c: c.put(QUOTA, 2, Quota(ACTIVE, 7, 1, 1, 1)),
        "in quota 7, which does not exist",
    ),
    "a directory that counts elsewhere": (
        lambda c: put_inode(c, b"dir", quota=1),
        "counts for another quota",
    ),
    "a quota without its directory": (
        lambda c: put_inode(c, b"limited", quota=0),
        "counts for another quota",
    ),
    "a number of a quota that is taken": (lambda c: c.delete(STATE, STATE_NEXT_QUOTA), "would get number 0"),
    "an inode number that is taken": (
        lambda c: c.put(STATE, STATE_NEXT_INODE, bytes(7) + b"\x02"),
        "taken already",
    ),
}


def test_what_operations_leave_passes(place: Path) -> None:
    metadata = open_index(place)
    assert problems(metadata) == []
    metadata.close()


@pytest.mark.parametrize("name", BREAKS)
def test_each_broken_invariant_is_found(place: Path, name: str) -> None:
    breaking, expected = BREAKS[name]
    metadata = open_index(place)
    with metadata.change() as change:
        breaking(change)
    commit(metadata)
    found = problems(metadata)
    assert any(expected in one for one in found), found
    metadata.close()


@pytest.mark.parametrize(
    "table", [table.name for table in schema.LOGGED_TABLES if table.name not in ("state", "gateway")]
)
def test_a_flipped_bit_in_any_table_is_named(place: Path, table: str) -> None:
    if table in ("reap", "condemned", "snapshot", "history"):
        metadata = open_index(place)
        with metadata.change() as change:
            change.put(SNAPSHOT, 1, Snapshot(1, "first", 1, 0, 2, 1, 0))
            change.put(HISTORY, history_key(history_prefix(INODE, 999), 1), ABSENT)
            change.put(REAP, 999, 0)
            change.put(CONDEMNED, 4711, Condemned(1, 1))
        commit(metadata)
        metadata.close()
    with underneath(place, table) as rows:
        key, value = next(iter(rows.cursor()), (bytes(8), bytes(8)))
        rows.put(key, bytes([value[0] ^ 1]) + value[1:])
    metadata = open_index(place)
    found = problems(metadata)
    assert any(f"table {table!r} is damaged" in one for one in found), found
    metadata.close()


def test_numbers_find_what_was_added_in_any_order() -> None:
    numbers = Numbers(value="I")
    for key in range(10, 1000, 7):
        numbers.add(key, value=key * 2)
    for key in [10, 17, 24, 990, 500, 507, 3, 1005, 11, 10]:
        at = numbers.find(key)
        assert (at >= 0) == (key in range(10, 1000, 7))
        if at >= 0:
            assert numbers.column("value")[at] == key * 2
    assert 17 in numbers and 18 not in numbers and len(numbers) == len(range(10, 1000, 7))
