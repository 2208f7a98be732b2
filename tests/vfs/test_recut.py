"""Re-cutting: what it does to a fragmented file, what it leaves alone, and who wins when both change it.

Virtual time stands still, so the background task never runs by itself (but where a test says so) and `step`
is all that happens.
"""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from fusegw import assembly
from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.meta.schema import EXTENT, HOLE, INODE, ROOT_INODE, Extent
from fusegw.store.faulty import FaultyStore
from fusegw.store.memory import MemoryStore
from fusegw.vfs.reading import Reading
from fusegw.vfs.recut import Recutter
from tests.faults.support import TUNING, content, create, forget_cached, source, until, volume
from tests.model.invariants import check_index

PAGE = 4096
CHUNK = TUNING.chunk_size_bytes
QUIET = replace(TUNING, commit_interval_s=60)


def store() -> MemoryStore:
    return MemoryStore(clock=SystemClock())


def extent_map(runtime: Runtime, ino: int) -> list[tuple[int, Extent]]:
    rows = runtime.metadata.scan(EXTENT, (ino, 0), (ino + 1, 0))
    return [(offset, extent) for (_, offset), extent in rows]


async def scatter(runtime: Runtime, ino: int, data: bytes, *, at: int = 0, seed: int = 1) -> None:
    """Write `data` page by page in random order, each page on its own way, and close the file."""
    files = runtime.volume.files
    pages = list(range(0, len(data), PAGE))
    random.Random(seed).shuffle(pages)
    files.opened(ino)
    for page in pages:
        await files.write(ino, at + page, data[page : page + PAGE])
        files.flush(ino)
    await files.settle(ino)
    runtime.volume.closed(ino)


async def scattered(runtime: Runtime, size: int = 512 << 10) -> tuple[int, bytes]:
    ino, data = create(runtime, b"file"), content(1, size)
    await scatter(runtime, ino, data)
    assert len(extent_map(runtime, ino)) > size // PAGE * 0.9
    return ino, data


async def overwrite(runtime: Runtime, ino: int, offset: int, data: bytes) -> None:
    await runtime.volume.files.write(ino, offset, data)
    await runtime.volume.files.settle(ino)


async def read(runtime: Runtime, ino: int) -> bytes:
    return await runtime.volume.files.read(ino, 0, 1 << 40)


async def check(runtime: Runtime, ino: int, data: bytes) -> None:
    """Content from the packs, the index's invariants, and every claim on the cache given back."""
    runtime.reading.forget()
    assert await read(runtime, ino) == data
    await runtime.volume.sync()
    check_index(runtime.metadata)
    assert runtime.cache.stats().reserved_bytes == 0


class GatedReading(Reading):
    """Can hold the next reader back after it has read."""

    gate: "Gate | None" = None

    async def assemble(self, *arguments: Any) -> bytes:
        gate, self.gate = self.gate, None
        data = await super().assemble(*arguments)
        if gate is not None:
            gate.has_read.set()
            await gate.go.wait()
        return data


class Gate:
    def __init__(self) -> None:
        self.has_read = trio.Event()
        self.go = trio.Event()


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "Reading", GatedReading)


async def recut_around(runtime: Runtime, between: Callable[[], Any]) -> int:
    """One step, with `between` awaited after the old data was read and before the new extents are merged."""
    gate = Gate()
    assert isinstance(runtime.reading, GatedReading)
    runtime.reading.gate = gate
    replaced: list[int] = []
    async with trio.open_nursery() as nursery:

        async def step() -> None:
            replaced.append(await runtime.recutter.step())

        nursery.start_soon(step)
        await gate.has_read.wait()
        done = between()
        if done is not None:
            await done
        gate.go.set()
    return replaced[0]


# what it does


async def test_scattered_pages_become_few_chunks(tmp_path: Path, mock_clock: object) -> None:
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino, data = await scattered(runtime)
        before = runtime.volume.inodes.get(ino)
        fragments = len(extent_map(runtime, ino))
        assert await runtime.recutter.step() == len(data)
        extents = extent_map(runtime, ino)
        assert len(extents) <= len(data) // CHUNK * 2
        assert runtime.volume.inodes.get(ino) == before
        statistics = runtime.recutter.statistics()
        assert (statistics.windows, statistics.nbytes) == (1, len(data))
        assert (statistics.extents_before, statistics.extents_after) == (fragments, len(extents))
        await check(runtime, ino, data)
        assert await runtime.recutter.step() == 0


