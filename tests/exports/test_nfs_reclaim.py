"""What clients of NFSv4 held when ganesha was killed: theirs again, and nobody else's in between."""

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from exports.nfs import NfsServer
from exports.settings import NfsSettings
from tests.exports import ganeshas
from tests.exports.ganeshas import placed, running, serving
from tests.exports.nfs_state import DENIED, GRACE, NO_GRACE, RECLAIM_BAD, Holder
from tests.exports.nfs_wire import NfsError

pytestmark = pytest.mark.ganesha
MINORS = pytest.mark.parametrize("minor", [1, 2])
GRACE_MAX_S = 60.0
_Result = TypeVar("_Result")


@pytest.fixture
def chosen() -> NfsSettings:
    return ganeshas.settings()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def nfs(tmp_path: Path, tree: Path, chosen: NfsSettings) -> NfsServer:
    return ganeshas.server(tmp_path / "nfs", tree, chosen)


async def asked(question: Callable[..., _Result], *arguments: object) -> _Result:
    return await trio.to_thread.run_sync(partial(question, *arguments))


def hold(port: int, minor: int) -> bytes:
    """A file that the client alice has open and locked; its handle. She goes without a word."""
    with Holder(port, "alice", minor) as alice:
        alice.settled()
        root = alice.walk("/share")
        state = alice.open(root, "held", create=True)
        file = alice.walk("/share/held")
        alice.lock(file, state)
    return file


def refused(act: Callable[[], object]) -> int:
    with pytest.raises(NfsError) as caught:
        act()
    return caught.value.status


async def killed(nfs: NfsServer, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Started again, when it is back."""
    restarts, pid = nfs.status.health.restarts, nfs.status.health.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    meanwhile()
    await running(nfs, restarts=restarts + 1)


def stranger_during_grace(port: int, minor: int, file: bytes) -> None:
    with Holder(port, "carol", minor) as carol:
        assert refused(lambda: carol.reclaim_open(file)) in (NO_GRACE, RECLAIM_BAD)
        carol.settled()
        assert refused(lambda: carol.open(carol.walk("/share"), "held")) == GRACE


def come_back(port: int, minor: int, file: bytes) -> Holder:
    """Alice, who has again what she held; she has to be heard of now and then to keep it."""
    with ExitStack() as stack:
        alice = stack.enter_context(Holder(port, "alice", minor))
        alice.lock(file, alice.reclaim_open(file), reclaim=True)
        alice.settled()
        stack.pop_all()
    return alice


def opened_after_grace(port: int, minor: int) -> int:
    """What carol's wish for the lock is answered with; 0: it is hers."""
    with Holder(port, "carol", minor) as carol:
        carol.settled()
        root, file = carol.walk("/share"), carol.walk("/share/held")
        try:
            carol.lock(file, carol.open(root, "held"))
        except NfsError as error:
            return error.status
    return 0


async def after_grace(port: int, minor: int, alice: Holder | None = None) -> int:
    """The same, once the grace period is over; `alice` is heard of meanwhile."""
    with trio.fail_after(GRACE_MAX_S):
        while (status := await asked(opened_after_grace, port, minor)) == GRACE:
            if alice is not None:
                await asked(alice.walk, "/share")
            await trio.sleep(0.2)
    return status


@MINORS
async def test_open_files_and_locks_are_reclaimed(
    nfs: NfsServer, tree: Path, chosen: NfsSettings, minor: int
) -> None:
    async with serving(nfs, placed(tree)):
        file = await asked(hold, chosen.port, minor)
        await killed(nfs)
        await asked(stranger_during_grace, chosen.port, minor, file)
        with await asked(come_back, chosen.port, minor, file) as alice:
            assert await after_grace(chosen.port, minor, alice) == DENIED


@MINORS
async def test_who_does_not_come_back_loses_them(
    nfs: NfsServer, tree: Path, chosen: NfsSettings, minor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exports.ganesha.GRACE_S", 3)
    async with serving(nfs, placed(tree)):
        file = await asked(hold, chosen.port, minor)
        await killed(nfs)
        assert await after_grace(chosen.port, minor) == 0
        with pytest.raises(NfsError) as caught:
            await asked(come_back, chosen.port, minor, file)
        assert caught.value.status in (NO_GRACE, RECLAIM_BAD)


async def test_nobody_is_known_without_what_ganesha_keeps_of_them(
    nfs: NfsServer, tree: Path, tmp_path: Path, chosen: NfsSettings
) -> None:
    """The control, and where it is kept: in the server's own directory."""
    async with serving(nfs, placed(tree)):
        file = await asked(hold, chosen.port, 1)
        await killed(nfs, lambda: shutil.rmtree(tmp_path / "nfs" / "v4recov"))
        with pytest.raises(NfsError) as caught:
            await asked(come_back, chosen.port, 1, file)
        assert caught.value.status in (NO_GRACE, RECLAIM_BAD)
