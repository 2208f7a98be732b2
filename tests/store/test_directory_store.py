"""What the directory store promises beyond the contract: durability, crash leftovers, disks that go away."""

import errno
import fcntl
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusegw.clock import SystemEntropy
from fusegw.errors import Denied, Exists, Full, FusegwError, Invalid, NotFound, Unavailable
from fusegw.store.directory import STAGING, DirectoryStore
from tests.plugins.fakes import SeededEntropy

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


def open_at(path: Path, *, create: bool = True) -> DirectoryStore:
    return DirectoryStore(path, entropy=SystemEntropy(), create=create)


def staged(path: Path) -> list[str]:
    return os.listdir(path / STAGING)


class Calls:
    """The system calls that make a put durable, in their order, as `name file-or-folder`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, top: Path) -> None:
        self.seen: list[str] = []
        self.failing = ""
        for name in ("fdatasync", "fsync"):
            monkeypatch.setattr(os, name, self._recording(name, getattr(os, name), top, of_descriptor=True))
        for name in ("link", "replace"):
            monkeypatch.setattr(os, name, self._recording(name, getattr(os, name), top, of_descriptor=False))

    def _recording(
        self, name: str, real: Callable[..., None], top: Path, *, of_descriptor: bool
    ) -> Callable[..., None]:
        def recorded(first: int | str, *rest: str) -> None:
            path = os.readlink(f"/proc/self/fd/{first}") if of_descriptor else rest[0]
            relative = os.path.relpath(path, top)
            label = f"{name} {'staged' if relative.startswith(STAGING) else relative}"
            self.seen.append(label)
            if label == self.failing:
                raise OSError(errno.EIO, "Input/output error")
            real(first, *rest)

        return recorded


def test_put_syncs_bytes_then_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_at(tmp_path)
    store.put("first", b"")
    calls = Calls(monkeypatch, tmp_path)
    store.put("packs/ab/one", b"bytes")
    assert calls.seen[0] == "fdatasync staged"
    assert calls.seen[-4:] == ["link packs/ab/one", "fsync packs/ab", "fsync packs", "fsync ."]
    calls.seen.clear()
    store.put("packs/ab/one", b"other", create_only=False)
    assert calls.seen == ["fdatasync staged", "replace packs/ab/one", "fsync packs/ab"]


def test_exists_is_told_only_after_the_name_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_at(tmp_path)
    calls = Calls(monkeypatch, tmp_path)
    calls.failing = "fsync log"
    with pytest.raises(Unavailable):
        store.put("log/1", b"bytes")
    with pytest.raises(Unavailable):  # the object is there, but its name may be lost yet
        store.put("log/1", b"bytes")
    calls.failing = ""
    with pytest.raises(Exists):
        store.put("log/1", b"bytes")


def test_failed_sync_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_at(tmp_path)
    store.put("first", b"")
    calls = Calls(monkeypatch, tmp_path)
    calls.failing = "fdatasync staged"
    with pytest.raises(Unavailable, match="Input/output error"):
        store.put("second", b"bytes")
    assert [info.key for info in store.list()] == ["first"]
    assert staged(tmp_path) == []


def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    store = open_at(tmp_path / "store")
    store.put("packs/ab/one", b"")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "store").rglob("*")}
    assert modes == {STAGING: 0o700, "packs": 0o700, "ab": 0o700, "one": 0o600}


def test_stale_staging_files_are_swept_and_living_ones_kept(tmp_path: Path) -> None:
    open_at(tmp_path).put("object", b"")
    (tmp_path / STAGING / "stale").write_bytes(b"left by a crash")
    with (tmp_path / STAGING / "living").open("wb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        open_at(tmp_path)
        assert staged(tmp_path) == ["living"]
    open_at(tmp_path)
    assert staged(tmp_path) == []


WRITER = """
import itertools, sys
from pathlib import Path
from fusegw.clock import SystemEntropy
from fusegw.store.directory import DirectoryStore
store = DirectoryStore(Path(sys.argv[1]), entropy=SystemEntropy(), create=True)
for number in itertools.count(int(sys.argv[2])):
    store.put(f"packs/{number:06}", b"%06d" % number * 50_000)
    print(number, flush=True)