async def test_it_happens_by_itself(tmp_path: Path) -> None:
    async with volume(source(tmp_path, store())) as runtime:
        ino, data = await scattered(runtime)
        await until(lambda: len(extent_map(runtime, ino)) < 20)
        await check(runtime, ino, data)


async def test_a_long_span_takes_several_looks(tmp_path: Path, mock_clock: object) -> None:
    async with volume(source(tmp_path, store(), cache_size_bytes=64 << 20, tuning=QUIET)) as runtime:
        ino, data = await scattered(runtime, 10 << 20)
        looks = 0
        while await runtime.recutter.step():
            looks += 1
        assert 3 <= looks <= 5
        assert len(extent_map(runtime, ino)) <= len(data) // CHUNK * 2
        await check(runtime, ino, data)


async def test_holes_and_whole_chunks_stay(tmp_path: Path, mock_clock: object) -> None:
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino = create(runtime, b"file")
        big, first, second = content(2, 6 * CHUNK), content(3, 20 * PAGE), content(4, 20 * PAGE)
        await overwrite(runtime, ino, 0, big)
        whole = extent_map(runtime, ino)
        await scatter(runtime, ino, first, at=len(big))
        gap = len(big) + len(first)
        await scatter(runtime, ino, second, at=gap + 10 * PAGE)
        tail = whole[-1][1].length
        assert await runtime.recutter.step() - len(first) - len(second) in (0, tail)
        extents = extent_map(runtime, ino)
        assert [(offset, extent) for offset, extent in extents if offset < whole[-1][0]] == whole[:-1]
        assert [offset for offset, extent in extents if extent.chunk == HOLE] == [gap]
        await check(runtime, ino, big + first + bytes(10 * PAGE) + second)


async def test_zeros_written_in_pieces_become_a_hole(tmp_path: Path, mock_clock: object) -> None:
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino = create(runtime, b"file")
        data = content(5, 20 * PAGE) + bytes(40 * PAGE) + content(6, 20 * PAGE)
        await scatter(runtime, ino, data)
        assert await runtime.recutter.step() == len(data)
        row = runtime.metadata.get(INODE, ino)
        assert row is not None and row.size == len(data) and row.allocated <= 48 * PAGE
        await check(runtime, ino, data)


async def test_a_file_that_is_big_and_whole_is_left_alone(tmp_path: Path, mock_clock: object) -> None:
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino = create(runtime, b"file")
        data = bytearray(content(7, 40 * CHUNK))
        await overwrite(runtime, ino, 0, bytes(data))
        for number in range(16):
            await overwrite(runtime, ino, number * 2 * CHUNK, content(number, 100))
            data[number * 2 * CHUNK : number * 2 * CHUNK + 100] = content(number, 100)
        extents = extent_map(runtime, ino)
        assert await runtime.recutter.step() == 0
        assert extent_map(runtime, ino) == extents
        await check(runtime, ino, bytes(data))


# what changes meanwhile wins


async def test_an_overwrite_meanwhile_wins(tmp_path: Path, mock_clock: object, gated: None) -> None:
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino, data = await scattered(runtime)
        new = content(8, 10_000)
        assert await recut_around(runtime, lambda: overwrite(runtime, ino, 50_000, new)) == 0
        data = data[:50_000] + new + data[60_000:]
        await check(runtime, ino, data)
        assert await runtime.recutter.step() == len(data), "it is tried again"
        assert len(extent_map(runtime, ino)) <= len(data) // CHUNK * 2
        await check(runtime, ino, data)


class Careless(Recutter):
    """Does not look whether the extents are still the ones it read."""

    def _unchanged(self, *_: Any) -> bool:
        return True


async def test_without_the_comparison_an_overwrite_would_be_lost(
    tmp_path: Path, mock_clock: object, gated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "Recutter", Careless)
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino, data = await scattered(runtime)
        await recut_around(runtime, lambda: overwrite(runtime, ino, 50_000, content(8, 10_000)))
        assert await read(runtime, ino) == data


