"""`fusegw` with one of its protections taken away, or with a clock or a disk that is not right.

The environment says what: FUSEGW_TEST_NOTES names the notes of a `NotingDisk`, FUSEGW_TEST_NO_SYNC leaves the
syncs of packs out, FUSEGW_TEST_AHEAD_S sets the wall clock off, FUSEGW_TEST_NO_FENCING takes every slot of
the log for free, FUSEGW_TEST_LOG_FIRST ships the log without waiting for the packs it refers to, and those
after it.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusegw.gateway
import fusegw.serving
from cache.disk import OsDisk
from fusegw.cli.main import main
from fusegw.clock import SystemClock
from fusegw.config import GatewaySettings
from fusegw.errors import Exists, NotFound
from fusegw.ship.shipper import Shipper
from fusegw.store import open_store
from fusegw.store.base import ObjectInfo, ObjectStore
from tests.crash.lossy_disk import NotingDisk

AHEAD_S = float(os.environ.get("FUSEGW_TEST_AHEAD_S", "0"))


class WrongClock(SystemClock):
    """The wall clock is off."""

    def time_ns(self) -> int:
        return super().time_ns() + int(AHEAD_S * 1e9)


class Unfenced:
    """`ObjectStore` that does not tell when a slot of the log is taken."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        try:
            self._inner.put(key, data, create_only=create_only)
        except Exists:
            if not key.startswith("log/"):
                raise

    def head(self, key: str) -> ObjectInfo:
        if key.startswith("log/"):
            raise NotFound(f"object {key} is not looked for")
        return self._inner.head(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class LogFirst:
    """`ObjectStore` that takes a pack some time after the next segment of the log."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self._segment = threading.Event()

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        if key.startswith("packs/"):
            self._segment.wait(5)
            time.sleep(0.2)
        self._inner.put(key, data, create_only=create_only)
        if key.startswith("log/"):
            segment, self._segment = self._segment, threading.Event()
            segment.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def _without_waiting(self: Shipper, numbers: frozenset[int]) -> bool:
    return True


def gateway(settings: GatewaySettings, *, on_ready: Callable[[], None]) -> None:
    if AHEAD_S:
        fusegw.gateway.SystemClock = WrongClock
    if "FUSEGW_TEST_NO_FENCING" in os.environ:
        fusegw.serving.open_store = lambda *places, **how: Unfenced(open_store(*places, **how))
    if "FUSEGW_TEST_LOG_FIRST" in os.environ:
        Shipper.stored = _without_waiting
        fusegw.serving.open_store = lambda *places, **how: LogFirst(open_store(*places, **how))
    notes = os.environ.get("FUSEGW_TEST_NOTES")
    sync = "FUSEGW_TEST_NO_SYNC" not in os.environ
    disk = OsDisk() if notes is None else NotingDisk(Path(notes), sync=sync)
    fusegw.gateway.run(settings, on_ready=on_ready, disk=disk)


if __name__ == "__main__":
    sys.exit(main(gateway=gateway))
