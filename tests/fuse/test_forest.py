"""Several volumes behind one set of handlers, without a kernel: routing, the root, what lies between two."""

import errno
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
from pyfuse3 import FUSEError

from fusegw.clock import SystemClock
from fusegw.fuse.branch import Branch
from fusegw.fuse.forest import Forest
from fusegw.fuse.invalidation import Notices
from fusegw.fuse.nodes import ROOT_NODE, VOLUME_SHIFT
from fusegw.fuse.owed import Owed
from fusegw.store.memory import MemoryStore
from tests.faults.support import source, volume

CTX: Any = SimpleNamespace(uid=0, gid=0, pid=os.getpid(), umask=0)
A, B, NOBODY = 3, 7, 5
ROOT_A, ROOT_B = A << VOLUME_SHIFT | 1, B << VOLUME_SHIFT | 1
FILE_MODE = stat.S_IFREG | 0o644


class World:
    """A forest of volumes `a` (number 3) and `b` (number 7)."""

    def __init__(self, forest: Forest, notices: Notices, a: Branch, b: Branch) -> None:
        self.forest, self.notices, self.a, self.b = forest, notices, a, b


@asynccontextmanager
async def planted(base: Path) -> AsyncIterator[World]:
    notices = Notices()
    forest = Forest(notices, clock=SystemClock(), owed=Owed())
    for name in ("a", "b"):
        (base / name).mkdir(parents=True)
    async with (
        volume(source(base / "a", MemoryStore(clock=SystemClock()))) as a,
        volume(source(base / "b", MemoryStore(clock=SystemClock()))) as b,
    ):
        world = World(
            forest,
            notices,
            forest.branch("a", a.volume, volume_number=A),
            forest.branch("b", b.volume, volume_number=B),
        )
        async with forest.shown(world.a), forest.shown(world.b):
            yield world


async def code_of(request: Any) -> int:
    """The errno of a request, given as a function without arguments, since routing may refuse at once."""
    with pytest.raises(FUSEError) as caught:
        await request()
    number: int = caught.value.errno
    return number


async def names_in(forest: Forest, node: int, monkeypatch: pytest.MonkeyPatch, start: int = 0) -> list[Any]:
    listed: list[Any] = []

    def reply(token: object, name: bytes, entry: pyfuse3.EntryAttributes, position: int) -> bool:
        listed.append((name, entry.st_ino, position))
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    handle = await forest.opendir(node, CTX)
    await forest.readdir(handle, start, None)  # type: ignore[arg-type]
    await forest.releasedir(handle)
    return listed


async def test_the_root_lists_the_volumes_in_order_of_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with planted(tmp_path) as world:
        all_of_it = [(b".", 1, 1), (b"..", 1, 2), (b"a", ROOT_A, 2 + A), (b"b", ROOT_B, 2 + B)]
        assert await names_in(world.forest, ROOT_NODE, monkeypatch) == all_of_it
        assert await names_in(world.forest, ROOT_NODE, monkeypatch, start=2 + A) == all_of_it[3:]
        root = await world.forest.getattr(ROOT_NODE, CTX)
        assert (root.st_ino, root.st_mode, root.st_nlink) == (1, stat.S_IFDIR | 0o755, 4)
        assert (root.st_uid, root.st_gid) == (0, 0)
        assert (await world.forest.lookup(ROOT_NODE, b"b", CTX)).st_ino == ROOT_B
        assert (await world.forest.lookup(ROOT_NODE, b"c", CTX)).st_ino == 0
        for name in (b".", b".."):
            assert (await world.forest.lookup(ROOT_NODE, name, CTX)).st_ino == ROOT_NODE


async def test_the_way_up_from_a_volume_leads_to_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with planted(tmp_path) as world:
        assert (await world.forest.lookup(ROOT_A, b"..", CTX)).st_ino == ROOT_NODE
        assert (await world.forest.lookup(ROOT_A, b".", CTX)).st_ino == ROOT_A
        below = (await world.forest.mkdir(ROOT_A, b"below", 0o755 | stat.S_IFDIR, CTX)).st_ino
        assert (await world.forest.lookup(below, b"..", CTX)).st_ino == ROOT_A
        assert (await names_in(world.forest, ROOT_A, monkeypatch))[:2] == [(b".", ROOT_A, 1), (b"..", 1, 2)]
        assert (await names_in(world.forest, below, monkeypatch))[1] == (b"..", ROOT_A, 2)


