"""What the disk that loses its power keeps, for certain and by chance; told by a record of real calls."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.power_disk import Content, PowerDisk, Remains, write_out
from tests.crash.recording import Kind, Recording, build_recorder

ROOT = Path(__file__).parents[2]
SYNC_DIRECTORY = """
def sync_directory(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_recorder(tmp_path_factory.mktemp("recorder"))


class Recorded:
    """The disk after a script that worked in an empty directory."""

    def __init__(self, base: Path, library: Path, script: str, *, ignore: str = "") -> None:
        top = base.resolve() / "top"
        top.mkdir()
        recording = Recording(library, top, base / "notes")
        try:
            command = [sys.executable, "-c", f"import os\n{SYNC_DIRECTORY}\n{script}"]
            subprocess.run(command, cwd=top, env=os.environ | recording.environment, check=True, timeout=60)
            self.notes = list(recording.notes())
        finally:
            recording.close()
        self.disk = PowerDisk(top)
        if ignore:
            self.disk.ignored = lambda note: note.path.endswith(ignore)
        self.saved = 0
        for note in self.notes:
            self.saved += self.disk.saves(note)
            self.disk.follow(note)
        real = PowerDisk(top)
        real.adopt(*os.listdir(top))
        assert plain(self.disk.now()) == plain(real.now()), "the record tells all"

    def lost(self, kept: str = "none", names: str = "none", seed: int = 0) -> dict[str, bytes | str | None]:
        return plain(self.disk.lost(random.Random(seed), kept, names))

    def possible(self, kept: str, names: str = "all") -> set[tuple[tuple[str, bytes | str | None], ...]]:
        return {tuple(self.lost(kept, names, seed).items()) for seed in range(200)}


def plain(remains: Remains) -> dict[str, bytes | str | None]:
    return {path: whole(what) if isinstance(what, Content) else what for path, what in remains.items()}


def whole(content: Content) -> bytes:
    return bytes(content.data.ljust(content.size, b"\0"))


def test_bytes_after_the_last_sync_are_lost(tmp_path: Path, library: Path) -> None:
    script = """
fd = os.open("f", os.O_RDWR | os.O_CREAT)
sync_directory(".")
os.write(fd, b"synced")
os.fdatasync(fd)
os.pwritev(fd, [b" and", b" not"], 6)
"""
    recorded = Recorded(tmp_path, library, script)
    assert recorded.lost() == {"f": b"synced"}
    assert recorded.lost("all") == {"f": b"synced and not"}
    assert recorded.saved == 2


def test_a_file_whose_directory_was_not_synced_has_no_name(tmp_path: Path, library: Path) -> None:
    script = """
os.mkdir("d")
fd = os.open("d/f", os.O_RDWR | os.O_CREAT)
os.write(fd, b"synced")
os.fsync(fd)
sync_directory("d")
"""
    recorded = Recorded(tmp_path, library, script)
    assert recorded.lost() == {}, "the name of the directory itself was never synced"
    assert recorded.lost(names="all") == {"d": None, "d/f": b"synced"}


def test_names_are_kept_with_their_directory(tmp_path: Path, library: Path) -> None:
    script = """
for name in "abc":
    os.close(os.open(name, os.O_RDWR | os.O_CREAT))
sync_directory(".")
os.rename("a", "b")
os.unlink("c")
os.link("b", "d")
os.symlink("b", "e")
"""
    recorded = Recorded(tmp_path, library, script)
    assert recorded.lost() == {"a": b"", "b": b"", "c": b""}
    assert recorded.lost(names="all") == {"b": b"", "d": b"", "e": "b"}
    for there in recorded.possible("none", "subset"):
        names = {name for name, _ in there}
        assert "b" in names
    moments = {tuple(name for name, _ in there) for there in recorded.possible("none", "prefix")}
    assert moments == {
        ("a", "b", "c"),
        ("b", "c"),
        ("b",),
        ("b", "d"),
        ("b", "d", "e"),
    }


def test_a_rename_between_directories_is_whole_or_absent(tmp_path: Path, library: Path) -> None:
    script = """
os.mkdir("d")
os.close(os.open("f", os.O_RDWR | os.O_CREAT))
sync_directory(".")
os.rename("f", "d/f")
"""
    recorded = Recorded(tmp_path, library, script)
    assert {tuple(name for name, _ in there) for there in recorded.possible("none", "subset")} == {
        ("d", "f"),
        ("d", "d/f"),
    }


def test_a_torn_write_ends_at_a_sector(tmp_path: Path, library: Path) -> None:
    script = """
fd = os.open("f", os.O_RDWR | os.O_CREAT)
os.write(fd, b"x" * 100)
os.pwrite(fd, b"y" * 1500, 100)
"""
    recorded = Recorded(tmp_path, library, script)
    sizes = {len(dict(there)["f"] or b"") for there in recorded.possible("torn")}
    assert sizes == {100, 512, 1024, 1536}


def test_writes_and_sectors_come_in_any_order(tmp_path: Path, library: Path) -> None:
    script = """
fd = os.open("f", os.O_RDWR | os.O_CREAT)
os.write(fd, b"x" * 1024)
os.write(fd, b"y" * 512)
"""
    recorded = Recorded(tmp_path, library, script)
    writes = {dict(there)["f"] for there in recorded.possible("writes")}
    assert bytes(1024) + b"y" * 512 in writes and b"x" * 1024 in writes and b"" in writes
    assert b"x" * 1024 + bytes(512) in writes, "the size may be there without the bytes"
    assert bytes(512) + b"x" * 512 not in writes
    assert bytes(512) + b"x" * 512 in {dict(there)["f"] for there in recorded.possible("sectors")}


def test_a_sector_holds_what_it_held_at_one_moment(tmp_path: Path, library: Path) -> None:
    script = """
fd = os.open("f", os.O_RDWR | os.O_CREAT)
os.write(fd, b"x" * 100)
os.write(fd, b"y" * 100)
"""
    recorded = Recorded(tmp_path, library, script)
    found = {bytes(dict(there)["f"] or b"").rstrip(b"\0") for there in recorded.possible("sectors")}
    assert found == {b"", b"x" * 100, b"x" * 100 + b"y" * 100}


def test_what_is_written_through_a_synchronous_descriptor_stays(tmp_path: Path, library: Path) -> None:
    script = """
fd = os.open("f", os.O_RDWR | os.O_CREAT)
sync_directory(".")
os.pwrite(fd, b"x" * 600, 0)
synced = os.open("f", os.O_RDWR | os.O_DSYNC)
os.pwrite(synced, b"yy", 520)
"""
    recorded = Recorded(tmp_path, library, script)
    assert recorded.lost() == {"f": bytes(512) + b"x" * 8 + b"yy" + b"x" * 78}, "with what its sector held"
    assert recorded.lost("all") == {"f": b"x" * 520 + b"yy" + b"x" * 78}


def test_cut_files_holes_and_reserved_room(tmp_path: Path, library: Path) -> None:
    script = """
import ctypes
fd = os.open("f", os.O_RDWR | os.O_CREAT)
sync_directory(".")
os.write(fd, b"x" * 10000)
os.fsync(fd)
punched = ctypes.CDLL(None).fallocate(fd, 3, ctypes.c_int64(4096), ctypes.c_int64(4096))
assert punched == 0
os.ftruncate(fd, 9000)
os.posix_fallocate(fd, 0, 20000)
"""
    recorded = Recorded(tmp_path, library, script)
    assert recorded.lost() == {"f": b"x" * 10000}
    assert recorded.lost("all") == {"f": (b"x" * 4096 + bytes(4096) + b"x" * 808).ljust(20000, b"\0")}


def test_a_sync_that_did_not_happen_saves_nothing(tmp_path: Path, library: Path) -> None:
    script = """
fd = os.open("f", os.O_RDWR | os.O_CREAT)
os.write(fd, b"synced")
os.fsync(fd)
sync_directory(".")
"""
    assert Recorded(tmp_path, library, script, ignore="/f").lost() == {"f": b""}


def test_syncing_everything_saves_everything(tmp_path: Path, library: Path) -> None:
    script = """
os.mkdir("d")
fd = os.open("d/f", os.O_RDWR | os.O_CREAT)
os.write(fd, b"x")
os.sync()
os.write(fd, b"y")
"""
    recorded = Recorded(tmp_path, library, script)
    assert recorded.lost() == {"d": None, "d/f": b"x"}


def test_what_is_left_is_put_on_a_real_disk(tmp_path: Path, library: Path) -> None:
    script = """
os.mkdir("d")
fd = os.open("d/f", os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b"x", 100000)
os.ftruncate(fd, 300000)
os.link("d/f", "again")
os.symlink("again", "link")
"""
    recorded = Recorded(tmp_path, library, script)
    place = tmp_path / "place"
    place.mkdir()
    write_out(recorded.disk.now(), place)
    assert (place / "d" / "f").read_bytes() == (bytes(100000) + b"x").ljust(300000, b"\0")
    assert (place / "again").samefile(place / "d" / "f") and os.readlink(place / "link") == "again"
    assert (place / "again").stat().st_blocks * 512 < 20000, "zeros are holes"


@pytest.mark.parametrize(
    "call",
    [
        "from fusegw.durable import sync_way_to; sync_way_to('a/b/c')",
        "from cache import disk, lock; lock.lock_directory(disk.OsDisk(), 'a/b/c')",
    ],
)
def test_names_are_saved_all_the_way_up_whoever_made_them(tmp_path: Path, library: Path, call: str) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
os.makedirs("a/b/c")
{call}
"""
    assert {"a", "a/b", "a/b/c"} <= Recorded(tmp_path, library, script).lost().keys()


def test_the_record_has_one_order_for_processes_and_marks(tmp_path: Path, library: Path) -> None:
    recording = Recording(library, tmp_path / "top", tmp_path / "notes")
    (tmp_path / "top").mkdir()
    try:
        for number in range(3):
            recording.mark(("before", number))
            command = [sys.executable, "-c", f"open('top/f{number}', 'w').write('x')"]
            environment = os.environ | recording.environment
            subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)
        kinds = [note.kind for note in recording.notes()]
        assert kinds == [Kind.MARK, Kind.CREATE, Kind.WRITE] * 3
        assert [note.mark for note in recording.notes() if note.kind is Kind.MARK] == [
            ("before", number) for number in range(3)
        ]
        recording.restart()
        assert list(recording.notes()) == []
    finally:
        recording.close()
