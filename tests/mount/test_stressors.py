"""Other people's tools against a real mount: fio with verification, stress-ng's file-system stressors."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mount.gateways import Gateway, drop_kernel_caches

pytestmark = pytest.mark.mount

# All there are, one by one and for longer: tests/e2e/test_every_stressor.py.
STRESSORS = ("copy-file", "dentry", "fallocate", "getdent", "hdd", "link", "rename", "xattr")
NOT_IMPLEMENTED = 4

FIO = {
    "buffered": "--rw=randrw --bs=4k-64k --ioengine=psync --numjobs=2 --end_fsync=1",
    "mapped": "--rw=randrw --bs=4k --ioengine=mmap",
    "direct": "--rw=randwrite --bs=4k-128k --ioengine=libaio --iodepth=8 --direct=1 --overwrite=1",
    "sequential": "--rw=write --bs=1M --ioengine=psync --fsync=8",
}


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"{program} is not installed: scripts/test installs it")
    return found or program


def fio(place: Path, kind: str, size: str, *more: str, verify: bool) -> "subprocess.CompletedProcess[str]":
    """Write with checksums, or read back what was written so and check it."""
    command = [
        needs("fio"),
        "--name=data",
        f"--directory={place}",
        f"--size={size}",
        *FIO[kind].split(),
        *more,
    ]
    checks = ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--verify_state_save=0"]
    checks.append("--verify_only" if verify else "--do_verify=0")
    return subprocess.run([*command, *checks], capture_output=True, text=True, timeout=300)


def check_fio(place: Path, kind: str, size: str, *more: str) -> None:
    """Write, then check what the gateway and not the page cache has."""
    for verify in (False, True):
        done = fio(place, kind, size, *more, verify=verify)
        assert done.returncode == 0, done.stdout + done.stderr
        drop_kernel_caches()


def run_stressor(place: Path, stressor: str, seconds: int) -> None:
    command = [needs("stress-ng"), f"--{stressor}", "2", "--timeout", str(seconds), "--verify"]
    done = subprocess.run(
        [*command, "--temp-path", str(place), "--no-rand-seed"],
        capture_output=True,
        text=True,
        timeout=seconds * 10 + 60,
    )
    assert done.returncode in (0, NOT_IMPLEMENTED), f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "fail:" not in done.stderr + done.stdout


@pytest.mark.parametrize("kind", FIO)
def test_fio_reads_back_what_it_wrote(place: Path, kind: str) -> None:
    check_fio(place, kind, "8M")


def test_fio_sees_damage(place: Path) -> None:
    """The control: one byte changed behind its back is found."""
    path = place / "data.0.0"
    check_fio(place, "sequential", "2M")
    with open(path, "r+b") as file:
        file.seek(1_234_567)
        byte = file.read(1)
        file.seek(1_234_567)
        file.write(bytes([byte[0] ^ 1]))
    done = fio(place, "sequential", "2M", verify=True)
    assert done.returncode != 0
    assert "verify" in done.stderr + done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("stressor", STRESSORS)
def test_stressor_for_a_moment(place: Path, stressor: str) -> None:
    run_stressor(place, stressor, 2)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", FIO)
def test_fio_through_a_small_cache(gateway: Gateway, kind: str) -> None:
    """Several times the cache's budget, so that most of what is read back comes from the store."""
    # Random access to what is not in the cache moves whole blocks: a part of the file is enough.
    more = [] if kind == "sequential" else ["--io_size=16M"]
    gateway.mount("--cache-size", "128M")
    check_fio(gateway.root, kind, "256M", *more)
    gateway.remount("--cache-size", "128M")
    done = fio(gateway.root, kind, "256M", *more, verify=True)
    assert done.returncode == 0, done.stdout + done.stderr
