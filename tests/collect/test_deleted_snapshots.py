"""Snapshots that are deleted, in any order: the others stay exact, and just the chunks that nobody refers to
are freed, here and in the store."""

import time
from itertools import permutations
from pathlib import Path

import pytest

from fusegw.assembly import Runtime
from fusegw.check.run import Check, run
from fusegw.clock import SystemClock
from fusegw.meta.beside import IndexBeside
from fusegw.meta.schema import CHUNK, PACK_NUMBER_END, ROOT_INODE
from fusegw.store.memory import MemoryStore
from tests.collect.support import Life, collecting, new_store, packs
from tests.faults.support import KEYS, content, forget_cached, until, volume
from tests.model.invariants import check_index

SIZE = 5000
"""One chunk a file."""
Files = dict[bytes, bytes]


def state(step: int) -> Files:
    """What there is at a step: one file for good, one that changes, some that come and go."""
    return {
        b"constant": content(0, SIZE),
        b"changing": content(100 + step, SIZE),
        **{b"for two-%d" % born: content(200 + born, SIZE) for born in (step - 1, step)},
        b"again": content(300 + step % 2, SIZE),
    }


async def become(life: Life, runtime: Runtime, files: Files) -> None:
    for name, data in files.items():
        if life.files.get(name) != data:
            if name in life.files:
                await life.remove(runtime, name)
            await life.write(runtime, name, data)
    await life.remove(runtime, *(life.files.keys() - files.keys()))


async def seen(runtime: Runtime, name: str) -> Files:
    tree = runtime.volume.snapshots.tree(runtime.volume.snapshots.get(name))
    entries = list(tree.names.readdir(ROOT_INODE, 0))
    return {name: await tree.read(inode.ino, 0, 2 * SIZE) for name, _, inode in entries}


def chunks(runtime: Runtime) -> int:
    return sum(1 for _ in runtime.metadata.scan(CHUNK, 0, PACK_NUMBER_END))


def problems(directory: Path, store: MemoryStore) -> list[str]:
    """What a check of everything finds, data included."""
    with IndexBeside(directory / "meta") as index:
        report = run(Check(index.view, store, KEYS, SystemClock(), time.sleep, trim=index.trim, share=1.0))
    return [damage.problem for damage in report.damage]


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=lambda order: "".join(map(str, order)))
async def test_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    life = Life(new_store())
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        snapshots = runtime.volume.snapshots
        for step in range(4):
            await become(life, runtime, state(step))
            await snapshots.create(f"{step}")
        await become(life, runtime, state(4))
        kept = {step: state(step) for step in range(4)}
        for step in order:
            await snapshots.delete(f"{step}")
            del kept[step]
            await until(lambda: not snapshots.backlog)
            assert {number: await seen(runtime, f"{number}") for number in kept} == kept
            wanted = {data for files in (life.files, *kept.values()) for data in files.values()}
            assert chunks(runtime) == len(wanted)
            assert runtime.chunks.unique_bytes == len(wanted) * SIZE
        await runtime.volume.barrier()
        check_index(runtime.metadata)
        await life.age(runtime)
        forget_cached(runtime)
        await runtime.collector.collect()
        await life.age(runtime)
        await runtime.collector.collect()
        await life.barrier(runtime)
        alive = sum(map(len, life.files.values()))
        assert alive < sum(packs(life.store).values()) < 1.3 * alive
        forget_cached(runtime)
        await life.check(runtime)
    assert problems(tmp_path / "volume", life.store) == []
