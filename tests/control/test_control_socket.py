"""The control socket with a real server and real clients in one process: answers, refusals, bounds."""

import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from fusegw.control import protocol, server
from fusegw.control.client import ControlClient, connect
from fusegw.control.protocol import (
    CacheDropReply,
    CacheStatsReply,
    FileStatusReply,
    PromoteReply,
    Request,
    ShutdownReply,
    StatusReply,
    StoreHealth,
    SyncProgress,
    SyncReply,
    TrafficReply,
)
from fusegw.errors import Busy, Denied, Fenced, FusegwError, Invalid, NotFound, Unavailable
from fusegw.metering import Period
from fusegw.store.counting import Traffic

STATUS = StatusReply(
    pid=1,
    volume="tank",
    mountpoint="/mnt",
    store_url="file:///store",
    read_only=False,
    epoch=3,
    backlog_bytes=100,
    oldest_unshipped_s=1.5,
    ingest_rate_bytes_s=2.0,
    upload_rate_bytes_s=1.0,
    eta_s=100.0,
    store_health=StoreHealth(),
    files=4,
    open_files=0,
    logical_bytes=5,
    stored_bytes=6,
    metadata_bytes=7,
)
TRAFFIC = TrafficReply(
    since_mount=Period(since_unix_s=2.0, traffic=Traffic(put_requests=1, sent_bytes=9), ingested_bytes=7),
    total=Period(since_unix_s=1.0, traffic=Traffic(put_requests=5, failed_requests=2), ingested_bytes=70),
)


