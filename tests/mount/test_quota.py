"""Quotas on a real mount: real programs meet the limit, get on after a deletion, and find the same count
after kill -9 and in a gateway that was recovered from the store."""

import errno
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.mount.gateways import NAME, Gateway

pytestmark = pytest.mark.mount
MIB = 1 << 20
Found = TypeVar("Found")
REQUEST = MIB
"""What one write request carries: a limit is met to within that."""


def quota(gateway: Gateway, *arguments: object) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(gateway.command("quota", *arguments, "--json"))
    return answer


def until_counted(gateway: Gateway, target: str) -> dict[str, Any]:
    return until(lambda: quota(gateway, "show", target), lambda found: found["state"] == "active")


def until(look: Callable[[], Found], wanted: Callable[[Found], bool]) -> Found:
    """What is found once it is as wanted; the test's own limit is how long that may take."""
    while not wanted(found := look()):
        time.sleep(0.1)
    return found


def dd(file: Path, mebibytes: int, *more: str) -> "subprocess.CompletedProcess[str]":
    return run("dd", "if=/dev/urandom", f"of={file}", "bs=1M", f"count={mebibytes}", *more)


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    environment = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def refused(call: Callable[..., Any], *arguments: Any) -> bool:
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno == errno.EDQUOT, error
        return True
    return False


def df(place: Path) -> tuple[int, int]:
    """Size and what is left, in bytes."""
    figures = os.statvfs(place)
    return figures.f_blocks * figures.f_frsize, figures.f_bavail * figures.f_frsize


def test_a_day_at_the_limit(gateway: Gateway) -> None:
    gateway.mount()
    limited, free = gateway.root / "limited", gateway.root / "free"
    limited.mkdir()
    free.mkdir()
    assert quota(gateway, "set", f"{NAME}:/limited", "--bytes", "16M", "--files", "50")["state"] == "active"

    done = dd(limited / "large", 100)
    assert done.returncode == 1 and "Disk quota exceeded" in done.stderr, done.stderr
    size = (limited / "large").stat().st_size
    assert 16 * MIB - REQUEST <= size <= 16 * MIB
    assert dd(free / "large", 20).returncode == 0
    copied = run("cp", str(free / "large"), str(limited / "copy"))
    assert copied.returncode == 1 and "Disk quota exceeded" in copied.stderr, copied

    # What is there may be written anew; nothing is lost of it.
    assert dd(limited / "large", 4, "conv=notrunc,fsync").returncode == 0
    assert (limited / "large").stat().st_size == size
    near = gateway.status()["quotas_near"]
    assert [one["path"] for one in near] == ["/limited"]

    gateway.kill()
    gateway.mount()
    found = quota(gateway, "show", f"{NAME}:/limited")
    names = sum(1 for _ in limited.rglob("*")) + 1
    assert found["files_used"] == names
    allocated = sum(file.stat().st_blocks * 512 for file in limited.iterdir())
    assert allocated - 512 * names <= found["bytes_used"] <= allocated

    (limited / "large").unlink()
    (limited / "copy").unlink()
    # Freed in steps, in the background.
    until(lambda: quota(gateway, "show", f"{NAME}:/limited"), lambda found: not found["bytes_used"])
    assert dd(limited / "again", 15, "conv=fsync").returncode == 0
    assert gateway.status()["quotas_near"] != []


def test_files_are_limited_and_trees_are_apart(gateway: Gateway) -> None:
    gateway.mount()
    limited, free = gateway.root / "limited", gateway.root / "free"
    limited.mkdir()
    free.mkdir()
    quota(gateway, "set", limited, "--files", "4")
    for number in range(3):
        (limited / f"{number}").touch()
    for call in (lambda: (limited / "3").touch(), lambda: (limited / "3").mkdir()):
        assert refused(call)
    (free / "file").write_text("content")
    assert refused(os.rename, free / "file", limited / "file")
    (limited / "0").unlink()
    os.rename(free / "file", limited / "file")
    assert quota(gateway, "show", limited)["bytes_used"] == len("content")
    (free / "tree" / "deep").mkdir(parents=True)
    with pytest.raises(OSError) as caught:
        os.rename(free / "tree", limited / "tree")
    assert caught.value.errno == errno.EXDEV
    with pytest.raises(OSError) as caught:
        os.link(limited / "file", free / "link")
    assert caught.value.errno == errno.EXDEV
    quota(gateway, "set", limited, "--files", "none", "--bytes", "1G")
    assert run("mv", str(free / "tree"), str(limited)).returncode == 0
    assert (limited / "tree" / "deep").is_dir() and not (free / "tree").exists()


def test_a_tree_that_is_there_is_counted_and_goes_on_so_after_a_kill(gateway: Gateway) -> None:
    gateway.mount()
    tree = gateway.root / "tree"
    for number in range(20):
        (tree / f"{number}").mkdir(parents=True)
        for name in range(20):
            (tree / f"{number}" / f"{name}").write_bytes(b"x" * 1000)
    quota(gateway, "set", tree, "--bytes", "100M", "--files", "421")
    gateway.kill()
    gateway.mount()
    found = until_counted(gateway, f"{NAME}:/tree")
    assert (found["bytes_used"], found["files_used"]) == (400_000, 421)
    assert refused((tree / "0" / "new").touch)
    quota(gateway, "remove", f"{NAME}:/tree")
    (tree / "0" / "new").touch()
    until(lambda: quota(gateway, "list", NAME), lambda found: not found["quotas"])
    gateway.umount()
    # Unmounted, it is the same.
    quota(gateway, "set", f"{NAME}:/tree", "--files", "1000")
    assert quota(gateway, "list")["quotas"][0]["state"] == "counting"
    gateway.mount()
    assert until_counted(gateway, f"{NAME}:/tree")["files_used"] == 422
    check = gateway.run("check", NAME)
    assert check.returncode == 0, check.stdout


def test_df_shows_the_volumes_quota_and_the_store_keeps_it(gateway: Gateway) -> None:
    gateway.mount()
    before = df(gateway.root)
    quota(gateway, "set", NAME, "--bytes", "64M", "--files", "10")
    assert before[0] > 64 * MIB == df(gateway.root)[0]
    assert dd(gateway.root / "file", 16, "conv=fsync").returncode == 0
    assert df(gateway.root) == (64 * MIB, 48 * MIB)
    figures = os.statvfs(gateway.root)
    assert (figures.f_files, figures.f_favail) == (10, 8)
    assert dd(gateway.root / "more", 60).returncode == 1
    gateway.barrier()
    gateway.kill()
    shutil.rmtree(gateway.state / "volumes" / NAME / "meta")
    shutil.rmtree(gateway.cache)
    gateway.mount()
    found = quota(gateway, "show", NAME)
    assert found["bytes_max"] == 64 * MIB and 63 * MIB <= found["bytes_used"] <= 64 * MIB
    assert refused(lambda: [(gateway.root / f"{number}").touch() for number in range(10)])
    quota(gateway, "remove", NAME)
    assert df(gateway.root)[0] > 64 * MIB
