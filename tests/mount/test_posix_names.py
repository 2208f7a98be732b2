"""Names and directories on a real mount: what ext4 does, seen through the kernel."""

import errno
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.gateways import drop_kernel_caches
from tests.mount.syscalls import EXCHANGE, NOREPLACE, WHITEOUT, renameat2
from tests.mount.users import ALICE, BOB, act_as

pytestmark = pytest.mark.mount


def fails_with(code: int, action: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        action()
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


def test_names_of_any_bytes_up_to_255(place: Path) -> None:
    every_byte = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    names = {every_byte, b"\xff" * 255, b"a" * 255, b" ", b"\n", b"-rf", b"...", "žluťoučký".encode()}
    top = os.fsencode(place)
    for name in names:
        with open(top + b"/" + name, "wb") as file:
            file.write(name)
    drop_kernel_caches()
    assert set(os.listdir(top)) == names
    for name in names:
        with open(top + b"/" + name, "rb") as file:
            assert file.read() == name
    fails_with(errno.ENAMETOOLONG, lambda: os.mkdir(top + b"/" + b"a" * 256))
    fails_with(errno.ENAMETOOLONG, lambda: os.stat(top + b"/" + b"b" * 256))


def test_listing_has_dots_and_stable_positions(place: Path) -> None:
    names = [f"n{number:04}" for number in range(1500)]
    for name in names:
        (place / name).touch()
    seen: list[str] = []
    with os.scandir(place) as entries:
        for entry in entries:
            seen.append(entry.name)
            if len(seen) == 100:
                # Behind the position reached: gone entries are not shown, new ones once, all others once.
                (place / "n1499").unlink()
                (place / "n0000").unlink()
                (place / "late").touch()
    assert len(seen) == len(set(seen))
    assert set(names) - {"n1499", "n0000"} <= set(seen)
    shown = subprocess.run(["ls", "-afi", place], capture_output=True, text=True, check=True).stdout
    numbers = {line.split()[1]: int(line.split()[0]) for line in shown.splitlines()}
    assert numbers["."] == place.stat().st_ino
    assert numbers[".."] == place.parent.stat().st_ino


def test_hard_links_share_everything(place: Path) -> None:
    first, second = place / "first", place / "second"
    first.write_bytes(b"one")
    before = first.stat()
    os.link(first, second)
    assert first.stat().st_nlink == second.stat().st_nlink == 2
    assert first.stat().st_ino == second.stat().st_ino
    assert first.stat().st_ctime_ns > before.st_ctime_ns
    assert first.stat().st_mtime_ns == before.st_mtime_ns
    second.write_bytes(b"other")
    assert first.read_bytes() == b"other"
    first.unlink()
    assert second.stat().st_nlink == 1
    assert second.read_bytes() == b"other"
    fails_with(errno.EPERM, lambda: os.link(place, place / "directory"))
    fails_with(errno.EEXIST, lambda: os.link(second, second))
    os.symlink("nowhere", place / "dangling")
    os.link(place / "dangling", place / "again", follow_symlinks=False)
    assert os.readlink(place / "again") == "nowhere"


def test_directory_link_counts(place: Path) -> None:
    assert place.stat().st_nlink == 2
    (place / "a").mkdir()
    (place / "b").mkdir()
    assert place.stat().st_nlink == 4
    os.rename(place / "b", place / "a" / "b")
    assert (place.stat().st_nlink, (place / "a").stat().st_nlink) == (3, 3)
    (place / "a" / "b").rmdir()
    assert (place / "a").stat().st_nlink == 2


def test_symlinks(place: Path) -> None:
    target = "t" * 4095
    os.symlink(target, place / "long")
    assert os.readlink(place / "long") == target
    assert (place / "long").lstat().st_size == 4095
    assert stat.S_IMODE((place / "long").lstat().st_mode) == 0o777
    fails_with(errno.ENAMETOOLONG, lambda: os.symlink("t" * 4096, place / "longer"))
    fails_with(errno.ENAMETOOLONG, lambda: os.stat(place / "long"))
    os.symlink("loop", place / "loop")
    fails_with(errno.ELOOP, lambda: os.stat(place / "loop"))
    fails_with(errno.ELOOP, lambda: os.open(place / "loop", os.O_RDONLY))
    (place / "file").write_text("content")
    os.symlink("file", place / "link")
    fails_with(errno.ELOOP, lambda: os.open(place / "link", os.O_RDONLY | os.O_NOFOLLOW))
    assert (place / "link").read_text() == "content"
    fails_with(errno.EINVAL, lambda: os.readlink(place / "file"))


def test_rename_flags(place: Path) -> None:
    a, b, c = place / "a", place / "b", place / "c"
    a.write_text("a")
    b.mkdir()
    (b / "inside").touch()
    fails_with(errno.EEXIST, lambda: renameat2(a, b, NOREPLACE))
    renameat2(a, c, NOREPLACE)
    assert not a.exists()
    assert c.read_text() == "a"
    renameat2(b, c, EXCHANGE)
    assert b.read_text() == "a"
    assert (c / "inside").exists()
    fails_with(errno.ENOENT, lambda: renameat2(b, a, EXCHANGE))
    fails_with(errno.EINVAL, lambda: renameat2(b, c, EXCHANGE | NOREPLACE))
    fails_with(errno.EINVAL, lambda: renameat2(b, a, WHITEOUT))


def test_rename_rules(place: Path) -> None:
    for name in ("empty", "full", "full/sub"):
        (place / name).mkdir()
    (place / "file").write_text("file")
    (place / "other").write_text("other")
    fails_with(errno.ENOTEMPTY, lambda: os.rename(place / "empty", place / "full"))
    fails_with(errno.EISDIR, lambda: os.rename(place / "file", place / "empty"))
    fails_with(errno.ENOTDIR, lambda: os.rename(place / "empty", place / "file"))
    fails_with(errno.EINVAL, lambda: os.rename(place / "full", place / "full" / "sub" / "below"))
    fails_with(errno.ENOENT, lambda: os.rename(place / "none", place / "there"))
    fails_with(errno.EXDEV, lambda: os.rename(place / "file", place.parent.parent / "outside"))
    fails_with(errno.EXDEV, lambda: os.link(place / "file", place.parent.parent / "outside"))
    os.rename(place / "full", place / "empty")
    assert (place / "empty" / "sub").is_dir()
    os.rename(place / "file", place / "other")
    assert (place / "other").read_text() == "file"
    os.link(place / "other", place / "same")
    os.rename(place / "other", place / "same")  # two names of one file: nothing happens
    assert (place / "other").exists()
    assert (place / "same").exists()


def test_rename_over_an_open_file_keeps_both(place: Path) -> None:
    (place / "old").write_text("old")
    (place / "new").write_text("new")
    with open(place / "old") as reader:
        os.rename(place / "new", place / "old")
        assert reader.read() == "old"
        assert os.fstat(reader.fileno()).st_nlink == 0
    assert (place / "old").read_text() == "new"


def test_removing(place: Path) -> None:
    (place / "full").mkdir()
    (place / "full" / "file").touch()
    fails_with(errno.ENOTEMPTY, lambda: os.rmdir(place / "full"))
    fails_with(errno.EISDIR, lambda: os.unlink(place / "full"))
    fails_with(errno.ENOTDIR, lambda: os.rmdir(place / "full" / "file"))
    fails_with(errno.ENOENT, lambda: os.unlink(place / "none"))
    fails_with(errno.ENOTDIR, lambda: os.stat(place / "full" / "file" / "below"))
    (place / "full" / "file").unlink()
    (place / "full").rmdir()
    assert os.listdir(place) == []


def test_a_removed_working_directory_takes_no_names(place: Path) -> None:
    (place / "gone").mkdir()
    directory = os.open(place / "gone", os.O_RDONLY)
    try:
        (place / "gone").rmdir()
        assert os.fstat(directory).st_nlink == 0
        assert os.listdir(directory) == []
        fails_with(errno.ENOENT, lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    finally:
        os.close(directory)


def test_unlinked_file_lives_while_open(place: Path) -> None:
    path = place / "file"
    content = os.urandom(3 << 20)
    with open(path, "w+b") as file:
        file.write(content)
        file.flush()
        path.unlink()
        file.write(b"more")
        file.flush()
        os.fsync(file.fileno())
        drop_kernel_caches()
        file.seek(0)
        assert file.read() == content + b"more"
        assert os.fstat(file.fileno()).st_nlink == 0
        os.fchmod(file.fileno(), 0o600)
        os.ftruncate(file.fileno(), 10)
        assert os.fstat(file.fileno()).st_size == 10
    assert not path.exists()


def test_special_files(place: Path) -> None:
    os.mkfifo(place / "fifo", 0o640)
    os.mknod(place / "block", stat.S_IFBLK | 0o600, os.makedev(259, 1_048_575))
    os.mknod(place / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place / "socket"))
        drop_kernel_caches()
        kinds = {name: stat.S_IFMT((place / name).lstat().st_mode) for name in os.listdir(place)}
    assert kinds == {
        "fifo": stat.S_IFIFO,
        "block": stat.S_IFBLK,
        "char": stat.S_IFCHR,
        "socket": stat.S_IFSOCK,
    }
    device = (place / "block").lstat().st_rdev
    assert (os.major(device), os.minor(device)) == (259, 1_048_575)
    reader = os.open(place / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(place / "fifo", os.O_WRONLY)
    os.write(writer, b"through the kernel")
    assert os.read(reader, 100) == b"through the kernel"
    os.close(writer)
    os.close(reader)


def test_times_of_directories_follow_their_entries(place: Path) -> None:
    def changed(action: Callable[[], object]) -> bool:
        before = place.stat()
        action()
        after = place.stat()
        assert (after.st_mtime_ns > before.st_mtime_ns) == (after.st_ctime_ns > before.st_ctime_ns)
        return after.st_mtime_ns > before.st_mtime_ns

    file, other = place / "file", place / "other"
    assert changed(file.touch)
    assert not changed(lambda: file.write_text("content"))
    assert not changed(lambda: file.chmod(0o600))
    assert changed(lambda: os.rename(file, other))
    assert changed(lambda: os.link(other, file))
    assert changed(file.unlink)
    assert changed((place / "sub").mkdir)
    assert not changed((place / "sub" / "deep").touch)
    assert changed(lambda: os.rename(place / "sub" / "deep", place / "deep"))


def test_sticky_directories_protect_other_peoples_names(place: Path) -> None:
    place.chmod(0o1777)
    assert act_as(ALICE, (place / "hers").touch) == 0
    assert act_as(BOB, lambda: os.unlink(place / "hers")) == errno.EPERM
    assert act_as(BOB, lambda: os.rename(place / "hers", place / "his")) == errno.EPERM
    assert act_as(ALICE, lambda: os.rename(place / "hers", place / "still hers")) == 0
    place.chmod(0o777)
    assert act_as(BOB, lambda: os.unlink(place / "still hers")) == 0


def test_exclusive_creation(place: Path) -> None:
    os.close(os.open(place / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    fails_with(errno.EEXIST, lambda: os.open(place / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    fails_with(errno.EEXIST, lambda: os.mkdir(place / "file"))
    fails_with(errno.EEXIST, lambda: os.symlink("x", place / "file"))
    fails_with(errno.EEXIST, lambda: os.mkfifo(place / "file"))
    fails_with(errno.ENOTDIR, lambda: os.open(place / "file", os.O_RDONLY | os.O_DIRECTORY))
    fails_with(errno.EISDIR, lambda: os.open(place, os.O_WRONLY))
