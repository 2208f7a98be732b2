"""Memory is full of a stream that cannot be encoded as fast as it comes: who waits, and who does not."""

import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from fusegw.clock import SystemClock
from fusegw.packs.writer import PackWriter
from fusegw.store.memory import MemoryStore
from fusegw.vfs.files import SMALL_BYTES
from tests.faults.support import TUNING, content, create, source, volume

STEP = 1 << 20
MEMORY = 64 << 20
SOON_S = 5.0


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is encoded before it is set."""
    gate = threading.Event()
    append_many = PackWriter.append_many

    def waiting(self: PackWriter, *arguments: Any, **named: Any) -> Any:
        assert gate.wait(60)
        return append_many(self, *arguments, **named)

    monkeypatch.setattr(PackWriter, "append_many", waiting)
    return gate


async def test_small_files_pass_a_stream_that_waits(tmp_path: Path, gate: threading.Event) -> None:
    store = MemoryStore(clock=SystemClock())
    tuning = replace(TUNING, write_wait_s=60.0)
    async with volume(source(tmp_path, store, cache_size_bytes=512 << 20, tuning=tuning)) as runtime:
        files = runtime.volume.files
        stream, written = create(runtime, b"stream"), 0
        files.opened(stream)

        async def write_on() -> None:
            nonlocal written
            while written < 2 * MEMORY:
                written += await files.write(stream, written, content(1, STEP))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on)
            with trio.fail_after(60):
                while written <= MEMORY:
                    await trio.sleep(0.01)
            for number in range(10):
                small = create(runtime, b"small%d" % number)
                files.opened(small)
                with trio.fail_after(SOON_S):
                    await files.write(small, 0, content(number, 2000))
            # What a small file may have more than others has an end.
            taken = 0
            with trio.move_on_after(SOON_S) as waited:
                for number in range(MEMORY // SMALL_BYTES):
                    large = create(runtime, b"large%d" % number)
                    files.opened(large)
                    taken += await files.write(large, 0, bytes([number]) * SMALL_BYTES)
            assert waited.cancelled_caught
            assert taken <= MEMORY // 4
            assert MEMORY < written < MEMORY + 2 * STEP, "the stream did not wait"
            gate.set()
        await files.settle_all()
