"""Snapshots through a real kernel and the commands: kept as they were, found again, gone when deleted."""

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fusegw.durable import sync_directory
from tests.mount.gateways import NAME, Gateway, drop_kernel_caches
from tests.mount.standbys import elsewhere, shown, tree
from tests.mount.syscalls import handle_of, open_handle

pytestmark = pytest.mark.mount


@pytest.fixture
def other(gateway: Gateway) -> Iterator[Gateway]:
    """Another host for the volume, not mounted yet."""
    yield from elsewhere(gateway)


def code_of(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno


def create(gateway: Gateway, name: str, *options: str) -> dict[str, Any]:
    made = json.loads(gateway.command("snapshot", "create", NAME, name, "--json", *options))
    (item,) = made["snapshots"]
    found: dict[str, Any] = item
    return found


def names(gateway: Gateway) -> list[str]:
    return [
        one["name"] for one in json.loads(gateway.command("snapshot", "list", NAME, "--json"))["snapshots"]
    ]


def fill(root: Path) -> None:
    """One of everything."""
    deep = root / "one" / "two"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"before" * 100_000)
    (deep / "gone").write_bytes(b"soon deleted")
    os.link(deep / "file", root / "hard")
    (root / "soft").symlink_to("one/two/file")
    os.mkfifo(root / "fifo", 0o640)
    (root / "empty").mkdir(mode=0o700)
    os.setxattr(deep / "file", "user.kept", b"value")
    os.chmod(root / "hard", 0o4751)


def spoil(root: Path) -> None:
    deep = root / "one" / "two"
    (deep / "file").write_bytes(b"after")
    (deep / "gone").unlink()
    (root / "soft").unlink()
    os.setxattr(deep / "file", "user.kept", b"other")
    os.rename(root / "one", root / "moved")
    (root / "one").mkdir()
    (root / "new").write_bytes(b"new")


