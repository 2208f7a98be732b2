"""A crash at every step of collection, and a store that fails while it runs: after that all that lives is
there, the index is whole, and every kept position can be read from the store alone."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.errors import FusegwError
from fusegw.meta.metadata import Metadata
from fusegw.store.faulty import Fault, FaultyStore
from fusegw.store.memory import MemoryStore
from tests.collect.support import Life, collecting, packs
from tests.faults.support import content, forget_cached, volume
from tests.model.invariants import check_index


class Crash(BaseException):
    """The process ends here."""


class Crashing(MemoryStore):
    """Counts requests that change something, and ends the process at one of them."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock())
        self.left: int | None = None
        self.applied = False

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        self._step(lambda: super(Crashing, self).put(key, data, create_only=create_only))

    def delete(self, keys: Iterable[str]) -> None:
        self._step(lambda: super(Crashing, self).delete(keys))

    def _step(self, request: Callable[[], None]) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                if self.applied and self.left == -1:
                    request()
                raise Crash
        request()


class Lives:
    """A volume that is written, emptied and collected from life to life."""

    def __init__(self, directory: Path, store: MemoryStore, *, seed: int = 1) -> None:
        self.directory = directory
        self.life = Life(store)
        self.dice = random.Random(seed)
        self.turn = 0

    async def churn(self, runtime: Runtime) -> None:
        """Some files come, more go, and an older state is given up now and then."""
        self.turn += 1
        for number in range(6):
            data = content(self.turn * 1000 + number, self.dice.randrange(1000, 400_000))
            await self.life.write(runtime, b"%d-%d" % (self.turn, number), data)
        await self.life.barrier(runtime)
        names = sorted(self.life.files)
        await self.life.remove(runtime, *self.dice.sample(names, len(names) * 6 // 10))
        await self.life.checkpoint(runtime)

    async def check(self, runtime: Runtime) -> None:
        forget_cached(runtime)
        await self.life.check(runtime)
        await runtime.volume.sync()
        check_index(runtime.metadata)


async def crash_at(lives: Lives, step: int, crash: Callable[[Runtime], Callable[[], None]]) -> bool:
    """A life that ends at that step of a collection; False when the collection has no such step."""
    given = collecting(lives.directory / "volume", lives.life.store)
    end: Callable[[], None] | None = None
    try:
        async with volume(given) as runtime:
            await lives.check(runtime)
            await lives.churn(runtime)
            end = crash(runtime)
            await runtime.collector.collect(look_for_orphans=True)
            end()
            return False
    except BaseExceptionGroup as group:
        if end is not None:
            end()
        assert group.split(Crash)[0] is not None
    return True


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
async def test_a_crash_at_each_request(tmp_path: Path, applied: bool) -> None:
    store = Crashing()
    store.applied = applied
    lives = Lives(tmp_path, store)
    crashed = 0
    for step in range(12):

        def crash(runtime: Runtime, step: int = step) -> Callable[[], None]:
            store.left = step % 4

            def end() -> None:
                store.left = None

            return end

        crashed += await crash_at(lives, step, crash)
        if step % 4 == 3:
            assert await lives.life.check_positions(tmp_path)
    assert crashed > 6
    async with volume(collecting(tmp_path / "volume", store)) as runtime:
        await settled(lives, runtime)


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
async def test_a_crash_at_each_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, applied: bool) -> None:
    lives = Lives(tmp_path, MemoryStore(clock=SystemClock()), seed=2)
    save = Metadata.save
    crashed = 0
    for step in range(12):

        def crash(runtime: Runtime, step: int = step) -> Callable[[], None]:
            left = [step % 6]

            def crashing(self: Metadata) -> None:
                left[0] -= 1
                if left[0] < 0:
                    if applied and left[0] == -1:
                        save(self)
                    raise Crash
                save(self)

            monkeypatch.setattr(Metadata, "save", crashing)
            return lambda: monkeypatch.setattr(Metadata, "save", save)

        crashed += await crash_at(lives, step, crash)
    assert crashed > 6
    async with volume(collecting(tmp_path / "volume", lives.life.store)) as runtime:
        await settled(lives, runtime)
    assert await lives.life.check_positions(tmp_path)


async def settled(lives: Lives, runtime: Runtime) -> None:
    """Whatever happened before, in the end the store holds what lives and little else."""
    await lives.check(runtime)
    for _ in range(3):
        await runtime.collector.collect(look_for_orphans=True)
        await lives.life.age(runtime)
    done = await runtime.collector.collect(look_for_orphans=True)
    assert not done.waiting_packs
    assert not done.orphans
    alive = sum(map(len, lives.life.files.values()))
    assert sum(packs(lives.life.store).values()) < 1.3 * alive
    await lives.check(runtime)


RATES = {
    Fault.SERVER_ERROR: 0.1,
    Fault.RESET: 0.1,
    Fault.LOST_REPLY: 0.1,
    Fault.TRUNCATED: 0.05,
}


async def test_a_store_that_fails(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    lives = Lives(tmp_path, store, seed=3)
    failed = 0
    for seed in range(4):
        faulty = FaultyStore(store, rates=RATES, seed=seed)
        async with volume(collecting(tmp_path / "volume", faulty)) as runtime:
            faulty.set_calm(True)
            await lives.check(runtime)
            await lives.churn(runtime)
            faulty.set_calm(False)
            for _ in range(3):
                try:
                    await runtime.collector.collect(look_for_orphans=True)
                except FusegwError:
                    failed += 1
            faulty.set_calm(True)
            await runtime.volume.barrier()
    assert failed
    async with volume(collecting(tmp_path / "volume", store)) as runtime:
        await settled(lives, runtime)
    assert await lives.life.check_positions(tmp_path)
