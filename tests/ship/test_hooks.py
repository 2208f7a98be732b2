"""Who wants to know is told when everything is in the store, once for many, and when the volume is lost."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.config import HookSettings, VolumePaths, VolumeSettings
from fusegw.hooks import Hooks
from fusegw.keys.secret import Secret
from fusegw.store.memory import MemoryStore
from fusegw.store.options import StoreOptions
from tests.faults.support import content, create, source, until, volume, write_file
from tests.ship.test_standing import Gated

PROGRAM = """
import json, os, sys
if len(sys.argv) > 2:
    sys.exit(f"cannot {sys.argv[2]}")
with open(sys.argv[1], "a") as file:
    file.write(json.dumps({k: v for k, v in os.environ.items() if k.startswith("FUSEGW_")}) + "\\n")
"""


class Told:
    """A hook's command, and what it was told."""

    def __init__(self, base: Path) -> None:
        base.mkdir(exist_ok=True)
        self._file = base / "told"
        self._file.touch()
        self.settings = self._settings(base, (sys.executable, "-c", PROGRAM, str(self._file)))
        self.failing = self._settings(base, (sys.executable, "-c", PROGRAM, str(self._file), "say it"))

    @property
    def events(self) -> list[dict[str, str]]:
        return [msgspec.json.decode(line) for line in self._file.read_bytes().splitlines()]

    def _settings(self, base: Path, command: tuple[str, ...]) -> VolumeSettings:
        return VolumeSettings(
            volume="tank",
            volume_number=1,
            volume_id=b"v" * 16,
            store=StoreOptions("file:///nowhere"),
            secret=Secret.passphrase("x" * 20),
            paths=VolumePaths(base, "tank"),
            cache_dir=base,
            cache_size_bytes=1,
            mountpoint=Path("/srv/tank"),
            hooks=HookSettings(command=command),
        )


@asynccontextmanager
async def hooked(settings: VolumeSettings, runtime: Runtime, gap_s: float = 0.0) -> AsyncIterator[Hooks]:
    hooks = Hooks(settings, runtime, SystemClock(), gap_s=gap_s)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hooks.run)
        yield hooks
        nursery.cancel_scope.cancel()


async def test_it_is_told_once_everything_is_stored_and_no_sooner(tmp_path: Path) -> None:
    store, told = Gated(), Told(tmp_path)
    async with volume(source(tmp_path, store)) as runtime:
        await runtime.volume.barrier()
        async with hooked(told.settings, runtime):
            store.closed = ("packs/",)
            await write_file(runtime, b"f", content(1, 100_000))
            await runtime.volume.sync()
            failures = runtime.health.failures
            await until(lambda: runtime.health.failures > failures)
            assert told.events == []
            store.closed = ()
            await until(lambda: told.events)
            (event,) = told.events
            head = runtime.log.head
            assert event.pop("FUSEGW_TIME").endswith("Z")
            assert event == {
                "FUSEGW_EVENT": "stored",
                "FUSEGW_VOLUME": "tank",
                "FUSEGW_MOUNTPOINT": "/srv/tank",
                "FUSEGW_SEQ": str(head.seq),
                "FUSEGW_EPOCH": str(head.epoch),
                "FUSEGW_HASH": head.hash.hex(),
            }


async def test_a_barrier_is_told_though_nothing_changed(tmp_path: Path) -> None:
    told = Told(tmp_path)
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as runtime:
        await runtime.volume.barrier()
        async with hooked(told.settings, runtime) as hooks:
            hooks.barrier_passed()
            await until(lambda: told.events)
        assert [event["FUSEGW_EVENT"] for event in told.events] == ["stored"]


async def test_many_at_a_time_are_told_as_one(tmp_path: Path) -> None:
    told = Told(tmp_path)
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as runtime:
        await runtime.volume.barrier()
        async with hooked(told.settings, runtime, gap_s=1000) as hooks:
            for number in range(3):
                create(runtime, b"f%d" % number)
                await runtime.volume.barrier()
                hooks.barrier_passed()
            await until(lambda: told.events)
            create(runtime, b"late")
            await runtime.volume.barrier()
            hooks.barrier_passed()
        assert len(told.events) == 1
    # What came too soon after it is told at the end, and names where the log ended.
    await hooks.finish()
    assert len(told.events) == 2
    assert told.events[1]["FUSEGW_SEQ"] == str(runtime.log.head.seq)
    await hooks.finish()
    assert len(told.events) == 2


async def test_the_end_of_a_mount_is_told_when_it_stored_something(tmp_path: Path) -> None:
    told = Told(tmp_path)
    store = Gated()
    async with volume(source(tmp_path, store)) as runtime:
        await runtime.volume.barrier()
        hooks = Hooks(told.settings, runtime, SystemClock())
        create(runtime, b"f")
    await hooks.finish()
    assert len(told.events) == 1
    async with volume(source(tmp_path, store, unmount_wait_s=0.0)) as runtime:
        await runtime.volume.barrier()
        hooks = Hooks(told.settings, runtime, SystemClock())
        store.closed = ("log/",)
        create(runtime, b"g")
    await hooks.finish()
    assert len(told.events) == 1, "it is not in the store"


async def test_a_fenced_gateway_says_so(tmp_path: Path) -> None:
    told = Told(tmp_path)
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path / "old", store)) as old:
        await old.volume.barrier()
        async with hooked(told.settings, old), volume(source(tmp_path / "new", store)):
            await until(lambda: "fenced" in [event["FUSEGW_EVENT"] for event in told.events])


async def test_a_failure_is_shown_until_the_next_is_told(tmp_path: Path) -> None:
    told = Told(tmp_path)
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as runtime:
        await runtime.volume.barrier()
        async with hooked(told.failing, runtime) as hooks:
            hooks.barrier_passed()
            await until(lambda: hooks.last_error)
            assert "ended with 1: cannot say it" in str(hooks.last_error)
        async with hooked(told.settings, runtime) as hooks:
            hooks.last_error = "as before"
            hooks.barrier_passed()
            await until(lambda: hooks.last_error is None)