async def test_each_request_reaches_its_own_volume(tmp_path: Path) -> None:
    """The same inode number and the same name in both volumes; nothing of one shows in the other."""
    async with planted(tmp_path) as world:
        forest = world.forest
        nodes = []
        for root, data in ((ROOT_A, b"of a"), (ROOT_B, b"of b!")):
            opened, entry = await forest.create(root, b"name", FILE_MODE, os.O_RDWR, CTX)
            assert await forest.write(opened.fh, 0, data) == len(data)
            await forest.flush(opened.fh)
            await forest.fsync(opened.fh, False)
            assert await forest.read(opened.fh, 0, 100) == data
            await forest.release(opened.fh)
            await forest.setxattr(entry.st_ino, b"user.whose", data, CTX)
            nodes.append(entry.st_ino)
        assert nodes[0] ^ nodes[1] == (A ^ B) << VOLUME_SHIFT
        for node, data in zip(nodes, (b"of a", b"of b!"), strict=True):
            assert (await forest.getattr(node, CTX)).st_size == len(data)
            assert await forest.getxattr(node, b"user.whose", CTX) == data
            opened = await forest.open(node, os.O_RDONLY, CTX)
            assert await forest.read(opened.fh, 0, 100) == data
            await forest.release(opened.fh)
        await forest.unlink(ROOT_A, b"name", CTX)
        assert (await forest.lookup(ROOT_A, b"name", CTX)).st_ino == 0
        assert (await forest.lookup(ROOT_B, b"name", CTX)).st_ino == nodes[1]


async def test_nodes_of_other_volumes_are_stale_and_never_another_file(tmp_path: Path) -> None:
    async with planted(tmp_path) as world:
        forest = world.forest
        _, entry = await forest.create(ROOT_A, b"name", FILE_MODE, os.O_RDWR, CTX)
        ino = entry.st_ino ^ A << VOLUME_SHIFT
        for number in (B, NOBODY, 0, 255):
            foreign = number << VOLUME_SHIFT | ino
            assert await code_of(lambda node=foreign: forest.getattr(node, CTX)) == errno.ESTALE
            assert await code_of(lambda node=foreign: forest.open(node, os.O_RDONLY, CTX)) == errno.ESTALE
            assert await code_of(lambda node=foreign: forest.lookup(node, b".", CTX)) == errno.ESTALE
        for node in (NOBODY << VOLUME_SHIFT | 1, 2, A << VOLUME_SHIFT, A << VOLUME_SHIFT | 1 << 40 | 1):
            assert await code_of(lambda node=node: forest.lookup(node, b"..", CTX)) == errno.ESTALE
        await forest.forget([(NOBODY << VOLUME_SHIFT | 9, 1), (ROOT_NODE, 1), (entry.st_ino, 1), (2, 4)])


async def test_a_dispatcher_that_ignores_the_number_would_show_another_file(tmp_path: Path) -> None:
    """The control: the handlers below take the number seriously because the forest leaves it in the node."""
    async with planted(tmp_path) as world:
        _, entry = await world.forest.create(ROOT_A, b"name", FILE_MODE, os.O_RDWR, CTX)
        _, other = await world.forest.create(ROOT_B, b"name", FILE_MODE, os.O_RDWR, CTX)
        misrouted = entry.st_ino & (1 << VOLUME_SHIFT) - 1 | B << VOLUME_SHIFT
        assert (await world.b.getattr(misrouted, CTX)).st_ino == other.st_ino
        assert await code_of(lambda: world.b.getattr(entry.st_ino, CTX)) == errno.ESTALE


async def test_nothing_joins_two_volumes(tmp_path: Path) -> None:
    async with planted(tmp_path) as world:
        forest = world.forest
        _, entry = await forest.create(ROOT_A, b"name", FILE_MODE, os.O_RDWR, CTX)
        for parent in (ROOT_B, ROOT_NODE):
            assert (
                await code_of(lambda to=parent: forest.rename(ROOT_A, b"name", to, b"name", 0, CTX))
                == errno.EXDEV
            )
            assert await code_of(lambda to=parent: forest.link(entry.st_ino, to, b"name", CTX)) == errno.EXDEV
        assert await code_of(lambda: forest.rename(ROOT_NODE, b"a", ROOT_B, b"x", 0, CTX)) == errno.EXDEV
        await forest.rename(ROOT_A, b"name", ROOT_A, b"renamed", 0, CTX)
        assert (await forest.link(entry.st_ino, ROOT_A, b"twice", CTX)).st_nlink == 2


