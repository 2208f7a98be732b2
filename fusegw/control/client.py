"""The commands' end of the control socket: blocking, one connection per question, every wait bounded.

`ControlClient` turns the gateway's answers into the structs of `protocol` and its failures into the
errors of `fusegw.errors`. It imports no event loop, for commands must start fast.
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from fusegw.control import protocol
from fusegw.control.protocol import (
    CacheDropReply,
    CacheStatsReply,
    CollectReply,
    CollectWish,
    Failure,
    FileStatusReply,
    MendItem,
    MendReply,
    Progress,
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
from fusegw.errors import Denied, FusegwError, NotFound, Unavailable

TIMEOUT_S = 30.0

_Reply = TypeVar("_Reply")


def connect(socket_file: Path, timeout_s: float) -> socket.socket:
    """A connection, through the directory's descriptor: a socket address holds 107 bytes only."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        directory = os.open(socket_file.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{socket_file.name}")
        finally:
            os.close(directory)
    except OSError as error:
        connection.close()
        raise _refusal(socket_file, error) from None
    return connection


def _refusal(socket_file: Path, error: OSError) -> FusegwError:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        name = socket_file.stem
        return NotFound(
            f"volume {name!r} is not mounted: no gateway listens on {socket_file}; mount it with "
            f"fusegw mount {name} DIRECTORY"
        )
    if isinstance(error, PermissionError):
        return Denied(f"control socket {socket_file}: permission denied; run this as the gateway's user")
    return Unavailable(f"control socket {socket_file} cannot be reached: {error.strerror}")


class ControlClient:
    """Asks the gateway behind `socket_file`, named for its volume; `timeout_s` bounds the silence between
    two lines.

    Every method raises NotFound when no gateway listens there, Denied when it refuses this user,
    Unavailable when it stays silent, and whatever the gateway answers.
    """

    def __init__(
        self,
        socket_file: Path,
        *,
        timeout_s: float = TIMEOUT_S,
        connect: Callable[[Path, float], socket.socket] = connect,
    ) -> None:
        self._socket_file = socket_file
        self._timeout_s = timeout_s
        self._connect = connect

    def status(self) -> StatusReply:
        return self._ask(Request(method="status"), StatusReply)

    def file_status(self, inode: int) -> FileStatusReply:
        """How safe a file is, by the number of its inode in the volume; NotFound when there is none."""
        return self._ask(Request(method="file_status", inode=inode), FileStatusReply)

    def cache_stats(self) -> CacheStatsReply:
        return self._ask(Request(method="cache_stats"), CacheStatsReply)

    def cache_drop(self) -> CacheDropReply:
        return self._ask(Request(method="cache_drop"), CacheDropReply)

    def traffic(self) -> TrafficReply:
        return self._ask(Request(method="traffic"), TrafficReply)

    def sync(self, *, wait: bool, on_progress: Callable[[SyncProgress], None]) -> SyncReply:
        """Ship what is open; with `wait`, until the store has all; `on_progress` is called on the way."""
        return self._ask(Request(method="sync", wait=wait), SyncReply, on_progress)

    def promote(self) -> PromoteReply:
        """Make the gateway the writer of the volume it follows; takes as long as catching up takes."""
        return self._ask(Request(method="promote"), PromoteReply)

    def mend(self, chunks: Sequence[MendItem], *, repair: bool) -> MendReply:
        """Tell the gateway of chunks that are damaged in the store; with `repair` it stores anew what its
        cache has of them. Invalid when it does not write the volume."""
        return self._ask(Request(method="mend", chunks=tuple(chunks), repair=repair), MendReply)

    def collect(self, wish: CollectWish, on_progress: Callable[[SyncProgress], None]) -> CollectReply:
        """Make room in the store; `on_progress` is called on the way. Busy while that is going on."""
        return self._ask(Request(method="collect", collect=wish), CollectReply, on_progress)

    def shares(self) -> SharesReply:
        return self._ask(Request(method="shares"), SharesReply)

    def change_shares(self, change: ShareChange) -> SharesReply:
        """What is there afterwards; durable, and applied to what runs."""
        return self._ask(Request(method="change_shares", change=change), SharesReply)

    def quotas(self) -> QuotasReply:
        return self._ask(Request(method="quotas"), QuotasReply)

    def change_quota(self, wish: QuotaWish) -> QuotaStatus:
        """The quota as it is then, or was before it was removed; durable."""
        return self._ask(Request(method="change_quota", quota=wish), QuotaStatus)

    def snapshots(self) -> SnapshotsReply:
        """All of them."""
        return self._ask(Request(method="snapshots"), SnapshotsReply)

    def snapshot(self, name: str) -> SnapshotReply:
        """One of them, and what it holds, which takes a look at all of the index; NotFound."""
        return self._ask(Request(method="snapshot", snapshot=name), SnapshotReply)

    def clone(self, wish: CloneWish) -> CloneReply:
        """Copy a file or tree in metadata only; durable on return."""
        return self._ask(Request(method="clone", clone=wish), CloneReply)

    def diff(self, wish: DiffWish) -> DiffReply:
        """What changed between two snapshots, or a snapshot and now."""
        return self._ask(Request(method="diff", diff=wish), DiffReply)

    def change_snapshots(
        self, change: SnapshotChange, on_progress: Callable[[SyncProgress], None]
    ) -> SnapshotsReply:
        """Durable on return; `on_progress` is called while it waits for the store. Those it was about."""
        return self._ask(
            Request(method="change_snapshots", snapshot_change=change), SnapshotsReply, on_progress
        )

    def schedule(self) -> ScheduleReply:
        return self._ask(Request(method="schedule"), ScheduleReply)

    def change_schedule(self, wish: ScheduleWish) -> ScheduleReply:
        """How it is then; durable."""
        return self._ask(Request(method="change_schedule", schedule=wish), ScheduleReply)

    def shutdown(self) -> ShutdownReply:
        return self._ask(Request(method="shutdown"), ShutdownReply)

    def _ask(
        self,
        request: Request,
        kind: type[_Reply],
        on_progress: Callable[[SyncProgress], None] | None = None,
    ) -> _Reply:
        try:
            with self._connect(self._socket_file, self._timeout_s) as connection:
                try:
                    connection.sendall(protocol.encode_request(request))
                except BrokenPipeError:
                    pass  # refused before it was asked: the reason is there to be read
                for line in self._lines(connection):
                    if isinstance(line, Progress):
                        if on_progress is not None:
                            on_progress(line.progress)
                    elif isinstance(line, Failure):
                        raise protocol.error_of(line)
                    else:
                        return protocol.decode_result(line, kind)
        except TimeoutError:
            raise Unavailable(
                f"the gateway behind {self._socket_file} did not answer within {self._timeout_s:g} s; "
                "see its log"
            ) from None
        except OSError as error:
            raise Unavailable(f"the gateway behind {self._socket_file} hung up: {error.strerror}") from None
        raise Unavailable(f"the gateway behind {self._socket_file} ended before it answered; see its log")

    def _lines(self, connection: socket.socket) -> Iterator[protocol.Line]:
        pending = bytearray()
        while True:
            while (end := pending.find(b"\n")) < 0:
                if len(pending) > protocol.LINE_BYTES_MAX:
                    raise Unavailable(f"the gateway behind {self._socket_file} does not speak this protocol")
                data = connection.recv(64 << 10)
                if not data:
                    return
                pending += data
            yield protocol.decode_line(bytes(pending[:end]))
            del pending[: end + 1]
