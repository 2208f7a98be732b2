"""The shares of a gateway's volumes, put together and offered: with servers that do what a test wants."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

import fusegw.sharing
from exports.errors import ToolFailed
from exports.model import Share, User
from exports.server import Offer, Placed
from exports.status import Health, ServerStatus
from fusegw.assembly import Runtime
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.control.protocol import PutShare, PutUser, RemoveShare
from fusegw.errors import Exists, Invalid, NotFound
from fusegw.sharing import Sharing
from fusegw.store.memory import MemoryStore
from tests.faults.support import source, until, volume


class FakeServer:
    """Keeps what it is offered; `failures` says how the next calls go wrong."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.crashes = 0
        self.offer: Offer | None = None
        self.runs = 0

    @property
    def status(self) -> ServerStatus:
        return ServerStatus(protocol="smb", health=Health(state="running"))

    async def run(self) -> None:
        self.runs += 1
        if self.crashes:
            self.crashes -= 1
            raise OSError("out of descriptors")
        await trio.sleep_forever()

    async def apply(self, offer: Offer) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.offer = offer

    def refusal(self, shares: Iterable[Placed]) -> str | None:
        return None

    async def release(self) -> None:
        self.offer = None

    @property
    def names(self) -> list[str]:
        return [] if self.offer is None else [placed.share.name for placed in self.offer.shares]


@asynccontextmanager
async def running(server: FakeServer, base: Path, *wanted: Share) -> AsyncIterator[tuple[Sharing, Runtime]]:
    """One volume, `tank`, mounted on `base/mnt` as far as its shares are concerned."""
    place = base / "mnt"
    place.mkdir()
    sharing = Sharing([server], place, wanted=wanted, entropy=SystemEntropy(), is_mounted=lambda: True)
    settings: Any = SimpleNamespace(
        volume="tank", volume_number=1, mountpoint=place, allow_other=True, fixed_at=None
    )
    store = MemoryStore(clock=SystemClock())
    async with volume(source(base, store)) as runtime, trio.open_nursery() as nursery:
        nursery.start_soon(sharing.run)
        with sharing.volume(settings, runtime):
            sharing.mounted()
            yield sharing, runtime
        nursery.cancel_scope.cancel()


async def test_a_change_is_durable_and_offered(tmp_path: Path) -> None:
    server = FakeServer()
    async with running(server, tmp_path) as (sharing, runtime):
        reply = await sharing.change("tank", PutShare(Share(name="a")))
        assert [share.name for share in reply.shares] == server.names == ["a"]
        assert not runtime.metadata.pending_rows
        with pytest.raises(Exists):
            await sharing.change("tank", PutShare(Share(name="a")))
        with pytest.raises(NotFound):
            await sharing.change("tank", PutShare(Share(name="b"), edit=True))
        with pytest.raises(NotFound, match="make it first"):
            await sharing.change("tank", PutShare(Share(name="b", path="/nowhere")))
        await sharing.change("tank", RemoveShare("a"))
        assert server.names == []


async def test_no_answer_holds_a_hash(tmp_path: Path) -> None:
    async with running(FakeServer(), tmp_path) as (sharing, _):
        user = User(name="max", uid=20000, gid=20000, nt_hash="A" * 32)
        reply = await sharing.change("tank", PutUser(user))
        assert [one.nt_hash for one in reply.users] == [""]


async def test_released_it_offers_nothing_until_it_is_mounted_again(tmp_path: Path) -> None:
    server = FakeServer()
    async with running(server, tmp_path) as (sharing, _):
        await sharing.change("tank", PutShare(Share(name="a")))
        await sharing.release()
        await sharing.change("tank", PutShare(Share(name="b")))
        sharing.look()
        await trio.testing.wait_all_tasks_blocked()
        assert server.offer is None
        sharing.mounted()
        await until(lambda: server.names == ["a", "b"])


async def test_what_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusegw.sharing, "RETRY_S", 0.01)
    server = FakeServer(ToolFailed("testparm took too long"), RuntimeError("a mistake"))
    async with running(server, tmp_path) as (sharing, _):
        await until(lambda: server.offer is not None)
        server.failures.append(ToolFailed("smbd is not installed"))
        with pytest.raises(Invalid, match=r"but not served .* smbd is not installed"):
            await sharing.change("tank", PutShare(Share(name="a")))
        sharing.look()
        await until(lambda: server.names == ["a"])


async def test_a_server_that_fails_does_not_end_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusegw.sharing, "RETRY_S", 0.01)
    server = FakeServer()
    server.crashes = 2
    async with running(server, tmp_path):
        await until(lambda: server.runs == 3)


async def test_shares_of_the_configuration_are_its_own(tmp_path: Path) -> None:
    server = FakeServer()
    wanted = Share(name="filed", volume="tank", comment="x")
    async with running(server, tmp_path, wanted) as (sharing, _):
        await until(lambda: server.names == ["filed"])
        for change in (RemoveShare("filed"), PutShare(Share(name="filed"), edit=True)):
            with pytest.raises(Invalid, match="configuration file"):
                await sharing.change("tank", change)


async def test_a_share_that_would_let_nobody_in_is_told(tmp_path: Path) -> None:
    server = FakeServer()
    async with running(server, tmp_path) as (sharing, _):
        await sharing.change("tank", PutShare(Share(name="a", force_user="robot")))
        assert server.names == [] and "force_user 'robot'" in sharing.problems("tank")[0]
        await sharing.change("tank", PutUser(User(name="robot", uid=20000, gid=20000)))
        assert server.names == ["a"] and sharing.problems("tank") == ()
