"""What snapshots cost: to make one, however many files there are; to write while there are many; to go back;
to copy a tree."""

import random
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.meta.schema import DIRENT, INODE_MAX, ROOT_INODE
from fusegw.store.base import ObjectStore
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from tests.e2e.test_recovery_time import MAKING, MIB, make
from tests.faults.support import ROOT_USER, source, volume

MAKINGS = 21
SNAPSHOTS = 100
STREAM = 64 * MIB


def store_of(tmp_path: Path) -> ObjectStore:
    url = f"file://{tmp_path}/store"
    return open_store(StoreOptions(url=url), clock=SystemClock(), entropy=SystemEntropy(), create=True)


def on_volume(tmp_path: Path, body: Callable[[Runtime], Awaitable[None]]) -> None:
    async def main() -> None:
        given = source(tmp_path, store_of(tmp_path), tuning=MAKING, cache_size_bytes=1 << 30)
        async with volume(given) as runtime:
            await body(runtime)

    trio.run(main)


def packed(tmp_path: Path) -> int:
    return sum(file.stat().st_size for file in (tmp_path / "store/packs").rglob("*") if file.is_file())


def documents(runtime: Runtime) -> list[int]:
    """Inodes of the files that `make` made."""
    rows = runtime.metadata.scan(DIRENT, (0, b""), (INODE_MAX + 1, b""))
    return [entry.ino for (_, name), entry in rows if name.startswith(b"document-")]


async def time_creation(runtime: Runtime, count: int) -> None:
    took = []
    for number in range(MAKINGS):
        begun = time.perf_counter()
        await runtime.volume.snapshots.create(f"made-{number}")
        took.append(time.perf_counter() - begun)
    print(
        f"\n{count:,} files: a snapshot is made in {statistics.median(took) * 1000:.2f} ms "
        f"(median of {MAKINGS}; {min(took) * 1000:.2f} to {max(took) * 1000:.2f})"
    )


def run(tmp_path: Path, count: int) -> None:
    async def body(runtime: Runtime) -> None:
        await make(runtime, count)
        await time_creation(runtime, count)
        files = runtime.volume
        snapshots = files.snapshots
        before = packed(tmp_path)
        rows = runtime.metadata.used_bytes
        tree = snapshots.tree(snapshots.get("made-0"))
        begun = time.perf_counter()
        copied = await files.cloner.clone(tree.past, ROOT_INODE, ROOT_INODE, b"copy", over=False)
        await files.sync()
        clone_s = time.perf_counter() - begun
        await files.barrier()
        assert copied.files == count + -(-count // 1000) + 1
        assert packed(tmp_path) == before
        print(
            f"a clone of all of it in {clone_s:.1f} s, {copied.files / clone_s:,.0f} a second; bytes of data "
            f"uploaded {packed(tmp_path) - before}; the index grew by "
            f"{(runtime.metadata.used_bytes - rows) / MIB:.0f} MiB"
        )
        for ino in documents(runtime):
            if ino < copied.ino:
                await files.files.write(ino, 0, b"encrypted %d" % ino)
                await runtime.committer.room()
        await files.sync()
        begun = time.perf_counter()
        await files.rollback.to("made-0")
        took_s = time.perf_counter() - begun
        print(f"rolled back from {count:,} changed and as many new files in {took_s:.1f} s")
        some = random.Random(1).sample(documents(runtime), min(count, 500))
        for ino in some:
            assert (await files.files.read(ino, 0, 100)).startswith(b"content of document ")

    on_volume(tmp_path, body)


def test_some_files(tmp_path: Path) -> None:
    run(tmp_path, 1000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [10_000, 100_000])
def test_many_files(tmp_path: Path, count: int) -> None:
    run(tmp_path, count)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_million_files(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> None:
        await make(runtime, 1_000_000)
        await time_creation(runtime, 1_000_000)

    on_volume(tmp_path, body)


def write_rates(tmp_path: Path, rounds: int, files: int, stream: int) -> None:
    """New small files, overwritten ones and a stream, without and with snapshots, in turns."""
    rates: dict[tuple[str, str], list[float]] = {}
    randomness = random.Random(7)

    async def one(runtime: Runtime, kind: str, turn: int) -> None:
        names, data = runtime.volume.namespace, runtime.volume.files
        directory = names.mkdir(ROOT_INODE, b"%s-%d" % (kind.encode(), turn), 0o755, ROOT_USER).ino
        begun = time.perf_counter()
        made = []
        for number in range(files):
            ino = names.mknod(directory, b"%d" % number, 0o100644, 0, ROOT_USER).ino
            data.opened(ino)
            await data.write(ino, 0, randomness.randbytes(2000))
            data.flush(ino)
            runtime.volume.closed(ino)
            made.append(ino)
        await runtime.volume.sync()
        rates.setdefault(("new files", kind), []).append(files / (time.perf_counter() - begun))
        if kind == "with":
            await runtime.volume.snapshots.create(f"between-{turn}")
        begun = time.perf_counter()
        for ino in made:
            data.opened(ino)
            await data.write(ino, 500, randomness.randbytes(1000))
            data.flush(ino)
            runtime.volume.closed(ino)
        await runtime.volume.sync()
        rates.setdefault(("overwritten files", kind), []).append(files / (time.perf_counter() - begun))
        ino = names.mknod(directory, b"stream", 0o100644, 0, ROOT_USER).ino
        block = randomness.randbytes(MIB)
        begun = time.perf_counter()
        for number in range(stream // MIB):
            await data.write(ino, number * MIB, number.to_bytes(8, "big") + block[8:])
        await runtime.volume.sync()
        rates.setdefault(("stream", kind), []).append(stream / MIB / (time.perf_counter() - begun))

    async def both() -> None:
        places = {kind: tmp_path / kind for kind in ("without", "with")}
        for place in places.values():
            place.mkdir()
        for turn in range(rounds):
            for kind, place in places.items():
                given = source(place, store_of(place), tuning=MAKING, cache_size_bytes=1 << 30)
                async with volume(given) as runtime:
                    if kind == "with" and not turn:
                        for number in range(SNAPSHOTS):
                            await runtime.volume.snapshots.create(f"kept-{number}")
                    await one(runtime, kind, turn)

    trio.run(both)
    for what in ("new files", "overwritten files", "stream"):
        without, with_them = (statistics.median(rates[what, kind]) for kind in ("without", "with"))
        ratio = with_them / without
        print(f"{what}: {without:.0f} without, {with_them:.0f} with {SNAPSHOTS} snapshots: {ratio:.2f}")


def test_writing_with_snapshots(tmp_path: Path) -> None:
    write_rates(tmp_path, 1, 50, 2 * MIB)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_writing_with_a_hundred_snapshots(tmp_path: Path) -> None:
    write_rates(tmp_path, 5, 5000, STREAM)
