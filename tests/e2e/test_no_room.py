"""No room three ways: the disk of cache and index, the limit of the index, the store. The mount lives,
reading and deleting work, and when there is room again writes go on and everything is whole.
"""

import errno
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusegw.config import VolumePaths
from fusegw.errors import Full
from fusegw.meta.metadata import Metadata
from tests.crash.mounted import uncached
from tests.e2e.conftest import in_s3
from tests.e2e.outages import covered, until
from tests.model.invariants import check_index
from tests.mount.gateways import NAME, Gateway
from tests.plugins.s3servers import S3Server
from tests.plugins.wire import Page, Reply, Request, Step, Wire

pytestmark = [pytest.mark.mount, pytest.mark.slow, pytest.mark.timeout(600)]

MIB = 1 << 20
DISK_BYTES = 128 * MIB
CONFIG = f'[volumes.{NAME}]\nwrite_wait_s = 0.5\npack_size = "1M"\nship_interval_s = 0.5\n'


class Files:
    """What is in a volume, and what there was no room for."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.contents: dict[str, bytes] = {}
        self._chance = random.Random(3)

    def write(self, name: str, size: int, *, xattr_size: int = 0) -> None:
        """And sync."""
        data = self._chance.randbytes(size)
        with open(self.gateway.root / name, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:  # a write that finds room for a part of it takes that
                view = view[file.write(view) :]
            if xattr_size:
                os.setxattr(file.fileno(), "user.filler", self._chance.randbytes(xattr_size))
            os.fsync(file.fileno())
        self.contents[name] = data

    def write_when_there_is_room(self, name: str, size: int) -> None:
        for _ in range(100):
            try:
                self.write(name, size)
                return
            except OSError as error:
                assert error.errno == errno.ENOSPC
        raise AssertionError("what was freed made no room")

    def fill(self, name: str, size: int, *, xattr_size: int = 0) -> list[str]:
        """Files until there is no room for one more, which is removed; those that are there."""
        done: list[str] = []
        for number in range(10_000):
            one = f"{name} {number}"
            try:
                self.write(one, size, xattr_size=xattr_size)
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                self._gone(one)
                return done
            done.append(one)
        raise AssertionError("there always was room")

    def unlink(self, *names: str) -> None:
        for name in names:
            (self.gateway.root / name).unlink()
            del self.contents[name]

    def truncate(self, name: str, size: int) -> None:
        os.truncate(self.gateway.root / name, size)
        self.contents[name] = self.contents[name][:size]

    def are_right(self, *, but: str = "") -> None:
        """All that there is; of what only an absent store has, `but`, no more than the name."""
        assert set(os.listdir(self.gateway.root)) == set(self.contents)
        for name in self.contents.keys() - {but}:
            assert uncached(self.gateway.root / name) == self.contents[name], name

    def _gone(self, name: str) -> None:
        """Where the name itself found no room there is nothing to remove."""
        if (self.gateway.root / name).exists():
            (self.gateway.root / name).unlink()


def whole(files: Files) -> None:
    """With room again: writes go on, everything gets into the store and is right, also after a remount."""
    gateway = files.gateway
    files.write("afterwards", 3 * MIB)
    gateway.barrier()
    gateway.command("cache", "drop")
    files.are_right()
    gateway.command("check", NAME, "--read-data")
    gateway.umount()
    metadata = Metadata(VolumePaths(gateway.state, NAME).meta_dir, size_max_bytes=1 << 40)
    try:
        check_index(metadata)
    finally:
        metadata.close()
    gateway.mount()
    files.are_right()


@contextmanager
def small_disk(kind: str, place: Path, image: Path) -> Iterator[None]:
    """A file system of its own at `place`."""
    place.mkdir()
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "small", place], check=True)
    else:
        with open(image, "wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def has_loop_devices() -> bool:
    return subprocess.run(["losetup", "--find"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("kind", ["tmpfs", pytest.param("ext4", marks=pytest.mark.soak)])
def test_the_disk_of_cache_and_index_is_full(base: Path, kind: str) -> None:
    """Both on one disk, and the store away: what is written has nowhere to go."""
    if kind == "ext4" and not has_loop_devices():
        pytest.skip("needs a free loop device")
    store = base / "store"
    store.mkdir()
    with small_disk(kind, base / "disk", base / "image"):
        gateway = Gateway(base / "disk", location=("--store", f"file://{store}"))
        try:
            gateway.configure(CONFIG)
            gateway.mount("--cache-size", "1G")
            files = Files(gateway)
            files.write("before", MIB)
            gateway.barrier()
            pid = gateway.pid
            with covered(store):
                written = files.fill("big", 2 * MIB)
                assert len(written) > 3
                ballast = fill_up(base / "disk")
                files.fill("little", 3000)
                files.are_right(but="before")
                files.truncate(written[0], 1000)
                files.unlink(*written[1 : len(written) // 2])
                sync_directory(gateway.root)
                files.are_right(but="before")
                ballast.unlink()
                files.write_when_there_is_room("room again", MIB)
            assert gateway.pid == pid
            whole(files)
        finally:
            gateway.end()


def fill_up(place: Path) -> Path:
    """Somebody else takes the last byte of the disk."""
    ballast = place / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_the_index_has_reached_its_limit(gateway: Gateway) -> None:
    gateway.configure(CONFIG + 'metadata_limit = "16M"\n')
    gateway.mount()
    files = Files(gateway)
    files.write("before", 10_000)
    gateway.barrier()
    few = gateway.status()["files"]
    written = files.fill("big", 10, xattr_size=60_000)
    assert len(written) > 100
    written += files.fill("less", 10, xattr_size=2000)
    files.are_right()
    files.truncate("before", 100)
    files.unlink(*written)
    sync_directory(gateway.root)
    until(gateway, lambda status: status["files"] == few)
    whole(files)


def fail_when_full(files: Files, refuse: Callable[[bool], None]) -> None:
    """The store takes nothing more, until `refuse` is told to end it."""
    gateway = files.gateway
    gateway.configure(CONFIG)
    gateway.mount("--cache-size", "32M")
    files.write("before", MIB)
    gateway.barrier()
    refuse(True)
    written = files.fill("big", 2 * MIB)
    assert len(written) > 3
    with pytest.raises(Full) as caught:
        gateway.barrier()
    status = gateway.status()
    assert status["store_url"] in str(caught.value) and "space" in str(caught.value)
    assert status["store_url"] in status["store_health"]["last_error"]
    files.unlink(*written[: len(written) // 2])
    until(gateway, lambda status: status["backlog_bytes"] < 20 * MIB)
    files.write_when_there_is_room("room again", MIB)
    files.truncate(written[-1], 1000)
    files.are_right()
    refuse(False)
    until(gateway, lambda status: status["oldest_unshipped_s"] is None)
    whole(files)


def test_the_disk_of_the_store_is_full(base: Path) -> None:
    with small_disk("tmpfs", base / "disk", base / "image"):
        store = base / "disk" / "store"
        store.mkdir()
        (base / "host").mkdir()
        gateway = Gateway(base / "host", location=("--store", f"file://{store}"))
        ballast: list[Path] = []

        def refuse(full: bool) -> None:
            if full:
                ballast.append(fill_up(base / "disk"))
            else:
                ballast.pop().unlink()

        try:
            fail_when_full(Files(gateway), refuse)
        finally:
            gateway.end()


@pytest.mark.parametrize(
    "reply",
    [Reply(507, "InsufficientStorage"), pytest.param(Reply(403, "QuotaExceeded"), marks=pytest.mark.soak)],
)
def test_the_quota_of_the_store_is_used_up(base: Path, moto_server: S3Server, reply: Reply) -> None:
    refused: list[Reply] = []

    def chance(request: Request) -> Step | Reply | Page:
        return refused[0] if refused and request.method == "PUT" else Step.PASS

    with Wire(moto_server.endpoint_url, chance=chance) as wire:
        gateway = in_s3(base, S3Server(wire.endpoint_url))

        def refuse(full: bool) -> None:
            refused[:] = [reply] if full else []

        try:
            fail_when_full(Files(gateway), refuse)
        finally:
            gateway.end()
