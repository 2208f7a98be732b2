"""What a store that fails does to a running volume: nothing is lost, nothing hangs, nothing is wrong."""

import errno
import threading
from pathlib import Path

import msgspec
import pytest
import trio

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.errors import Corrupt, Denied, Unavailable
from fusegw.meta.schema import ROOT_INODE
from fusegw.store.faulty import Fault, FaultyStore
from fusegw.store.memory import MemoryStore
from fusegw.store.retry import RetryingStore, RetryPolicy
from tests.faults.support import (
    TUNING,
    content,
    fill_until_full,
    forget_cached,
    read_file,
    source,
    until,
    volume,
    write_file,
)


def faulty(**arguments: object) -> FaultyStore:
    return FaultyStore(MemoryStore(clock=SystemClock()), **arguments)  # type: ignore[arg-type]


async def test_outage_fills_the_cache_then_enospc_then_all_is_shipped(tmp_path: Path) -> None:
    store = faulty()
    async with volume(source(tmp_path, store)) as runtime:
        early = content(1, 700_000)
        await write_file(runtime, b"early", early)
        await runtime.volume.barrier()
        assert await read_file(runtime, b"early") == early
        store.set_outage(True)
        written = await fill_until_full(runtime, b"during")
        stats = runtime.cache.stats()
        assert len(written) * (512 << 10) > stats.budget_bytes // 2, "the cache was not used"
        assert stats.used_bytes <= stats.budget_bytes + (1 << 20)
        # What is cached stays readable, and status says what is wrong.
        for name, data in written.items():
            assert await read_file(runtime, name) == data
        assert runtime.health.report().state == "degraded"
        assert runtime.log.oldest_unshipped_s
        # Deleting works, and makes room for new data although nothing can be shipped.
        for name in list(written)[: len(written) // 2]:
            runtime.volume.namespace.unlink(ROOT_INODE, name)
            del written[name]
        before = runtime.cache.stats().dirty_bytes
        await until(lambda: runtime.cache.stats().dirty_bytes < before * 0.7)
        again = content(99, 600_000)
        await write_file(runtime, b"again", again)
        store.set_outage(False)
        await runtime.volume.barrier()
        assert runtime.health.report().state == "ok"
        forget_cached(runtime)
        for name, data in {**written, b"again": again, b"early": early}.items():
            assert await read_file(runtime, name) == data


async def test_a_full_cache_slows_no_reader_and_no_deleter(tmp_path: Path) -> None:
    store = faulty()
    async with volume(source(tmp_path, store)) as runtime:
        store.set_outage(True)
        written = await fill_until_full(runtime, b"f")
        async with trio.open_nursery() as nursery:
            ino = runtime.volume.namespace.mknod

            async def blocked_writer(number: int) -> None:
                with pytest.raises(OSError) as caught:
                    await write_file(runtime, b"blocked%d" % number, content(number, 600_000))
                assert caught.value.errno == errno.ENOSPC

            for number in range(20):
                nursery.start_soon(blocked_writer, number)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(5):
                name = next(iter(written))
                assert await read_file(runtime, name) == written[name]
            assert ino is not None
        store.set_outage(False)


async def test_the_barrier_fails_and_says_why(tmp_path: Path) -> None:
    store = faulty(rates={Fault.DENIED: 1.0})
    async with volume(source(tmp_path, store, unmount_wait_s=0.1)) as runtime:
        await write_file(runtime, b"f", content(1, 100_000))
        with pytest.raises(Denied, match="403"):
            await runtime.volume.barrier()
        assert runtime.health.report().state == "down"


@pytest.mark.parametrize(
    "rates",
    [
        {Fault.SERVER_ERROR: 0.3},
        {Fault.SLOW_DOWN: 0.3},
        {Fault.DENIED: 0.2},
        {Fault.TRUNCATED: 0.3},
        {Fault.LOST_REPLY: 0.4},
        {Fault.STALL: 0.2, Fault.RESET: 0.2},
    ],
    ids=lambda rates: "+".join(fault.name for fault in rates),
)
async def test_faults_by_chance_change_no_byte(tmp_path: Path, rates: dict[Fault, float]) -> None:
    inner = faulty(rates=rates, seed=7)
    policy = RetryPolicy(wait_first_s=0.001, wait_first_overloaded_s=0.001, wait_max_s=0.01)
    store = RetryingStore(inner, clock=SystemClock(), entropy=SystemEntropy(), policy=policy)
    inner.set_calm(True)
    async with volume(source(tmp_path, store)) as runtime:
        inner.set_calm(False)
        files = {b"f%d" % n: content(n, 400_000) for n in range(12)}
        for name, data in files.items():
            await write_file(runtime, name, data)
        for _ in range(50):
            try:
                await runtime.volume.barrier()
                break
            except (Denied, Unavailable):
                continue
        else:
            raise AssertionError("never shipped")
        forget_cached(runtime)
        for name, data in files.items():
            for _ in range(50):
                try:
                    found = await read_file(runtime, name)
                    break
                except (Denied, Unavailable, OSError):
                    continue
            assert found == data
    assert sum(inner.injected.values()) > 0, "no fault was injected"


class AskedStore(MemoryStore):
    """Counts the ranged reads it is asked for; while `away` they fail, once `patience` is at its end."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock())
        self.away = False
        self.asked = 0
        self.patience = threading.Event()

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.asked += 1
        if self.away:
            self.patience.wait(30)
            raise Unavailable("nobody answers")
        return super().get_range(key, offset, length)


async def test_a_silent_store_is_asked_once_for_a_read_of_many_chunks(tmp_path: Path) -> None:
    """Every request is tried for a long time: readers must get their error after one of them."""
    store, tuning = AskedStore(), msgspec.structs.replace(TUNING, read_ahead_bytes=0)
    async with volume(source(tmp_path, store, tuning=tuning)) as runtime:
        data = content(6, 4 << 20)
        ino = await write_file(runtime, b"f", data)
        await runtime.volume.barrier()
        forget_cached(runtime)
        assert await runtime.volume.files.read(ino, 0, 100_000) == data[:100_000]
        runtime.reading.forget()
        store.away, store.asked = True, 0

        async def read_everything() -> None:
            with pytest.raises(Unavailable):
                await read_file(runtime, b"f")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_everything)
            await until(lambda: store.asked == 1)
            # What the same load found in the cache is served meanwhile.
            assert await runtime.volume.files.read(ino, 0, 100_000) == data[:100_000]
            store.patience.set()
        assert store.asked == 1
        store.away = False
        assert await read_file(runtime, b"f") == data


async def test_damaged_replies_are_never_served(tmp_path: Path) -> None:
    inner = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, inner)) as runtime:
        data = content(5, 900_000)
        await write_file(runtime, b"f", data)
        await runtime.volume.barrier()
    store = FaultyStore(inner, rates={Fault.DAMAGED: 0.5}, seed=3)
    async with volume(source(tmp_path, store)) as runtime:
        served = refused = 0
        for _ in range(40):
            forget_cached(runtime)
            try:
                assert await read_file(runtime, b"f") == data
                served += 1
            except Corrupt:
                refused += 1
        assert served and store.injected[Fault.DAMAGED]


async def test_reply_lost_then_restart_uploads_nothing_twice(tmp_path: Path) -> None:
    inner = MemoryStore(clock=SystemClock())
    store = FaultyStore(inner, plan=[Fault.LOST_REPLY])
    store_again = FaultyStore(inner)
    async with volume(source(tmp_path, store, unmount_wait_s=0.0)) as runtime:
        data = content(8, 300_000)
        await write_file(runtime, b"f", data)
        await runtime.volume.sync()
        await until(lambda: store.injected[Fault.LOST_REPLY] == 1)
        store.set_outage(True)
    objects = [entry.key for entry in inner.list("packs/")]
    async with volume(source(tmp_path, store_again)) as runtime:
        await runtime.volume.barrier()
        assert [entry.key for entry in inner.list("packs/")] == objects
        forget_cached(runtime)
        assert await read_file(runtime, b"f") == data


async def test_a_foreign_object_under_a_packs_name_is_an_alarm(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    down = FaultyStore(store)
    async with volume(source(tmp_path, down, unmount_wait_s=0.0)) as runtime:
        down.set_outage(True)
        data = content(9, 300_000)
        await write_file(runtime, b"f", data)
        await runtime.volume.sync()
    (name,) = [path.name for path in (tmp_path / "cache" / "packs").rglob("*") if path.is_file()]
    store.put(f"packs/{name[:2]}/{name}", b"something else")
    async with volume(source(tmp_path, store, unmount_wait_s=0.0)) as runtime:
        with pytest.raises(Corrupt, match=name):
            await runtime.volume.barrier()
        assert await read_file(runtime, b"f") == data
    assert store.get(f"packs/{name[:2]}/{name}", size_max=100) == b"something else"
