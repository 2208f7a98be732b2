"""The life of a mount: how it begins, all the ways it ends, and what is there afterwards."""

import contextlib
import errno
import mmap
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from fusegw.daemon.mountpoint import FS_TYPE, mounted_on
from fusegw.errors import Busy, Exists
from tests.mount.gateways import NAME, Gateway, drop_kernel_caches, ended

pytestmark = pytest.mark.mount

MIB = 1 << 20


def is_mounted(gateway: Gateway) -> bool:
    entry = mounted_on(str(gateway.root))
    return entry is not None and entry.fs_type == FS_TYPE


def write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)


def abandon(descriptor: int) -> None:
    """Close a file of a mount that is gone, which the kernel cannot tell anybody."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def fill(gateway: Gateway) -> dict[str, bytes]:
    """Some files, small and large, in memory, in packs and on their way, none synced."""
    contents = {
        f"file {number}": os.urandom(size) for number, size in enumerate((0, 1, 5000, 200_000, 9 * MIB, 3))
    }
    for name, content in contents.items():
        (gateway.root / name).write_bytes(content)
    return contents


def check(gateway: Gateway, contents: dict[str, bytes]) -> None:
    assert {name: (gateway.root / name).read_bytes() for name in os.listdir(gateway.root)} == contents


@pytest.mark.parametrize("way", ["command", "umount(8)", "fusermount3", "SIGTERM", "SIGINT"])
def test_every_orderly_end_keeps_everything(gateway: Gateway, way: str) -> None:
    gateway.mount()
    contents = fill(gateway)
    with ended(gateway.pid) as wait:
        if way == "command":
            gateway.umount()
        elif way == "umount(8)":
            subprocess.run(["umount", gateway.root], check=True)
        elif way == "fusermount3":
            subprocess.run(["fusermount3", "-u", gateway.root], check=True)
        else:
            os.kill(gateway.pid, signal.Signals[way])
        wait()
    assert not is_mounted(gateway)
    assert os.listdir(gateway.root) == []
    gateway.mount()
    check(gateway, contents)


def test_everything_is_in_the_store_after_an_orderly_end(gateway: Gateway) -> None:
    gateway.mount()
    contents = fill(gateway)
    gateway.umount()
    shutil.rmtree(gateway.cache)
    gateway.mount()
    check(gateway, contents)


def test_sigterm_ends_a_mount_in_use(gateway: Gateway) -> None:
    gateway.mount()
    plain = os.open(gateway.root / "open", os.O_CREAT | os.O_RDWR)
    mapped = os.open(gateway.root / "mapped", os.O_CREAT | os.O_RDWR)
    os.write(plain, b"written")
    os.ftruncate(mapped, MIB)
    with mmap.mmap(mapped, 0) as memory:
        memory[:6] = b"mapped"
        gateway.kill(signal.SIGTERM)
    with pytest.raises(OSError) as caught:
        os.write(plain, b"more")
    assert caught.value.errno == errno.ENOTCONN
    abandon(plain)
    abandon(mapped)
    assert not is_mounted(gateway)
    gateway.mount()
    assert (gateway.root / "open").read_bytes() == b"written"
    assert (gateway.root / "mapped").read_bytes() == b"mapped" + bytes(MIB - 6)


def test_unmounting_a_mount_in_use_is_refused(gateway: Gateway) -> None:
    gateway.mount()
    with open(gateway.root / "open", "wb") as file:
        done = gateway.run("umount", NAME)
        assert done.returncode == Busy.exit_code
        assert str(gateway.root) in done.stderr
        file.write(b"still works")
    assert (gateway.root / "open").read_bytes() == b"still works"
    gateway.umount()
    assert not is_mounted(gateway)


def test_lazily_unmounted_the_gateway_serves_until_the_last_file_is_closed(gateway: Gateway) -> None:
    gateway.mount()
    with ended(gateway.pid) as wait:
        with open(gateway.root / "open", "w+b") as file:
            file.write(b"before ")
            gateway.command("umount", NAME, "--lazy")
            assert not is_mounted(gateway)
            file.write(b"after")
            file.flush()
            os.fsync(file.fileno())
        wait()
    gateway.mount()
    assert (gateway.root / "open").read_bytes() == b"before after"


def test_a_volume_is_mounted_once(gateway: Gateway, tmp_path: Path) -> None:
    gateway.mount()
    (gateway.root / "file").write_text("content")
    for place in (gateway.root, tmp_path):
        done = gateway.run("mount", NAME, place)
        assert done.returncode == Busy.exit_code
        assert NAME in done.stderr
    assert (gateway.root / "file").read_text() == "content"
    assert mounted_on(str(tmp_path)) is None


def test_a_mount_point_with_files_is_refused(gateway: Gateway) -> None:
    (gateway.root / "hidden").touch()
    assert gateway.run("mount", NAME, gateway.root).returncode == Exists.exit_code
    assert not is_mounted(gateway)
    gateway.mount("-o", "nonempty")
    assert os.listdir(gateway.root) == []
    gateway.umount()
    assert os.listdir(gateway.root) == ["hidden"]


def test_killed_it_comes_back_with_all_that_was_synced(gateway: Gateway) -> None:
    """Also from beneath a mount that the kernel keeps, dead."""
    gateway.mount()
    contents = {f"file {number}": os.urandom(number * 70_000) for number in range(12)}
    (gateway.root / "directory").mkdir()
    for name, content in contents.items():
        write_durably(gateway.root / "directory" / name, content)
    gateway.kill()
    with pytest.raises(OSError) as caught:
        os.listdir(gateway.root)
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    gateway.mount()
    for name, content in contents.items():
        assert (gateway.root / "directory" / name).read_bytes() == content
    gateway.kill()
    shutil.rmtree(gateway.base / "elsewhere", ignore_errors=True)
    gateway.mount()
    for name, content in contents.items():
        assert (gateway.root / "directory" / name).read_bytes() == content


def test_names_are_durable_after_syncing_their_directory(gateway: Gateway) -> None:
    gateway.configure(f"[volumes.{NAME}]\ncommit_interval_s = 60\nship_interval_s = 3600\n")
    gateway.mount()
    for number in range(50):
        (gateway.root / f"{number}").mkdir()
    sync_directory(gateway.root)
    (gateway.root / "later").mkdir()
    gateway.kill()
    gateway.mount()
    # The control: without the sync a name is not there, so it was the sync that kept the others.
    assert sorted(os.listdir(gateway.root)) == sorted(str(number) for number in range(50))


def test_a_name_taken_over_never_stands_on_less_than_the_data(gateway: Gateway) -> None:
    """Write aside and rename over the old file, without a sync of the file itself."""
    gateway.configure(f"[volumes.{NAME}]\ncommit_interval_s = 60\nship_interval_s = 3600\n")
    gateway.mount()
    write_durably(gateway.root / "file", b"old")
    content = os.urandom(5 * MIB)
    aside = os.open(gateway.root / "aside", os.O_CREAT | os.O_WRONLY)
    os.write(aside, content)
    os.rename(gateway.root / "aside", gateway.root / "file")
    sync_directory(gateway.root)
    gateway.kill()
    abandon(aside)
    gateway.mount()
    assert (gateway.root / "file").read_bytes() == content
    assert os.listdir(gateway.root) == ["file"]


def test_unlinked_open_files_are_freed_after_a_crash(gateway: Gateway) -> None:
    gateway.mount()
    file = os.open(gateway.root / "file", os.O_CREAT | os.O_RDWR)
    os.write(file, os.urandom(4 * MIB))
    os.fsync(file)
    (gateway.root / "file").unlink()
    sync_directory(gateway.root)
    assert gateway.status()["logical_bytes"] == 4 * MIB
    gateway.kill()
    abandon(file)
    gateway.mount()
    (gateway.root / "probe").touch()  # the reaper's turn comes before this is answered, or with it
    gateway.remount()
    assert gateway.status()["logical_bytes"] == 0
    assert gateway.status()["files"] == 2


def test_a_read_only_mount_changes_nothing(gateway: Gateway) -> None:
    gateway.mount()
    contents = fill(gateway)
    gateway.umount()

    def snapshot() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in gateway.store.rglob("*") if path.is_file()}

    before = snapshot()
    epoch = None
    for access in ("ro", "rw"):
        gateway.mount("--read-only")
        status = gateway.status()
        assert status["read_only"] is True
        assert epoch in (None, status["epoch"])
        epoch = status["epoch"]
        check(gateway, contents)
        # The second time it is the gateway itself that has to refuse.
        subprocess.run(["mount", "-i", "-o", f"remount,{access}", gateway.root], check=True)
        for refused in (
            lambda: (gateway.root / "new").touch(),
            lambda: (gateway.root / "file 1").write_bytes(b""),
            lambda: (gateway.root / "file 1").unlink(),
            lambda: (gateway.root / "file 1").chmod(0o777),
            lambda: os.setxattr(gateway.root / "file 1", "user.x", b""),
        ):
            with pytest.raises(OSError) as caught:
                refused()
            assert caught.value.errno == errno.EROFS
        descriptor = os.open(gateway.root / "file 1", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        gateway.umount()
    assert snapshot() == before
    gateway.mount()
    check(gateway, contents)


def test_other_users_see_a_mount_only_when_allowed(gateway: Gateway) -> None:
    gateway.mount("-o", "noallow_other")
    mode = "noallow_other"
    look = ["setpriv", "--reuid", "4001", "--regid", "4001", "--clear-groups", "ls", gateway.root]
    assert subprocess.run(look, capture_output=True).returncode != 0, mode
    gateway.remount("-o", "allow_other")
    assert subprocess.run(look, capture_output=True).returncode == 0


def test_large_reads_come_in_large_pieces(gateway: Gateway) -> None:
    gateway.mount()
    device = gateway.root.stat().st_dev
    bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    assert int(bdi.read_text()) == 1024


def test_a_request_that_fails_in_the_gateway_is_eio_and_nothing_more(gateway: Gateway) -> None:
    """A damaged store and no cache: reading fails, the mount goes on."""
    gateway.mount()
    (gateway.root / "lost").write_bytes(os.urandom(MIB))
    gateway.umount()
    shutil.rmtree(gateway.cache)
    for path in (gateway.store / "packs").rglob("*"):
        if path.is_file():
            path.write_bytes(b"\0" * path.stat().st_size)
    gateway.mount()
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            (gateway.root / "lost").read_bytes()
        assert caught.value.errno == errno.EIO
    (gateway.root / "new").write_bytes(b"fine")
    drop_kernel_caches()
    assert (gateway.root / "new").read_bytes() == b"fine"
    (gateway.root / "lost").unlink()


def niceness(task: Path) -> int:
    """Of a thread, by its directory in /proc."""
    return int((task / "stat").read_text().rpartition(")")[2].split()[16])


@pytest.mark.parametrize("given", [0, 3])
def test_requests_come_before_what_compresses(gateway: Gateway, given: int) -> None:
    may = subprocess.run(["nice", "-n", "-1", "true"], capture_output=True, check=True).stderr == b""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if before or not may:
        pytest.skip("this process has a priority already, or may not choose one")
    os.setpriority(os.PRIO_PROCESS, 0, given)
    try:
        gateway.mount()
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
    (gateway.root / "file").write_bytes(os.urandom(20 << 20))
    gateway.control().sync(wait=True, on_progress=lambda progress: None)
    tasks = {int(task.name): niceness(task) for task in Path(f"/proc/{gateway.pid}/task").iterdir()}
    assert len(tasks) > 2
    assert tasks.pop(gateway.pid) == (given or -10)
    assert set(tasks.values()) == {given}
