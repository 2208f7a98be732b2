"""What a fenced gateway holds comes out exactly; what cannot come out is named."""

import os
import shutil
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.config import VolumePaths
from fusegw.errors import Exists
from fusegw.index import Source
from fusegw.meta.schema import ROOT_INODE
from fusegw.packs.format import RECORD_OVERHEAD
from fusegw.salvage.run import SourceReport, discard, discard_rests, look, salvage, sources_of
from fusegw.store.base import ObjectStore
from fusegw.store.faulty import FaultyStore
from fusegw.store.memory import MemoryStore
from tests.faults.support import KEYS, ROOT_USER, content, source, volume, write_file

OLD, NEW = content(1, 400_000), content(2, 300_000)
PATCH = content(3, 30_000)
NOBODY = 0xFFFFFFFF
MTIME_NS = 1_600_000_000_123_456_789


class Bench:
    """An old gateway that was cut off and fenced, and the store the other one went on with."""

    def __init__(self, base: Path) -> None:
        self.store = MemoryStore(clock=SystemClock())
        self.cut_off = FaultyStore(self.store)
        self.paths = VolumePaths(base, "tank")
        self.base = base
        self.out = base / "out"

    def source(self, store: ObjectStore) -> Source:
        given = source(self.paths.volume_dir, store, unmount_wait_s=0.0)
        return msgspec.structs.replace(given, cache_dir=self.base / "cache")

    async def fenced(self, change: Callable[[Runtime], object]) -> None:
        """A volume with `change` made after the store went away, and another gateway's takeover."""
        async with volume(self.source(self.cut_off)) as old:
            await prepare(old)
            await old.volume.barrier()
            self.cut_off.set_outage(True)
            result = change(old)
            if hasattr(result, "__await__"):
                await result
            await old.volume.sync()
        self.cut_off.set_outage(False)
        async with volume(source(self.base / "new", self.store)):
            pass

    async def remount(self) -> None:
        async with volume(self.source(self.store)):
            pass

    def look(self) -> list[SourceReport]:
        return look(sources_of(self.paths, SystemClock()), KEYS.volume_id, SystemClock())

    def salvage(self, store: ObjectStore | None = None) -> SourceReport:
        (found,) = salvage(
            sources_of(self.paths, SystemClock()),
            self.out,
            store or self.store,
            KEYS,
            beside=[*self.paths.unsent_dirs(), self.base / "cache" / "packs"],
            clock=SystemClock(),
        )
        return found


async def prepare(runtime: Runtime) -> None:
    """What both gateways know."""
    names = runtime.volume.namespace
    for name in (b"kept", b"changed", b"patched", b"renamed", b"deleted", b"linked", b"tagged"):
        await write_file(runtime, name, OLD + name)
    names.mkdir(ROOT_INODE, b"dir", 0o755, ROOT_USER)
    names.mkdir(ROOT_INODE, b"gone", 0o755, ROOT_USER)


async def change_everything(runtime: Runtime) -> None:
    names = runtime.volume.namespace
    below = names.lookup(ROOT_INODE, b"dir")
    assert below is not None
    inner = names.mkdir(below.ino, b"inner", 0o750, ROOT_USER)
    await write_file(runtime, b"new", NEW)
    new = number(runtime, b"new")
    names.rename(ROOT_INODE, b"new", inner.ino, b"new", 0)
    runtime.volume.attributes.setattr(new, mode=0o640, uid=12, gid=34, mtime_ns=MTIME_NS)
    await rewrite(runtime, b"changed", 0, NEW, truncate=True)
    await rewrite(runtime, b"patched", 100_000, PATCH)
    await rewrite(runtime, b"patched", 2_000_000, b"end")
    names.rename(ROOT_INODE, b"renamed", below.ino, b"moved", 0)
    names.unlink(ROOT_INODE, b"deleted")
    names.rmdir(ROOT_INODE, b"gone")
    names.link(number(runtime, b"linked"), below.ino, b"second")
    runtime.volume.xattrs.set(number(runtime, b"tagged"), b"user.tag", b"\x00value")
    names.symlink(ROOT_INODE, b"symlink", b"../../etc/passwd", ROOT_USER)
    names.mknod(ROOT_INODE, b"pipe", stat.S_IFIFO | 0o600, 0, ROOT_USER)
    await write_file(runtime, b"temporary", b"x")
    names.unlink(ROOT_INODE, b"temporary")


