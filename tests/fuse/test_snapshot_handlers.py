"""The snapshots of a volume through its handlers, without a kernel: nodes, handles, names, refusals."""

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
from pyfuse3 import FUSEError

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.fuse.nodes import ROOT_NODE, SNAPSHOTS_SLOT, VERSIONS_SLOT
from fusegw.fuse.operations import Operations
from fusegw.fuse.owed import Owed
from fusegw.fuse.routing import Alone, Router
from fusegw.meta.snapshot import SLOT_MAX, Snapshot, time_label
from fusegw.store.memory import MemoryStore
from fusegw.vfs.snapshots import Snapshots, Tree
from tests.faults.support import source, volume

CTX: Any = SimpleNamespace(uid=0, gid=0, pid=os.getpid(), umask=0)
NUMBER = 3
FILE_MODE = stat.S_IFREG | 0o644
BASE = NUMBER << 56
BY_NAME, BY_TIME = BASE | SNAPSHOTS_SLOT << 40 | 1, BASE | VERSIONS_SLOT << 40 | 1


@asynccontextmanager
async def mounted(
    base: Path, store: MemoryStore | None = None, *, visible: bool = False
) -> AsyncIterator[tuple[Router, Runtime]]:
    async with volume(source(base, store or MemoryStore(clock=SystemClock()))) as running:
        yield (
            Alone(Operations(running.volume, volume_number=NUMBER, owed=Owed(), snapshots_visible=visible)),
            running,
        )


async def code_of(request: Any) -> int:
    """The errno of a request, given as a function without arguments, since routing may refuse at once."""
    with pytest.raises(FUSEError) as caught:
        await request()
    number: int = caught.value.errno
    return number


async def put(router: Router, parent: int, name: bytes, data: bytes) -> int:
    """A file with this content; its node."""
    opened, entry = await router.create(parent, name, FILE_MODE, os.O_RDWR, CTX)
    await router.write(opened.fh, 0, data)
    await router.release(opened.fh)
    node: int = entry.st_ino
    return node


async def content(router: Router, node: int) -> bytes:
    opened = await router.open(node, os.O_RDONLY, CTX)
    data: bytes = await router.read(opened.fh, 0, 1 << 20)
    await router.release(opened.fh)
    return data


async def walk(router: Router, *names: bytes) -> int:
    """The node of a path from the root; 0 when its last name is not there."""
    node = ROOT_NODE
    for name in names:
        node = (await router.lookup(node, name, CTX)).st_ino
    return node


def changes(router: Router, parent: int) -> list[Callable[[], Any]]:
    """All that could change something in a directory."""
    anything: Any = SimpleNamespace()
    return [
        lambda: router.mkdir(parent, b"new", 0o755, CTX),
        lambda: router.mknod(parent, b"new", FILE_MODE, 0, CTX),
        lambda: router.create(parent, b"new", FILE_MODE, os.O_RDWR, CTX),
        lambda: router.symlink(parent, b"new", b"target", CTX),
        lambda: router.unlink(parent, b"file", CTX),
        lambda: router.rmdir(parent, b"one", CTX),
        lambda: router.rename(parent, b"one", parent, b"two", 0, CTX),
        lambda: router.setattr(parent, anything, anything, None, CTX),
        lambda: router.setxattr(parent, b"user.x", b"", CTX),
        lambda: router.removexattr(parent, b"user.x", CTX),
    ]


def arrivals(router: Router, name: bytes) -> list[Callable[[], Any]]:
    """All that could put a name into the root, where there are `file` and `dir`."""
    return [
        lambda: router.mkdir(ROOT_NODE, name, 0o755, CTX),
        lambda: router.create(ROOT_NODE, name, FILE_MODE, os.O_RDWR, CTX),
        lambda: router.symlink(ROOT_NODE, name, b"target", CTX),
        lambda: router.rename(ROOT_NODE, b"file", ROOT_NODE, name, 0, CTX),
        lambda: router.rename(ROOT_NODE, b"dir", ROOT_NODE, name, 0, CTX),
    ]


def departures(router: Router, name: bytes) -> list[Callable[[], Any]]:
    """All that could take a name away from the root."""
    return [
        lambda: router.rmdir(ROOT_NODE, name, CTX),
        lambda: router.unlink(ROOT_NODE, name, CTX),
        lambda: router.rename(ROOT_NODE, name, ROOT_NODE, b"x", 0, CTX),
    ]


