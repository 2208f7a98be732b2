"""The scrub reads every pack, keeps to its budget, goes on where it stopped, and mends or marks damage."""

import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from fusegw.assembly import Runtime
from fusegw.check.scrub import DAY_S
from fusegw.clock import SystemClock
from fusegw.errors import Corrupt, Unavailable
from fusegw.meta.schema import DAMAGED, ROOT_INODE
from fusegw.store.base import ObjectStore
from fusegw.store.faulty import FaultyStore
from fusegw.store.memory import MemoryStore
from tests.faults.support import TUNING, content, forget_cached, read_file, source, until, volume, write_file
from tests.model.invariants import check_index

FILES = 5
SIZE = 120_000


class CountingStore(MemoryStore):
    """Remembers which packs were read."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock())
        self.read: list[str] = []

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.read.append(key)
        return super().get_range(key, offset, length)


async def fill(runtime: Runtime, prefix: bytes = b"f") -> None:
    """Each file in a pack of its own."""
    for number in range(FILES):
        await write_file(runtime, prefix + b"%d" % number, content(number + 100 * prefix[0], SIZE))
        await runtime.volume.barrier()


def packs(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list("packs/")]


async def scrub(runtime: Runtime) -> None:
    while await runtime.scrub.step():
        pass


async def test_new_packs_are_read_once_and_old_ones_in_turn(tmp_path: Path) -> None:
    store = CountingStore()
    async with volume(source(tmp_path, store)) as runtime:
        await fill(runtime)
        await scrub(runtime)
        assert sorted(store.read) == packs(store), "each once"
        store.read.clear()
        await scrub(runtime)
        assert store.read == [], "nothing is due"
        runtime.scrub.accrue(DAY_S * 1000)
        await scrub(runtime)
        assert sorted(store.read) == packs(store)
        assert runtime.scrub.state.passes == 1 and runtime.scrub.figures.packs == 2 * FILES
        assert runtime.scrub.figures.problems == []


async def test_no_more_than_the_share_of_a_day_is_read(tmp_path: Path) -> None:
    store = CountingStore()
    tuning = replace(TUNING, scrub_daily_share=0.5)
    async with volume(source(tmp_path, store, tuning=tuning)) as runtime:
        await fill(runtime)
        await scrub(runtime)
        store.read.clear()
        for _ in range(24):
            runtime.scrub.accrue(DAY_S / 24)
            await scrub(runtime)
        assert len(set(store.read)) == FILES // 2
        assert 0.3 < (runtime.scrub.pass_done or 0) < 0.6


async def test_it_goes_on_where_it_stopped_and_what_was_there_before_is_not_new(tmp_path: Path) -> None:
    store = CountingStore()
    tuning = replace(TUNING, scrub_daily_share=0.5)
    async with volume(source(tmp_path, store, tuning=tuning)) as runtime:
        await fill(runtime)
        await scrub(runtime)
        store.read.clear()
        runtime.scrub.accrue(DAY_S)
        await scrub(runtime)
        first = set(store.read)
        await runtime.volume.barrier()
    store.read.clear()
    async with volume(source(tmp_path, store, tuning=tuning)) as runtime:
        store.read.clear()
        await scrub(runtime)
        assert store.read == []
        runtime.scrub.accrue(DAY_S)
        await scrub(runtime)
        assert store.read and not first & set(store.read)
    async with volume(source(tmp_path / "recovered", store)) as runtime:
        store.read.clear()
        await scrub(runtime)
        assert store.read == [], "an index that comes from the store knows no new packs"


def harm(store: ObjectStore, key: str) -> None:
    data = bytearray(store.get(key, size_max=1 << 24))
    data[len(data) // 3] ^= 1
    store.put(key, bytes(data), create_only=False)


@pytest.mark.parametrize("how", ["flipped", "deleted", "cut off"])
async def test_damage_is_mended_from_the_cache(tmp_path: Path, how: str) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await fill(runtime)
        key = packs(store)[0]
        if how == "flipped":
            harm(store, key)
        elif how == "deleted":
            store.delete([key])
        else:
            store.put(key, store.get(key, size_max=1 << 24)[:1000], create_only=False)
        await scrub(runtime)
        figures = runtime.scrub.figures
        assert 0 < figures.damaged_chunks == figures.mended_chunks
        assert len(figures.problems) == 1 and key in figures.problems[0]
        await runtime.volume.barrier()
        forget_cached(runtime)
        for number in range(FILES):
            assert await read_file(runtime, b"f%d" % number) == content(number + 100 * ord("f"), SIZE)
        check_index(runtime.metadata)


async def test_what_the_cache_has_not_is_marked(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await fill(runtime)
        harm(store, packs(store)[0])
        forget_cached(runtime)
        await scrub(runtime)
        figures = runtime.scrub.figures
        assert figures.damaged_chunks and not figures.mended_chunks
        assert list(runtime.metadata.scan(DAMAGED, b"", b"\xff" * 25))
        lost = 0
        for number in range(FILES):
            try:
                await read_file(runtime, b"f%d" % number)
            except Corrupt:
                lost += 1
        assert lost == 1
        await fill(runtime, b"g")
        for number in range(FILES):
            await write_file(runtime, b"again%d" % number, content(number + 100 * ord("f"), SIZE))
        await runtime.volume.barrier()
        forget_cached(runtime)
        for number in range(FILES):
            assert await read_file(runtime, b"f%d" % number) == content(number + 100 * ord("f"), SIZE)


async def test_without_the_comparison_damage_would_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the tests above."""
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await fill(runtime)
        harm(store, packs(store)[0])
        monkeypatch.setattr(runtime.scrub, "_examine", lambda pack: None)
        await scrub(runtime)
        assert runtime.scrub.figures.damaged_chunks == 0


async def test_a_store_that_does_not_answer_is_no_damage(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore(clock=SystemClock()), seed=1)
    async with volume(source(tmp_path, store)) as runtime:
        await fill(runtime)
        store.set_outage(True)
        with pytest.raises(Unavailable):
            await runtime.scrub.step()
        store.set_outage(False)
        await scrub(runtime)
        assert runtime.scrub.figures.packs == FILES and runtime.scrub.figures.problems == []


async def test_packs_that_nobody_needs_any_more_are_not_read(tmp_path: Path) -> None:
    store = CountingStore()
    async with volume(source(tmp_path, store)) as runtime:
        await fill(runtime)
        for number in range(FILES - 1):
            runtime.volume.namespace.unlink(ROOT_INODE, b"f%d" % number)
        await until(lambda: runtime.volume.reap_backlog == 0)
        await scrub(runtime)
        assert len(set(store.read)) == 1


async def test_the_end_of_the_gateway_does_not_wait_for_a_slow_store(tmp_path: Path) -> None:
    answered = threading.Event()

    class SlowStore(CountingStore):
        def get_range(self, key: str, offset: int, length: int) -> bytes:
            reading.set()
            answered.wait(30)
            return super().get_range(key, offset, length)

    reading = threading.Event()
    async with volume(source(tmp_path, SlowStore())) as runtime:
        await write_file(runtime, b"f", content(1, SIZE))
        await runtime.volume.barrier()
        runtime.tasks.start_soon(scrub, runtime)
        await until(reading.is_set)
    assert not answered.is_set(), "it has ended"
    answered.set()