def number(runtime: Runtime, name: bytes) -> int:
    inode = runtime.volume.namespace.lookup(ROOT_INODE, name)
    assert inode is not None
    return inode.ino


async def rewrite(runtime: Runtime, name: bytes, offset: int, data: bytes, *, truncate: bool = False) -> None:
    ino, files = number(runtime, name), runtime.volume.files
    files.opened(ino)
    if truncate:
        files.truncate(ino, 0)
    await files.write(ino, offset, data)
    files.flush(ino)
    runtime.volume.closed(ino)


def patched() -> bytes:
    data = bytearray(OLD + b"patched")
    data[100_000 : 100_000 + len(PATCH)] = PATCH
    return bytes(data) + bytes(2_000_000 - len(data)) + b"end"


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@pytest.mark.parametrize("remounted", [False, True])
async def test_exactly_what_never_reached_the_store_comes_out(tmp_path: Path, remounted: bool) -> None:
    bench = Bench(tmp_path)
    await bench.fenced(change_everything)
    if remounted:
        await bench.remount()
    found = bench.salvage()
    assert found.whole, found
    assert found.source.startswith("unsent-") is remounted
    root = bench.out / found.source
    assert tree(root) == {
        "changed": NEW,
        "dir/inner/new": NEW,
        "dir/moved": OLD + b"renamed",
        "dir/second": OLD + b"linked",
        "linked": OLD + b"linked",
        "patched": patched(),
        "tagged": OLD + b"tagged",
    }
    assert found.removed == ["/deleted", "/gone", "/renamed"]
    changed = {file.path: file.changed for file in found.files}
    assert "content" in changed["/patched"] and changed["/dir/moved"] == ["name", "attributes"]
    assert changed["/tagged"] == ["xattrs", "attributes"]
    assert "/kept" not in changed and "/temporary" not in changed

    status = (root / "dir/inner/new").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o640, MTIME_NS)
    if os.geteuid() == 0:
        assert (status.st_uid, status.st_gid) == (12, 34)
    assert stat.S_IMODE((root / "dir/inner").stat().st_mode) == 0o750
    assert (root / "linked").stat().st_ino == (root / "dir/second").stat().st_ino
    assert os.getxattr(root / "tagged", "user.tag") == b"\x00value"
    assert os.readlink(root / "symlink") == "../../etc/passwd"
    assert stat.S_ISFIFO((root / "pipe").lstat().st_mode)
    assert (root / "patched").stat().st_blocks * 512 < 1_000_000, "a hole stays one"
    assert not (bench.out / f"{found.source}.incomplete").exists()
    report = msgspec.json.decode((bench.out / "fusegw-salvage.json").read_bytes(), type=list[SourceReport])
    assert report == [found]


