"""Group commits: what is durable when `commit` returns, what happens in which order, what a failure does to
those who wait and to the rows, and that nothing is committed more often than needed."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fusegw.errors import Full, Unavailable
from fusegw.meta.committer import Committer
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import INODE_MAX, REAP
from tests.meta.indexes import open_index

INTERVAL_S = 60.0


class Packs:
    """Stands for the pack files a commit's rows refer to."""

    def __init__(self) -> None:
        self.syncs = 0
        self.errors: list[Exception] = []
        """Raised by the next syncs, in turn."""
        self.moves: list[Callable[[], None]] = []
        """Done by the next syncs: rows change since records were written anew."""
        self.gate = trio.Event()
        self.gate.set()

    async def sync(self) -> bool:
        self.syncs += 1
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        if self.moves:
            self.moves.pop(0)()
            return True
        return False


class Bench:
    """A committer over a real index; time jumps whenever everybody waits."""

    def __init__(
        self, directory: Path, *, pending_rows_max: int = 1000, interval_s: float = INTERVAL_S
    ) -> None:
        self.directory = directory
        self.metadata: Metadata = open_index(directory)
        self.packs = Packs()
        self.committer = Committer(
            self.metadata, self.packs.sync, interval_s=interval_s, pending_rows_max=pending_rows_max
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.committer.run)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self.metadata.close()

    def put(self, *keys: int) -> None:
        with self.metadata.change() as change:
            for key in keys:
                change.put(REAP, key, key)

    def durable(self) -> list[int]:
        """What a crash now would leave; call it when the index is closed."""
        metadata = open_index(self.directory)
        try:
            return [key for key, _ in metadata.scan(REAP, 0, INODE_MAX + 1)]
        finally:
            metadata.close()


async def test_commit_returns_when_what_was_merged_is_durable(tmp_path: Path, mock_clock: MockClock) -> None:
    bench = Bench(tmp_path)
    async with bench.running():
        bench.put(1, 2)
        await bench.committer.commit()
        bench.put(3)
    assert bench.durable() == [1, 2]


async def test_packs_are_synced_before_their_rows_are_saved(tmp_path: Path, mock_clock: MockClock) -> None:
    bench = Bench(tmp_path)
    bench.packs.gate = trio.Event()
    async with bench.running():
        bench.put(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.committer.commit)
            await wait_all_tasks_blocked()
            assert bench.packs.syncs == 1
            nursery.cancel_scope.cancel()
    assert bench.durable() == []


async def test_rows_merged_while_a_commit_runs_wait_for_the_next(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    bench = Bench(tmp_path)
    bench.packs.gate = trio.Event()
    returned: list[int] = []

    async def commit(key: int) -> None:
        bench.put(key)
        await bench.committer.commit()
        returned.append(key)

    async with bench.running(), trio.open_nursery() as nursery:
        nursery.start_soon(commit, 1)
        await wait_all_tasks_blocked()
        nursery.start_soon(commit, 2)
        await wait_all_tasks_blocked()
        bench.packs.gate.set()
    assert returned == [1, 2]
    assert bench.packs.syncs == 2
    assert bench.durable() == [1, 2]


async def test_those_who_wait_together_share_a_commit(tmp_path: Path, mock_clock: MockClock) -> None:
    bench = Bench(tmp_path)
    async with bench.running():
        bench.put(1)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(bench.committer.commit)
        assert bench.packs.syncs == 1


async def test_a_commit_of_nothing_touches_no_pack(tmp_path: Path, mock_clock: MockClock) -> None:
    bench = Bench(tmp_path)
    async with bench.running():
        await bench.committer.commit()
    assert bench.packs.syncs == 0


async def test_nobody_has_to_ask(tmp_path: Path, autojump_clock: MockClock) -> None:
    bench = Bench(tmp_path, interval_s=0.25)
    async with bench.running():
        bench.put(1)
        while bench.metadata.pending_rows or bench.packs.syncs < 1:
            await trio.sleep(0.1)
        bench.put(2)
        while bench.metadata.pending_rows or bench.packs.syncs < 2:
            await trio.sleep(0.1)
        await bench.committer.commit()
    assert bench.durable() == [1, 2]


async def test_rows_that_a_sync_changed_are_part_of_the_same_commit(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    bench = Bench(tmp_path)
    bench.packs.moves = [lambda: bench.put(7), lambda: bench.put(8)]
    async with bench.running():
        bench.put(1)
        await bench.committer.commit()
    assert bench.packs.syncs == 3
    assert bench.durable() == [1, 7, 8]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(Full("disk is full"), Full), (Unavailable("not now"), Unavailable), (OSError(5, "I/O error"), Full)],
)
async def test_a_failed_commit_is_reported_and_repeated(
    tmp_path: Path, autojump_clock: MockClock, error: Exception, expected: type[Exception]
) -> None:
    bench = Bench(tmp_path)
    async with bench.running():
        bench.put(1)
        bench.packs.errors = [error]
        with pytest.raises(expected, match=str(error.args[-1])):
            await bench.committer.commit()
        assert bench.committer.error is not None
        assert bench.metadata.get(REAP, 1) == 1
        bench.put(2)
        await bench.committer.commit()
        assert bench.committer.error is None
    assert bench.durable() == [1, 2]


