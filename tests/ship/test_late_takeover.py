"""A takeover that is held up until the slot it is meant for was filled by others and given up again.

Create-only succeeds there once more. The gateway must notice that the log has passed it: what it shipped from
there on, nobody would ever read.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import trio

from fusegw.clock import SystemClock
from fusegw.meta.schema import ROOT_INODE
from fusegw.ship import segment
from fusegw.store.base import ObjectInfo
from fusegw.store.memory import MemoryStore
from tests.faults.support import TUNING, create, source, until, volume

PRUNING = msgspec.structs.replace(
    TUNING, checkpoint_interval_s=0.05, checkpoint_log_size_bytes=1 << 10, checkpoint_retention_s=0.0
)

FREE_SLOTS = 8


class HeldUp(MemoryStore):
    """Once `armed`, the next PUT into the log waits until the old writer has gone far beyond. `blind` then
    hides from its sender that the log went on."""

    def __init__(self, *, blind: bool) -> None:
        super().__init__(clock=SystemClock())
        self._blind = blind
        self.armed = False
        self._slot = ""

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        if self.armed and key.startswith("log/"):
            self.armed = False
            trio.from_thread.run(self.pass_by, key)
            super().put(key, data, create_only=create_only)
            self._slot = key
        else:
            super().put(key, data, create_only=create_only)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        if self._blind and self._slot and start_after == self._slot:
            return iter(())
        return super().list(prefix, start_after=start_after)

    async def pass_by(self, key: str) -> None:
        raise NotImplementedError


async def names_after_a_late_takeover(directory: Path, *, blind: bool) -> set[bytes]:
    """What the store gives back after an old and a new writer each had a file confirmed."""
    store = HeldUp(blind=blind)
    tuning = PRUNING
    async with volume(source(directory / "old", store, tuning=tuning, unmount_wait_s=0.0)) as old:

        async def pass_by(key: str) -> None:
            for number in range(40):
                create(old, b"busy%d" % number)
                await old.volume.barrier()
                await trio.sleep(0.02)
                above = [entry.key for entry in store.list("log/") if entry.key >= key]
                if above and min(above) > segment.object_key(int(key[4:]) + FREE_SLOTS):
                    return
            raise AssertionError("the slot was never given up")

        store.pass_by = pass_by  # type: ignore[method-assign]
        create(old, b"of the old one")
        await old.volume.barrier()
        store.armed = True
        async with volume(source(directory / "new", store, tuning=tuning, unmount_wait_s=0.0)) as new:
            create(new, b"of the new one")
            await new.volume.barrier()
            if not blind:
                await until(lambda: old.log.fenced is not None)
                assert segment.object_key(new.log.head.seq) == max(entry.key for entry in store.list("log/"))
    async with volume(source(directory / "third", store)) as third:
        return {name for name, _, _ in third.volume.namespace.readdir(ROOT_INODE, 0)}


async def test_a_takeover_into_a_slot_that_was_given_up_is_not_believed(tmp_path: Path) -> None:
    names = await names_after_a_late_takeover(tmp_path, blind=False)
    assert names >= {b"of the old one", b"of the new one", b"busy0"}


async def test_control_who_does_not_look_loses_what_a_barrier_confirmed(tmp_path: Path) -> None:
    names = await names_after_a_late_takeover(tmp_path, blind=True)
    assert b"of the old one" in names and b"of the new one" not in names
