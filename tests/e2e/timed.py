"""`fusegw` whose time a test owns: it runs as ever, and jumps ahead when the test says so.

The environment variable FUSEGW_TEST_TIME names a file that holds how many seconds the gateway is ahead. What
the gateway measures, what it waits for, and the pauses of its requests to the store all go by that time.
"""

import mmap
import os
import struct
import sys
import time
from functools import partial
from pathlib import Path

import trio

import fusegw.gateway
import fusegw.store.opening
from fusegw.cli.main import main
from fusegw.clock import SystemClock
from fusegw.config import GatewaySettings
from fusegw.daemon.process import Ready
from fusegw.store.retry import RetryingStore

VARIABLE = "FUSEGW_TEST_TIME"
_LOOK_S = 0.02
_FORMAT = struct.Struct("d")


class TimeMachine:
    """The test's side: the file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.ahead_s = 0.0
        self.jump(0)
        self.environment = {VARIABLE: str(file)}

    def jump(self, seconds: float) -> None:
        """It is later at once."""
        self.ahead_s += seconds
        with open(self._file, "r+b" if self._file.exists() else "wb") as file:
            file.write(_FORMAT.pack(self.ahead_s))


class JumpingClock(SystemClock, trio.abc.Clock):
    """The gateway's side: both of its clocks."""

    def __init__(self, file: Path) -> None:
        with open(file, "rb") as opened:
            self._shared = mmap.mmap(opened.fileno(), _FORMAT.size, prot=mmap.PROT_READ)

    def time_ns(self) -> int:
        return super().time_ns() + int(self._ahead_s * 1e9)

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead_s

    def start_clock(self) -> None:
        """It has always run."""

    def current_time(self) -> float:
        return self.monotonic()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Short, so that a jump is noticed."""
        return min(max(deadline - self.monotonic(), 0.0), _LOOK_S)

    def sleep(self, seconds: float) -> None:
        """In a thread."""
        end = self.monotonic() + seconds
        while self.monotonic() < end:
            time.sleep(_LOOK_S)

    @property
    def _ahead_s(self) -> float:
        (ahead_s,) = _FORMAT.unpack_from(self._shared)
        return float(ahead_s)


def gateway(settings: GatewaySettings, *, on_ready: Ready) -> None:
    clock = JumpingClock(Path(os.environ[VARIABLE]))
    fusegw.store.opening.RetryingStore = partial(RetryingStore, sleep=clock.sleep)  # type: ignore[misc,assignment]
    fusegw.gateway.run(settings, on_ready=on_ready, clock=clock, loop_clock=clock)


if __name__ == "__main__":
    sys.exit(main(gateway=gateway))
