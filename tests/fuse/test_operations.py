"""What real kernels rarely ask: requests about nodes that are gone, callers that have left."""

import errno
import os
import stat
from types import SimpleNamespace
from typing import Any

import pytest
from pyfuse3 import FUSEError

from fusegw.fuse.operations import Operations
from fusegw.fuse.owed import Owed
from fusegw.meta.schema import Inode
from fusegw.vfs.caller import Caller

PRESENT = 7 << 56
FOREIGN = 8 << 56 | 5
DIRECTORY = Inode(5, 1, stat.S_IFDIR | 0o755, 2, 0, 0, 4096, 0, 0, 0, 0, parent=1)


class Volume:
    """Just enough of a volume to see what it was asked."""

    crowded = False

    def __init__(self) -> None:
        self.inodes = SimpleNamespace(get={5: DIRECTORY}.get)
        self.attributes = SimpleNamespace(setattr=self._setattr)
        self.forgotten: list[tuple[int, int]] = []
        self.callers: list[Caller] = []

    def forget(self, ino: int, count: int) -> None:
        if ino == 6:
            raise RuntimeError("a mistake")
        self.forgotten.append((ino, count))

    def _setattr(self, ino: int, *, caller: Caller, **changes: int) -> Inode:
        self.callers.append(caller)
        return DIRECTORY


def operations(volume: Volume) -> Operations:
    stand_in: Any = volume
    return Operations(stand_in, volume_number=7, owed=Owed())


def request(pid: int) -> Any:
    return SimpleNamespace(uid=1000, gid=1000, pid=pid, umask=0)


async def code_of(awaitable: Any) -> int:
    with pytest.raises(FUSEError) as caught:
        await awaitable
    number: int = caught.value.errno
    return number


async def test_forgetting_never_fails() -> None:
    """It has no reply, so an error would end the session."""
    volume = Volume()
    await operations(volume).forget([(FOREIGN, 1), (PRESENT | 6, 1), (PRESENT | 5, 3)])
    assert volume.forgotten == [(5, 3)]


async def test_nodes_of_nobody_are_stale() -> None:
    served = operations(Volume())
    assert await code_of(served.getattr(FOREIGN, request(1))) == errno.ESTALE
    assert await code_of(served.getattr(PRESENT | 99, request(1))) == errno.ESTALE
    assert await code_of(served.open(PRESENT | 99, os.O_RDONLY, request(1))) == errno.ESTALE
    assert (await served.getattr(PRESENT | 5, request(1))).st_ino == PRESENT | 5


async def test_further_groups_of_callers_here_and_gone() -> None:
    volume = Volume()
    fields: Any = SimpleNamespace(
        update_size=False,
        update_mode=True,
        update_uid=False,
        update_gid=False,
        update_atime=False,
        update_mtime=False,
        update_ctime=False,
    )
    wanted: Any = SimpleNamespace(st_mode=0o755)
    for pid in (os.getpid(), 0, 1 << 30):
        await operations(volume).setattr(PRESENT | 5, wanted, fields, None, request(pid))
    here, unseen, gone = volume.callers
    assert all(here.in_group(group) for group in os.getgroups())
    assert not unseen.in_group(4711)
    assert not gone.in_group(4711)


async def test_read_only_handlers_refuse_by_themselves() -> None:
    stand_in: Any = Volume()
    served = Operations(stand_in, volume_number=7, owed=Owed())
    served.refuse_changes("just so")
    ctx = request(1)
    refused = [
        served.mknod(1, b"x", 0o100644, 0, ctx),
        served.mkdir(1, b"x", 0o755, ctx),
        served.symlink(1, b"x", b"y", ctx),
        served.link(PRESENT | 5, 1, b"x", ctx),
        served.create(1, b"x", 0o100644, os.O_WRONLY, ctx),
        served.unlink(1, b"x", ctx),
        served.rmdir(1, b"x", ctx),
        served.rename(1, b"x", 1, b"y", 0, ctx),
        served.setattr(PRESENT | 5, SimpleNamespace(), SimpleNamespace(), None, ctx),  # type: ignore[arg-type]
        served.setxattr(PRESENT | 5, b"user.x", b"", ctx),
        served.removexattr(PRESENT | 5, b"user.x", ctx),
        served.write(5, 0, b"x"),
        served.open(PRESENT | 5, os.O_RDWR, ctx),
        served.open(PRESENT | 5, os.O_RDONLY | os.O_TRUNC, ctx),
    ]
    for handler in refused:
        assert await code_of(handler) == errno.EROFS


async def test_changes_are_let_in_again_and_go_to_the_volume_that_is_named() -> None:
    before, after = Volume(), Volume()
    served = operations(before)
    served.refuse_changes("a standby")
    stand_in: Any = after
    served.accept_changes(stand_in)
    fields: Any = SimpleNamespace(
        update_size=False,
        update_mode=True,
        update_uid=False,
        update_gid=False,
        update_atime=False,
        update_mtime=False,
        update_ctime=False,
    )
    wanted: Any = SimpleNamespace(st_mode=0o755)
    await served.setattr(PRESENT | 5, wanted, fields, None, request(1))
    assert (len(before.callers), len(after.callers)) == (0, 1)
