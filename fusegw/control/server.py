"""The gateway's end of the control socket: a small trio server for a few local clients.

`serve` owns the socket file from bind to unlink; the caller holds the volume's lock, so a socket file found
there is a dead gateway's. The socket is 0600 in a 0700 directory, and each peer must be root or the user
the gateway runs as (SO_PEERCRED). Clients, line lengths and waiting times are bounded; an error in
a handler is answered and never ends the gateway. A client that goes away cancels what it asked for.
"""

import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import trio

from fusegw.control import protocol
from fusegw.control.protocol import (
    CacheDropReply,
    CacheStatsReply,
    CollectReply,
    CollectWish,
    FileStatusReply,
    MendItem,
    MendReply,
    PromoteReply,
    QuotasReply,
    QuotaStatus,
    QuotaWish,
    Request,
    ShareChange,
    SharesReply,
    ShutdownReply,
    StatusReply,
    SyncProgress,
    SyncReply,
    TrafficReply,
)
from fusegw.control.snapshots import (
    CloneReply,
    CloneWish,
    DiffReply,
    DiffWish,
    ScheduleReply,
    ScheduleWish,
    SnapshotChange,
    SnapshotReply,
    SnapshotsReply,
)
from fusegw.errors import Busy, Denied, FusegwError, Invalid

CLIENTS_MAX = 16
IDLE_S = 60.0
SEND_S = 30.0
PROGRESS_INTERVAL_S = 0.5

_Reply = TypeVar("_Reply", bound=msgspec.Struct)
_UCRED = struct.Struct("3i")
_log = logging.getLogger(__name__)


class Handler(Protocol):
    """What the gateway does for its clients; each method may raise any `FusegwError`."""

    async def status(self) -> StatusReply: ...

    async def file_status(self, inode: int) -> FileStatusReply:
        """How safe one file is; NotFound when the volume has no such inode."""
        ...

    async def cache_stats(self) -> CacheStatsReply: ...

    async def cache_drop(self) -> CacheDropReply:
        """Evict everything evictable."""
        ...

    async def traffic(self) -> TrafficReply: ...

    async def sync(self, *, wait: bool) -> SyncReply:
        """Close the open pack and ship; with `wait`, return only when all acknowledged before is in the
        store, or raise the reason why it cannot be. Cancelled when the client goes away."""
        ...

    def progress(self) -> SyncProgress:
        """Where a running sync stands; cheap, called twice a second."""
        ...

    async def promote(self) -> PromoteReply:
        """Make a standby the writer of its volume. Cancelled when the client goes away, unless it is too late
        for that."""
        ...

    async def mend(self, chunks: Sequence[MendItem], *, repair: bool) -> MendReply:
        """Do what can be done for damaged chunks; Invalid when this gateway does not write the volume."""
        ...

    async def collect(self, wish: CollectWish) -> CollectReply:
        """Make room in the store; Busy while that is going on. Cancelled when the client goes away."""
        ...

    async def shares(self) -> SharesReply: ...

    async def change_shares(self, change: ShareChange) -> SharesReply:
        """Make the change durable and apply it."""
        ...

    async def quotas(self) -> QuotasReply: ...

    async def change_quota(self, wish: QuotaWish) -> QuotaStatus:
        """Make it durable; how the quota is then, or was before it was removed."""
        ...

    async def snapshots(self) -> SnapshotsReply: ...

    async def snapshot(self, name: str) -> SnapshotReply:
        """One snapshot and what it holds; NotFound. Cancelled when the client goes away."""
        ...

    async def clone(self, wish: CloneWish) -> CloneReply:
        """A copy of a file or tree; NotFound, Exists, Invalid, Full."""

    async def diff(self, wish: DiffWish) -> DiffReply:
        """What changed between two snapshots, or a snapshot and now; NotFound, Invalid."""

    async def change_snapshots(self, change: SnapshotChange) -> SnapshotsReply:
        """Make the change durable. Cancelled when the client goes away while it waits for the store."""
        ...

    async def schedule(self) -> ScheduleReply: ...

    async def change_schedule(self, wish: ScheduleWish) -> ScheduleReply:
        """Make it durable; Invalid when this gateway does not write the volume, or its configuration says
        otherwise."""
        ...

    async def shutdown(self) -> ShutdownReply:
        """Begin an orderly unmount and return at once."""
        ...