async def test_nothing_changes_the_root(tmp_path: Path) -> None:
    async with planted(tmp_path) as world:
        forest = world.forest
        anything: Any = SimpleNamespace()
        for refused in (
            lambda: forest.mkdir(ROOT_NODE, b"new", 0o755, CTX),
            lambda: forest.mknod(ROOT_NODE, b"new", FILE_MODE, 0, CTX),
            lambda: forest.create(ROOT_NODE, b"new", FILE_MODE, os.O_RDWR, CTX),
            lambda: forest.symlink(ROOT_NODE, b"new", b"target", CTX),
            lambda: forest.unlink(ROOT_NODE, b"a", CTX),
            lambda: forest.setattr(ROOT_NODE, anything, anything, None, CTX),
            lambda: forest.setxattr(ROOT_NODE, b"user.x", b"", CTX),
            lambda: forest.removexattr(ROOT_NODE, b"user.x", CTX),
        ):
            assert await code_of(refused) == errno.EPERM
        assert await code_of(lambda: forest.rmdir(ROOT_NODE, b"a", CTX)) == errno.EBUSY
        assert await code_of(lambda: forest.rename(ROOT_NODE, b"a", ROOT_NODE, b"c", 0, CTX)) == errno.EBUSY
        assert await code_of(lambda: forest.getxattr(ROOT_NODE, b"user.x", CTX)) == errno.ENODATA
        assert await forest.listxattr(ROOT_NODE, CTX) == []
        assert await forest.access(ROOT_NODE, os.R_OK, CTX)


async def test_figures_of_the_mount(tmp_path: Path) -> None:
    async with planted(tmp_path) as world:
        opened, _ = await world.forest.create(ROOT_A, b"name", FILE_MODE, os.O_RDWR, CTX)
        await world.forest.write(opened.fh, 0, bytes(range(256)) * 64)
        await world.forest.fsync(opened.fh, False)
        both, a, b = [await one.statfs(CTX) for one in (world.forest, world.a, world.b)]
        assert both.f_blocks - both.f_bfree == (a.f_blocks - a.f_bfree) + (b.f_blocks - b.f_bfree) == 4
        assert both.f_bfree == both.f_bavail == a.f_bfree == b.f_bfree  # not twice the same room
        assert both.f_files - both.f_ffree == (a.f_files - a.f_ffree) + (b.f_files - b.f_ffree) == 3
        assert (both.f_bsize, both.f_namemax) == (4096, 255)


async def test_refusals_are_each_volumes_own(tmp_path: Path) -> None:
    async with planted(tmp_path) as world:
        world.a.refuse_changes("another gateway took it over")
        assert await code_of(lambda: world.forest.mkdir(ROOT_A, b"d", 0o755, CTX)) == errno.EROFS
        assert (await world.forest.mkdir(ROOT_B, b"d", 0o755, CTX)).st_ino >> VOLUME_SHIFT == B


async def test_volumes_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is told, but only while it listens; a volume that went answers EIO, not ESTALE."""
    told: list[object] = []
    monkeypatch.setattr(pyfuse3, "invalidate_inode", lambda node, attr_only: told.append(node))
    monkeypatch.setattr(pyfuse3, "invalidate_entry", lambda node, name: told.append((node, name)))
    async with planted(tmp_path) as world:
        forest = world.forest
        (tmp_path / "c").mkdir()
        async with volume(source(tmp_path / "c", MemoryStore(clock=SystemClock()))) as third:
            world.notices.open()
            branch = forest.branch("c", third.volume, volume_number=NOBODY)
            root_c = NOBODY << VOLUME_SHIFT | 1
            before = await forest.getattr(ROOT_NODE, CTX)
            async with forest.shown(branch):
                assert told == [1, (1, b"c")]
                listed = await names_in(forest, ROOT_NODE, monkeypatch)
                assert [name for name, _, _ in listed] == [b".", b"..", b"a", b"c", b"b"]
                after = await forest.getattr(ROOT_NODE, CTX)
                assert after.st_nlink == before.st_nlink + 1 and after.st_mtime_ns > before.st_mtime_ns
                assert (await forest.lookup(ROOT_NODE, b"c", CTX)).st_ino == root_c
            assert told == 2 * [1, (1, b"c")]
            assert await code_of(lambda: forest.getattr(root_c, CTX)) == errno.EIO
            assert (await forest.lookup(ROOT_NODE, b"c", CTX)).st_ino == 0
            await world.notices.close()
        assert (await forest.getattr(ROOT_A, CTX)).st_ino == ROOT_A
    assert told == 2 * [1, (1, b"c")]
