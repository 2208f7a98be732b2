"""A daemon that lives and serves nobody: it is stopped, and the kernel goes on taking connections to it."""

import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import exports.supervisor
from exports.model import Share
from exports.server import Offer, Placed, Server
from exports.settings import NfsSettings, SmbSettings
from exports.smb import SmbServer
from exports.supervisor import KeptWaiting, never
from tests.exports import ganeshas
from tests.plugins.s3servers import free_port

NFS = pytest.param("nfs", marks=pytest.mark.ganesha)
SMB = pytest.param("smb", marks=pytest.mark.samba)
WAIT_S = 60.0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports.supervisor, "ALIVE_S", 0.5)
    monkeypatch.setattr(exports.supervisor, "STOP_S", 0.5)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fusegw-alive-") as base:
        os.chmod(base, 0o755)
        (Path(base) / "tree").mkdir()
        yield Path(base)


@asynccontextmanager
async def served(protocol: str, place: Path, kept_waiting: KeptWaiting = never) -> AsyncIterator[Server]:
    server: Server
    if protocol == "nfs":
        chosen: NfsSettings = ganeshas.settings()
        server = ganeshas.server(place / "nfs", place / "tree", chosen, kept_waiting=kept_waiting)
        offer = ganeshas.offer(ganeshas.placed(place / "tree"))
    else:
        listen = SmbSettings(listen=("127.0.0.1",), port=free_port())
        server = SmbServer(listen, place / "smb", kept_waiting=kept_waiting)
        share = Share(name="share", guest=True, encryption="required")
        tree = Placed(share=share, mountpoint="/", directory=str(place / "tree"), read_only=True)
        offer = Offer(shares=(tree,), sid="S-1-5-21-1-2-3")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await server.apply(offer)
        await until(server, state="running")
        yield server
        await server.release()
        nursery.cancel_scope.cancel()


async def until(server: Server, *, state: str = "", misses: int = 0, other_than: int | None = None) -> int:
    """The process, once it is in that state, did not answer so often, or is another one."""
    with trio.fail_after(WAIT_S):
        while True:
            health = server.status.health
            if (
                health.pid not in (None, other_than)
                and health.misses >= misses
                and health.state in (state or health.state)
            ):
                assert health.pid is not None
                return health.pid
            await trio.sleep(0.02)


@pytest.mark.parametrize("protocol", [NFS, SMB])
async def test_a_stopped_daemon_is_replaced(protocol: str, place: Path) -> None:
    async with served(protocol, place) as server:
        first = await until(server)
        os.kill(first, signal.SIGSTOP)
        await until(server, state="running", other_than=first)
        assert server.status.health.restarts == 1
        assert "did not answer for" in (server.status.health.last_error or "")


@pytest.mark.parametrize("protocol", [NFS, SMB])
async def test_nobody_would_notice_otherwise(
    protocol: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a stopped daemon looks well to who only watches its process."""
    monkeypatch.setattr(exports.supervisor, "MISSES_MAX", 1 << 30)
    async with served(protocol, place) as server:
        first = await until(server)
        os.kill(first, signal.SIGSTOP)
        await until(server, misses=4)
        assert (server.status.health.state, server.status.health.restarts) == ("running", 0)


@pytest.mark.parametrize("protocol", [NFS, SMB])
async def test_one_that_waits_for_us_is_left_alone(protocol: str, place: Path) -> None:
    asked = 0

    def kept_waiting(within_s: float) -> bool:
        nonlocal asked
        asked += 1
        return True

    async with served(protocol, place, kept_waiting) as server:
        first = await until(server)
        os.kill(first, signal.SIGSTOP)
        with trio.fail_after(WAIT_S):
            while asked < 5:
                await trio.sleep(0.02)
        os.kill(first, signal.SIGCONT)
        assert (server.status.health.pid, server.status.health.restarts) == (first, 0)


@pytest.mark.parametrize("protocol", [NFS, SMB])
async def test_one_that_answers_again_is_forgiven(
    protocol: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also smbd that wants everything encrypted, which the question is not."""
    monkeypatch.setattr(exports.supervisor, "MISSES_MAX", 1 << 30)
    async with served(protocol, place) as server:
        first = await until(server)
        os.kill(first, signal.SIGSTOP)
        await until(server, misses=1)
        os.kill(first, signal.SIGCONT)
        with trio.fail_after(WAIT_S):
            while server.status.health.misses:
                await trio.sleep(0.02)
        assert server.status.health.pid == first
