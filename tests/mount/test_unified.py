"""All volumes in one mount, through a real kernel."""

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusegw.config import VolumePaths
from fusegw.daemon import mountpoint
from fusegw.daemon.lock import present_holder
from tests.mount.gateways import NAME, Gateway, drop_kernel_caches
from tests.mount.standbys import SOON, barrier, elsewhere, shown, until
from tests.mount.syscalls import EXCHANGE, handle_of, open_handle, renameat2

pytestmark = pytest.mark.mount


@pytest.fixture
def pair(gateway: Gateway) -> Gateway:
    """`tank` (number 1) and `pond` (number 2), mounted together."""
    gateway.add("pond")
    gateway.mount_all()
    return gateway


@pytest.fixture
def other(gateway: Gateway) -> Iterator[Gateway]:
    """Another host for `tank`, not mounted yet."""
    yield from elsewhere(gateway)


def code_of(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno


def held(gateway: Gateway, name: str) -> bool:
    return present_holder(VolumePaths(gateway.state, name)) is not None


def renumber(gateway: Gateway, name: str, number: int) -> None:
    """As if the volume had brought this number along."""
    registry = gateway.state / "registry.json"
    entries = json.loads(registry.read_text())
    entries["volumes"][name]["number"] = number
    registry.write_text(json.dumps(entries))


def numbers(root: Path) -> dict[str, int]:
    """Inode numbers of all there is, by path."""
    found = {".": root.stat().st_ino}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory) / name
            found[str(path.relative_to(root))] = path.lstat().st_ino
    return found


def test_both_volumes_are_there_and_apart(pair: Gateway) -> None:
    tank, pond = pair.root / "tank", pair.root / "pond"
    assert os.listdir(pair.root) == ["tank", "pond"]  # in order of their numbers
    assert [path.stat().st_ino for path in (pair.root, tank, pond)] == [1, 1 << 56 | 1, 2 << 56 | 1]
    assert pair.root.stat().st_nlink == 4 and (pair.root / "tank" / "..").stat().st_ino == 1
    (tank / "same").write_bytes(b"in the tank")
    (pond / "same").write_bytes(b"in the pond")
    (tank / "dir").mkdir()
    drop_kernel_caches()
    assert (tank / "same").read_bytes() == b"in the tank" and (pond / "same").read_bytes() == b"in the pond"
    assert os.listdir(tank) == ["same", "dir"] and os.listdir(pond) == ["same"]
    assert subprocess.run(["find", pair.root], capture_output=True, check=True).stdout.count(b"\n") == 6
    subprocess.run(["cp", "-a", tank / "same", pond / "copy"], check=True)
    assert (pond / "copy").read_bytes() == b"in the tank"
    # mv falls back to copying; of the directory's name nothing is left behind.
    subprocess.run(["mv", tank / "dir", pond / "moved"], check=True)
    assert os.listdir(tank) == ["same"] and (pond / "moved").is_dir()
    assert json.loads(pair.command("status", "pond", "--json"))["mountpoint"] == str(pond)
    pair.command("sync", "tank", "--wait")
    pair.command("cache", "stats", "pond")


def test_what_lies_between_volumes_is_refused(pair: Gateway) -> None:
    tank, pond = pair.root / "tank", pair.root / "pond"
    (tank / "file").touch()
    (pond / "file").touch()
    refused = {
        lambda: os.rename(tank / "file", pond / "new"): errno.EXDEV,
        lambda: os.rename(tank / "file", pair.root / "new"): errno.EXDEV,
        lambda: renameat2(tank / "file", pond / "file", EXCHANGE): errno.EXDEV,
        lambda: os.link(tank / "file", pond / "new"): errno.EXDEV,
        lambda: (pair.root / "new").mkdir(): errno.EPERM,
        lambda: (pair.root / "new").touch(): errno.EPERM,
        lambda: (pair.root / "new").symlink_to("x"): errno.EPERM,
        lambda: (pair.root / "tank").mkdir(): errno.EEXIST,
        lambda: os.rmdir(tank): errno.EBUSY,
        lambda: os.rename(tank, pair.root / "new"): errno.EBUSY,
        lambda: os.rename(tank, pond): errno.EBUSY,
        lambda: os.chmod(pair.root, 0o777): errno.EPERM,
        lambda: os.utime(pair.root): errno.EPERM,
        lambda: os.setxattr(pair.root, "user.x", b"y"): errno.EPERM,
        lambda: os.getxattr(pair.root, "user.x"): errno.ENODATA,
        lambda: os.stat(pair.root / "nothing"): errno.ENOENT,
    }
    assert [code_of(call) for call in refused] == list(refused.values())
    assert os.listxattr(pair.root) == []
    os.rename(tank / "file", tank / "renamed")
    os.link(pond / "file", pond / "linked")
    figures = os.statvfs(tank)
    assert figures.f_files - figures.f_ffree == 4  # two roots, two files
    assert figures.f_bavail <= os.statvfs(pair.base).f_bavail + (64 << 20) // figures.f_frsize


