"""Waiting for the kernel: nobody is forgotten, nobody starves, and a reader never finds nothing to read."""

import math
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from fusegw.fuse.pace import IN_A_ROW_MAX, LOOKS_MAX, GreedyLock, Readiness


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


async def test_the_lock_has_one_holder_and_serves_all() -> None:
    lock = GreedyLock()
    inside = 0
    served: list[int] = []

    async def worker(number: int) -> None:
        nonlocal inside
        for _ in range(3):
            async with lock:
                inside += 1
                assert inside == 1
                await trio.lowlevel.checkpoint()
                inside -= 1
            served.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(worker, number)
    assert sorted(served) == sorted(list(range(5)) * 3)


async def test_the_holder_may_come_back_without_yielding() -> None:
    """And a waiter takes over as soon as the holder waits for something else."""
    lock = GreedyLock()
    order: list[str] = []

    async def waiter() -> None:
        async with lock:
            order.append("waiter")

    async with trio.open_nursery() as nursery:
        await lock.__aenter__()
        nursery.start_soon(waiter)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            await lock.__aexit__(None, None, None)
            await lock.__aenter__()
            order.append("again")
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["again"] * 3
        await lock.__aexit__(None, None, None)
    assert order == ["again"] * 3 + ["waiter"]


async def test_a_cancelled_waiter_does_not_keep_the_lock() -> None:
    lock = GreedyLock()
    async with lock:
        with trio.move_on_after(0):
            async with lock:
                raise AssertionError("it is held")
    with trio.fail_after(5):
        async with lock:
            pass


async def test_a_readable_descriptor_needs_no_turn(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    readiness = Readiness(LOOKS_MAX)
    theirs.send(b"x")
    with trio.testing.assert_no_checkpoints():
        await readiness.wait_readable(ours.fileno())


async def test_the_rest_of_the_gateway_gets_its_turn(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    readiness = Readiness(LOOKS_MAX)
    theirs.send(b"x")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        for _ in range(IN_A_ROW_MAX * 10):
            await readiness.wait_readable(ours.fileno())
        nursery.cancel_scope.cancel()
    assert turns >= 5


async def test_it_waits_for_what_comes_later(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    readiness = Readiness(looks_max=1)
    for _ in range(100):  # beyond the loss of all trust
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readiness.wait_readable, ours.fileno())
            await trio.testing.wait_all_tasks_blocked()
            theirs.send(b"x")
        assert ours.recv(1) == b"x"


async def test_a_withdrawn_request_is_not_taken_for_one(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop says readable, but by then nothing is there: wait on."""
    ours, theirs = pair
    readiness = Readiness(looks_max=1)
    woken = 0
    wait = trio.lowlevel.wait_readable

    async def woken_in_vain(fd: int) -> None:
        nonlocal woken
        woken += 1
        if woken < 3:
            await trio.lowlevel.checkpoint()
        else:
            theirs.send(b"x")
            await wait(fd)

    monkeypatch.setattr(trio.lowlevel, "wait_readable", woken_in_vain)
    await readiness.wait_readable(ours.fileno())
    assert woken == 3
    assert ours.recv(1) == b"x"


class Client:
    """Its request is there at the look `at` of a wait, or when the reader has parked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.readiness = Readiness(LOOKS_MAX)
        self.readiness._poll = self  # type: ignore[assignment]
        self.at, self.looks, self.parked = 1.0, 0, False
        monkeypatch.setattr(trio.lowlevel, "wait_readable", self.park)

    async def park(self, fd: int) -> None:
        self.parked = True

    def poll(self, timeout: int) -> bool:
        self.looks += 1
        return self.parked or self.looks >= self.at

    async def looks_until(self, at: float) -> int:
        self.at, self.looks, self.parked = at, 0, False
        await self.readiness.wait_readable(0)
        return self.looks


async def test_a_stream_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two requests the first is there at once and the second comes late: looking did not pay."""
    client = Client(monkeypatch)
    series = 0
    for _ in range(100):
        await client.looks_until(1)
        series += await client.looks_until(math.inf) > LOOKS_MAX
    assert series < 25


async def test_looking_that_pays_is_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    for _ in range(100):
        await client.looks_until(math.inf)
    parked = 0
    for _ in range(300):
        await client.looks_until(50)
        parked += client.parked
    assert 0 < parked < 100
    assert await client.looks_until(50) == 50
