"""The simulated power loss takes away what was not synced, and nothing else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.lossy_disk import NotingDisk, lose_unsynced

NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "packs").mkdir()
    return tmp_path / "packs" / "pack"


def named(disk: NotingDisk, path: Path) -> int:
    """A new file whose name is durable."""
    fd = disk.open(str(path), NEW)
    disk.fsync_dir(str(path.parent))
    return fd


def test_bytes_after_the_last_sync_are_lost(notes: Path, path: Path) -> None:
    disk = NotingDisk(notes)
    fd = named(disk, path)
    disk.pwrite(fd, b"synced", 0)
    disk.fdatasync(fd)
    disk.pwritev(fd, [b"not ", b"synced"], 6)
    disk.close(fd)
    assert path.read_bytes() == b"syncednot synced", "control: until the power fails they are there"
    assert lose_unsynced(notes) == 1
    assert path.read_bytes() == b"synced"


def test_a_file_never_synced_keeps_its_name_only(notes: Path, path: Path) -> None:
    disk = NotingDisk(notes)
    fd = named(disk, path)
    disk.pwrite(fd, b"x", 0)
    disk.close(fd)
    assert lose_unsynced(notes) == 1
    assert path.read_bytes() == b""


def test_a_name_that_was_never_synced_is_lost(notes: Path, path: Path) -> None:
    disk = NotingDisk(notes)
    disk.fsync_dir(str(path.parent))
    fd = disk.open(str(path), NEW)
    disk.pwrite(fd, b"synced", 0)
    disk.fdatasync(fd)
    disk.close(fd)
    assert lose_unsynced(notes) == 1
    assert not path.exists()


def test_what_an_earlier_run_left_is_kept(notes: Path, path: Path) -> None:
    path.write_bytes(b"before")
    disk = NotingDisk(notes)
    fd = disk.open(str(path), os.O_RDWR)
    disk.pwrite(fd, b" after", 6)
    disk.close(fd)
    assert lose_unsynced(notes) == 1
    assert path.read_bytes() == b"before"


def test_what_replaces_a_cut_end_is_new(notes: Path, path: Path) -> None:
    path.write_bytes(b"records and a torn end")
    disk = NotingDisk(notes)
    fd = disk.open(str(path), os.O_RDWR)
    disk.ftruncate(fd, 7)
    disk.pwrite(fd, b" footer", 7)
    disk.close(fd)
    assert lose_unsynced(notes) == 1
    assert path.read_bytes() == b"records"


def test_what_replaces_a_cut_end_is_kept_once_synced(notes: Path, path: Path) -> None:
    path.write_bytes(b"records and a torn end")
    disk = NotingDisk(notes)
    fd = disk.open(str(path), os.O_RDWR)
    disk.ftruncate(fd, 7)
    disk.pwrite(fd, b" footer", 7)
    disk.fdatasync(fd)
    disk.close(fd)
    assert lose_unsynced(notes) == 0
    assert path.read_bytes() == b"records footer"


def test_the_control_disk_syncs_nothing(notes: Path, path: Path) -> None:
    disk = NotingDisk(notes, sync=False)
    fd = named(disk, path)
    disk.pwrite(fd, b"x", 0)
    disk.fdatasync(fd)
    disk.close(fd)
    assert lose_unsynced(notes) == 1
    assert path.read_bytes() == b""


def test_files_deleted_meanwhile_stay_deleted(notes: Path, path: Path) -> None:
    disk = NotingDisk(notes)
    fd = named(disk, path)
    disk.pwrite(fd, b"x", 0)
    disk.close(fd)
    disk.unlink(str(path))
    assert lose_unsynced(notes) == 0
    assert not path.exists()


def test_the_notes_survive_a_kill(notes: Path, path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.crash.lossy_disk import NotingDisk\n"
        "path = Path(sys.argv[2])\n"
        "disk = NotingDisk(Path(sys.argv[1]))\n"
        "fd = disk.open(str(path), os.O_RDWR | os.O_CREAT)\n"
        "disk.fsync_dir(str(path.parent))\n"
        "disk.pwrite(fd, b'synced', 0)\n"
        "disk.fdatasync(fd)\n"
        "disk.pwrite(fd, b'lost', 6)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, str(notes), str(path)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"syncedlost"
    assert lose_unsynced(notes) == 1
    assert path.read_bytes() == b"synced"