def test_numbers_and_handles_outlive_remounts_and_newcomers(gateway: Gateway) -> None:
    pair = gateway
    pair.add("pond")
    renumber(pair, "pond", 9)
    pair.mount_all()
    for name in ("tank", "pond"):
        (pair.root / name / "deep").mkdir()
        (pair.root / name / "deep" / "file").write_text(f"of {name}")
    paths = [pair.root / name for name in ("tank/deep/file", "pond/deep/file", "tank/deep", "pond", ".")]
    before, handles = numbers(pair.root), [handle_of(path) for path in paths]

    def check() -> None:
        drop_kernel_caches()
        for handle, text in zip(handles, ("of tank", "of pond"), strict=False):
            with os.fdopen(open_handle(handle, pair.root)) as file:
                assert file.read() == text
        for handle, names in zip(handles[2:], (["file"], ["deep"], os.listdir(pair.root)), strict=True):
            directory = open_handle(handle, pair.root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                assert os.listdir(directory) == names
            finally:
                os.close(directory)

    check()
    pair.umount()
    pair.mount_all()
    check()
    assert numbers(pair.root) == before
    pair.umount()
    pair.add("third")
    pair.add("fourth")
    renumber(pair, "fourth", 200)
    pair.mount_all()
    assert os.listdir(pair.root) == ["tank", "third", "pond", "fourth"]
    check()
    assert {
        path: number
        for path, number in numbers(pair.root).items()
        if not path.startswith(("third", "fourth"))
    } == before
    # A volume that is not in the mount any more: stale, never another file.
    pair.umount()
    pair.configure("[volumes.pond]\nin_unified_mount = false\n")
    pair.mount_all()
    drop_kernel_caches()
    assert os.listdir(pair.root) == ["tank", "third", "fourth"]
    assert code_of(lambda: open_handle(handles[1], pair.root)) == errno.ESTALE
    assert (pair.root / "tank" / "deep" / "file").read_text() == "of tank"


def test_each_has_its_own_mode(gateway: Gateway) -> None:
    gateway.add("pond")
    gateway.configure("[volumes.pond]\nread_only = true\n")
    assert "pond is missing" in gateway.mount_all()  # never written yet
    gateway.umount()
    gateway.configure("")
    gateway.mount_all()
    (gateway.root / "pond" / "file").write_text("kept")
    gateway.umount()
    gateway.configure("[volumes.pond]\nread_only = true\n")
    assert gateway.mount_all() == ""
    (gateway.root / "tank" / "file").write_text("new")
    assert (gateway.root / "pond" / "file").read_text() == "kept"
    assert code_of(lambda: (gateway.root / "pond" / "file").write_text("x")) == errno.EROFS
    assert code_of((gateway.root / "pond" / "file").unlink) == errno.EROFS


def test_a_standby_among_others_follows_and_can_be_promoted(gateway: Gateway, other: Gateway) -> None:
    """`tank` is written by another host; here it lies beside `pond`, which is written here."""
    gateway.mount()
    (gateway.root / "file").write_text("first")
    barrier(gateway)
    other.add("pond")
    other.configure(SOON + "follow = true\n")
    assert other.mount_all() == ""
    tank, pond = other.root / "tank", other.root / "pond"
    assert (tank / "file").read_text() == "first" and not (tank / "new").exists()
    assert code_of((tank / "file").unlink) == errno.EROFS
    (pond / "own").write_text("written here")
    # What this kernel keeps, the root of the volume and "no such name", is taken back.
    (gateway.root / "file").write_text("second")
    (gateway.root / "new").mkdir()
    shown(gateway, other)
    assert (tank / "file").read_text() == "second" and (tank / "new").is_dir()
    assert sorted(os.listdir(tank)) == ["file", "new"]
    with open(tank / "file") as kept:
        other.command("promote", NAME)
        (tank / "new" / "mine").write_text("promoted")
        assert kept.read() == "second"
    assert (tank / "new" / "mine").read_text() == "promoted" and (pond / "own").read_text() == "written here"
    other.command("sync", NAME, "--wait")


def test_one_that_was_taken_over_refuses_changes_and_the_others_go_on(
    gateway: Gateway, other: Gateway
) -> None:
    gateway.add("pond")
    gateway.mount_all()
    (gateway.root / "tank" / "file").write_text("kept")
    barrier(gateway)
    other.mount()
    until(gateway, lambda found: found.fenced is not None, "fenced")
    assert code_of((gateway.root / "tank" / "new").touch) == errno.EROFS
    assert (gateway.root / "tank" / "file").read_text() == "kept"
    (gateway.root / "pond" / "new").write_text("goes on")
    gateway.command("sync", "pond", "--wait")
    report = json.loads(gateway.command("status", "--json"))["volumes"]
    assert [one["fenced"] is None for one in report] == [False, True]


def test_one_whose_store_is_away_is_missing_until_it_comes(gateway: Gateway) -> None:
    store = gateway.add("pond")
    away = store.with_name("away")
    store.rename(away)
    said = gateway.mount_all()
    assert "volume pond is missing from the mount" in said and str(store) in said
    assert os.listdir(gateway.root) == ["tank"] and not (gateway.root / "pond").exists()
    report = json.loads(gateway.command("status", "pond", "--json"))
    assert report["mounted"] is False and str(store) in report["missing"]
    assert "pond is missing" in VolumePaths(gateway.state, "pond").unified_log_file.read_text()
    (gateway.root / "tank" / "file").write_text("written meanwhile")
    away.rename(store)
    # Each look goes to the kernel, whose "no such name" must be taken back when the volume comes.
    looks = 0
    while not (gateway.root / "pond").exists():
        looks += 1
        assert looks < 300, "the volume did not come"
        gateway.command("status", "pond")  # takes a fraction of a second
    assert os.listdir(gateway.root) == ["tank", "pond"]
    (gateway.root / "pond" / "file").write_text("here")
    assert json.loads(gateway.command("status", "pond", "--json"))["mounted"] is True


def test_without_any_the_mount_fails_as_the_first_does(gateway: Gateway) -> None:
    gateway.add("pond").rename(gateway.base / "away")
    gateway.store.rename(gateway.base / "gone")
    done = gateway.run("mount", gateway.root)
    assert done.returncode == 4 and str(gateway.store) in done.stderr
    assert done.stderr.count("\n") == 1 and not held(gateway, NAME) and not held(gateway, "pond")
    assert not os.path.ismount(gateway.root)


@pytest.mark.parametrize("target", ["pond", "{root}"])
def test_umount_ends_all_of_it(pair: Gateway, target: str) -> None:
    (pair.root / "tank" / "file").write_text("last words")
    done = pair.run("umount", target.format(root=pair.root))
    assert done.returncode == 0
    assert ("all of it ends" in done.stderr) == (target != "{root}")
    assert not held(pair, "tank") and not held(pair, "pond") and not os.path.ismount(pair.root)
    assert json.loads(pair.command("status", "tank", "--json"))["mounted"] is False
    # What was written is in the stores: each volume mounts alone as ever, its root at the mount's.
    pair.mount()
    assert pair.root.stat().st_ino == 1 and (pair.root / "file").read_text() == "last words"


def test_a_kill_leaves_nothing_that_the_next_mount_does_not_clear(pair: Gateway) -> None:
    file = pair.root / "pond" / "file"
    file.write_text("synced")
    with file.open() as opened:
        os.fsync(opened.fileno())
    pair.kill()
    assert mountpoint.is_dead(str(pair.root))
    pair.mount()  # the volume alone, at the same place
    assert "file" not in os.listdir(pair.root)
    pair.umount()
    pair.mount_all()
    assert file.read_text() == "synced"


def test_a_volume_that_is_mounted_alone_is_missing_from_the_others(gateway: Gateway) -> None:
    gateway.add("pond")
    other = gateway.base / "other"
    other.mkdir()
    gateway.command("mount", "pond", other)
    try:
        assert "volume 'pond' is in use by pid" in gateway.mount_all()
        assert os.listdir(gateway.root) == ["tank"]
        gateway.umount()
        assert (other / ".").stat().st_ino == 1
    finally:
        gateway.command("umount", "pond")


def test_removing_all_leaves_the_volumes_directories(pair: Gateway) -> None:
    (pair.root / "tank" / "deep" / "er").mkdir(parents=True)
    (pair.root / "pond" / "file").write_bytes(bytes(10_000))
    done = subprocess.run(["rm", "-rf", *pair.root.iterdir()], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("busy") == 2
    assert [os.listdir(path) for path in pair.root.iterdir()] == [[], []]