async def serve(
    socket_file: Path,
    handler: Handler,
    *,
    peer_uid: Callable[[trio.socket.SocketType], int] | None = None,
    progress_interval_s: float = PROGRESS_INTERVAL_S,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on `socket_file` (any length; its directory exists) until cancelled; started once it accepts.

    `peer_uid` tells the user of a connection and is the kernel's word unless a test says otherwise.
    """
    listener = _bind(socket_file)
    server = _Server(handler, peer_uid or kernel_peer_uid, progress_interval_s)
    try:
        async with trio.open_nursery() as nursery:
            task_status.started()
            await server.accept(listener, nursery)
    finally:
        listener.close()
        socket_file.unlink(missing_ok=True)


def kernel_peer_uid(connection: trio.socket.SocketType) -> int:
    """User id of the process at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[1])


def _bind(socket_file: Path) -> trio.socket.SocketType:
    """A listening socket; through the directory's descriptor, for a socket address holds 107 bytes only."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        directory = os.open(socket_file.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            address = f"/proc/self/fd/{directory}/{socket_file.name}"
            socket_file.unlink(missing_ok=True)
            listener.bind(address)
            os.chmod(address, 0o600)
            listener.listen(CLIENTS_MAX)
        finally:
            os.close(directory)
    except OSError as error:
        listener.close()
        raise FusegwError(f"control socket {socket_file} cannot be opened: {error.strerror}") from error
    return trio.socket.from_stdlib_socket(listener)


class _Server:
    """The connections of one socket."""

    def __init__(
        self,
        handler: Handler,
        peer_uid: Callable[[trio.socket.SocketType], int],
        progress_interval_s: float,
    ) -> None:
        self._handler = handler
        self._peer_uid = peer_uid
        self._progress_interval_s = progress_interval_s
        self._clients = 0

    async def accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                connection, _ = await listener.accept()
            except OSError as error:  # out of descriptors, or a peer that left at once
                _log.warning("control socket: accept failed: %s", error)
                await trio.sleep(PROGRESS_INTERVAL_S)
                continue
            nursery.start_soon(self._serve_client, connection)

    async def _serve_client(self, connection: trio.socket.SocketType) -> None:
        self._clients += 1
        try:
            async with trio.SocketStream(connection) as stream:
                await self._converse(connection, _LineStream(stream))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError) as error:
            _log.debug("control client left: %r", error)
        finally:
            self._clients -= 1

    async def _converse(self, connection: trio.socket.SocketType, lines: "_LineStream") -> None:
        refusal = self._refusal(self._peer_uid(connection))
        if refusal is not None:
            await lines.send(protocol.encode_failure(refusal))
            return
        while True:
            try:
                line = await lines.receive()
                if line is None:
                    return
                request = protocol.decode_request(line)
            except Invalid as error:
                await lines.send(protocol.encode_failure(error))
                return
            # The mount may be gone, and all of us cancelled, before umount(2) has returned to its caller.
            with trio.CancelScope(shield=request.method == "shutdown"):
                await lines.send(await self._answer(request, lines))

    def _refusal(self, uid: int) -> FusegwError | None:
        if uid not in (0, os.geteuid()):
            return Denied("only root and the user the gateway runs as may control it")
        if self._clients > CLIENTS_MAX:
            return Busy(f"the gateway serves {CLIENTS_MAX} control clients already; try again")
        return None

    async def _answer(self, request: Request, lines: "_LineStream") -> bytes:
        try:
            return protocol.encode_result(await self._dispatch(request, lines))
        except FusegwError as error:
            return protocol.encode_failure(error)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            raise
        except Exception:
            _log.exception("control request %s failed", request.method)
            return protocol.encode_failure(FusegwError("internal error of the gateway; see its log"))

    async def _dispatch(self, request: Request, lines: "_LineStream") -> msgspec.Struct:
        if request.method == "status":
            return await self._handler.status()
        if request.method == "file_status":
            return await self._handler.file_status(request.inode)
        if request.method == "cache_stats":
            return await self._handler.cache_stats()
        if request.method == "cache_drop":
            return await self._handler.cache_drop()
        if request.method == "traffic":
            return await self._handler.traffic()
        if request.method == "sync":
            if not request.wait:
                return await self._handler.sync(wait=False)
            return await self._reporting(lines, partial(self._handler.sync, wait=True))
        if request.method == "promote":
            return await self._reporting(lines, self._handler.promote)
        if request.method == "mend":
            work = partial(self._handler.mend, request.chunks, repair=request.repair)
            return await self._reporting(lines, work)
        if request.method == "collect":
            return await self._reporting(lines, partial(self._handler.collect, request.collect))
        if request.method == "shares":
            return await self._handler.shares()
        if request.method == "change_shares":
            if request.change is None:
                raise Invalid("change_shares needs a change")
            return await self._handler.change_shares(request.change)
        if request.method == "quotas":
            return await self._handler.quotas()
        if request.method == "change_quota":
            return await self._handler.change_quota(request.quota)
        if request.method == "snapshots":
            return await self._handler.snapshots()
        if request.method == "snapshot":
            return await self._reporting(lines, partial(self._handler.snapshot, request.snapshot))
        if request.method == "change_snapshots":
            if request.snapshot_change is None:
                raise Invalid("change_snapshots needs a change")
            work_on = partial(self._handler.change_snapshots, request.snapshot_change)
            return await self._reporting(lines, work_on)
        if request.method == "clone":
            return await self._reporting(lines, partial(self._handler.clone, request.clone))
        if request.method == "diff":
            return await self._reporting(lines, partial(self._handler.diff, request.diff))
        if request.method == "schedule":
            return await self._handler.schedule()
        if request.method == "change_schedule":
            if request.schedule is None:
                raise Invalid("change_schedule needs a schedule")
            return await self._handler.change_schedule(request.schedule)
        return await self._handler.shutdown()

    async def _reporting(self, lines: "_LineStream", work: Callable[[], Awaitable[_Reply]]) -> _Reply:
        """Work that takes time, with a progress line now and then; ends when the client leaves."""
        reply: _Reply | None = None
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report, lines, nursery.cancel_scope)
            try:
                reply = await work()
            except Exception as error:  # kept bare, out of the nursery's exception group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if reply is None:
            raise trio.BrokenResourceError("the client left while it waited")
        return reply

    async def _report(self, lines: "_LineStream", waiting: trio.CancelScope) -> None:
        try:
            while True:
                await trio.sleep(self._progress_interval_s)
                await lines.send(protocol.encode_progress(self._handler.progress()))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            waiting.cancel()


class _LineStream:
    """Lines of bounded length over a byte stream, with a time limit on each."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._pending = bytearray()

    async def receive(self) -> bytes | None:
        """The next line without its newline; None at the end. Invalid when it is too long."""
        with trio.fail_after(IDLE_S):
            while (end := self._pending.find(b"\n")) < 0:
                if len(self._pending) >= protocol.LINE_BYTES_MAX:
                    raise Invalid(f"control request longer than {protocol.LINE_BYTES_MAX} bytes")
                data = await self._stream.receive_some(4096)
                if not data:
                    return None
                self._pending += data
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        return line

    async def send(self, line: bytes) -> None:
        with trio.fail_after(SEND_S):
            await self._stream.send_all(line)