async def listing(router: Router, node: int, monkeypatch: pytest.MonkeyPatch, start: int = 0) -> list[Any]:
    listed: list[Any] = []

    def reply(token: object, name: bytes, entry: pyfuse3.EntryAttributes, position: int) -> bool:
        listed.append((name, entry.st_ino, position))
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    handle = await router.opendir(node, CTX)
    await router.readdir(handle, start, None)  # type: ignore[arg-type]
    await router.releasedir(handle)
    return listed


async def test_a_snapshot_is_the_tree_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with mounted(tmp_path) as (router, running):
        directory = (await router.mkdir(ROOT_NODE, b"dir", 0o755, CTX)).st_ino
        node = await put(router, directory, b"file", b"before")
        await router.setxattr(node, b"user.x", b"1", CTX)
        await router.symlink(ROOT_NODE, b"link", b"dir/file", CTX)
        snapshot = await running.volume.snapshots.create("one")
        opened = await router.open(node, os.O_RDWR, CTX)
        await router.write(opened.fh, 0, b"AFTER and longer")
        await router.release(opened.fh)
        await router.setxattr(node, b"user.x", b"2", CTX)
        await router.unlink(directory, b"file", CTX)
        await put(router, directory, b"new", b"new")

        base = BASE | snapshot.slot << 40
        past = await walk(router, b".snapshots", b"one", b"dir", b"file")
        assert past == base | node & (1 << 40) - 1
        assert await content(router, past) == b"before"
        assert await router.getxattr(past, b"user.x", CTX) == b"1"
        assert await router.listxattr(past, CTX) == [b"user.x"]
        assert (await router.getattr(past, CTX)).st_size == 6
        assert await router.readlink(await walk(router, b".snapshots", b"one", b"link"), CTX) == b"dir/file"
        root = await walk(router, b".snapshots", b"one")
        assert root == base | 1
        names = [(name, node) for name, node, _ in await listing(router, root, monkeypatch)]
        link = await walk(router, b".snapshots", b"one", b"link")
        past_directory = base | directory & (1 << 40) - 1
        assert names == [(b".", root), (b"..", BY_NAME), (b"dir", past_directory), (b"link", link)]
        below = await listing(router, past_directory, monkeypatch)
        assert [(name, node) for name, node, _ in below] == [
            (b".", past_directory), (b"..", root), (b"file", past),
        ]  # fmt: skip
        position = below[-2][2]
        assert [name for name, _, _ in await listing(router, past_directory, monkeypatch, position)] == [
            b"file"
        ]
        assert (await router.lookup(past_directory, b"new", CTX)).st_ino == 0


async def test_what_the_kernel_may_believe(tmp_path: Path) -> None:
    """Of a snapshot everything for a moment, but not that it is still there."""
    async with mounted(tmp_path) as (router, running):
        await put(router, ROOT_NODE, b"file", b"x")
        await running.volume.snapshots.create("one")
        listed = await router.lookup(ROOT_NODE, b".snapshots", CTX)
        assert (listed.entry_timeout, listed.attr_timeout) == (0, 0)
        root = await router.lookup(listed.st_ino, b"one", CTX)
        assert root.entry_timeout == 0 and 0 < root.attr_timeout <= 1
        inside = await router.lookup(root.st_ino, b"file", CTX)
        assert inside.entry_timeout == inside.attr_timeout == root.attr_timeout
        absent = await router.lookup(listed.st_ino, b"two", CTX)
        assert (absent.st_ino, absent.entry_timeout) == (0, 0)


async def test_nodes_are_found_again_by_number(tmp_path: Path) -> None:
    """As for an NFS handle, in another run: "." and ".." all the way up."""
    store = MemoryStore(clock=SystemClock())
    async with mounted(tmp_path, store) as (router, running):
        directory = (await router.mkdir(ROOT_NODE, b"dir", 0o755, CTX)).st_ino
        await put(router, directory, b"file", b"before")
        await running.volume.snapshots.create("one")
        node = await walk(router, b".snapshots", b"one", b"dir", b"file")
        above = await walk(router, b".snapshots", b"one", b"dir")
        generation = (await router.lookup(node, b".", CTX)).generation
    async with mounted(tmp_path, store) as (router, _):
        found = await router.lookup(node, b".", CTX)
        assert (found.st_ino, found.generation) == (node, generation)
        for expected in (await walk(router, b".snapshots", b"one"), BY_NAME, ROOT_NODE):
            entry = await router.lookup(above, b"..", CTX)
            assert entry.st_ino == expected
            assert (await router.lookup(expected, b".", CTX)).st_ino == expected
            above = expected
        assert await content(router, node) == b"before"