async def test_a_look_writes_nothing_and_needs_no_store(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.fenced(change_everything)
    (found,) = bench.look()
    assert {file.state for file in found.files} == {"unsent"}
    assert not bench.out.exists()


async def test_a_volume_that_sent_everything_has_nothing_to_salvage(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    given = msgspec.structs.replace(bench.source(bench.store), unmount_wait_s=30.0)
    async with volume(given) as runtime:
        await prepare(runtime)
    assert bench.look() == []


async def late_and_early(runtime: Runtime) -> None:
    await write_file(runtime, b"one", content(10, 50_000))
    await write_file(runtime, b"two", content(11, 50_000))


async def test_a_damaged_pack_makes_its_files_incomplete_and_no_others(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.fenced(late_and_early)
    await bench.remount()
    (place,) = bench.paths.unsent_dirs()
    (pack,) = [path for path in place.iterdir() if path.name != "meta"]
    data = bytearray(pack.read_bytes())
    data[80 + RECORD_OVERHEAD + 1000] ^= 1
    pack.write_bytes(data)
    found = bench.salvage()
    assert not found.whole
    assert {file.path: file.state for file in found.files} == {"/one": "incomplete", "/two": "written"}
    (broken,) = [file for file in found.files if file.state == "incomplete"]
    assert broken.missing_bytes == 50_000 and pack.name in broken.missing[0].reason
    assert tree(bench.out / found.source) == {"two": content(11, 50_000)}
    assert tree(bench.out / f"{found.source}.incomplete") == {"one": bytes(50_000)}


async def test_access_control_lists_come_out(tmp_path: Path) -> None:
    # Version 2: the owner, user 12, the group, the mask, others.
    entries = [(1, 6, NOBODY), (2, 4, 12), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(tmp_path, "system.posix_acl_default", value)
        os.removexattr(tmp_path, "system.posix_acl_default")
    except OSError:
        pytest.skip("the file system of the tests has no access control lists")
    bench = Bench(tmp_path)

    def change(runtime: Runtime) -> None:
        runtime.volume.xattrs.set(number(runtime, b"kept"), b"system.posix_acl_access", value)

    await bench.fenced(change)
    found = bench.salvage()
    assert found.whole and [file.problems for file in found.files] == [[]]
    assert os.getxattr(bench.out / "meta" / "kept", "system.posix_acl_access") == value


async def test_a_mount_cut_off_while_it_sets_aside_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packs are moved before the index: a crash in between leaves a place where the next one goes on."""
    bench = Bench(tmp_path)
    await bench.fenced(late_and_early)
    rename = Path.rename

    def crash(path: Path, target: Path) -> Path:
        if path.name == "meta":
            raise RuntimeError("power loss")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(RuntimeError, match="power loss"):
            await bench.remount()
    (half,) = bench.paths.unsent_dirs()
    assert not (half / "meta").exists() and any(half.iterdir())
    await bench.remount()
    found = bench.salvage()
    assert found.whole
    assert tree(bench.out / found.source) == {"one": content(10, 50_000), "two": content(11, 50_000)}
    discard_rests(bench.paths, SystemClock())
    assert half.exists(), "it is needed"
    # The control: without what the first attempt moved, the files do not come out.
    shutil.rmtree(half)
    shutil.rmtree(bench.out)
    assert not bench.salvage().whole
    half.mkdir()
    (whole,) = sources_of(bench.paths, SystemClock())
    discard(whole)
    discard_rests(bench.paths, SystemClock())
    assert bench.paths.unsent_dirs() == []


async def test_without_the_store_what_is_here_comes_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.fenced(change_everything)
    for path in (bench.base / "cache" / "packs").rglob("*"):
        if path.is_file() and path.name in {entry.key[-32:] for entry in bench.store.list("packs/")}:
            path.unlink()
    bench.cut_off.set_outage(True)
    found = bench.salvage(bench.cut_off)
    states = {file.path: file.state for file in found.files}
    assert states["/dir/inner/new"] == states["/changed"] == states["/dir"] == "written"
    assert states["/patched"] == states["/tagged"] == "incomplete"
    (partly,) = [file for file in found.files if file.path == "/patched"]
    assert 0 < partly.missing_bytes < len(OLD)
    written = (bench.out / "meta.incomplete" / "patched").read_bytes()
    assert written[100_000 : 100_000 + len(PATCH)] == PATCH and len(written) == len(patched())


async def test_nothing_is_written_into_a_directory_in_use(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.fenced(late_and_early)
    bench.out.mkdir()
    (bench.out / "meta").symlink_to(tmp_path)
    with pytest.raises(Exists, match="not empty"):
        bench.salvage()


async def test_discarding_removes_one_source_and_is_finished_by_the_next(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.fenced(late_and_early)
    await bench.remount()
    (place,) = bench.paths.unsent_dirs()
    left = place.with_name(".discarded-unsent-1")
    left.mkdir()
    discard(place)
    assert bench.paths.unsent_dirs() == [] and not left.exists()
    assert bench.look() == []
