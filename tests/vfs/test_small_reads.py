"""A small chunk that is in memory is read without a thread; one that is damaged there is not believed."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from fusegw.clock import SystemClock
from fusegw.packs.reader import PackReader
from fusegw.store.memory import MemoryStore
from tests.faults.support import TUNING, content, read_file, source, volume, write_file

SMALL = 5_000
LARGE = 50_000
"""More than what is opened without a thread: noise stays as long as it is."""


def tells_what_is_in_memory(directory: Path) -> bool:
    file = directory / "probe"
    file.write_bytes(b"probe")
    fd = os.open(file, os.O_RDONLY)
    try:
        os.pread(fd, 5, 0)
        return os.preadv(fd, [bytearray(5)], 0, os.RWF_NOWAIT) == 5
    except OSError:
        return False
    finally:
        os.close(fd)


def no_thread(*arguments: object) -> None:
    raise AssertionError("read in a thread")


@pytest.mark.parametrize("stored", [True, False])
async def test_small_files_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """From a pack that is in the store, too, and from one that is being written."""
    if stored and not tells_what_is_in_memory(tmp_path):
        pytest.skip("this file system cannot tell what is in memory")
    tuning = replace(TUNING, commit_interval_s=60.0, ship_interval_s=60.0)
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()), tuning=tuning)) as runtime:
        files = {b"f%d" % number: content(number, SMALL) for number in range(3)}
        for name, data in files.items():
            await write_file(runtime, name, data)
        await runtime.volume.files.settle_all()
        if stored:
            await runtime.volume.barrier()
            for name in files:
                await read_file(runtime, name)  # opens the packs' files
        runtime.reading.forget()
        monkeypatch.setattr(PackReader, "read_local", no_thread)
        for name, data in files.items():
            assert await read_file(runtime, name) == data


async def test_large_chunks_are_read_in_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as runtime:
        await write_file(runtime, b"file", content(1, LARGE))
        await runtime.volume.barrier()
        await read_file(runtime, b"file")
        runtime.reading.forget()

        def refuse(*arguments: object) -> None:
            raise AssertionError("read on the loop")

        monkeypatch.setattr(PackReader, "read_nowait", refuse)
        assert await read_file(runtime, b"file") == content(1, LARGE)


async def test_damage_in_memory_is_not_served(tmp_path: Path) -> None:
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as runtime:
        data = content(1, SMALL)
        await write_file(runtime, b"file", data)
        await runtime.volume.barrier()
        await read_file(runtime, b"file")
        runtime.reading.forget()
        (pack,) = [path for path in (tmp_path / "cache" / "packs").rglob("*") if path.is_file()]
        damaged = bytearray(pack.read_bytes())
        damaged[1000] ^= 1
        pack.write_bytes(damaged)
        assert await read_file(runtime, b"file") == data
