"""The snapshots a volume makes by itself: when, which stay, and what happens when something fails.

Trio's clock stands still unless a test moves it, so nothing happens by timer; the wall clock is the test's.
"""

import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fusegw.assembly import Runtime, running_volume
from fusegw.clock import SystemEntropy
from fusegw.config import Tuning
from fusegw.errors import Busy, Full, Invalid, UnknownFormat
from fusegw.index import Source
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.schema import GATEWAY, ROOT_INODE, STATE, STATE_ROLLBACK, Snapshot
from fusegw.meta.snapshot import MADE_BY_SCHEDULE
from fusegw.schedule import SnapshotSchedule, surplus
from fusegw.store.memory import MemoryStore
from fusegw.vfs.caller import Caller
from fusegw.vfs.scheduler import LOOK_S, SCHEDULE_ROW, Scheduler
from fusegw.vfs.snapshots import Snapshots

KEYS = VolumeKeys(b"scheduled volume", {1: bytes(32)}, chunk_id_key=b"k" * 32, cutter_seed=0x1234567)
ME = Caller(0, 0)
HOUR_S = 3600
START_S = 1_790_000_000 // HOUR_S * HOUR_S
HOURLY = SnapshotSchedule(keep="hourly 3, daily 2")


class WallClock:
    """What the test says, and as much more as trio's clock has moved."""

    def __init__(self) -> None:
        self.set_s = float(START_S)
        self.trio = MockClock()

    def time_ns(self) -> int:
        return int((self.set_s + self.trio.current_time()) * 1e9)

    def monotonic(self) -> float:
        return self.trio.current_time()


class Place:
    """Where a volume is kept between its runs."""

    def __init__(self, directory: Path) -> None:
        self.clock = WallClock()
        self.source = Source(
            store=MemoryStore(clock=self.clock),
            keys=KEYS,
            meta_dir=directory / "meta",
            cache_dir=directory / "cache",
            cache_size_bytes=64 << 20,
            tuning=Tuning(chunk_size_bytes=16 << 10, commit_interval_s=60),
            clock=self.clock,
            entropy=SystemEntropy(),
            free_bytes=lambda: 1 << 40,
            unmount_wait_s=math.inf,
        )
        self.changes = 0

    @asynccontextmanager
    async def volume(self, **settings: Any) -> AsyncIterator[Runtime]:
        """Open, its schedule run by the test alone (`step`)."""
        async with running_volume(msgspec.structs.replace(self.source, **settings)) as runtime:
            runtime.scheduler.stop()
            yield runtime

    async def change(self, runtime: Runtime) -> None:
        """Something new in the volume."""
        self.changes += 1
        ino = runtime.volume.namespace.mknod(ROOT_INODE, b"%d" % self.changes, 0o644, 0, ME).ino
        await runtime.volume.files.write(ino, 0, b"new")

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        trio.run(body, clock=self.clock.trio)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def names(runtime: Runtime) -> list[str]:
    return [one.name for one in runtime.volume.snapshots]


