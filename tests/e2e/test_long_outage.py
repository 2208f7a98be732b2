"""The store is away for three days, with the cache full of what it never got: the mount lives, and in the end
all is there.

The hours pass by the clocks of the gateway (`tests.e2e.timed`): of its retries, pauses and watchmen as well.
"""

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fusegw.control.protocol import StatusReply
from fusegw.errors import FusegwError, Unavailable
from tests.crash.mounted import uncached
from tests.e2e.outages import covered
from tests.e2e.timed import TimeMachine
from tests.mount.gateways import NAME, Gateway

pytestmark = [pytest.mark.mount, pytest.mark.slow, pytest.mark.timeout(600)]

MIB = 1 << 20
HOURS = 72
LOOK_HOURS = 24
HOUR_S = 3600
CACHE_BYTES = 32 * MIB
CONFIG = f'[volumes.{NAME}]\nwrite_wait_s = 10\npack_size = "1M"\nchunk_size = "64K"\n'
WHILE_S = 0.1
"""What an hour leaves the gateway to do what became due in it."""


class Volume:
    """A mounted volume, what is in it, and the time it has."""

    def __init__(self, base: Path) -> None:
        self.time = TimeMachine(base / "time")
        self.gateway = Gateway(base, module="tests.e2e.timed", environment=self.time.environment)
        self.gateway.configure(CONFIG)
        self.files: dict[str, bytes] = {}
        self._chance = random.Random(1)
        self._pause = threading.Event()

    @property
    def status(self) -> StatusReply:
        return self.gateway.control().status()

    def write(self, name: str, size: int) -> None:
        """And sync."""
        data = self._chance.randbytes(size)
        with open(self.gateway.root / name, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:  # a write that finds room for a part of it takes that
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        self.files[name] = data

    def unlink(self, name: str) -> None:
        (self.gateway.root / name).unlink()
        del self.files[name]

    def is_right(self, *names: str) -> None:
        """Every byte, from the gateway."""
        for name in names:
            assert uncached(self.gateway.root / name) == self.files[name], name

    def hour(self) -> None:
        self.time.jump(HOUR_S)
        self.wait(WHILE_S)

    def wait(self, seconds: float) -> None:
        self._pause.wait(seconds)

    def in_time(self, action: Callable[[], None]) -> int | None:
        """The errno that the action ends with, None when it succeeds; what it waits for comes soon."""
        failures: list[OSError | FusegwError] = []

        def act() -> None:
            try:
                action()
            except (OSError, FusegwError) as error:
                failures.append(error)

        thread = threading.Thread(target=act)
        thread.start()
        while thread.is_alive():
            self.time.jump(2)
            self.wait(WHILE_S)
        thread.join()
        return failures[0].errno if failures else None


@pytest.fixture
def volume(base: Path) -> Iterator[Volume]:
    volume = Volume(base)
    try:
        yield volume
    finally:
        volume.gateway.end()


def test_three_days_without_the_store(volume: Volume, base: Path) -> None:
    gateway = volume.gateway
    gateway.mount("--cache-size", CACHE_BYTES)
    volume.write("stored and evicted", 3 * MIB)
    gateway.barrier()
    gateway.command("cache", "drop")
    volume.write("stored and cached", 2 * MIB)
    gateway.barrier()
    pid = gateway.pid
    with covered(gateway.store):
        volume.is_right("stored and cached")
        fill(volume)
        for hour in range(1, HOURS + 1):
            volume.hour()
            if hour % LOOK_HOURS == 0:
                look_around(volume, hour)
        last = volume.status
        assert last.oldest_unshipped_s is not None and last.oldest_unshipped_s > HOURS * HOUR_S
        assert last.backlog_bytes > CACHE_BYTES // 2
    drained(volume)
    assert gateway.pid == pid
    gateway.command("cache", "drop")
    volume.is_right(*volume.files)
    gateway.command("check", NAME, "--read-data")
    whole_elsewhere(volume, base)


def fill(volume: Volume) -> None:
    """Files until there is room for none."""
    for number in range(CACHE_BYTES // MIB):
        name = f"waiting {number:02}"
        code = volume.in_time(partial(volume.write, name, 2 * MIB))
        if code is not None:
            assert code == errno.ENOSPC
            (volume.gateway.root / name).unlink()
            return
    raise AssertionError("the cache never filled up")


def look_around(volume: Volume, hour: int) -> None:
    """What people do meanwhile."""
    root = volume.gateway.root
    health = volume.status.store_health
    assert health.state == "down" and health.last_error
    waiting = [name for name in volume.files if name.startswith("waiting")]
    volume.is_right(*waiting)  # what the store has gave way to them
    assert volume.in_time(partial(volume.write, "too much", CACHE_BYTES)) == errno.ENOSPC
    (root / "too much").unlink()
    (root / f"directory {hour}").mkdir()
    (root / f"directory {hour}").rename(root / f"renamed {hour}")
    # What was never stored needs no upload any more: its room is for others.
    for name in waiting[:2]:
        volume.unlink(name)
    os.truncate(root / waiting[2], MIB)
    volume.files[waiting[2]] = volume.files[waiting[2]][:MIB]
    write_when_there_is_room(volume, f"waiting later {hour}")
    assert volume.in_time(lambda: volume.is_right("stored and evicted")) == errno.EIO
    assert volume.in_time(volume.gateway.barrier) == Unavailable.errno


def write_when_there_is_room(volume: Volume, name: str) -> None:
    for _ in range(60):
        code = volume.in_time(partial(volume.write, name, MIB))
        if code is None:
            return
        assert code == errno.ENOSPC
    raise AssertionError("deleting made no room")


def drained(volume: Volume) -> None:
    """Nothing waits any more, and nobody had to do anything for it."""
    for _ in range(600):
        volume.time.jump(5)
        volume.wait(WHILE_S)
        status = volume.status
        if status.oldest_unshipped_s is None and not status.backlog_bytes:
            break
    assert (status.backlog_bytes, status.oldest_unshipped_s) == (0, None)
    assert status.store_health.state == "ok"
    volume.gateway.barrier()


def whole_elsewhere(volume: Volume, base: Path) -> None:
    """The store alone has everything."""
    volume.gateway.umount()
    (base / "elsewhere").mkdir()
    other = Gateway(base / "elsewhere", module="tests.e2e.timed", volume_of=volume.gateway)
    volume.gateway = other
    other.configure(CONFIG)
    other.mount("--cache-size", CACHE_BYTES)
    renamed = {f"renamed {hour}" for hour in range(LOOK_HOURS, HOURS + 1, LOOK_HOURS)}
    assert set(os.listdir(other.root)) == set(volume.files) | renamed
    volume.is_right(*volume.files)