async def test_a_deleted_snapshot_is_stale_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with mounted(tmp_path) as (router, running):
        await put(router, ROOT_NODE, b"file", b"before")
        await running.volume.snapshots.create("one")
        node = await walk(router, b".snapshots", b"one", b"file")
        root = await walk(router, b".snapshots", b"one")
        opened = await router.open(node, os.O_RDONLY, CTX)
        handle = await router.opendir(root, CTX)
        await running.volume.snapshots.delete("one")
        for request in (
            lambda: router.getattr(node, CTX),
            lambda: router.lookup(node, b".", CTX),
            lambda: router.lookup(root, b"file", CTX),
            lambda: router.open(node, os.O_RDONLY, CTX),
            lambda: router.read(opened.fh, 0, 10),
            lambda: router.readdir(handle, 0, None),  # type: ignore[arg-type]
            lambda: router.getxattr(node, b"user.x", CTX),
        ):
            assert await code_of(request) == errno.ESTALE
        await router.release(opened.fh)
        await router.releasedir(handle)
        assert await walk(router, b".snapshots", b"one") == 0
        assert [name for name, _, _ in await listing(router, BY_NAME, monkeypatch)] == [b".", b".."]


async def test_the_next_snapshot_in_a_slot_is_another_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of another epoch, whose sequences have the same low bits."""
    monkeypatch.setattr(Snapshots, "_free_slot", lambda *_: 9)
    store = MemoryStore(clock=SystemClock())
    seen = []
    for name in ("a", "b"):
        async with mounted(tmp_path, store) as (router, running):
            await running.volume.snapshots.create(name)
            seen.append(await router.lookup(await walk(router, b".snapshots"), name.encode(), CTX))
            await running.volume.snapshots.delete(name)
    assert seen[0].st_ino == seen[1].st_ino
    assert seen[0].generation != seen[1].generation
    assert max(entry.generation for entry in seen) < 1 << 32


async def test_a_slot_comes_back_late(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    slots = []
    for _ in range(3):
        async with mounted(tmp_path, store) as (_, running):
            for _ in range(2):
                slots.append((await running.volume.snapshots.create("one")).slot)
                await running.volume.snapshots.delete("one")
                while running.volume.snapshots.backlog:
                    await running.volume.barrier()
    assert len(set(slots)) == len(slots) and 0 < min(slots) <= max(slots) <= SLOT_MAX


async def test_nothing_changes_a_snapshot(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (router, running):
        node = await put(router, ROOT_NODE, b"file", b"before")
        await running.volume.snapshots.create("one")
        root = await walk(router, b".snapshots", b"one")
        past = await walk(router, b".snapshots", b"one", b"file")
        for parent in (root, BY_NAME, BY_TIME):
            for refused in changes(router, parent):
                assert await code_of(refused) == errno.EROFS
        assert await code_of(lambda: router.open(past, os.O_RDWR, CTX)) == errno.EROFS
        assert await code_of(lambda: router.open(past, os.O_RDONLY | os.O_TRUNC, CTX)) == errno.EROFS
        assert await code_of(lambda: router.link(past, root, b"twice", CTX)) == errno.EROFS
        # Between a snapshot and the present there is no way but to copy.
        assert await code_of(lambda: router.rename(root, b"file", ROOT_NODE, b"x", 0, CTX)) == errno.EXDEV
        assert await code_of(lambda: router.rename(ROOT_NODE, b"file", root, b"x", 0, CTX)) == errno.EXDEV
        assert await code_of(lambda: router.link(past, ROOT_NODE, b"x", CTX)) == errno.EXDEV
        opened = await router.open(past, os.O_RDONLY, CTX)
        assert await code_of(lambda: router.write(opened.fh, 0, b"x")) == errno.EROFS
        await router.flush(opened.fh)
        await router.fsync(opened.fh, False)
        assert await content(router, past) == await content(router, node) == b"before"


async def test_the_names_of_the_directories_are_taken(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (router, _):
        await put(router, ROOT_NODE, b"file", b"")
        below = (await router.mkdir(ROOT_NODE, b"dir", 0o755, CTX)).st_ino
        for name in (b".snapshots", b".previous-versions"):
            for refused in arrivals(router, name):
                assert await code_of(refused) == errno.EEXIST
            for refused in departures(router, name):
                assert await code_of(refused) == errno.EROFS
            await router.mkdir(below, name, 0o755, CTX)  # elsewhere it is a name like others


async def test_they_are_listed_only_when_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for visible in (False, True):
        (tmp_path / str(visible)).mkdir()
        async with mounted(tmp_path / str(visible), visible=visible) as (router, _):
            await put(router, ROOT_NODE, b"file", b"")
            listed = await listing(router, ROOT_NODE, monkeypatch)
            expected = [b".", b"..", b"file"] + [b".snapshots"] * visible
            assert [name for name, _, _ in listed] == expected
            assert await walk(router, b".snapshots") == BY_NAME
            assert await walk(router, b".previous-versions") == BY_TIME
            again = await listing(router, ROOT_NODE, monkeypatch, listed[-2][2])
            assert [name for name, _, _ in again] == expected[-1:]
            assert await listing(router, ROOT_NODE, monkeypatch, listed[-1][2]) == []


async def test_previous_versions_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several in one second the newest; its nodes are others than those of the same snapshot by name."""
    async with mounted(tmp_path) as (router, running):
        snapshots = running.volume.snapshots
        await put(router, ROOT_NODE, b"file", b"before")
        moment = 1_800_000_000
        times = iter([moment * 10**9, moment * 10**9 + 5, (moment + 61) * 10**9])
        made: list[Snapshot] = []
        for name in ("a", "b", "c"):
            monkeypatch.setattr(snapshots, "_clock", SimpleNamespace(time_ns=lambda at=next(times): at))
            made.append(await snapshots.create(name))
        assert time_label(made[0]) == b"@GMT-2027.01.15-08.00.00"
        listed = await listing(router, BY_TIME, monkeypatch)
        assert [name for name, _, _ in listed] == [
            b".", b"..", b"@GMT-2027.01.15-08.00.00", b"@GMT-2027.01.15-08.01.01",
        ]  # fmt: skip
        by_time = await walk(router, b".previous-versions", b"@GMT-2027.01.15-08.00.00")
        by_name = await walk(router, b".snapshots", b"b")
        assert by_time ^ by_name == 0x8000 << 40
        assert (await router.lookup(by_time, b"..", CTX)).st_ino == BY_TIME
        file = await walk(router, b".previous-versions", b"@GMT-2027.01.15-08.00.00", b"file")
        assert file ^ by_time == (await walk(router, b"file")) ^ BASE ^ 1
        assert await content(router, file) == b"before"
        assert await walk(router, b".previous-versions", b"a") == 0
        assert await walk(router, b".snapshots", b"@GMT-2027.01.15-08.00.00") == 0


