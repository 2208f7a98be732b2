"""Notices to the kernel: which, when, and what becomes of them."""

import errno
import threading
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio

from fusegw.errors import FusegwError
from fusegw.fuse.invalidation import Notices, Stale
from fusegw.fuse.operations import Operations
from fusegw.fuse.owed import Owed
from fusegw.meta.rebuild import Changed

PRESENT = 7 << 56


class Kernel:
    """Writes down the notices; answers those for `refused` with an errno."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[tuple[object, ...]] = []
        self.refused: dict[int, int] = {}
        self.held = threading.Event()
        self.held.set()
        monkeypatch.setattr(pyfuse3, "invalidate_inode", self._inode)
        monkeypatch.setattr(pyfuse3, "invalidate_entry", self._entry)

    def _inode(self, node: int, attr_only: bool = False) -> None:
        self._tell(node, attr_only)

    def _entry(self, node: int, name: bytes) -> None:
        self._tell(node, name)

    def _tell(self, node: int, what: object) -> None:
        assert self.held.wait(10)
        if node in self.refused:
            raise OSError(self.refused[node], "no")
        self.told.append((node, what))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def test_only_what_the_kernel_holds_is_stale() -> None:
    volume: Any = SimpleNamespace(is_known={5, 6}.__contains__)
    served = Operations(volume, volume_number=7, owed=Owed())
    changed = Changed()
    changed.inodes, changed.contents = {1, 5, 6, 9}, {6, 8}
    changed.entries = {(1, b"a"), (5, b"b"), (9, b"c")}
    stale = served.stale(changed)
    assert set(stale.attributes) == {1, PRESENT | 5}
    assert set(stale.contents) == {PRESENT | 6}
    assert set(stale.entries) == {(1, b"a"), (PRESENT | 5, b"b")}


async def test_each_is_told_and_what_the_kernel_does_not_keep_is_no_error(kernel: Kernel) -> None:
    notices = Notices()
    notices.open()
    kernel.refused = {3: errno.ENOENT, 4: errno.ENODEV}
    await notices.send(Stale(attributes=[1, 3], contents=[2, 4], entries=[(1, b"x"), (3, b"y")]))
    assert kernel.told == [(2, False), (1, True), (1, b"x")]
    kernel.refused = {1: errno.ENOSYS}
    with pytest.raises(FusegwError, match="does not take a notice"):
        await notices.send(Stale(attributes=[1]))


async def test_without_a_session_nobody_is_told(kernel: Kernel) -> None:
    notices = Notices()
    await notices.send(Stale(contents=[1]))
    notices.open()
    await notices.close()
    await notices.send(Stale(contents=[2]))
    assert kernel.told == []


async def test_a_session_ends_after_the_notices_under_way_and_none_follow(kernel: Kernel) -> None:
    notices = Notices()
    notices.open()
    kernel.held.clear()
    ended: list[int] = []

    async def close() -> None:
        await notices.close()
        ended.append(len(kernel.told))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(notices.send, Stale(contents=list(range(1500))))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(close)
        await trio.testing.wait_all_tasks_blocked()
        assert not ended
        kernel.held.set()
    assert ended == [1000]
    assert len(kernel.told) == 1000