class FakeGateway:
    """Answers what a test tells it to; its sync ends after three reports of progress."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.sync_failure: Exception | None = None
        self.reports_left = 3
        self.reported = trio.Event()
        self.cancelled = trio.Event()

    async def status(self) -> StatusReply:
        if self.failure is not None:
            raise self.failure
        return STATUS

    async def file_status(self, inode: int) -> FileStatusReply:
        return FileStatusReply(state="shipping", size_bytes=inode, unstored_bytes=1, oldest_unshipped_s=None)

    async def cache_stats(self) -> CacheStatsReply:
        raise Busy("counting")

    async def cache_drop(self) -> CacheDropReply:
        return CacheDropReply(freed_bytes=11)

    async def traffic(self) -> TrafficReply:
        return TRAFFIC

    async def sync(self, *, wait: bool) -> SyncReply:
        if not wait:
            return SyncReply(complete=False, backlog_bytes=100)
        try:
            await self.reported.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        if self.sync_failure is not None:
            raise self.sync_failure
        return SyncReply(complete=True, backlog_bytes=0)

    def progress(self) -> SyncProgress:
        self.reports_left -= 1
        if self.reports_left == 0:
            self.reported.set()
        return SyncProgress(backlog_bytes=self.reports_left, upload_rate_bytes_s=1.0)

    async def promote(self) -> PromoteReply:
        await self.reported.wait()
        if self.failure is not None:
            raise self.failure
        return PromoteReply(epoch=4, log_seq=9, took_s=0.5)

    async def shutdown(self) -> ShutdownReply:
        return ShutdownReply(pid=1)


@asynccontextmanager
async def serving(
    socket_file: Path, gateway: FakeGateway, peer_uid: Callable[[object], int] | None = None
) -> AsyncIterator[ControlClient]:
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(server.serve, socket_file, gateway, peer_uid=peer_uid, progress_interval_s=0.0)
        )
        yield ControlClient(socket_file)
        nursery.cancel_scope.cancel()


@pytest.fixture
def socket_file(tmp_path: Path) -> Path:
    return tmp_path / "tank.sock"


async def test_questions_are_answered(socket_file: Path) -> None:
    async with serving(socket_file, FakeGateway()) as client:
        assert await trio.to_thread.run_sync(client.status) == STATUS
        assert await trio.to_thread.run_sync(client.cache_drop) == CacheDropReply(freed_bytes=11)
        assert await trio.to_thread.run_sync(client.traffic) == TRAFFIC
        assert (await trio.to_thread.run_sync(client.file_status, 1 << 39)).size_bytes == 1 << 39
        assert await trio.to_thread.run_sync(client.shutdown) == ShutdownReply(pid=1)
        with pytest.raises(Busy, match="counting"):
            await trio.to_thread.run_sync(client.cache_stats)


async def test_a_promotion_gives_signs_of_life(socket_file: Path) -> None:
    gateway = FakeGateway()
    async with serving(socket_file, gateway) as client:
        reply = PromoteReply(epoch=4, log_seq=9, took_s=0.5)
        assert await trio.to_thread.run_sync(client.promote) == reply
        gateway.failure = Invalid("no standby")
        with pytest.raises(Invalid, match="no standby"):
            await trio.to_thread.run_sync(client.promote)


async def test_an_unexpected_error_is_answered_and_the_gateway_lives_on(socket_file: Path) -> None:
    gateway = FakeGateway()
    async with serving(socket_file, gateway) as client:
        gateway.failure = ZeroDivisionError("secret detail")
        with pytest.raises(FusegwError, match="internal error") as caught:
            await trio.to_thread.run_sync(client.status)
        assert type(caught.value) is FusegwError and "secret" not in str(caught.value)
        gateway.failure = None
        assert await trio.to_thread.run_sync(client.status) == STATUS


async def test_sync_reports_on_the_way(socket_file: Path) -> None:
    seen: list[SyncProgress] = []
    async with serving(socket_file, FakeGateway()) as client:
        reply = await trio.to_thread.run_sync(lambda: client.sync(wait=True, on_progress=seen.append))
        assert reply == SyncReply(complete=True, backlog_bytes=0)
        assert [progress.backlog_bytes for progress in seen[:3]] == [2, 1, 0]
        reply = await trio.to_thread.run_sync(lambda: client.sync(wait=False, on_progress=seen.append))
        assert reply == SyncReply(complete=False, backlog_bytes=100)


async def test_sync_fails_with_the_reason(socket_file: Path) -> None:
    gateway = FakeGateway()
    gateway.sync_failure = Fenced("another gateway has epoch 9")
    async with serving(socket_file, gateway) as client:
        with pytest.raises(Fenced, match="epoch 9"):
            await trio.to_thread.run_sync(lambda: client.sync(wait=True, on_progress=lambda progress: None))


async def test_a_client_that_leaves_cancels_its_sync(socket_file: Path) -> None:
    gateway = FakeGateway()
    gateway.reports_left = 10**9
    async with serving(socket_file, gateway):
        stream = await trio.open_unix_socket(socket_file)
        await stream.send_all(protocol.encode_request(Request(method="sync", wait=True)))
        assert await stream.receive_some(10)
        assert not gateway.cancelled.is_set()
        await stream.aclose()
        await gateway.cancelled.wait()


async def test_strangers_are_refused(socket_file: Path) -> None:
    stranger = os.geteuid() + 1
    async with serving(socket_file, FakeGateway(), lambda connection: stranger) as client:
        with pytest.raises(Denied, match="only root"):
            await trio.to_thread.run_sync(client.status)


def test_a_refusal_is_read_even_if_the_question_no_longer_got_through(socket_file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as refusing:
        refusing.bind(str(socket_file))
        refusing.listen()

        def refused_at_once(path: Path, timeout_s: float) -> socket.socket:
            connection = connect(path, timeout_s)
            with refusing.accept()[0] as other:
                other.sendall(protocol.encode_failure(Denied("only root")))
            return connection

        with pytest.raises(Denied, match="only root"):
            ControlClient(socket_file, connect=refused_at_once).status()


async def test_root_is_not_refused(socket_file: Path) -> None:
    async with serving(socket_file, FakeGateway(), lambda connection: 0) as client:
        assert await trio.to_thread.run_sync(client.status) == STATUS


async def test_the_kernel_tells_who_asks() -> None:
    left, right = socket.socketpair()
    with left, right, trio.socket.from_stdlib_socket(left.dup()) as connection:
        assert server.kernel_peer_uid(connection) == os.geteuid()


async def test_a_line_without_end_is_cut_off(socket_file: Path) -> None:
    async with serving(socket_file, FakeGateway()) as client:
        stream = await trio.open_unix_socket(socket_file)
        async with stream:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await stream.send_all(b"x" * 4096)
        assert await trio.to_thread.run_sync(client.status) == STATUS


async def test_nonsense_is_answered_with_invalid(socket_file: Path) -> None:
    async with serving(socket_file, FakeGateway()), await trio.open_unix_socket(socket_file) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        line = protocol.decode_line(await stream.receive_some())
        assert isinstance(line, protocol.Failure) and line.error == "Invalid"


async def test_there_is_a_bound_on_clients(socket_file: Path) -> None:
    async with serving(socket_file, FakeGateway()) as client:
        streams = []
        for _ in range(server.CLIENTS_MAX):
            stream = await trio.open_unix_socket(socket_file)
            await stream.send_all(protocol.encode_request(Request(method="status")))
            assert await stream.receive_some()
            streams.append(stream)
        with pytest.raises(Busy, match="16 control clients"):
            await trio.to_thread.run_sync(client.status)
        await streams.pop().aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert await trio.to_thread.run_sync(client.status) == STATUS
        for stream in streams:
            await stream.aclose()


async def test_the_socket_is_private_and_goes_away(socket_file: Path) -> None:
    async with serving(socket_file, FakeGateway()):
        assert stat.S_IMODE(socket_file.stat().st_mode) == 0o600
    assert not socket_file.exists()


async def test_a_dead_gateways_socket_is_replaced(socket_file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_file))
    with pytest.raises(NotFound, match="volume 'tank' is not mounted"):
        ControlClient(socket_file).status()
    async with serving(socket_file, FakeGateway()) as client:
        assert await trio.to_thread.run_sync(client.status) == STATUS


async def test_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    async with serving(directory / "tank.sock", FakeGateway()) as client:
        assert await trio.to_thread.run_sync(client.status) == STATUS


def test_no_gateway_is_not_found(socket_file: Path) -> None:
    with pytest.raises(NotFound, match="volume 'tank' is not mounted"):
        ControlClient(socket_file).status()
    with pytest.raises(NotFound):
        ControlClient(socket_file.parent / "missing" / "tank.sock").status()


def test_a_silent_gateway_is_unavailable(socket_file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(socket_file))
        silent.listen()
        with pytest.raises(Unavailable, match="did not answer"):
            ControlClient(socket_file, timeout_s=0.01).status()


async def test_a_gateway_that_dies_before_it_answers_is_unavailable(socket_file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(socket_file))
        dying.listen()

        def die() -> None:
            connection, _ = dying.accept()
            connection.recv(100)
            connection.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, die)
            with pytest.raises(Unavailable, match="ended before it answered"):
                await trio.to_thread.run_sync(ControlClient(socket_file).status)


async def test_the_directory_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FusegwError, match="cannot be opened"):
        await server.serve(tmp_path / "missing" / "tank.sock", FakeGateway())


async def test_another_protocol_is_named(socket_file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(socket_file))
        other.listen()

        def greet() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"220 welcome\r\n")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, greet)
            with pytest.raises(Invalid, match="not understood"):
                await trio.to_thread.run_sync(ControlClient(socket_file).status)
