"""Packs travel to the store side by side, as many as are allowed, after a rest as well."""

import threading
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

from fusegw.clock import SystemClock
from fusegw.store.memory import MemoryStore
from tests.faults.support import TUNING, content, source, volume, write_file


class MeetingStore(MemoryStore):
    """Packs that are put wait for as many others to be put at the same time, from `meet` on."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock())
        self._to_come: Iterator[threading.Barrier] = iter(())
        self.met = 0

    def meet(self, parties: int) -> None:
        self._to_come = repeat(threading.Barrier(parties), parties)

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        if key.startswith("packs/") and (meeting := next(self._to_come, None)) is not None:
            meeting.wait(10)
            self.met += 1
        super().put(key, data, create_only=create_only)


async def test_as_many_packs_as_allowed_are_in_flight(tmp_path: Path) -> None:
    """They meet only if every one of the tasks that upload has been woken."""
    store = MeetingStore()
    async with volume(source(tmp_path, store)) as runtime:
        await write_file(runtime, b"before", content(2, 1000))
        await runtime.volume.barrier()
        store.meet(TUNING.upload_parallelism)
        await write_file(
            runtime, b"file", content(1, (TUNING.upload_parallelism + 1) * TUNING.pack_size_bytes)
        )
        await runtime.volume.barrier()
    assert store.met == TUNING.upload_parallelism
