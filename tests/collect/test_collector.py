"""Passes of collection over a whole volume: room comes back, and nothing that lives is lost."""

import random
from pathlib import Path

import pytest
import trio

from fusegw.errors import Busy
from fusegw.meta.schema import CHUNK, DAMAGED, PACK_NUMBER_END
from tests.collect.support import Life, collecting, new_store, packs
from tests.faults.support import content, forget_cached, until, volume
from tests.model.invariants import check_index


async def grown(life: Life, runtime, *, files: int = 12, seed: int = 0) -> None:  # type: ignore[no-untyped-def]
    for number in range(files):
        await life.write(runtime, b"%d-%d" % (seed, number), content(seed * 1000 + number, 200_000))
    await life.barrier(runtime)


async def test_churn_leaves_what_lives_and_little_else(tmp_path: Path) -> None:
    life, dice = Life(new_store()), random.Random(1)
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        for turn in range(4):
            for number in range(25):
                data = content(turn * 1000 + number, dice.randrange(1000, 300_000))
                await life.write(runtime, b"%d-%d" % (turn, number), data)
            await life.remove(runtime, *dice.sample(sorted(life.files), len(life.files) * 7 // 10))
            await life.checkpoint(runtime)
            forget_cached(runtime)
            done = await runtime.collector.collect()
            assert done.complete
            assert done.rewritten_packs
            assert done.read_requests <= done.rewritten_packs * 3
            await life.barrier(runtime)
            await runtime.volume.sync()
            check_index(runtime.metadata)
            assert await life.check_positions(tmp_path)
        await life.age(runtime)
        done = await runtime.collector.collect()
        assert done.deleted_packs and not done.waiting_packs
        alive = sum(map(len, life.files.values()))
        assert sum(packs(life.store).values()) < 1.3 * alive
        forget_cached(runtime)
        await life.check(runtime)
        status = runtime.collector.status()
        assert status.deleted_bytes > alive
        assert status.error is None
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await life.check(runtime)


async def test_what_was_written_together_lies_together_again(tmp_path: Path) -> None:
    life = Life(new_store())
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await grown(life, runtime)
        await life.remove(runtime, *[name for name in life.files if not name.endswith((b"3", b"7"))])
        await life.barrier(runtime)
        forget_cached(runtime)
        await runtime.collector.collect()
        await life.barrier(runtime)
        forget_cached(runtime)
        chunks = [chunk for _, chunk in runtime.metadata.scan(CHUNK, 0, PACK_NUMBER_END)]
        assert [(one.pack, one.record) for one in chunks] == sorted((one.pack, one.record) for one in chunks)
        assert len({chunk.pack for chunk in chunks}) == 1


async def test_the_budget_bounds_a_pass_and_the_next_goes_on(tmp_path: Path) -> None:
    life = Life(new_store())
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await grown(life, runtime, files=40)
        await life.remove(runtime, *[name for name in life.files if int(name[2:]) % 3])
        await life.barrier(runtime)
        nothing = await runtime.collector.collect(budget=0)
        assert (nothing.rewritten_packs, nothing.complete) == (0, False)
        some = await runtime.collector.collect(budget=900_000)
        assert 0 < some.written_bytes <= 900_000
        assert not some.complete
        rest = await runtime.collector.collect()
        assert rest.rewritten_packs and rest.complete
        await life.check(runtime)


async def test_a_preview_changes_nothing(tmp_path: Path) -> None:
    life = Life(new_store())
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await grown(life, runtime)
        await life.remove(runtime, *[name for name in life.files if int(name[2:]) % 4])
        await life.barrier(runtime)
        before = [entry.key for entry in life.store.list()]
        would = await runtime.collector.collect(preview=True)
        assert would.rewritten_packs and would.written_bytes and would.read_requests
        await life.barrier(runtime)
        assert [entry.key for entry in life.store.list()] == before
        assert runtime.collector.status().last_pass_ns is None
        did = await runtime.collector.collect()
        assert (did.rewritten_packs, did.condemned_packs) == (would.rewritten_packs, would.condemned_packs)
        assert did.written_bytes == would.written_bytes


async def test_small_packs_are_put_together(tmp_path: Path) -> None:
    life = Life(new_store())
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        for number in range(16):
            await life.write(runtime, b"%d" % number, content(number, 80_000))
            await life.barrier(runtime)
        assert len(packs(life.store)) >= 16
        await runtime.collector.collect()
        await life.age(runtime)
        await runtime.collector.collect()
        assert len(packs(life.store)) <= 3
        again = await runtime.collector.collect()
        assert (again.rewritten_packs, again.complete) == (0, True)
        forget_cached(runtime)
        await life.check(runtime)


async def test_two_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(new_store())
    go = trio.Event()

    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        barrier = runtime.log.barrier

        async def slow() -> None:
            await go.wait()
            await barrier()

        await grown(life, runtime)
        await life.remove(runtime, *list(life.files))
        await life.barrier(runtime)
        monkeypatch.setattr(runtime.log, "barrier", slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.collector.collect)
            await until(lambda: runtime.collector.status().running)
            with pytest.raises(Busy, match="running already"):
                await runtime.collector.collect()
            go.set()
        await runtime.collector.collect()


async def test_who_leaves_ends_the_pass_and_not_the_volume(tmp_path: Path) -> None:
    life = Life(new_store())
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await grown(life, runtime)
        await life.remove(runtime, *[name for name in life.files if int(name[2:]) % 4])
        await life.barrier(runtime)
        with trio.move_on_after(0):
            await runtime.collector.collect()
        while True:
            try:
                done = await runtime.collector.collect()
            except Busy:
                await trio.sleep(0.01)
            else:
                break
        assert done.complete
        await life.check(runtime)


async def test_data_written_again_never_meets_a_pack_that_is_to_go(tmp_path: Path) -> None:
    life = Life(new_store())
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await grown(life, runtime)
        await life.remove(runtime, *list(life.files))
        await life.barrier(runtime)
        done = await runtime.collector.collect()
        assert done.condemned_packs == done.waiting_packs > 0
        await grown(life, runtime)
        await life.age(runtime)
        done = await runtime.collector.collect()
        assert done.deleted_packs
        forget_cached(runtime)
        await life.check(runtime)
        await life.age(runtime)
        assert await life.check_positions(tmp_path)


async def test_a_chunk_that_cannot_be_read_keeps_its_pack(tmp_path: Path) -> None:
    life = Life(new_store())
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await grown(life, runtime)
        await life.remove(runtime, *[name for name in life.files if int(name[2:]) % 4])
        await life.barrier(runtime)
        before = packs(life.store)
        forget_cached(runtime)
        key = max(before, key=lambda key: before[key])
        whole = life.store.get(key, size_max=1 << 30)
        life.store.put(key, bytes(len(whole)), create_only=False)
        done = await runtime.collector.collect()
        assert done.complete
        assert (await runtime.collector.collect()).rewritten_packs == 0, "it is not tried again and again"
        await life.age(runtime)
        await runtime.collector.collect()
        assert key in packs(life.store)
        marked = [key for key, _ in runtime.metadata.scan(DAMAGED, b"", b"\xff" * 25)]
        assert marked
        life.store.put(key, whole, create_only=False)
        forget_cached(runtime)
        await life.check(runtime)


async def test_it_collects_by_itself_within_what_a_day_allows(tmp_path: Path) -> None:
    life = Life(new_store())
    given = collecting(tmp_path / "volume", life.store, gc_interval_s=0.05, gc_daily_bytes=0)
    async with volume(given) as runtime:
        await grown(life, runtime)
        await life.remove(runtime, *[name for name in life.files if int(name[2:]) % 4])
        await life.age(runtime)
        await until(lambda: runtime.collector.status().last is not None)
        await until(lambda: not runtime.collector.status().last.complete)
        assert runtime.collector.status().written_bytes == 0
    given = collecting(tmp_path / "volume", life.store, gc_interval_s=0.05, gc_daily_bytes=1 << 50)
    async with volume(given) as runtime:
        await until(lambda: runtime.collector.status().written_bytes > 0)
        for _ in range(2):
            await until(lambda: not runtime.collector.status().running)
            await life.barrier(runtime)
        await life.check(runtime)
