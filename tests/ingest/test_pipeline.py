"""The pipeline over a real index and a pack writer that can be told what to do."""

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from fusegw.clock import SystemClock
from fusegw.errors import Corrupt, Full, FusegwError
from fusegw.ingest.cutter import Cutter
from fusegw.ingest.effort import LEVEL_FAST
from fusegw.ingest.pipeline import Job, Pipeline, Range
from fusegw.meta.chunks import Chunks
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import CHUNK, CHUNK_ID, HOLE, Extent, numbered
from fusegw.packs.compress import LEVEL_DEFAULT
from fusegw.packs.format import Location, PackInfo

AVERAGE = 16 << 10


class FakeWriter:
    """Hands out locations; fails, or waits, when told to."""

    def __init__(self) -> None:
        self.appended: list[bytes] = []
        self.levels: list[int] = []
        self.claimed = 0
        self.error: FusegwError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

        self.meeting = threading.Barrier(1)
        """Of the threads that append, who wait for each other here."""

    def append_many(
        self, items: Sequence[tuple[bytes, memoryview]], *, claimed: int = 0, level: int
    ) -> list[Location]:
        self.gate.wait()
        self.meeting.wait(10)
        if self.error is not None:
            raise self.error
        with self._lock:
            self.claimed += claimed
            self.levels += [level] * len(items)
            places = []
            for _, raw in items:
                self.appended.append(bytes(raw))
                number = len(self.appended)
                places.append(Location(numbered(1, 1), number, number * 100, len(raw) + 28, len(raw), 0))
            return places

    def append(self, chunk_id: bytes, raw: memoryview, *, claimed: int = 0, level: int) -> Location:
        return self.append_many([(chunk_id, raw)], claimed=claimed, level=level)[0]

    def append_nowait(
        self, chunk_id: bytes, raw: memoryview, *, claimed: int = 0, level: int
    ) -> Location | None:
        return None if self.error is not None else self.append(chunk_id, raw, claimed=claimed, level=level)


class Bench:
    """A pipeline, and jobs that note what they were given."""

    def __init__(self, directory: Path) -> None:
        self.metadata = Metadata(directory, size_max_bytes=1 << 30, reserve_bytes=4096)
        self.writer = FakeWriter()
        self.chunks = Chunks(
            self.metadata,
            epoch=1,
            clock=SystemClock(),
            describe=lambda number: PackInfo(number, number.to_bytes(16, "big"), 1, bytes(32)),
        )
        self.pipeline = Pipeline(
            self.metadata,
            self.chunks,
            self.writer,  # type: ignore[arg-type]
            Cutter(seed=5, average_bytes=AVERAGE),
            chunk_id_key=b"k" * 32,
            threads=2,
        )
        self.merged: list[str] = []
        self.lost: list[FusegwError] = []
        self.extents: dict[str, list[Extent]] = {}

    def job(self, name: str, data: bytes, *, keep: bool = True) -> Job:
        def merge(change: Change, placed: list[tuple[int, list[Extent]]]) -> None:
            self.merged.append(name)
            self.extents[name] = [extent for _, extents in placed for extent in extents]
            if keep:
                for extent in self.extents[name]:
                    if extent.chunk != HOLE:
                        self.chunks.refer(change, extent.chunk)

        return Job([Range(0, data)], merge, self.lost.append)

    def count(self, extent: Extent) -> int:
        return self.chunks.row(self.metadata.change(), extent.chunk).count


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Bench]:
    bench = Bench(directory)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.pipeline.run)
        with trio.fail_after(30):
            yield bench
        nursery.cancel_scope.cancel()
    bench.metadata.close()