async def test_a_failed_commit_is_repeated_though_nobody_asks(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bench = Bench(tmp_path)
    async with bench.running():
        bench.put(1)
        bench.packs.errors = [Full("disk is full")] * 3
        with pytest.raises(Full):
            await bench.committer.commit()
        while bench.committer.error is not None:
            await trio.sleep(1)
    assert bench.packs.syncs == 4
    assert bench.durable() == [1]


async def test_room_waits_until_there_is_room(tmp_path: Path, mock_clock: MockClock) -> None:
    bench = Bench(tmp_path, pending_rows_max=3)
    async with bench.running():
        bench.put(1, 2)
        assert not bench.committer.crowded
        await bench.committer.room()
        assert bench.packs.syncs == 0
        bench.put(3)
        assert bench.committer.crowded
        await bench.committer.room()
        assert not bench.committer.crowded
        assert bench.packs.syncs == 1


async def test_room_fails_while_commits_do_and_the_bound_holds(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bench = Bench(tmp_path, pending_rows_max=3)
    async with bench.running():
        bench.packs.errors = [Full("disk is full")] * 2
        bench.put(1, 2, 3)
        for _ in range(2):
            with pytest.raises(Full):
                await bench.committer.room()
        assert bench.committer.crowded
        await bench.committer.room()
        assert not bench.committer.crowded
    assert bench.durable() == [1, 2, 3]


async def test_finish_saves_what_is_left(tmp_path: Path, mock_clock: MockClock) -> None:
    bench = Bench(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.committer.run)
        await wait_all_tasks_blocked()
        bench.put(1)
        nursery.cancel_scope.cancel()
    await bench.committer.finish()
    bench.metadata.close()
    assert bench.durable() == [1]


async def test_a_commit_cancelled_in_its_sync_is_finished_at_the_end(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    bench = Bench(tmp_path)
    bench.packs.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.committer.run)
        bench.put(1)
        with trio.move_on_after(0):
            await bench.committer.commit()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    bench.put(2)
    bench.packs.gate.set()
    await bench.committer.finish()
    bench.metadata.close()
    assert bench.durable() == [1, 2]


async def test_finish_says_what_could_not_be_saved(tmp_path: Path, mock_clock: MockClock) -> None:
    bench = Bench(tmp_path)
    bench.put(1)
    bench.packs.errors = [Full("disk is full")]
    with pytest.raises(Full, match="disk is full"):
        await bench.committer.finish()
    bench.metadata.close()
    assert bench.durable() == []
