"""`fusegw` with one of its protections taken away, or with a clock or a disk that is not right.

The environment says what:

FUSEGW_TEST_NOTES       the file of a `NotingDisk`'s notes
FUSEGW_TEST_NO_SYNC     leave the syncs of packs out
FUSEGW_TEST_AHEAD_S     the wall clock is so far ahead
FUSEGW_TEST_NO_FENCING  take every slot of the log for free
FUSEGW_TEST_LOG_FIRST   ship the log without waiting for the packs it refers to, and those after it
FUSEGW_TEST_FATAL       the file of a `Fatal` store's orders and notes
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from blake3 import blake3

import fusegw.gateway
import fusegw.serving
from cache.disk import OsDisk
from fusegw.cli.main import main
from fusegw.clock import SystemClock
from fusegw.config import GatewaySettings
from fusegw.daemon.process import Ready
from fusegw.errors import Exists, NotFound, Unavailable
from fusegw.packs.format import NONCE_SIZE
from fusegw.ship.segment import HEADER_SIZE
from fusegw.ship.shipper import Shipper
from fusegw.store.base import ObjectInfo, ObjectStore
from fusegw.store.opening import open_store
from tests.crash.lossy_disk import NotingDisk

SEEN_BYTES = HEADER_SIZE + NONCE_SIZE
"""Of a segment: with salt and nonce, at its end."""
AHEAD_S = float(os.environ.get("FUSEGW_TEST_AHEAD_S", "0"))


class WrongClock(SystemClock):
    """The wall clock is off, or right when that is nothing."""

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


class Fatal:
    """`ObjectStore` that notes every segment sent in the file `orders`; once that has a line with a number,
    so many replies to such PUTs are lost, and with the last one the process."""

    def __init__(self, inner: ObjectStore, orders: Path) -> None:
        self._inner = inner
        self._orders = orders
        self._lost = 0

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        if not key.startswith("log/"):
            self._inner.put(key, data, create_only=create_only)
            return
        orders = self._orders.read_text().splitlines()
        with self._orders.open("a") as file:
            file.write(f"{key} {bytes(data[:SEEN_BYTES]).hex()} {blake3(data).hexdigest()}\n")
        doomed = next((int(line) for line in orders if line.isdigit()), 0)
        try:
            self._inner.put(key, data, create_only=create_only)
        finally:
            if doomed:
                self._lost += 1
                if self._lost == doomed:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise Unavailable(f"object {key}: the reply got lost")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def _without_waiting(self: Shipper, numbers: frozenset[int]) -> bool:
    return True


def gateway(settings: GatewaySettings, *, on_ready: Ready) -> None:
    if "FUSEGW_TEST_NO_FENCING" in os.environ:
        fusegw.serving.open_store = lambda *places, **how: Unfenced(open_store(*places, **how))
    if "FUSEGW_TEST_LOG_FIRST" in os.environ:
        Shipper.stored = _without_waiting
        fusegw.serving.open_store = lambda *places, **how: LogFirst(open_store(*places, **how))
    if "FUSEGW_TEST_FATAL" in os.environ:
        orders = Path(os.environ["FUSEGW_TEST_FATAL"])
        fusegw.serving.open_store = lambda *places, **how: Fatal(open_store(*places, **how), orders)
    notes = os.environ.get("FUSEGW_TEST_NOTES")
    sync = "FUSEGW_TEST_NO_SYNC" not in os.environ
    disk = OsDisk() if notes is None else NotingDisk(Path(notes), sync=sync)
    fusegw.gateway.run(settings, on_ready=on_ready, disk=disk, clock=WrongClock())


if __name__ == "__main__":
    sys.exit(main(gateway=gateway))