async def test_known_data_is_not_written_again(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        for name in ("first", "second"):
            await bench.pipeline.merged(bench.pipeline.submit(bench.job(name, b"a" * 1000)))
        assert bench.writer.appended == [b"a" * 1000]
        assert bench.extents["first"] == bench.extents["second"]
        assert bench.count(bench.extents["first"][0]) == 2
        assert (bench.pipeline.raw_bytes, bench.pipeline.new_bytes) == (2000, 1000)
        assert bench.writer.claimed == 1000, "only what is written stays claimed"


async def test_data_repeated_within_a_job_is_written_once(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        job = bench.job("twice", b"b" * 5000)
        job.ranges.append(Range(10_000, b"b" * 5000))
        await bench.pipeline.merged(bench.pipeline.submit(job))
        assert len(set(bench.extents["twice"])) == 1
        assert bench.count(bench.extents["twice"][0]) == 2


async def test_all_idle_workers_are_woken(tmp_path: Path) -> None:
    """Each waits for the other to encode, too; and so again after both have been idle."""
    async with running(tmp_path) as bench:
        bench.writer.meeting = threading.Barrier(2)
        for one, other in ((b"a", b"b"), (b"c", b"d")):
            await wait_all_tasks_blocked()
            bench.pipeline.submit(bench.job("one", one * 1000))
            await bench.pipeline.merged(bench.pipeline.submit(bench.job("other", other * 1000)))


async def test_compression_is_fast_while_much_waits_to_be_encoded(tmp_path: Path) -> None:
    """The last of five jobs of 8 MiB finds no more than itself in flight, or the one before it as well."""
    async with running(tmp_path) as bench:
        for number in range(5):
            bench.pipeline.submit(bench.job(str(number), bytes([number + 1]) * (8 << 20)))
        await bench.pipeline.merged(5)
        assert bench.writer.levels[0] == LEVEL_FAST
        assert bench.writer.levels[-1] == LEVEL_DEFAULT


async def test_zeros_are_holes_and_cost_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await bench.pipeline.merged(bench.pipeline.submit(bench.job("zeros", bytes(1 << 20))))
        assert bench.extents["zeros"] == [Extent(1 << 20, HOLE, 0)]
        assert not bench.writer.appended


async def test_jobs_are_merged_in_the_order_they_came(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.writer.gate.clear()
        slow = bench.pipeline.submit(bench.job("slow", b"s" * 100_000))
        quick = bench.pipeline.submit(bench.job("quick", bytes(100_000)))
        await trio.testing.wait_all_tasks_blocked()
        assert not bench.merged, "the quick one overtook the slow one"
        bench.writer.gate.set()
        await bench.pipeline.merged(quick)
        assert bench.merged == ["slow", "quick"]
        assert slow < quick and bench.pipeline.bytes_in_flight == 0


async def test_a_failing_disk_delays_jobs_and_tells_who_waits(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.writer.error = Full("no room")
        number = bench.pipeline.submit(bench.job("late", b"l" * 1000))
        with pytest.raises(Full, match="no room"):
            await bench.pipeline.merged(number)
        assert bench.pipeline.error is not None and not bench.merged
        bench.writer.error = None
        while True:
            try:
                await bench.pipeline.merged(number)
                break
            except Full:
                continue
        assert bench.merged == ["late"]
        assert bench.pipeline.error is None
        assert bench.writer.claimed == 1000, "tried twice, claimed once"


async def test_storing_at_once_fails_without_a_trace_and_can_be_submitted(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        job = bench.job("small", b"m" * 100)
        bench.writer.error = Full("no room")
        with pytest.raises(Full):
            bench.pipeline.store(job)
        assert not bench.merged and not list(bench.metadata.scan(CHUNK, 0, 1 << 62))
        bench.writer.error = None
        bench.pipeline.store(job)
        assert bench.merged == ["small"]


async def test_chunks_nobody_keeps_leave_no_row(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await bench.pipeline.merged(bench.pipeline.submit(bench.job("gone", b"g" * 1000, keep=False)))
        assert not list(bench.metadata.scan(CHUNK, 0, 1 << 62))
        assert not list(bench.metadata.scan(CHUNK_ID, b"", b"\xff" * 17))


async def test_a_hit_that_vanished_is_written_after_all(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await bench.pipeline.merged(bench.pipeline.submit(bench.job("first", b"v" * 1000)))
        bench.writer.gate.clear()
        bench.pipeline.submit(bench.job("blocks", b"x" * 50_000))
        second = bench.pipeline.submit(bench.job("second", b"v" * 1000))
        await trio.testing.wait_all_tasks_blocked()
        with bench.metadata.change() as change:
            bench.chunks.unrefer(change, bench.extents["first"][0].chunk)
        bench.writer.gate.set()
        await bench.pipeline.merged(second)
        assert bench.writer.appended.count(b"v" * 1000) == 2
        assert bench.count(bench.extents["second"][0]) == 1


async def test_moved_records_are_found_where_they_went(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await bench.pipeline.merged(bench.pipeline.submit(bench.job("f", b"f" * 1000)))
        ((number, before),) = bench.metadata.scan(CHUNK, 0, 1 << 62)
        old = Location(before.pack, before.record, before.offset, before.stored, before.raw, before.codec)
        new = Location(numbered(1, 2), 0, 80, before.stored, before.raw, before.codec)
        bench.pipeline.relocate({old: new})
        ((same, after),) = bench.metadata.scan(CHUNK, 0, 1 << 62)
        assert same == number and (after.pack, after.offset, after.count) == (new.pack, new.offset, 1)
        assert bench.chunks.dead_packs == {old.pack}


async def test_damaged_metadata_loses_the_job_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        job = bench.job("f", b"f" * 1000)

        def broken(change: Change, placed: object) -> None:
            raise Corrupt("row is damaged")

        job.merge = broken
        number = bench.pipeline.submit(job)
        await bench.pipeline.merged(number)
        assert [str(error) for error in bench.lost] == ["row is damaged"]
        await bench.pipeline.merged(bench.pipeline.submit(bench.job("next", b"n" * 1000)))
        assert bench.merged == ["next"], "others go on"
