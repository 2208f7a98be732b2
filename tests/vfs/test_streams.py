"""Streams are cut in a thread while more arrives: how long that takes decides nothing."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import fusegw.assembly
from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.ingest.cutter import Cut, Cutter
from fusegw.meta.schema import EXTENT, ROOT_INODE
from fusegw.store.memory import MemoryStore
from fusegw.vfs.streams import STREAM_BYTES
from tests.faults.support import KEYS, TUNING, content, create, read_file, source, until, volume

STEP = 1 << 20
SIZE = 3 * STREAM_BYTES - 12345
DATA = content(1, SIZE)


class SlowCutter(Cutter):
    """Cuts streams only while the gate is open."""

    gate = threading.Event()

    def cut_stream(self, data: bytes | bytearray) -> list[Cut]:
        assert self.gate.wait(30)
        return super().cut_stream(data)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    monkeypatch.setattr(SlowCutter, "gate", threading.Event())
    monkeypatch.setattr(fusegw.assembly, "Cutter", SlowCutter)
    return SlowCutter.gate


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Runtime]:
    async with volume(
        source(directory, MemoryStore(clock=SystemClock()), cache_size_bytes=128 << 20)
    ) as runtime:
        yield runtime


async def open_and_write(runtime: Runtime, data: bytes, step: int = STEP) -> int:
    """A new file "file", left open."""
    ino = create(runtime, b"file")
    runtime.volume.files.opened(ino)
    for offset in range(0, len(data), step):
        await runtime.volume.files.write(ino, offset, data[offset : offset + step])
    return ino


def pieces(runtime: Runtime, ino: int) -> list[int]:
    """Lengths of the file's extents."""
    return [extent.length for _, extent in runtime.metadata.scan(EXTENT, (ino, 0), (ino + 1, 0))]


@pytest.mark.parametrize("step", [STEP, 700_001, STREAM_BYTES + 5])
async def test_the_cuts_depend_on_the_bytes_alone(tmp_path: Path, gate: threading.Event, step: int) -> None:
    """Be it that nothing is cut before all is written and the file is closed, or everything as it comes: the
    chunks are those of the whole at once."""
    expected = [
        length for length, _ in Cutter(seed=KEYS.cutter_seed, average_bytes=TUNING.chunk_size_bytes).cut(DATA)
    ]
    for late in (True, False):
        if not late:
            gate.set()
        async with running(tmp_path / str(late)) as runtime:
            ino = await open_and_write(runtime, DATA, step)
            runtime.volume.closed(ino)
            gate.set()
            await runtime.volume.files.settle_all()
            assert pieces(runtime, ino) == expected
            assert await read_file(runtime, b"file") == DATA
        gate.clear()


async def test_what_is_being_cut_is_read_and_counted(tmp_path: Path, gate: threading.Event) -> None:
    async with running(tmp_path) as runtime:
        ino = await open_and_write(runtime, DATA)
        files = runtime.volume.files
        assert files.unsettled_bytes(ino) == SIZE
        assert await read_file(runtime, b"file") == DATA
        assert not pieces(runtime, ino)
        gate.set()
        await files.settle(ino)
        assert files.unsettled_bytes(ino) == 0
        runtime.volume.closed(ino)


async def test_a_sync_waits_for_what_is_being_cut(tmp_path: Path, gate: threading.Event) -> None:
    async with running(tmp_path) as runtime:
        ino = await open_and_write(runtime, DATA)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.volume.files.fsync, ino)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert not pieces(runtime, ino), "the sync did not wait"
            assert nursery.child_tasks
            gate.set()
        assert sum(pieces(runtime, ino)) == SIZE
        runtime.volume.closed(ino)


@pytest.mark.parametrize("size", [0, 1000, STREAM_BYTES - 7, SIZE + 99])
async def test_truncation_meanwhile_holds(tmp_path: Path, gate: threading.Event, size: int) -> None:
    async with running(tmp_path) as runtime:
        ino = await open_and_write(runtime, DATA)
        runtime.volume.files.truncate(ino, size)
        expected = DATA[:size] + bytes(max(0, size - SIZE))
        assert await read_file(runtime, b"file") == expected
        runtime.volume.closed(ino)
        gate.set()
        await runtime.volume.files.settle_all()
        assert await read_file(runtime, b"file") == expected


@pytest.mark.parametrize("offset", [100, STREAM_BYTES - 1000, STREAM_BYTES - 3])
async def test_what_is_written_over_it_meanwhile_wins(
    tmp_path: Path, gate: threading.Event, offset: int
) -> None:
    """In the part that would go back to the runs as well."""
    over = b"newer" * 100
    async with running(tmp_path) as runtime:
        ino = await open_and_write(runtime, DATA[:STREAM_BYTES])
        await runtime.volume.files.write(ino, offset, over)
        expected = bytearray(DATA[:STREAM_BYTES])
        expected[offset : offset + len(over)] = over
        gate.set()
        await until(lambda: pieces(runtime, ino))
        assert await read_file(runtime, b"file") == expected
        await runtime.volume.files.fsync(ino)
        assert await read_file(runtime, b"file") == expected
        runtime.volume.closed(ino)


async def test_a_file_deleted_meanwhile_leaves_nothing(tmp_path: Path, gate: threading.Event) -> None:
    async with running(tmp_path) as runtime:
        ino = await open_and_write(runtime, DATA)
        runtime.volume.namespace.unlink(ROOT_INODE, b"file")
        runtime.volume.closed(ino)
        gate.set()
        await runtime.volume.files.settle_all()
        await until(lambda: runtime.volume.inodes.get(ino) is None)
        assert not pieces(runtime, ino)
        await until(lambda: runtime.cache.stats().reserved_bytes == 0)