class Failing:
    """Snapshots that cannot be made while it says so."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self._snapshots)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._snapshots, name)

    async def create(self, name: str, **options: int) -> Snapshot:
        if self.error is not None:
            raise self.error
        return await self._snapshots.create(name, **options)


def test_one_is_made_in_each_hour_in_which_something_changed(place: Place) -> None:
    async def body() -> None:
        async with place.volume() as runtime:
            scheduler = runtime.scheduler
            assert await scheduler.step() == math.inf and names(runtime) == []
            await scheduler.set(HOURLY)
            await scheduler.step()
            assert names(runtime) == ["2026-09-21T14.00.00Z"], "the first at once"
            place.clock.set_s += 600
            await place.change(runtime)
            assert await scheduler.step() == LOOK_S
            assert len(names(runtime)) == 1
            place.clock.set_s += HOUR_S - 610
            assert await scheduler.step() == pytest.approx(10), "at the full hour, not later"
            place.clock.set_s += 10
            await scheduler.step()
            assert names(runtime)[1:] == ["2026-09-21T15.00.00Z"]
            place.clock.set_s += HOUR_S
            await scheduler.step()
            await place.change(runtime)
            await scheduler.step()
            status = scheduler.status()
            assert len(names(runtime)) == 2 and status is not None and status.unchanged
            assert status.next_ns == (START_S + 3 * HOUR_S) * 10**9
            place.clock.set_s += HOUR_S
            await scheduler.step()
            assert len(names(runtime)) == 3, "the change after the look is in the next one"

    place.run(body)


def test_every_kind_of_change_counts_and_none_is_invented(place: Place) -> None:
    async def body() -> None:
        async with place.volume() as runtime:
            volume, scheduler = runtime.volume, runtime.scheduler
            await place.change(runtime)
            ino = volume.namespace.mknod(ROOT_INODE, b"file", 0o644, 0, ME).ino
            await volume.files.write(ino, 0, b"x" * 50_000)
            await scheduler.set(HOURLY)
            await scheduler.step()

            async def overwrite() -> None:
                await volume.files.write(ino, 10, b"same size")

            async def tag() -> None:
                volume.xattrs.set(ino, b"user.tag", b"x")

            async def rename() -> None:
                volume.namespace.rename(ROOT_INODE, b"file", ROOT_INODE, b"other", 0)

            async def unlink() -> None:
                volume.namespace.unlink(ROOT_INODE, b"other")

            for change in (overwrite, tag, rename, unlink):
                place.clock.set_s += HOUR_S
                await volume.barrier()
                await volume.snapshots.create(f"before {change.__name__}")
                await scheduler.step()
                status = scheduler.status()
                assert status is not None and status.unchanged, f"before {change.__name__}"
                await change()
                if change is not overwrite:  # which is in memory only when it is looked for
                    # What was made by hand in between does not stand for a scheduled one.
                    await volume.snapshots.create(f"after {change.__name__}")
                place.clock.set_s += HOUR_S
                await scheduler.step()
                status = scheduler.status()
                assert status is not None and not status.unchanged, change.__name__

    place.run(body)


def test_a_missed_one_is_made_up_for_once(place: Place) -> None:
    async def body() -> None:
        async with place.volume() as runtime:
            await runtime.scheduler.set(HOURLY)
            await runtime.scheduler.step()
        place.clock.set_s += 600
        async with place.volume() as runtime:
            await place.change(runtime)
            await runtime.scheduler.step()
            assert names(runtime) == ["2026-09-21T14.00.00Z"], "this hour has one"
        place.clock.set_s += 100 * HOUR_S
        async with place.volume() as runtime:
            await runtime.scheduler.step()
            await place.change(runtime)
            await runtime.scheduler.step()
            assert names(runtime)[1:] == ["2026-09-25T18.10.00Z"]

    place.run(body)


def test_weeks_with_restarts_and_a_clock_that_jumps(place: Place) -> None:
    """After each look there is what retention leaves, and what others made is not touched."""
    schedule = SnapshotSchedule(keep="hourly 3, daily 3, weekly 2")
    chance = random.Random(7)
    ever: dict[int, Snapshot] = {}

    async def body() -> None:
        jumps = {150: -5 * HOUR_S, 260: 30 * HOUR_S, 300: 400 * 24 * HOUR_S, 301: -400 * 24 * HOUR_S}
        for life in range(5):
            async with place.volume() as runtime:
                snapshots = runtime.volume.snapshots
                if life == 0:
                    await runtime.scheduler.set(schedule)
                    await snapshots.create("by hand")
                for hour in range(life * 100, life * 100 + 100):
                    place.clock.set_s += HOUR_S + jumps.get(hour, 0)
                    if chance.random() < 0.2:
                        await place.change(runtime)
                    await runtime.scheduler.step()
                    present = {one.seq: one for one in snapshots if one.made_by == MADE_BY_SCHEDULE}
                    ever.update(present)
                    now_ns = place.clock.time_ns()
                    gone = surplus(
                        schedule.counts, [(one.created_ns, one.seq) for one in present.values()], now_ns
                    )
                    assert gone == [], "what is not kept is deleted"
                    past = [one for one in present.values() if one.created_ns <= now_ns]
                    assert len(past) <= 8
                    assert snapshots.find("by hand") is not None

    place.run(body)
    weeks = (place.clock.set_s - START_S) / (7 * 24 * HOUR_S)
    assert weeks > 2 and len(ever) > 60


def test_a_locked_one_stays_until_its_time(place: Place) -> None:
    async def body() -> None:
        async with place.volume() as runtime:
            snapshots, scheduler = runtime.volume.snapshots, runtime.scheduler
            await scheduler.set(SnapshotSchedule(keep="hourly 1", even_unchanged=True))
            await scheduler.step()
            (first,) = names(runtime)
            await snapshots.lock(first, place.clock.time_ns() + 3 * HOUR_S * 10**9)
            for _ in range(2):
                place.clock.set_s += HOUR_S
                await scheduler.step()
                status = scheduler.status()
                assert status is not None and status.error is None
                assert first in names(runtime) and len(names(runtime)) == 2
            place.clock.set_s += 2 * HOUR_S
            await scheduler.step()
            assert first not in names(runtime) and len(names(runtime)) == 1

    place.run(body)


def test_with_stored_older_ones_go_only_when_the_newest_is_in_the_store(place: Place) -> None:
    async def body() -> None:
        for stored in (True, False):
            async with place.volume() as runtime:
                scheduler = runtime.scheduler
                await scheduler.set(SnapshotSchedule(keep="hourly 1", stored=stored))
                await place.change(runtime)
                await scheduler.step()
                await runtime.volume.barrier()
                await scheduler.step()
                (first,) = names(runtime)
                place.clock.set_s += HOUR_S
                await place.change(runtime)
                await scheduler.step()
                status = scheduler.status()
                assert status is not None and status.last is not None
                assert status.waiting == stored == (status.last.name == first) == (first in names(runtime))
                await runtime.volume.barrier()
                await scheduler.step()
                assert first not in names(runtime) and len(names(runtime)) == 1
            place.clock.set_s += HOUR_S

    place.run(body)


@pytest.mark.parametrize("error", [Full("the disk is full"), OSError(5, "not readable")])
def test_what_fails_is_told_and_tried_again(place: Place, error: Exception) -> None:
    async def body() -> None:
        async with place.volume() as runtime:
            failing = Failing(runtime.volume.snapshots)
            scheduler = Scheduler(
                runtime.metadata,
                runtime.committer,
                failing,  # type: ignore[arg-type]
                configured=None,
                clock=place.clock,
            )
            await scheduler.set(HOURLY)
            await scheduler.step()
            failing.error = error
            place.clock.set_s += HOUR_S
            await place.change(runtime)
            assert await scheduler.step() == LOOK_S
            status = scheduler.status()
            assert status is not None and str(error) in str(status.error)
            failing.error = None
            await scheduler.step()
            status = scheduler.status()
            assert status is not None and status.error is None and len(names(runtime)) == 2

    place.run(body)


def test_in_the_midst_of_a_rollback_none_is_made_and_none_deleted(place: Place) -> None:
    async def body() -> None:
        async with place.volume() as runtime:
            scheduler = runtime.scheduler
            await scheduler.set(SnapshotSchedule(keep="hourly 2", even_unchanged=True))
            for _ in range(2):
                await scheduler.step()
                place.clock.set_s += HOUR_S
            before = names(runtime)
            with runtime.metadata.change() as change:
                change.put(STATE, STATE_ROLLBACK, bytes(16))
            await scheduler.set(SnapshotSchedule(keep="hourly 1", even_unchanged=True))
            await scheduler.step()
            status = scheduler.status()
            assert names(runtime) == before and status is not None and "rollback" in str(status.error)
            with pytest.raises(Busy):
                await runtime.volume.snapshots.delete(before[0])
            with runtime.metadata.change() as change:
                change.delete(STATE, STATE_ROLLBACK)
            await scheduler.step()
            assert len(names(runtime)) == 1 and names(runtime) != before[1:]

    place.run(body)


def test_the_task_makes_them_by_the_clock_and_ends_with_the_volume(place: Place) -> None:
    async def body() -> None:
        async def until(count: int) -> None:
            with trio.fail_after(HOUR_S * 100):
                while len(names(runtime)) < count:
                    await wait_all_tasks_blocked(0.001)

        async with running_volume(place.source) as runtime:
            await runtime.scheduler.set(SnapshotSchedule(keep="hourly 9", even_unchanged=True))
            await until(1)
            for count in (2, 3):
                await wait_all_tasks_blocked(0.05)
                place.clock.trio.jump(HOUR_S)
                await until(count)
        assert [name[11:16] for name in names(runtime)] == ["14.00", "15.00", "16.00"]

    place.run(body)


def test_the_schedule_comes_back_after_a_loss_and_the_configuration_goes_first(
    place: Place, tmp_path: Path
) -> None:
    async def body() -> None:
        async with place.volume() as runtime:
            await runtime.scheduler.set(HOURLY)
        new_host = {"meta_dir": tmp_path / "meta2", "cache_dir": tmp_path / "cache2"}
        daily = SnapshotSchedule(keep="daily 5", stored=True)
        async with place.volume(**new_host) as runtime:
            assert runtime.scheduler.schedule == HOURLY
        async with place.volume(**new_host, snapshots=daily) as runtime:
            await runtime.scheduler.step()
            assert runtime.scheduler.schedule == daily
            with pytest.raises(Invalid, match="configuration file"):
                await runtime.scheduler.set(None)
        async with place.volume(**new_host) as runtime:
            assert runtime.scheduler.schedule == daily
            await runtime.scheduler.set(None)
            assert runtime.scheduler.status() is None
            place.clock.set_s += 48 * HOUR_S
            made = names(runtime)
            await runtime.scheduler.step()
            assert names(runtime) == made

    place.run(body)


def test_what_a_newer_version_or_nobody_wrote_is_told_and_left(place: Place) -> None:
    async def body() -> None:
        async with place.volume() as runtime:
            scheduler = runtime.scheduler
            for row, left in (
                (b'{"format": 2}', True),
                (b"}", False),
                (b'{"format": 1, "keep": "x"}', False),
            ):
                with runtime.metadata.change() as change:
                    change.put(GATEWAY, SCHEDULE_ROW, row)
                await scheduler.step()
                status = scheduler.status()
                assert status is not None and status.error and names(runtime) == []
                if left:
                    with pytest.raises(UnknownFormat):
                        await scheduler.set(HOURLY)
            with runtime.metadata.change() as change:
                change.put(GATEWAY, SCHEDULE_ROW, b'{"format": 1, "keep": "daily 1", "later": 3}')
            await scheduler.set(HOURLY)
            assert b'"later":3' in (runtime.metadata.get(GATEWAY, SCHEDULE_ROW) or b"")

    place.run(body)
