"""Chunks on their way: in the order in which they are needed, once each, and no reader waits in vain."""

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from fusegw.errors import Denied, Unavailable
from fusegw.packs.format import Location
from fusegw.packs.reader import ChunkRef
from fusegw.vfs.loads import Loads


def ref(number: int) -> ChunkRef:
    return ChunkRef(b"%032d" % number, Location(1, number, 0, 1, 1, 0), bytes(16), 1, bytes(16), 0)


def refs(*numbers: int) -> dict[int, ChunkRef]:
    return {number: ref(number) for number in numbers}


def raw(one: ChunkRef) -> bytes:
    return b"raw of " + one.chunk_id


class Packs:
    """In place of the pack reader: what is not in `remote` is here. Works only while `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.remote: set[bytes] = set()
        self.local_error: Exception | None = None
        self.store_error: Exception | None = None
        self.begun: list[list[int]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def read_local(self, wanted: Sequence[ChunkRef]) -> list[bytes | None]:
        with self.lock:
            self.begun.append([one.location.record for one in wanted])
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.gate.wait(10)
        with self.lock:
            self.at_once -= 1
        if self.local_error is not None:
            raise self.local_error
        return [None if one.chunk_id in self.remote else raw(one) for one in wanted]

    def fetch(self, wanted: Sequence[ChunkRef]) -> list[bytes]:
        if self.store_error is not None:
            raise self.store_error
        return [raw(one) for one in wanted]

    read = fetch


class Scene:
    def __init__(self, nursery: trio.Nursery, threads: int) -> None:
        self.packs = Packs()
        self.arrived: list[int] = []
        self.absences = 0
        index: Any = None  # asked only for damage
        packs: Any = self.packs
        self.loads = Loads(
            index,
            index,
            packs,
            nursery,
            arrived=lambda number, _: self.arrived.append(number),
            absent=self.absent,
            local_threads=threads,
        )

    def absent(self) -> None:
        self.absences += 1

    async def busy(self, threads: int) -> None:
        """The gate is closed and all threads wait at it."""
        self.packs.gate.clear()
        for number in range(threads):
            self.loads.start(refs(1000 + number), ahead=True)
        while self.packs.at_once < threads:
            await trio.sleep(0.001)
        self.packs.begun.clear()

    async def idle(self) -> None:
        with trio.fail_after(10):
            while self.loads:
                await trio.sleep(0.001)


@asynccontextmanager
async def scene(threads: int = 1) -> AsyncIterator[Scene]:
    async with trio.open_nursery() as nursery:
        made = Scene(nursery, threads)
        yield made
        nursery.cancel_scope.cancel()


async def test_what_is_read_ahead_comes_in_its_order() -> None:
    async with scene() as it:
        await it.busy(1)
        for number in range(20):
            it.loads.start(refs(number), ahead=True)
        it.packs.gate.set()
        await it.idle()
        assert it.packs.begun == [[number] for number in range(20)]
        assert it.arrived == [1000, *range(20)]


async def test_what_a_reader_waits_for_comes_first() -> None:
    async with scene() as it:
        await it.busy(1)
        it.loads.start(refs(1, 2), ahead=True)
        it.loads.start(refs(3), ahead=True)
        it.loads.start(refs(4), ahead=False)
        it.loads.start(refs(5), ahead=False)
        it.packs.gate.set()
        await it.idle()
        assert it.packs.begun == [[4], [5], [1, 2], [3]]


async def test_threads_are_few_and_all_at_work() -> None:
    async with scene(threads=3) as it:
        await it.busy(3)
        for number in range(50):
            it.loads.start(refs(number), ahead=True)
        it.packs.gate.set()
        await it.idle()
        assert it.packs.most_at_once == 3
        assert sorted(it.arrived) == [*range(50), 1000, 1001, 1002]
        await trio.testing.wait_all_tasks_blocked()
        assert await it.loads.start(refs(7), ahead=False)[7].wait() == raw(ref(7)), "a thread is taken again"


async def test_the_store_is_asked_for_what_is_not_here() -> None:
    async with scene() as it:
        it.packs.remote = {ref(2).chunk_id}
        loads = it.loads.start(refs(1, 2, 3), ahead=False)
        assert [await load.wait() for load in loads.values()] == [raw(ref(number)) for number in (1, 2, 3)]
        assert it.arrived == [1, 3, 2]
        assert it.absences == 1 and not it.loads


@pytest.mark.parametrize(
    "error", [Unavailable("the store does not answer"), Denied("no key"), OSError(5, "EIO")]
)
async def test_readers_are_told_why_a_chunk_cannot_be_had(error: Exception) -> None:
    async with scene() as it:
        it.packs.local_error = it.packs.store_error = error
        load = it.loads.start(refs(1), ahead=False)[1]
        with trio.fail_after(10), pytest.raises(type(error), match=str(error.args[-1])):
            await load.wait()
        it.packs.local_error = it.packs.store_error = None
        assert await it.loads.start(refs(1), ahead=False)[1].wait() == raw(ref(1)), "and may ask again"


async def test_whoever_waits_is_told_of_the_end() -> None:
    """Of a load in a thread and of one that no thread has begun; what is in a thread is finished."""
    told: list[str] = []

    async def reader(load: Any) -> None:
        try:
            await load.wait()
            told.append("read")
        except OSError as error:
            told.append(str(error))

    async with trio.open_nursery() as readers, trio.open_nursery() as nursery:
        it = Scene(nursery, 1)
        await it.busy(1)
        load = it.loads.get(1000)
        readers.start_soon(reader, load)
        it.packs.gate.set()
        with trio.fail_after(10):
            assert load is not None
            await load.done.wait()
        await it.idle()
        nursery.cancel_scope.cancel()
        readers.start_soon(reader, it.loads.start(refs(1), ahead=False)[1])
        readers.start_soon(reader, it.loads.start(refs(2), ahead=True)[2])
    assert sorted(told) == ["[Errno 4] read was cancelled"] * 2 + ["read"]
