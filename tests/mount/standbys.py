"""A second host for a gateway's volume, and what standbys are compared by."""

import contextlib
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fusegw.config import VolumePaths
from fusegw.control.client import ControlClient
from fusegw.control.protocol import StatusReply
from tests.mount.gateways import NAME, Gateway

MIB = 1 << 20
SOON = f"[volumes.{NAME}]\nship_interval_s = 0.2\n"
WAIT_S = 30.0


def status(gateway: Gateway) -> StatusReply:
    return ControlClient(VolumePaths(gateway.state, NAME).socket_file).status()


def until(gateway: Gateway, seen: Callable[[StatusReply], bool], what: str) -> StatusReply:
    """Wait for what the status says of it."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = status(gateway)
        if seen(found):
            return found
        assert time.monotonic() < deadline, f"not seen within {WAIT_S} s: {what}: {found}"
        time.sleep(0.01)


def barrier(writer: Gateway) -> int:
    """All of the writer's is in the store; the newest segment."""
    client = ControlClient(VolumePaths(writer.state, NAME).socket_file)
    client.sync(wait=True, on_progress=lambda progress: None)
    return client.status().log_seq


def shown(writer: Gateway, standby: Gateway) -> None:
    """The standby shows all that the writer has."""
    seq = barrier(writer)
    until(standby, lambda found: found.log_seq >= seq, f"segment {seq}")


def elsewhere(gateway: Gateway, module: str = "fusegw.cli.main") -> Iterator[Gateway]:
    base = Path(tempfile.mkdtemp(prefix="fusegw-standby-"))
    base.chmod(0o755)
    gateway.configure(SOON)
    there = Gateway(base, module=module, volume_of=gateway)
    there.configure(SOON)
    try:
        yield there
    finally:
        there.end()
        shutil.rmtree(base)


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Every name with its attributes and content."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(directory, name)
            at = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(at.st_mode) else b""
            found[str(path.relative_to(root))] = (
                *(at.st_ino & (1 << 40) - 1, at.st_mode, at.st_nlink, at.st_size, at.st_mtime_ns, at.st_uid),
                content,
            )
    return found


def churn(root: Path, chance: random.Random) -> None:
    """Some changes of every kind to a small tree."""
    for _ in range(30):
        one, two = (root / f"d{chance.randrange(3)}" / f"f{chance.randrange(8)}" for _ in range(2))
        one.parent.mkdir(exist_ok=True)
        two.parent.mkdir(exist_ok=True)
        what = chance.random()
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            if what < 0.45:
                one.write_bytes(chance.randbytes(chance.choice((0, 1, 5000, 300_000))))
            elif what < 0.6:
                one.rename(two)
            elif what < 0.75:
                one.unlink()
            elif what < 0.85:
                os.link(one, two)
            elif what < 0.9:
                one.parent.rename(root / "d9")
                (root / "d9").rename(one.parent)
            else:
                os.truncate(one, chance.randrange(10_000))


READER = """
import os, sys
while True:
    for directory, _, files in os.walk(sys.argv[1]):
        for name in files + ["f1", "f2", "missing"]:
            try:
                with open(os.path.join(directory, name), "rb") as file:
                    file.read()
            except OSError:
                pass
"""


@contextlib.contextmanager
def readers(root: Path, count: int = 2) -> Iterator[None]:
    """Processes that look at everything all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", READER, root]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def churn_and_compare(writer: Gateway, standby: Gateway, rounds: int) -> None:
    chance = random.Random(1)
    with readers(standby.root):
        for number in range(rounds):
            churn(writer.root, chance)
            shown(writer, standby)
            assert tree(standby.root) == tree(writer.root), f"round {number}"