def listed(directory: Path) -> list[str]:
    """As `find -ls` tells it, in order, without what belongs to the place it is seen at."""
    command = ["find", ".", "-printf", r"%P %M %n %U %G %s %T@ %l\n"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    return sorted(done.stdout.splitlines())


@pytest.mark.parametrize("unified", [False, True])
def test_a_snapshot_keeps_all_as_it_was(gateway: Gateway, unified: bool) -> None:
    if unified:
        gateway.add("pond")
        gateway.mount_all()
    else:
        gateway.mount()
    root = gateway.root / NAME if unified else gateway.root
    fill(root)
    before, seen = tree(root), listed(root)
    create(gateway, "first")
    spoil(root)
    past = root / ".snapshots" / "first"
    for _ in range(2):
        assert tree(past) == before
        assert listed(past) == seen
        assert os.getxattr(past / "one/two/file", "user.kept") == b"value"
        assert (past / ".." / "..").stat().st_ino == root.stat().st_ino
        assert (past / "..").stat().st_ino == (root / ".snapshots").stat().st_ino
        drop_kernel_caches()
    subprocess.run(["cp", "-a", past / "one/two/gone", past / "one/two/file", root / "empty"], check=True)
    assert (root / "empty" / "gone").read_bytes() == b"soon deleted"
    assert (root / "empty" / "file").read_bytes() == b"before" * 100_000
    assert os.listdir(root / ".snapshots") == ["first"]
    if unified:
        assert os.listdir(gateway.root / "pond" / ".snapshots") == []
        assert not (gateway.root / ".snapshots").exists()


def test_it_is_hidden_and_cannot_be_changed(gateway: Gateway) -> None:
    gateway.mount()
    root = gateway.root
    fill(root)
    create(gateway, "first")
    past, names_there = root / ".snapshots" / "first", root / ".snapshots"
    for listing in (["ls", "-la", str(root)], ["find", str(root), "-maxdepth", "1"]):
        done = subprocess.run(listing, capture_output=True, text=True, check=True)
        assert "hard" in done.stdout and ".snapshots" not in done.stdout
        assert ".previous-versions" not in done.stdout
    refused = {
        lambda: (past / "hard").write_bytes(b"x"): errno.EROFS,
        lambda: os.truncate(past / "hard", 0): errno.EROFS,
        lambda: (past / "new").touch(): errno.EROFS,
        lambda: (past / "new").mkdir(): errno.EROFS,
        lambda: (past / "hard").unlink(): errno.EROFS,
        lambda: os.rename(past / "hard", past / "x"): errno.EROFS,
        lambda: os.chmod(past / "hard", 0o600): errno.EROFS,
        lambda: os.utime(past / "hard"): errno.EROFS,
        lambda: os.setxattr(past / "hard", "user.x", b""): errno.EROFS,
        lambda: os.link(past / "hard", root / "x"): errno.EXDEV,
        lambda: os.rename(root / "hard", past / "x"): errno.EXDEV,
        lambda: (names_there / "x").mkdir(): errno.EROFS,
        lambda: (names_there / "first").rmdir(): errno.EROFS,
        lambda: os.rename(past, names_there / "x"): errno.EROFS,
        lambda: names_there.mkdir(): errno.EEXIST,
        lambda: names_there.rmdir(): errno.EROFS,
        lambda: os.rename(names_there, root / "x"): errno.EROFS,
        lambda: os.rename(root / "empty", names_there): errno.EEXIST,
        lambda: os.symlink("x", names_there): errno.EEXIST,
        lambda: os.stat(names_there / "other"): errno.ENOENT,
    }
    assert [code_of(call) for call in refused] == list(refused.values())
    gateway.umount()
    gateway.configure(f"[volumes.{NAME}]\nsnapshots_visible = true\n")
    gateway.mount()
    assert os.listdir(root)[-1] == ".snapshots"
    assert ".previous-versions" not in os.listdir(root)


@pytest.mark.parametrize("killed", [False, True])
def test_numbers_and_handles_outlive_the_gateway(gateway: Gateway, killed: bool) -> None:
    gateway.mount()
    root = gateway.root
    fill(root)
    create(gateway, "first", "--wait")
    spoil(root)
    past = root / ".snapshots" / "first"
    paths = [past / "one/two/file", past / "one/two", past / "one", past, root / ".snapshots", root]
    before = tree(past)
    numbers = [path.stat().st_ino for path in paths]
    handles = [handle_of(path) for path in paths]
    if killed:
        gateway.kill()
        gateway.mount()
    else:
        gateway.remount()
    # The directory first: nothing the kernel knows leads to it, its parents are asked for as "..".
    directory = open_handle(handles[1], root, os.O_RDONLY | os.O_DIRECTORY)
    for number in numbers[2:]:
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        os.close(directory)
        directory = above
        assert os.fstat(directory).st_ino == number
    os.close(directory)
    with os.fdopen(open_handle(handles[0], root), "rb") as file:
        assert file.read() == b"before" * 100_000
    assert os.listdir(past) and [path.stat().st_ino for path in paths] == numbers
    assert tree(past) == before


def test_a_deleted_one_is_gone(gateway: Gateway) -> None:
    gateway.mount()
    root = gateway.root
    fill(root)
    for name in ("first", "second"):
        create(gateway, name)
    past = root / ".snapshots" / "first"
    handle = handle_of(past / "one/two/gone")
    assert (past / "hard").stat().st_size == 600_000
    with (past / "one/two/file").open("rb") as file:
        assert file.read(6) == b"before"
        spoil(root)
        gateway.command("snapshot", "delete", NAME, "first")
        assert names(gateway) == os.listdir(root / ".snapshots") == ["second"]
        assert not past.exists() and not (past / "hard").exists()
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert code_of(lambda: os.pread(file.fileno(), 100, 500_000)) == errno.ESTALE
    drop_kernel_caches()
    assert code_of(lambda: open_handle(handle, root)) == errno.ESTALE
    again = create(gateway, "first")
    assert again["name"] == "first" and os.listdir(past) == os.listdir(root)
    assert code_of(lambda: open_handle(handle, root)) == errno.ESTALE
    assert (root / ".snapshots" / "second" / "one/two/gone").read_bytes() == b"soon deleted"


def test_a_standby_and_a_reader_show_them(gateway: Gateway, other: Gateway) -> None:
    gateway.mount()
    fill(gateway.root)
    before = tree(gateway.root)
    create(gateway, "first", "--wait")
    other.mount("--follow")
    spoil(gateway.root)
    create(gateway, "second")
    shown(gateway, other)
    assert os.listdir(other.root / ".snapshots") == ["first", "second"]
    assert tree(other.root / ".snapshots" / "first") == before
    after = tree(gateway.root)
    gateway.command("snapshot", "delete", NAME, "first")
    shown(gateway, other)
    assert os.listdir(other.root / ".snapshots") == ["second"] == names(other)
    assert tree(other.root / ".snapshots" / "second") == after
    refused = other.run("snapshot", "create", NAME)
    assert refused.returncode == 3 and "read-only" in refused.stderr
    other.remount("--read-only")
    assert tree(other.root / ".snapshots" / "second") == after
    gateway.umount()
    other.remount("--follow")
    other.command("promote", NAME)
    create(other, "third", "--wait")
    assert tree(other.root / ".snapshots" / "second") == after


def test_what_the_commands_say(gateway: Gateway) -> None:
    unmounted = gateway.run("snapshot", "create", NAME)
    assert unmounted.returncode == 9 and f"fusegw mount {NAME}" in unmounted.stderr
    gateway.mount()
    fill(gateway.root)
    first = create(gateway, "first", "--wait", "--lock-for", "1h")
    assert first["stored"] and first["files"] == 8 and first["logical_bytes"] == 600_012
    assert first["made_by"] == "hand" and first["locked_until_unix_s"] > first["created_unix_s"] + 3000
    spoil(gateway.root)
    sync_directory(gateway.root)  # what is counted is the newest commit
    shown_now = json.loads(gateway.command("snapshot", "show", NAME, "first", "--json"))
    assert (shown_now["held_logical_bytes"], shown_now["unique_logical_bytes"]) == (600_012, 600_012)
    assert 0 < shown_now["unique_stored_bytes"] == shown_now["held_stored_bytes"]
    unnamed = json.loads(gateway.command("snapshot", "create", NAME, "--json"))["snapshots"][0]["name"]
    assert len(unnamed) == len("2026-11-28T15.04.05Z") and (gateway.root / ".snapshots" / unnamed).is_dir()
    for arguments, code, why in (
        (("create", NAME, "first"), 8, "already"),
        (("create", NAME, "a/b"), 3, "cannot be the name"),
        (("create", NAME, "@GMT-2026.01.01-00.00.00"), 3, "SMB"),
        (("create", NAME, "x", "--lock-for", "soon"), 3, "30d"),
        (("create", NAME, "x", "--lock-until", "2020-01-01"), 3, "future"),
        (("delete", NAME, "first"), 3, "locked"),
        (("delete", NAME, unnamed, "other"), 9, "no snapshot 'other'"),
        (("lock", NAME, "first", "--lock-for", "1m"), 3, "longer"),
        (("lock", NAME, "first"), 2, "--lock-until"),
        (("show", NAME, "other"), 9, "no snapshot 'other'"),
    ):
        done = gateway.run("snapshot", *arguments)
        assert (done.returncode, why in done.stderr) == (code, True), f"{arguments}: {done}"
    assert names(gateway) == ["first", unnamed]
    gateway.command("snapshot", "lock", NAME, unnamed, "--lock-for", "2h")
    assert unnamed in gateway.command("snapshot", "list", NAME)
    assert "only here" in gateway.command("snapshot", "show", NAME, "first")
    status = gateway.status()
    assert (status["snapshots"], status["newest_snapshot"], status["deleted_snapshots"]) == (2, unnamed, 0)
    assert f"2, the newest is {unnamed}" in gateway.command("status", NAME)
