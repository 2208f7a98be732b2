"""A tree goes in by rsync and is there again, bit by bit, from nothing but the store and the metadata."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e import sourcetrees
from tests.e2e.sampling import memory
from tests.mount.gateways import Gateway

pytestmark = [pytest.mark.mount, pytest.mark.slow]

# Nanoseconds count; without this option whole seconds do.
EXACTLY = "--modify-window=-1"
RSYNC_TIMEOUT_S = 1500


def rsync(sources: Sequence[Path | str], target: Path, *options: str) -> str:
    command = ["rsync", "-aHAX", *options, *map(str, sources), f"{target}/"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=RSYNC_TIMEOUT_S)
    assert done.returncode == 0, f"{command}: exit {done.returncode}: {done.stderr}"
    return done.stdout


def differences(sources: Sequence[Path | str], target: Path) -> str:
    """What rsync would change to make the copy like the original; contents are compared."""
    return rsync(sources, target, "--checksum", "--dry-run", "--delete", "--itemize-changes", EXACTLY)


def forget_the_cache(gateway: Gateway, *options: object) -> None:
    gateway.umount()
    shutil.rmtree(gateway.cache)
    gateway.mount(*options)


def test_everything_comes_back_from_the_store(any_gateway: Gateway, base: Path) -> None:
    gateway, source = any_gateway, base / "source"
    source.mkdir()
    sourcetrees.build(source)
    gateway.mount("-o", "dev,suid")
    for day in (1, 2):
        if day == 2:
            sourcetrees.change(source)
        rsync([f"{source}/"], gateway.root, "--delete", EXACTLY)
        assert differences([f"{source}/"], gateway.root) == "", f"day {day}, while mounted"
        forget_the_cache(gateway)
        assert differences([f"{source}/"], gateway.root) == "", f"day {day}, from the store"
    sparse = (gateway.root / "contents" / "sparse").stat()
    assert sparse.st_blocks * 512 < sparse.st_size // 4
    stats = gateway.cache_stats()
    assert stats["misses"] > 0, "what was read did not come from the store"


def test_differences_are_seen(gateway: Gateway, base: Path) -> None:
    """The control: the comparison notices each kind of change."""
    source = base / "source"
    source.mkdir()
    sourcetrees.build(source)
    gateway.mount()
    rsync([f"{source}/"], gateway.root, EXACTLY)
    root = gateway.root
    (root / "contents" / "one").write_bytes(b"2")
    for changed, later_ns in (("contents/one", 0), ("small/1/1/1.txt", 1)):
        os.utime(root / changed, ns=(0, (source / changed).stat().st_mtime_ns + later_ns))
    os.setxattr(root / "attributes" / "user", "user.short", b"other")
    subprocess.run(["setfacl", "-x", "u:4002", root / "attributes" / "access list"], check=True)
    shutil.copy2(root / "links" / "second", root / "copy")
    os.replace(root / "copy", root / "links" / "second")
    (root / "special" / "fifo too").unlink()
    (root / "directories" / "empty").rmdir()
    (root / "unknown").touch()
    found = differences([f"{source}/"], root)
    for name in (
        "contents/one", "small/1/1/1.txt", "attributes/user", "attributes/access list", "links/second",
        "special/fifo too", "directories/empty", "unknown",
    ):  # fmt: skip
        assert name in found, f"{name} is not listed:\n{found}"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_installed_software_comes_back_from_the_store(any_gateway: Gateway) -> None:
    gateway, sources = any_gateway, sourcetrees.installed_software()
    gateway.mount()
    begun = time.monotonic()
    rsync(sources, gateway.root, "--exclude=site-packages", EXACTLY)
    copied_s = time.monotonic() - begun
    files = sourcetrees.count_files(gateway.root)
    assert files >= 11_000
    gateway.command("sync", "--wait")
    stored_s = time.monotonic() - begun
    status, resident = gateway.status(), memory(gateway.pid, "VmHWM")
    forget_the_cache(gateway)
    begun = time.monotonic()
    found = rsync(
        sources, gateway.root, "--exclude=site-packages", "-c", "--dry-run", "--delete", "-i", EXACTLY
    )
    compared_s = time.monotonic() - begun
    print(
        f"\n{files} files, {status['logical_bytes'] / 2**20:.0f} MiB in {copied_s:.1f} s "
        f"({files / copied_s:.0f} files/s), all stored after {stored_s:.1f} s as "
        f"{status['stored_bytes'] / 2**20:.0f} MiB; compared from an empty cache in {compared_s:.1f} s; "
        f"metadata {status['metadata_bytes'] / files:.0f} bytes/file, memory ≤ {resident / 2**20:.0f} MiB"
    )
    assert found == ""
