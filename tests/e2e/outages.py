"""Ways to lose a store for a while, and waiting for what the gateway says of it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.mount.gateways import Gateway
from tests.plugins.s3servers import RgwServer

WAIT_MAX_S = 90.0
POLL_S = 0.2
Condition = Callable[[dict[str, Any]], bool]


def until(gateway: Gateway, condition: Condition) -> dict[str, Any]:
    """The first status that fulfils the condition."""
    deadline = time.monotonic() + WAIT_MAX_S
    while not condition(status := gateway.status()):
        assert time.monotonic() < deadline, f"still after {WAIT_MAX_S} s: {status}"
        time.sleep(POLL_S)
    return status


@contextmanager
def stopped(server: RgwServer) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def halted(server: RgwServer) -> Iterator[None]:
    """The S3 server's process takes connections and answers nothing."""
    pid, _ = json.loads((Path(server.directory) / "pids.json").read_text())[-1]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def covered(directory: Path) -> Iterator[None]:
    """Another, empty file system lies over the directory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "covering", directory], check=True)
    try:
        yield
        assert not any(directory.iterdir()), "something was written to the wrong file system"
    finally:
        subprocess.run(["umount", directory], check=True)