"""


def test_kill_leaves_whole_objects_only(tmp_path: Path) -> None:
    told: set[str] = set()
    for round_number in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(round_number * 1000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
            assert writer.stdout is not None
            for _ in range(3 + round_number):
                told.add(f"packs/{int(writer.stdout.readline()):06}")
            writer.kill()
    store = open_at(tmp_path)
    found = {info.key for info in store.list()}
    assert told <= found
    for key in found:
        assert store.get(key, size_max=300_000) == key.removeprefix("packs/").encode() * 50_000
    assert staged(tmp_path) == []


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="is it mounted"):
        open_at(tmp_path / "missing", create=False)
    assert not (tmp_path / "missing").exists()


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for create in (True, False):
        with pytest.raises(Invalid, match="expected a directory"):
            open_at(tmp_path / "file", create=create)


def test_create_makes_the_directory_with_the_first_put(tmp_path: Path) -> None:
    store = open_at(tmp_path / "new" / "store")
    with pytest.raises(NotFound):
        store.get("volume", size_max=10)
    assert list(store.list()) == []
    assert not (tmp_path / "new").exists()
    store.put("volume", b"")
    assert open_at(tmp_path / "new" / "store", create=False).get("volume", size_max=10) == b""


def test_first_puts_at_once(tmp_path: Path) -> None:
    for round_number in range(30):
        store, line = open_at(tmp_path / str(round_number)), threading.Barrier(8)

        def put(number: int, store: DirectoryStore = store, line: threading.Barrier = line) -> None:
            line.wait()
            store.put(f"packs/{number % 3}/{number}", b"bytes")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(8)))
        assert len(list(store.list())) == 8


def test_opening_and_reading_write_nothing(tmp_path: Path) -> None:
    (tmp_path / "copied").write_bytes(b"from elsewhere")
    store = open_at(tmp_path, create=False)
    assert store.get("copied", size_max=100) == b"from elsewhere"
    assert [info.key for info in store.list()] == ["copied"]
    assert os.listdir(tmp_path) == ["copied"]
    store.put("added", b"")
    assert sorted(os.listdir(tmp_path)) == [STAGING, "added", "copied"]


def test_files_that_are_no_objects_are_not_listed(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    store.put("object", b"")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "with space").write_bytes(b"")
    assert [info.key for info in store.list()] == ["object"]


def all_calls(store: DirectoryStore) -> list[Callable[[], object]]:
    return [
        lambda: store.put("new", b""),
        lambda: store.get("object", size_max=10),
        lambda: store.get_range("object", 0, 1),
        lambda: store.head("object"),
        lambda: list(store.list()),
        lambda: store.delete(["missing"]),
    ]


def test_directory_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    top, away = tmp_path / "store", tmp_path / "away"
    store = open_at(top)
    store.put("object", b"bytes")
    for left in ("nothing", "an empty mount point"):
        top.rename(away)
        if left != "nothing":
            top.mkdir()
        for call in all_calls(store):
            with pytest.raises(Unavailable, match="is it mounted"):
                call()
        if left != "nothing":
            top.rmdir()
        away.rename(top)
    assert store.get("object", size_max=10) == b"bytes"
    assert [info.key for info in store.list()] == ["object"]


def test_a_key_below_another_object_is_refused(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    store.put("a/b", b"")
    for key in ("a", "a/b/c"):
        for create_only in (True, False):
            with pytest.raises(Invalid, match="in its way"):
                store.put(key, b"", create_only=create_only)
    assert [info.key for info in store.list()] == ["a/b"]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may do everything, so permission is tried as another user."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_permission_denied(tmp_path: Path) -> None:
    top = tmp_path / "store"
    store = open_at(top)
    store.put("object", b"bytes")
    top.chmod(0)
    try:
        with as_nobody():
            for call in all_calls(store):
                with pytest.raises(Denied, match="check owner"):
                    call()
            with pytest.raises(Denied, match="check owner"):
                open_at(top)
    finally:
        top.chmod(0o700)


def test_disk_full_by_limit(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    store.put("object", b"bytes")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(Full, match="free space"):
            store.put("large", bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [info.key for info in store.list()] == ["object"]
    assert staged(tmp_path) == []


@pytest.mark.mount
def test_disk_really_full(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=True)
    try:
        store = open_at(tmp_path)
        store.put("small", bytes(1 << 19))
        with pytest.raises(Full, match="No space left"):
            store.put("large", bytes(1 << 20))
        assert [info.key for info in store.list()] == ["small"]
        store.delete(["small"])
        store.put("other", bytes(1 << 19))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EACCES, Denied),
        (errno.EROFS, Denied),
        (errno.ENOSPC, Full),
        (errno.EDQUOT, Full),
        (errno.EIO, Unavailable),
        (errno.ESTALE, Unavailable),
        (errno.EMFILE, Unavailable),
    ],
)
def test_errors_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[FusegwError]
) -> None:
    store = open_at(tmp_path)
    store.put("object", b"bytes")

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    for call in all_calls(store)[:3]:
        with pytest.raises(expected, match=os.strerror(number)):
            call()


def test_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_at(tmp_path)

    def refuse(*_: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(Invalid, match="no hard links"):
        store.put("object", b"")
    store.put("object", b"", create_only=False)


def test_same_chance_in_two_processes_does_not_mix_staging_files(tmp_path: Path) -> None:
    open_at(tmp_path).put("object", b"")
    name = SeededEntropy(7).token(12).hex()
    with (tmp_path / STAGING / name).open("wb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        store = DirectoryStore(tmp_path, entropy=SeededEntropy(7))
        with pytest.raises(FusegwError):
            store.put("other", b"bytes")
        store.put("other", b"bytes")
        assert staged(tmp_path) == [name]
