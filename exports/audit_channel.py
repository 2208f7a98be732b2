"""The way of records from a daemon of shares into the audit log: the gateway's end of `audit_channel.h`.

Each packet is one record. The daemon inherits its end of the socket, so nobody else can write to it; it waits
for us for a bounded time, then goes on without. What comes is written in batches by a worker thread.
"""

import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec

import trio

from exports.audit import AuditLog, Record
from exports.errors import ToolFailed
from exports.model import Protocol
from exports.server import Placed

PACKET_BYTES_MAX = 16384
SEND_S = 2
"""A daemon waits this long for us before it gives a record up."""
WAITING_MAX = 1000
"""Records of our own that wait to be written; more are counted."""
GATHER_S = 0.05
"""What comes is left in the socket for this long, to be written together: each writing costs as much as a
dozen records, and smbd makes several for each file."""
BATCH_MAX = 512

Parse = Callable[[bytes, Mapping[str, str]], Record | None]
"""What a packet says, given the directories of the shares by name; None for what is not to be recorded."""


class AuditChannel:
    """One daemon's. Loop thread only."""

    def __init__(self, audit: AuditLog, protocol: Protocol, parse: Parse) -> None:
        self._log = audit
        self._protocol = protocol
        self._parse = parse
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S, 0))
        self._ours.setblocking(False)
        self._shares: dict[str, str] = {}
        self._waiting: list[Record] = []
        self._unheard = 0
        self._turned = trio.Event()
        self._writing = trio.Lock()

    @property
    def descriptor(self) -> int:
        """The end for the daemon, which must inherit it."""
        return self._theirs.fileno()

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon needs in its environment, besides the library."""
        return {"FUSEGW_AUDIT_FD": str(self.descriptor)}

    def serve(self, shares: Iterable[Placed]) -> None:
        """Which shares there are from now on; those that went away are remembered for what is on its way."""
        self._shares |= {placed.share.name: placed.directory for placed in shares}

    def add(self, record: Record) -> None:
        """Something that was learned in another way."""
        if len(self._waiting) < WAITING_MAX:
            self._waiting.append(record)
        else:
            self._unheard += 1
        self._turned.set()

    async def run(self, scope: trio.CancelScope) -> None:
        """Write what comes, until `scope` is cancelled; then what has come by then."""
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_added)
                while True:
                    await trio.lowlevel.wait_readable(self._ours)
                    await trio.sleep(GATHER_S)
                    await self._write(self._received())
        with trio.CancelScope(shield=True):
            while records := [*self._received(), *self._taken()]:
                await self._write(records)

    async def _write_added(self) -> None:
        while True:
            await self._turned.wait()
            self._turned = trio.Event()
            await self._write(self._taken())

    async def _write(self, records: list[Record]) -> None:
        if records:
            async with self._writing:
                await trio.to_thread.run_sync(self._log.write, records)

    def _taken(self) -> list[Record]:
        found, self._waiting = self._waiting, []
        if self._unheard:
            found.append(Record(protocol=self._protocol, event="lost", result="unknown", count=self._unheard))
            self._unheard = 0
        return found

    def _received(self) -> list[Record]:
        found = []
        for _ in range(BATCH_MAX):
            try:
                packet = self._ours.recv(PACKET_BYTES_MAX)
            except BlockingIOError:
                break
            if (record := self._parse(packet, self._shares)) is not None:
                found.append(record)
        return found


def parts_of(packet: bytes) -> list[str]:
    """The parts of a packet; bytes that are no text are spelled out."""
    return [part.decode(errors="backslashreplace") for part in packet.removesuffix(b"\0").split(b"\0")]


def lost(parts: list[str], protocol: Protocol) -> Record | None:
    """What a daemon had to give up, if `parts` say so."""
    if len(parts) == 2 and parts[0] == "lost" and parts[1].isdigit():
        return Record(protocol=protocol, event="lost", result="unknown", count=int(parts[1]))
    return None


def inside(path: str, directory: str) -> str:
    """`path` as it is in a share of `directory`; as it is on the host when it lies elsewhere."""
    if directory and path == directory:
        return "/"
    return path[len(directory) :] if directory and path.startswith(f"{directory}/") else path


def library(name: str) -> str:
    """A library of ours to preload. ToolFailed when it was not built."""
    found = find_spec(f"exports.{name}")
    if found is None or found.origin is None:
        raise ToolFailed(
            f"fusegw was installed without its library {name} for servers of shares: install it again, where "
            "there is a C compiler"
        )
    return found.origin
