"""What smbd tells of its users, as records of the audit log.

Two sources. Its module full_audit tells of everything that is done in shares, in packets (`smb_preload.c`):
`who`, `operation`, `outcome`, `what`, each ended by a zero. Failed logins are known to smbd's own messages
only, of which `heard` gets each line; names in them are escaped by smbd.
"""

import logging
import re
import socket
import struct
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import trio

from exports.audit import AuditLog, Event, Record
from exports.errors import ToolFailed
from exports.server import Placed

PREFIX = "%u|%I|%S"
"""full_audit:prefix; there is no `|` in any of these."""
SUCCESSES = ("connect", "disconnect", "openat", "mkdirat", "unlinkat", "renameat", "linkat", "fset_nt_acl")
FAILURES = (
    *("connect", "openat", "create_file", "mkdirat", "unlinkat", "renameat", "linkat", "fset_nt_acl"),
)
PACKET_BYTES_MAX = 16384
SEND_S = 2
"""smbd waits this long for us before it gives a record up."""
LOGINS_MAX = 1000
"""Failed logins that wait to be written; more are counted."""
BATCH_MAX = 512

_EVENTS: Mapping[str, Event] = {
    "connect": "connect",
    "disconnect": "disconnect",
    "openat": "write",
    "mkdirat": "mkdir",
    "unlinkat": "delete",
    "renameat": "rename",
    "linkat": "link",
    "fset_nt_acl": "permissions",
    "create_file": "refused",
}
_REFUSALS = ("NT_STATUS_ACCESS_DENIED", "NT_STATUS_MEDIA_WRITE_PROTECTED", "NT_STATUS_PRIVILEGE_NOT_HELD")
_REFUSED = (
    "Permission denied",
    "Operation not permitted",
    "Read-only file system",
    "No space left on device",
)
_LOGIN = re.compile(
    r"Auth: \[[^]]*\] user \[[^]]*\]\\\[(?P<user>[^]]*)\] at \[[^]]*\] with \[[^]]*\] "
    r"status \[(?P<status>NT_STATUS_\w+)\] workstation \[[^]]*\] "
    r"remote host \[(?:ipv[46]:)?(?P<client>[^]]*):\d+\]"
)

log = logging.getLogger(__name__)


class SmbAudit:
    """One smbd's way into the audit log. Loop thread only."""

    def __init__(self, audit: AuditLog) -> None:
        self._log = audit
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S, 0))
        self._ours.setblocking(False)
        self._shares: dict[str, str] = {}
        self._logins: list[Record] = []
        self._unheard = 0
        self._turned = trio.Event()
        self._writing = trio.Lock()

    @property
    def descriptor(self) -> int:
        """The end for smbd, which must inherit it."""
        return self._theirs.fileno()

    def environment(self) -> dict[str, str]:
        """What smbd needs in its environment. ToolFailed when the library was not built."""
        found = find_spec("exports._smb_preload")
        if found is None or found.origin is None:
            raise ToolFailed(
                "fusegw was installed without its library for smbd (exports/smb_preload.c): install it "
                "again, where there is a C compiler"
            )
        return {"LD_PRELOAD": found.origin, "FUSEGW_AUDIT_FD": str(self.descriptor)}

    def serve(self, shares: Iterable[Placed]) -> None:
        """Which shares there are from now on; those that went away are remembered for what is on its way."""
        self._shares |= {placed.share.name: placed.directory for placed in shares}

    def heard(self, line: str) -> None:
        """smbd said this."""
        if (record := login(line)) is None:
            return
        if len(self._logins) < LOGINS_MAX:
            self._logins.append(record)
        else:
            self._unheard += 1
        self._turned.set()

    async def run(self, scope: trio.CancelScope) -> None:
        """Write what comes, until `scope` is cancelled; then what has come by then."""
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_logins)
                while True:
                    await trio.lowlevel.wait_readable(self._ours)
                    await self._write(self._received())
        with trio.CancelScope(shield=True):
            while records := [*self._received(), *self._taken()]:
                await self._write(records)

    async def _write_logins(self) -> None:
        while True:
            await self._turned.wait()
            self._turned = trio.Event()
            await self._write(self._taken())

    async def _write(self, records: list[Record]) -> None:
        if records:
            async with self._writing:
                await trio.to_thread.run_sync(self._log.write, records)

    def _taken(self) -> list[Record]:
        found, self._logins = self._logins, []
        if self._unheard:
            found.append(Record(protocol="smb", event="lost", count=self._unheard))
            self._unheard = 0
        return found

    def _received(self) -> list[Record]:
        found = []
        for _ in range(BATCH_MAX):
            try:
                packet = self._ours.recv(PACKET_BYTES_MAX)
            except BlockingIOError:
                break
            if (record := operation(packet, self._shares)) is not None:
                found.append(record)
        return found


def operation(packet: bytes, directories: Mapping[str, str]) -> Record | None:
    """What full_audit says; None for what is not to be recorded. `directories`: of the shares, by name."""
    parts = [part.decode(errors="backslashreplace") for part in packet.rstrip(b"\0").split(b"\0")]
    if len(parts) == 2 and parts[0] == "lost" and parts[1].isdigit():
        return Record(protocol="smb", event="lost", count=int(parts[1]))
    who = parts[0].split("|")
    event = _EVENTS.get(parts[1]) if len(parts) == 4 else None
    if event is None or len(who) != 3:
        log.warning("an unknown record of smbd: %r", packet[:200])
        return Record(protocol="smb", event="lost")
    (user, client, share), result, what = who, parts[2], parts[3]
    if result != "ok":
        result = result.removeprefix("fail (").removesuffix(")")
        if not _is_refusal(parts[1], result):
            return None
    directory = directories.get(share, "")
    path, to = _paths(event, what, directory)
    return Record(
        protocol="smb",
        event=event,
        share=share,
        user=user,
        client=client,
        path="" if event in ("connect", "disconnect") else path,
        to=to,
        result=result,
    )


def login(line: str) -> Record | None:
    """A login that failed, in a line of smbd's; None for any other line."""
    if not line.startswith("Auth: "):
        return None
    match = _LOGIN.match(line)
    if match is None:
        return Record(protocol="smb", event="login", result="failed", user=line[:200])
    return Record(
        protocol="smb", event="login", user=match["user"], client=match["client"], result=match["status"]
    )


def _is_refusal(operation: str, result: str) -> bool:
    """Whether a failure is to be recorded; that a name does not exist yet is asked all the time."""
    if operation == "create_file":
        return result in _REFUSALS
    return operation != "openat" or result in _REFUSED


def _paths(event: Event, what: str, directory: str) -> tuple[str, str]:
    """The path, and the new one where there are two."""
    if event == "write":
        what = what.partition("|")[2]
    elif event == "refused":
        what = what.split("|", 3)[-1]
    elif event in ("rename", "link"):
        # Names may hold a `|`; both are absolute, so there is mostly one place only that can part them.
        old, mark, new = what.partition(f"|{directory}/")
        if mark and mark not in f"|{new}":
            return _inside(old, directory), f"/{new}"
    elif event == "permissions":
        what = what.removesuffix(" []")
    return _inside(what, directory), ""


def _inside(path: str, directory: str) -> str:
    if directory and path == directory:
        return "/"
    if directory and Path(path).is_absolute() and path.startswith(f"{directory}/"):
        return path[len(directory) :]
    return path