async def test_data_in_memory_meanwhile_wins(tmp_path: Path, mock_clock: object, gated: None) -> None:
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino, data = await scattered(runtime)
        fragments = extent_map(runtime, ino)
        new = content(8, 10_000)
        assert await recut_around(runtime, lambda: runtime.volume.files.write(ino, 50_000, new)) == 0
        assert extent_map(runtime, ino) == fragments
        assert await runtime.recutter.step() == 0, "the file is held"
        await runtime.volume.files.settle(ino)
        data = data[:50_000] + new + data[60_000:]
        assert await runtime.recutter.step() == len(data)
        await check(runtime, ino, data)


@pytest.mark.parametrize("size", [0, 1, 50_000, (512 << 10) - 1, 600_000])
async def test_a_truncation_meanwhile_wins(
    tmp_path: Path, mock_clock: object, gated: None, size: int
) -> None:
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino, data = await scattered(runtime)

        def truncate() -> None:
            runtime.volume.files.truncate(ino, size)

        replaced = await recut_around(runtime, truncate)
        assert replaced == (len(data) if size > len(data) else 0)
        await check(runtime, ino, (data + bytes(600_000))[:size])
        await runtime.recutter.step()
        await check(runtime, ino, (data + bytes(600_000))[:size])


@pytest.mark.parametrize("reaped", [False, True])
async def test_an_unlinked_file_is_left_alone(
    tmp_path: Path, mock_clock: object, gated: None, reaped: bool
) -> None:
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino, data = await scattered(runtime)
        if not reaped:
            runtime.volume.remember(ino)

        async def unlink() -> None:
            runtime.volume.namespace.unlink(ROOT_INODE, b"file")
            while reaped and runtime.volume.reap_backlog:
                await trio.lowlevel.checkpoint()

        assert await recut_around(runtime, unlink) == 0
        assert await runtime.recutter.step() == 0
        if reaped:
            assert not extent_map(runtime, ino) and runtime.metadata.get(INODE, ino) is None
            await runtime.volume.sync()
            check_index(runtime.metadata)
            assert runtime.chunks.unique_bytes == 0
        else:
            assert len(extent_map(runtime, ino)) > 100
            await check(runtime, ino, data)
            runtime.volume.forget(ino, 1)


async def test_a_truncation_while_the_job_is_on_its_way_wins(tmp_path: Path, mock_clock: object) -> None:
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime, trio.open_nursery() as nursery:
        ino, data = await scattered(runtime)
        submitted = runtime.pipeline.submitted
        nursery.start_soon(runtime.recutter.step)
        while runtime.pipeline.submitted == submitted:
            await trio.lowlevel.checkpoint()
        assert runtime.pipeline.merged_number == submitted
        runtime.volume.files.truncate(ino, 100_000)
        await runtime.pipeline.merged(submitted + 1)
        await check(runtime, ino, data[:100_000])
        assert runtime.recutter.statistics().windows == 0


# when it does nothing


async def test_nothing_happens_to_open_files(tmp_path: Path, mock_clock: object) -> None:
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino, data = create(runtime, b"file"), content(1, 64 * PAGE)
        runtime.volume.files.opened(ino)
        await scatter(runtime, ino, data)
        assert await runtime.recutter.step() == 0
        runtime.volume.closed(ino)
        assert await runtime.recutter.step() == len(data)


async def test_nothing_happens_under_pressure(tmp_path: Path, mock_clock: object) -> None:
    async with volume(source(tmp_path, store(), cache_size_bytes=16 << 20, tuning=QUIET)) as runtime:
        ino, data = await scattered(runtime)
        filling = create(runtime, b"filling")
        for number in range(8):
            await overwrite(runtime, filling, number << 20, content(number, 1 << 20))
        assert runtime.cache.fill_ratio() > QUIET.high_watermark / 2
        assert await runtime.recutter.step() == 0
        await runtime.volume.barrier()
        assert await runtime.recutter.step() == len(data)
        await check(runtime, ino, data)


async def test_clean_data_in_the_cache_is_no_pressure(tmp_path: Path, mock_clock: object) -> None:
    async with volume(source(tmp_path, store(), cache_size_bytes=16 << 20, tuning=QUIET)) as runtime:
        for number in range(6):
            filling = create(runtime, b"filling%d" % number)
            await overwrite(runtime, filling, 0, content(number, 4 << 20))
            await runtime.volume.barrier()
        ino, data = await scattered(runtime, 2 << 20)
        assert runtime.cache.stats().evictions
        assert await runtime.recutter.step() == len(data)
        await check(runtime, ino, data)