async def test_numbers_that_name_no_snapshot_are_stale(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (router, running):
        slot = (await running.volume.snapshots.create("one")).slot
        for slots in (slot + 1, 0x8000, SLOT_MAX, 0xF002, 0xFFFF, slot ^ 0x4000):
            node = BASE | slots << 40 | 1
            assert await code_of(lambda node=node: router.getattr(node, CTX)) == errno.ESTALE
            assert await code_of(lambda node=node: router.lookup(node, b".", CTX)) == errno.ESTALE
        for node in (BY_NAME + 1, BY_TIME + 1, BASE | slot << 40, BASE | slot << 40 | 77):
            assert await code_of(lambda node=node: router.getattr(node, CTX)) == errno.ESTALE
        await router.forget([(BASE | slot << 40 | 1, 1), (BY_NAME, 2), (BASE | 77 << 40 | 5, 1)])


async def test_whether_it_is_in_the_store(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (router, running):
        await put(router, ROOT_NODE, b"file", b"before")
        await running.volume.snapshots.create("one")
        node = await walk(router, b".snapshots", b"one", b"file")
        assert await router.getxattr(node, b"user.fusegw.state", CTX) == b"local"
        await running.volume.barrier()
        assert await router.getxattr(node, b"user.fusegw.state", CTX) == b"stored"


async def test_a_read_that_a_deletion_overtakes_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it found may be of another time by then."""
    async with mounted(tmp_path) as (router, running):
        await put(router, ROOT_NODE, b"file", b"before")
        await running.volume.snapshots.create("one")
        opened = await router.open(await walk(router, b".snapshots", b"one", b"file"), os.O_RDONLY, CTX)
        read = Tree.read

        async def overtaken(tree: Tree, ino: int, offset: int, size: int) -> bytes:
            data = await read(tree, ino, offset, size)
            await running.volume.snapshots.delete("one")
            return data

        monkeypatch.setattr(Tree, "read", overtaken)
        assert await code_of(lambda: router.read(opened.fh, 0, 10)) == errno.ESTALE
