"""A long sequential read from the store takes few large requests, and no byte twice."""

from pathlib import Path

import pytest
from msgspec.structs import replace

import fusegw.vfs.reading
from cache import PackCache
from fusegw.clock import SystemClock
from fusegw.store.memory import MemoryStore
from tests.faults.support import TUNING, content, forget_cached, source, volume, write_file

SIZE = 48 << 20
NEAR = 4 << 20
LOAD = 2 << 20
BLOCK = 1 << 20
"""Of the cache: requests are rounded to that, at both ends."""


class WatchedStore(MemoryStore):
    """Notes how many bytes of packs each request asks for."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock())
        self.asked: list[int] = []

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.asked.append(length)
        return super().get_range(key, offset, length)


async def read_cold(directory: Path) -> list[int]:
    """What is asked for while a file is read from its beginning to its end."""
    store = WatchedStore()
    tuning = replace(TUNING, pack_size_bytes=16 << 20, read_ahead_bytes=NEAR)
    async with volume(source(directory, store, cache_size_bytes=128 << 20, tuning=tuning)) as runtime:
        data = content(1, SIZE)
        ino = await write_file(runtime, b"file", data)
        await runtime.volume.barrier()
        forget_cached(runtime)
        store.asked.clear()
        for offset in range(0, SIZE, 128 << 10):
            piece = await runtime.volume.files.read(ino, offset, 128 << 10)
            assert piece == data[offset : offset + (128 << 10)]
    return store.asked


async def test_requests_are_large_and_bring_nothing_twice(tmp_path: Path) -> None:
    asked = await read_cold(tmp_path)
    assert max(asked) > LOAD + 2 * BLOCK
    assert sum(asked) < SIZE * 1.05


async def test_control_without_the_far_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusegw.vfs.reading, "_FAR_STEPS_MAX", 0)
    assert max(await read_cold(tmp_path)) <= LOAD + 2 * BLOCK


async def test_a_cache_without_room_is_not_filled_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps that were begun before the first has come are in vain, and no more."""
    monkeypatch.setattr(PackCache, "fill", lambda *arguments: None)
    asked = sum(await read_cold(tmp_path / "with"))
    steps = fusegw.vfs.reading._FAR_STEPS_MAX
    in_vain = steps * int(fusegw.vfs.reading._FAR_STEP * NEAR)
    monkeypatch.setattr(fusegw.vfs.reading, "_FAR_STEPS_MAX", 0)
    near_alone = sum(await read_cold(tmp_path / "without"))
    assert asked <= near_alone * 1.1 + in_vain