async def test_nothing_happens_while_data_is_on_its_way(tmp_path: Path, mock_clock: object) -> None:
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        _, data = await scattered(runtime)
        other = create(runtime, b"other")
        await runtime.volume.files.write(other, 0, content(2, 1 << 20))
        runtime.volume.files.send_all()
        step = runtime.recutter.step()
        assert runtime.pipeline.submitted > runtime.pipeline.merged_number
        assert await step == 0
        await runtime.volume.sync()
        assert await runtime.recutter.step() == len(data)


async def test_what_cannot_be_read_stays(tmp_path: Path, mock_clock: object) -> None:
    faulty = FaultyStore(store(), seed=1)
    async with volume(source(tmp_path, faulty, tuning=QUIET)) as runtime:
        ino, data = await scattered(runtime)
        await runtime.volume.barrier()
        forget_cached(runtime)
        fragments = extent_map(runtime, ino)
        faulty.set_outage(True)
        assert await runtime.recutter.step() == 0
        assert extent_map(runtime, ino) == fragments
        faulty.set_outage(False)
        assert await runtime.recutter.step() == 0, "it waits for more pieces"
        await check(runtime, ino, data)


async def test_a_stopped_recutter_submits_nothing(tmp_path: Path, mock_clock: object, gated: None) -> None:
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino, data = await scattered(runtime)
        submitted = runtime.pipeline.submitted
        assert await recut_around(runtime, runtime.recutter.stop) == 0
        assert await runtime.recutter.step() == 0
        assert runtime.pipeline.submitted == submitted
        await check(runtime, ino, data)


# crashes


class Crash(Exception):
    pass


@pytest.mark.parametrize("committed", [False, True])
async def test_a_crash_leaves_the_old_extents_or_the_new(
    tmp_path: Path, mock_clock: object, committed: bool
) -> None:
    given = source(tmp_path, store(), tuning=QUIET)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with volume(given) as runtime:
            ino, data = await scattered(runtime)
            await runtime.volume.sync()
            fragments = extent_map(runtime, ino)
            assert await runtime.recutter.step() == len(data)
            if committed:
                await runtime.volume.sync()
            raise Crash
    assert caught.group_contains(Crash)
    async with volume(given) as runtime:
        found = extent_map(runtime, ino)
        assert (len(found) <= len(data) // CHUNK * 2) if committed else (found == fragments)
        await check(runtime, ino, data)


# bounds


async def append(runtime: Runtime, ino: int, offset: int, piece: bytes) -> None:
    runtime.volume.files.opened(ino)
    await runtime.volume.files.write(ino, offset, piece)
    runtime.volume.closed(ino)


async def test_appending_tiny_pieces_is_not_quadratic(tmp_path: Path, mock_clock: object) -> None:
    """Each byte is rewritten a logarithmic number of times; a rewrite of the file at every sixteenth piece
    would break the bound.
    """
    pieces, length = 2_000, 50
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino, data = create(runtime, b"log"), content(9, pieces * length)
        for offset in range(0, len(data), length):
            await append(runtime, ino, offset, data[offset : offset + length])
            await runtime.recutter.step()
            assert len(extent_map(runtime, ino)) < 40
        bound = len(data) * math.log2(pieces / 16)
        assert sum(range(0, len(data), 16 * length)) > 5 * bound
        assert len(data) / 2 < runtime.recutter.statistics().nbytes < bound
        await check(runtime, ino, data)


async def test_random_small_writes_end(tmp_path: Path, mock_clock: object) -> None:
    """Whatever was written, steps come to an end and leave nothing worth a step."""
    chance = random.Random(10)
    async with volume(source(tmp_path, store(), tuning=QUIET)) as runtime:
        ino, data = create(runtime, b"file"), bytearray()
        for _ in range(10):
            for _ in range(100):
                piece = chance.randbytes(chance.choice((1, 300, 5000)))
                offset = chance.randrange(300_000)
                await overwrite(runtime, ino, offset, piece)
                data.extend(bytes(max(0, offset + len(piece) - len(data))))
                data[offset : offset + len(piece)] = piece
            before = runtime.recutter.statistics()
            for _ in range(10):
                if not await runtime.recutter.step():
                    break
            else:
                raise AssertionError("steps do not end")
            after = runtime.recutter.statistics()
            assert 4 * (after.extents_after - before.extents_after) <= (
                after.extents_before - before.extents_before
            )
            await check(runtime, ino, bytes(data))
