"""Freeing what was removed takes bounded memory, however large it was."""

from pathlib import Path

import pytest
import trio

from fusegw.clock import SystemClock
from fusegw.meta.committer import Committer
from fusegw.meta.schema import ROOT_INODE
from fusegw.store.memory import MemoryStore
from fusegw.vfs import reaper
from tests.faults.support import create, source, volume

EXTENTS = 4000
ROWS_MAX = 500


@pytest.mark.parametrize("protected", [True, False], ids=["protected", "control"])
async def test_a_large_file_goes_in_steps_that_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    monkeypatch.setattr(reaper, "_EXTENTS_PER_STEP", 16)
    monkeypatch.setattr(reaper, "_STEPS_PER_TURN", 1)
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as runtime:
        ino = create(runtime, b"large")
        runtime.volume.files.opened(ino)
        for number in range(EXTENTS // 2):
            await runtime.volume.files.write(ino, number * 8192, b"%d" % number)
        runtime.volume.closed(ino)
        await runtime.volume.sync()
        monkeypatch.setattr(runtime.committer, "_pending_rows_max", ROWS_MAX)
        if not protected:
            monkeypatch.setattr(Committer, "room", at_once)
        runtime.volume.namespace.unlink(ROOT_INODE, b"large")
        most = 0
        while runtime.volume.reap_backlog:
            most = max(most, runtime.metadata.pending_rows)
            await trio.lowlevel.checkpoint()
        assert (most < 2 * ROWS_MAX) == protected, most


async def at_once(self: Committer) -> None:
    """As if there were always room."""
