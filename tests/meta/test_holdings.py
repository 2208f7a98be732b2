"""What snapshots hold: the scan says what counting each chunk by hand says, however small its table."""

import random
from pathlib import Path

import pytest

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.meta.holdings import Holdings, holdings_of
from fusegw.meta.past import Past, Readable
from fusegw.meta.schema import CHUNK, EXTENT, HOLE, INODE_MAX, PACK, PACK_NUMBER_END, ROOT_INODE, Snapshot
from fusegw.store.memory import MemoryStore
from fusegw.vfs.caller import Caller
from tests.faults.support import source, volume

ROOT = Caller(0, 0)


def extents(rows: Readable) -> list[tuple[int, int]]:
    """(chunk, length) of all."""
    found = rows.scan(EXTENT, (0, 0), (INODE_MAX, 0))
    return [(extent.chunk, extent.length) for _, extent in found if extent.chunk != HOLE]


def by_hand(running: Runtime, snapshot: Snapshot) -> Holdings:
    metadata = running.metadata
    own = extents(Past(metadata, snapshot))
    others = {chunk for chunk, _ in extents(metadata)}
    for other in running.volume.snapshots:
        if other.seq != snapshot.seq:
            others.update(chunk for chunk, _ in extents(Past(metadata, other)))
    stored = {chunk: metadata.get(CHUNK, chunk) for chunk, _ in own}
    sizes = {chunk: row.stored for chunk, row in stored.items() if row is not None}
    return Holdings(
        logical_bytes=sum(length for _, length in own),
        stored_bytes=sum(sizes.values()),
        unique_logical_bytes=sum(length for chunk, length in own if chunk not in others),
        unique_stored_bytes=sum(size for chunk, size in sizes.items() if chunk not in others),
    )


def alive(running: Runtime) -> int:
    """Stored bytes of all chunks that something refers to."""
    return sum(pack.live_bytes for _, pack in running.metadata.scan(PACK, 0, PACK_NUMBER_END))


async def settled(running: Runtime) -> None:
    """All durable, what is deleted freed."""
    while running.volume.snapshots.backlog or running.volume.reap_backlog:
        await running.volume.barrier()
    await running.volume.barrier()


def check(running: Runtime, chunks_max: int) -> list[Holdings]:
    found = []
    for snapshot in running.volume.snapshots:
        with running.metadata.view() as view:
            found.append(holdings_of(view, snapshot, lambda: None, chunks_max=chunks_max))
        assert found[-1] == by_hand(running, snapshot)
        assert found[-1].logical_bytes == snapshot.nbytes
    return found


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_scan_counts_as_by_hand(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as running:
        files, namespace = running.volume.files, running.volume.namespace
        inodes: dict[bytes, int] = {}
        for step in range(60):
            name = b"%d" % rng.randrange(8)
            if name in inodes and rng.random() < 0.3:
                namespace.unlink(ROOT_INODE, name)
                del inodes[name]
            else:
                if name not in inodes:
                    inodes[name] = namespace.mknod(ROOT_INODE, name, 0o100644, 0, ROOT).ino
                # Of few contents, so that files and snapshots have chunks in common.
                data = rng.choice([bytes([rng.randrange(6)]), rng.randbytes(3)]) * 4000
                await files.write(inodes[name], rng.randrange(3) * 6000, data)
                await files.fsync(inodes[name])
            if step % 8 == 7:
                await running.volume.snapshots.create(f"s{step}")
            if step == 40:
                await running.volume.snapshots.delete("s15")
        await settled(running)
        found = check(running, 1 << 19)
        assert any(one.unique_stored_bytes for one in found)
        assert any(one.unique_stored_bytes < one.stored_bytes for one in found)
        for chunks_max in (1, 2, 7):
            assert check(running, chunks_max) == found


async def test_deleting_frees_what_is_unique(tmp_path: Path) -> None:
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as running:
        files = running.volume.files
        ino = running.volume.namespace.mknod(ROOT_INODE, b"file", 0o100644, 0, ROOT).ino
        for name in ("a", "b"):
            await files.write(ino, 0, name.encode() * 50_000)
            await running.volume.snapshots.create(name)
        await files.write(ino, 0, b"c" * 50_000)
        await settled(running)
        first, _ = check(running, 100)
        assert first.unique_logical_bytes == first.logical_bytes == 50_000
        before = alive(running)
        await running.volume.snapshots.delete("a")
        await settled(running)
        assert before - alive(running) == first.unique_stored_bytes


async def test_a_scan_ends_when_it_is_told_to(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def enough() -> None:
        raise Enough

    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as running:
        ino = running.volume.namespace.mknod(ROOT_INODE, b"file", 0o100644, 0, ROOT).ino
        await running.volume.files.write(ino, 0, b"x")
        snapshot = await running.volume.snapshots.create("one")
        with running.metadata.view() as view, pytest.raises(Enough):
            holdings_of(view, snapshot, enough)
