"""The store goes away in the middle of writing, and comes back: the mount lives, and nothing is lost.

A real RADOS Gateway is stopped and started (connections refused), or only halted (connections stall); a
directory store has another file system laid over it, as when a disk drops out from under its mount point.
"""

import errno
import os
import random
import shutil
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from fusegw.errors import Unavailable
from tests.e2e.outages import Condition, covered, halted, stopped, until
from tests.mount.gateways import Gateway, drop_kernel_caches
from tests.plugins.s3servers import RgwServer

pytestmark = [pytest.mark.mount, pytest.mark.slow]

MIB = 1 << 20


class Writer:
    """`with Writer(directory) as writer:` writes file after file, each synced, until the end of the block."""

    def __init__(self, directory: Path, *, pause_s: float) -> None:
        self._directory = directory
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._failure: OSError | None = None
        self.contents: dict[str, bytes] = {}
        """What is confirmed."""

    def __enter__(self) -> "Writer":
        self._directory.mkdir()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self._failure is None, f"a write failed: {self._failure}"

    def _write(self) -> None:
        chance = random.Random(5)
        try:
            while not self._stop.wait(self._pause_s):
                name, content = f"{len(self.contents)}", chance.randbytes(chance.choice((3000, MIB, 3 * MIB)))
                with open(self._directory / name, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                self.contents[name] = content
        except OSError as error:
            self._failure = error


class Reader:
    """Reads a file in the background; `error` and `content` when it is `done`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        self.content: bytes | None = None
        self.error: OSError | None = None

    def done(self) -> None:
        self._thread.join()

    def _read(self) -> None:
        try:
            self.content = self._path.read_bytes()
        except OSError as error:
            self.error = error


def prepare(gateway: Gateway) -> tuple[bytes, bytes]:
    """Two stored files, of which `kept` is in the cache and `dropped` is nowhere but in the store."""
    kept, dropped = os.urandom(5 * MIB), os.urandom(5 * MIB)
    (gateway.root / "kept").write_bytes(kept)
    (gateway.root / "dropped").write_bytes(dropped)
    gateway.command("sync", "--wait")
    gateway.command("cache", "drop")
    drop_kernel_caches()
    assert (gateway.root / "kept").read_bytes() == kept
    drop_kernel_caches()
    return kept, dropped


def is_not_ok(status: dict[str, Any]) -> bool:
    return status["store_health"]["state"] in ("degraded", "down")


def some_seconds_late(status: dict[str, Any]) -> bool:
    return (status["oldest_unshipped_s"] or 0) >= 3


def outage(
    gateway: Gateway,
    gone: AbstractContextManager[None],
    *,
    noticed: Condition = is_not_ok,
    lasting_s: float = 0.0,
) -> Reader:
    """Mount, write, lose the store while writing goes on, get it back, check every byte from the store.

    Returns the reader of a file that only the store had.
    """
    gateway.mount("--cache-size", "2G")
    kept, dropped = prepare(gateway)
    with Writer(gateway.root / "written", pause_s=0.2) as writer:
        until(gateway, lambda status: len(writer.contents) >= 5 and status["backlog_bytes"] > 0)
        with gone:
            begun, before = time.monotonic(), len(writer.contents)
            first = gateway.status()
            reader = Reader(gateway.root / "dropped")
            assert (gateway.root / "kept").read_bytes() == kept
            until(gateway, lambda status: noticed(status) and len(writer.contents) > before + 5)
            if lasting_s:
                threading.Event().wait(begun + lasting_s - time.monotonic())
                check_failing_sync(gateway)
            last = until(
                gateway, lambda status: noticed(status) and status["backlog_bytes"] > first["backlog_bytes"]
            )
            assert last["oldest_unshipped_s"] > first["oldest_unshipped_s"]
            drop_kernel_caches()
            assert (gateway.root / "kept").read_bytes() == kept
            (gateway.root / "directory").mkdir()
            (gateway.root / "directory").rename(gateway.root / "renamed")
            lasted_s, during = time.monotonic() - begun, len(writer.contents) - before
        until(gateway, lambda status: len(writer.contents) > before + during)
    reader.done()
    assert reader.content == dropped or (reader.error is not None and reader.error.errno == errno.EIO)
    assert (gateway.root / "dropped").read_bytes() == dropped
    begun = time.monotonic()
    gateway.command("sync", "--wait")
    print(f"\naway for {lasted_s:.1f} s, {during} files written meanwhile, {last['backlog_bytes'] >> 20} MiB")
    print(f"to ship, {last['oldest_unshipped_s']:.1f} s old; status said {last['store_health']}")
    print(f"sync when it was back: {time.monotonic() - begun:.1f} s")
    check_all_is_well(gateway)
    gateway.umount()
    shutil.rmtree(gateway.cache)
    gateway.mount("--cache-size", "2G")
    assert (gateway.root / "kept").read_bytes() == kept
    assert (gateway.root / "dropped").read_bytes() == dropped
    assert (gateway.root / "renamed").is_dir()
    for name, content in writer.contents.items():
        assert (gateway.root / "written" / name).read_bytes() == content, name
    return reader


def check_failing_sync(gateway: Gateway) -> None:
    """It says that, and why, not everything is in the store; so does the status."""
    done = gateway.run("sync", "--wait")
    status = gateway.status()
    assert done.returncode == Unavailable.exit_code, done
    assert done.stderr.startswith("fusegw: error: ") and status["store_url"] in done.stderr
    assert status["store_url"] in status["store_health"]["last_error"]
    assert status["store_health"]["since_unix_s"] <= time.time()


def check_all_is_well(gateway: Gateway) -> None:
    status = gateway.status()
    assert (status["backlog_bytes"], status["oldest_unshipped_s"]) == (0, None)
    assert (status["store_health"]["state"], status["store_health"]["since_unix_s"]) == ("ok", None)
    assert gateway.cache_stats()["dirty_bytes"] == 0


@pytest.mark.rgw
def test_a_stopped_server(rgw_gateway: Gateway, rgw_server: RgwServer) -> None:
    outage(rgw_gateway, stopped(rgw_server))


@pytest.mark.rgw
def test_a_server_that_stalls(rgw_gateway: Gateway, rgw_server: RgwServer) -> None:
    """Shorter than anybody's patience: all requests are answered in the end."""
    reader = outage(rgw_gateway, halted(rgw_server), noticed=some_seconds_late)
    assert reader.error is None


def test_a_disk_that_drops_out(gateway: Gateway) -> None:
    outage(gateway, covered(gateway.store), noticed=some_seconds_late)


@pytest.mark.soak
@pytest.mark.rgw
@pytest.mark.timeout(900)
def test_a_minute_without_the_server(rgw_gateway: Gateway, rgw_server: RgwServer) -> None:
    reader = outage(rgw_gateway, stopped(rgw_server), lasting_s=60)
    assert reader.error is not None


@pytest.mark.soak
@pytest.mark.rgw
@pytest.mark.timeout(900)
def test_a_stall_longer_than_a_requests_patience(rgw_gateway: Gateway, rgw_server: RgwServer) -> None:
    outage(rgw_gateway, halted(rgw_server), lasting_s=80)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_minute_without_the_disk(gateway: Gateway) -> None:
    reader = outage(gateway, covered(gateway.store), lasting_s=60)
    assert reader.error is not None
