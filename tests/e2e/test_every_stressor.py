"""Every stressor of stress-ng that works on files, one by one; those left out say why.

The soak test prints what each did, so that a stressor which does nothing here is not taken for a success.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mount.gateways import Gateway

pytestmark = pytest.mark.mount

SECONDS = 10
CLASSES = ("filesystem", "io")

OF_THE_CLASSES = (
    "access", "aio", "aiol", "chattr", "chdir", "chmod", "chown", "copy-file", "dentry", "dir",
    "dirdeep", "dirmany", "dnotify", "dup", "fallocate", "fanotify", "fcntl", "file-ioctl",
    "filename", "flock", "fpunch", "fstat", "getdent", "handle", "hdd", "inotify", "io", "iomix",
    "ioprio", "lease", "link", "locka", "lockf", "lockofd", "mknod", "open", "readahead", "rename",
    "revio", "seek", "symlink", "sync-file", "touch", "utime", "xattr",
)  # fmt: skip
BESIDES = (
    "chroot", "fault", "fifo", "loop", "mincore", "mmap", "mmapfork", "mmapmany", "msync",
    "sendfile", "splice", "stackmmap", "tee",
)  # fmt: skip
"""Of other classes: they map files, send them, mount them."""

LEFT_OUT = {
    "bind-mount": "binds the root directory elsewhere and never looks at the temporary path",
    "binderfs": "mounts the binder file system",
    "eventfd": "has no files",
    "fiemap": "needs FS_IOC_FIEMAP, which FUSE file systems do not have",
    "fsize": "without fallocate it writes instead, and fails its own check when its time is over meanwhile",
    "inode-flags": "needs FS_IOC_SETFLAGS, which we do not have: it does nothing",
    "io-uring": "asks for the attributes of a missing name and calls that a failure, also on ext4",
    "procfs": "reads /proc",
    "rawdev": "reads block devices",
    "verity": "needs fs-verity, which we do not have",
}

# Where there is no fallocate these write zeros instead, synchronously: less of them leaves time for the rest.
OPTIONS = {
    "fallocate": ("--fallocate-bytes", "4M"),
    "iomix": ("--iomix-bytes", "1M"),
    "sync-file": ("--sync-file-bytes", "4M"),
}
LONG_ROUNDS = {"xattr": "one operation is all there is to do with 4096 attributes of one file"}
"""Stressors whose first operation may take longer than they are given."""


class Outcome(NamedTuple):
    """What became of one stressor."""

    name: str
    code: int
    operations: int
    complaints: tuple[str, ...]
    left: int
    """Names it did not remove."""

    @property
    def passed(self) -> bool:
        did_something = self.operations > 0 or self.name in LONG_ROUNDS
        return self.code == 0 and did_something and not self.complaints and not self.left


def stress(place: Path, name: str, seconds: int) -> Outcome:
    """Two processes of the stressor in a directory of its own."""
    directory = place / name
    directory.mkdir()
    command = [
        *("stress-ng", f"--{name}", "2", *OPTIONS.get(name, ()), "--timeout", str(seconds), "--verify"),
        *("--metrics-brief", "--no-rand-seed", "--temp-path", str(directory)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 10 + 100)
    output = done.stdout + done.stderr
    count = re.search(rf"\] {re.escape(name)} +(\d+)", output)
    complaints = re.findall(r"(?:fail|error): .*|.*(?:skipping|not supported).*", output)
    left = sum(len(directories) + len(files) for _, directories, files in os.walk(directory))
    shutil.rmtree(directory)
    return Outcome(name, done.returncode, int(count[1]) if count else 0, tuple(complaints), left)


def stressors_of(kind: str) -> set[str]:
    done = subprocess.run(["stress-ng", "--class", f"{kind}?"], capture_output=True, text=True)
    return set((done.stdout + done.stderr).partition("stressors:")[2].split())


@pytest.fixture
def _stress_ng() -> None:
    if shutil.which("stress-ng") is None and not os.environ.get("CI"):
        pytest.skip("stress-ng is not installed: scripts/test installs it")


@pytest.mark.usefixtures("_stress_ng")
def test_every_stressor_is_tried_or_left_out_for_a_reason() -> None:
    known = set().union(*map(stressors_of, CLASSES))
    assert len(known) > 40
    assert known - {*OF_THE_CLASSES, *LEFT_OUT} == set()
    assert {*OF_THE_CLASSES, *BESIDES} & set(LEFT_OUT) == set()


@pytest.mark.usefixtures("_stress_ng")
def test_a_stressor_that_does_nothing_is_seen(gateway: Gateway) -> None:
    """The control: what is left out for lack of support would not pass."""
    gateway.mount()
    for name in ("fiemap", "verity"):
        outcome = stress(gateway.root, name, 1)
        assert not outcome.passed, outcome


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("_stress_ng")
def test_every_stressor_one_by_one(gateway: Gateway) -> None:
    gateway.mount("--cache-size", "2G", "-o", "dev,suid")
    pid = gateway.pid
    outcomes = []
    for name in (*OF_THE_CLASSES, *BESIDES):
        outcome = stress(gateway.root, name, SECONDS)
        outcomes.append(outcome)
        print(
            f"\n{name:12} {'passes' if outcome.passed else 'FAILS':7} {outcome.operations:>9} operations",
            end="",
        )
        assert gateway.pid == pid
    for name, reason in LEFT_OUT.items():
        print(f"\n{name:12} left out: it {reason}", end="")
    print()
    assert [outcome for outcome in outcomes if not outcome.passed] == []
    gateway.command("sync", "--wait")
    status = gateway.status()
    assert (status["files"], status["open_files"], status["logical_bytes"]) == (1, 0, 0)
    assert "Traceback" not in gateway.log and " ERROR " not in gateway.log, gateway.log
