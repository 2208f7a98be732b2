"""NFS by hand: handles as bytes, verifiers and cookies as numbers, which no client library shows.

`Nfs3` speaks MOUNT 3 and NFS 3, `Nfs4` single compounds of NFS 4.0 to 4.2, over TCP with AUTH_SYS (RFC 5531,
1813, 7530, 8881). A reply that is not a success raises `NfsError` with the status.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

MOUNT, NFS = 100005, 100003
ACCESS_DENIED, NOT_FOUND, STALE, READ_ONLY = 13, 2, 70, 30
UNSTABLE, DATA_SYNC, FILE_SYNC = 0, 1, 2
TIMEOUT_S = 30.0


class NfsError(Exception):
    """`status` is nfsstat3, nfsstat4 or mountstat3; -1 when the call itself was turned down."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Reader:
    """XDR from bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        assert len(data) == size, "reply too short"
        self._at += size + -size % 4
        return data

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def opaque(self) -> bytes:
        return self.take(self.u32())

    def post_op_attributes(self) -> "Attributes | None":
        return self.attributes() if self.u32() else None

    def attributes(self) -> "Attributes":
        kind, mode, _, uid, gid = struct.unpack(">5I", self.take(20))
        size, _, _, _, inode = struct.unpack(">5Q", self.take(40))
        _, _, mtime_s, mtime_ns, _, _ = struct.unpack(">6I", self.take(24))
        return Attributes(kind, mode, uid, gid, size, inode, mtime_s * 10**9 + mtime_ns)

    def wcc(self) -> None:
        if self.u32():
            self.take(24)
        self.post_op_attributes()


@dataclass(frozen=True)
class Attributes:
    """What the tests ask of fattr3."""

    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    inode: int
    mtime_ns: int
    """Seconds without a sign, of 32 bits: NFS 3 has no more."""


def u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def opaque(data: bytes) -> bytes:
    return u32(len(data)) + data + bytes(-len(data) % 4)


class Connection:
    """One TCP connection to one RPC program."""

    def __init__(self, port: int, program: int, version: int, *, uid: int, gid: int, source: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S, source_address=(source, 0))
        self._head = u32(0, 2, program, version)
        machine = u32(0) + opaque(b"wire") + u32(uid, gid, 0)
        self._credentials = u32(1) + opaque(machine) + u32(0, 0)
        self._xid = 0

    def call(self, procedure: int, arguments: bytes = b"") -> Reader:
        self._xid += 1
        message = u32(self._xid) + self._head + u32(procedure) + self._credentials + arguments
        self._socket.sendall(u32(1 << 31 | len(message)) + message)
        reply = Reader(self._record())
        assert reply.u32() == self._xid
        if (reply.u32(), reply.u32()) != (1, 0):  # a reply, and accepted
            raise NfsError(-1)
        reply.u32(), reply.opaque()
        if reply.u32() != 0:
            raise NfsError(-1)
        return reply

    def close(self) -> None:
        self._socket.close()

    def _record(self) -> bytes:
        record, last = b"", False
        while not last:
            (head,) = struct.unpack(">I", self._exactly(4))
            last = bool(head >> 31)
            record += self._exactly(head & 0x7FFFFFFF)
        return record

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ConnectionResetError("the server closed the connection")
            data += piece
        return bytes(data)


class Nfs3:
    """A client of NFS 3 as `uid`; `source` is the loopback address it comes from."""

    def __init__(
        self, port: int, mount_port: int, *, uid: int = 0, gid: int = 0, source: str = "127.0.0.1"
    ) -> None:
        self._nfs = Connection(port, NFS, 3, uid=uid, gid=gid, source=source)
        self._mount_port = mount_port
        self._who = {"uid": uid, "gid": gid, "source": source}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._nfs.close()

    def mount(self, path: str) -> bytes:
        """The handle of an export's root."""
        connection = Connection(self._mount_port, MOUNT, 3, **self._who)  # type: ignore[arg-type]
        try:
            return self._checked(connection.call(1, opaque(path.encode()))).opaque()
        finally:
            connection.close()

    def attributes(self, handle: bytes) -> Attributes:
        return self._call(1, opaque(handle)).attributes()

    def set_mtime(self, handle: bytes, seconds: int, ns: int) -> None:
        """SETATTR of the modification time and nothing else."""
        self._call(2, opaque(handle) + u32(0, 0, 0, 0, 0, 2, seconds, ns, 0))

    def lookup(self, directory: bytes, name: str) -> bytes:
        return self._call(3, opaque(directory) + opaque(name.encode())).opaque()

    def walk(self, directory: bytes, path: str) -> bytes:
        for name in filter(None, path.split("/")):
            directory = self.lookup(directory, name)
        return directory

    def read(self, handle: bytes, offset: int, size: int) -> bytes:
        reply = self._call(6, opaque(handle) + u64(offset) + u32(size))
        reply.post_op_attributes()
        reply.u32(), reply.u32()
        return reply.opaque()

    def write(self, handle: bytes, offset: int, data: bytes, stable: int = UNSTABLE) -> tuple[int, bytes]:
        """How durable it became, and the write verifier."""
        reply = self._call(7, opaque(handle) + u64(offset) + u32(len(data), stable) + opaque(data))
        reply.wcc()
        assert reply.u32() == len(data), "a short write"
        return reply.u32(), reply.take(8)

    def commit(self, handle: bytes) -> bytes:
        """The write verifier."""
        reply = self._call(21, opaque(handle) + u64(0) + u32(0))
        reply.wcc()
        return reply.take(8)

    def create(self, directory: bytes, name: str, mode: int = 0o644) -> bytes:
        how = u32(0, 1, mode, 0, 0, 0, 0, 0)  # unchecked; the mode and nothing else
        return self._new(self._call(8, opaque(directory) + opaque(name.encode()) + how))

    def mkdir(self, directory: bytes, name: str, mode: int = 0o755) -> bytes:
        return self._new(
            self._call(9, opaque(directory) + opaque(name.encode()) + u32(1, mode, 0, 0, 0, 0, 0))
        )

    def remove(self, directory: bytes, name: str) -> None:
        self._call(12, opaque(directory) + opaque(name.encode()))

    def names(self, directory: bytes, *, size: int = 8192) -> Iterator[str]:
        """Names in the directory, page by page, whatever happens to it in between."""
        cookie, verifier, end = 0, bytes(8), False
        while not end:
            reply = self._call(16, opaque(directory) + u64(cookie) + verifier + u32(size))
            reply.post_op_attributes()
            verifier = reply.take(8)
            while reply.u32():
                reply.u64()
                name, cookie = reply.opaque().decode(), reply.u64()
                if name not in (".", ".."):
                    yield name
            end = bool(reply.u32())

    @staticmethod
    def _new(reply: Reader) -> bytes:
        assert reply.u32(), "no handle for what was made"
        return reply.opaque()

    def _call(self, procedure: int, arguments: bytes) -> Reader:
        return self._checked(self._nfs.call(procedure, arguments))

    @staticmethod
    def _checked(reply: Reader) -> Reader:
        if status := reply.u32():
            raise NfsError(status)
        return reply


class Nfs4:
    """NFS 4.`minor` as `uid`, without opens or locks. `client` is what the server calls it, from 4.1 on."""

    client = 0

    def __init__(
        self, port: int, minor: int = 0, *, uid: int = 0, gid: int = 0, source: str = "127.0.0.1"
    ) -> None:
        self._nfs = Connection(port, NFS, 4, uid=uid, gid=gid, source=source)
        self._minor = minor
        self._session = b""
        self._sequence = 0
        if minor:
            self._begin_session()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._nfs.close()

    def owner(self) -> bytes:
        """Verifier of this life, and a name: another one each time."""
        return bytes(8) + opaque(b"wire %d" % id(self))

    def walk(self, path: str) -> bytes:
        """The handle of an absolute path in the server's name space."""
        steps = [u32(15) + opaque(name.encode()) for name in path.split("/") if name]
        return self._compound(u32(24), *steps, u32(10)).opaque()

    def size(self, handle: bytes) -> int:
        """The size of the object, by its handle."""
        return self._attribute(handle, 1 << 4).u64()

    def mtime_ns(self, handle: bytes) -> int:
        """The time of its last modification, ns since 1970."""
        seconds, ns = struct.unpack(">qI", self._attribute(handle, 0, 1 << 53 - 32).take(12))
        return int(seconds) * 10**9 + int(ns)

    def set_mtime(self, handle: bytes, mtime_ns: int) -> None:
        seconds, ns = divmod(mtime_ns, 10**9)
        values = u32(1) + struct.pack(">qI", seconds, ns)  # the client's time
        self._compound(
            u32(22) + opaque(handle), u32(34) + bytes(16) + u32(2, 0, 1 << 54 - 32) + opaque(values)
        )

    def _attribute(self, handle: bytes, *words: int) -> Reader:
        """The value of the one attribute whose bit is in `words`."""
        reply = self._compound(u32(22) + opaque(handle), u32(9, len(words), *words))
        assert [reply.u32() for _ in range(reply.u32())] == list(words)
        return Reader(reply.opaque())

    def names(self, path: str, *, size: int = 8192) -> Iterator[str]:
        """The names in a directory, page by page, whatever happens to it in between."""
        steps = [u32(15) + opaque(name.encode()) for name in path.split("/") if name]
        cookie, verifier, end = 0, bytes(8), False
        while not end:
            page = u32(26) + u64(cookie) + verifier + u32(size, size, 1, 0)
            reply = self._compound(u32(24), *steps, page)
            verifier = reply.take(8)
            while reply.u32():
                cookie = reply.u64()
                yield reply.opaque().decode()
                for _ in range(reply.u32()):
                    reply.u32()
                reply.opaque()
            end = bool(reply.u32())

    def _compound(self, *operations: bytes) -> Reader:
        """The result of the last operation, those before it have no more than a status."""
        if self._session:
            self._sequence += 1
            sequence = u32(53) + self._session + u32(self._sequence, 0, 0, 0)
            operations = (sequence, *operations)
        reply = self._raw(*operations)
        if self._session:
            self._expect(reply)
            reply.take(16 + 5 * 4)
        for _ in operations[bool(self._session) : -1]:
            self._expect(reply)
        self._expect(reply)
        return reply

    def _raw(self, *operations: bytes) -> Reader:
        reply = self._nfs.call(1, opaque(b"") + u32(self._minor, len(operations)) + b"".join(operations))
        status = reply.u32()
        reply.opaque()
        reply.u32()
        if status:
            raise NfsError(status)
        return reply

    @staticmethod
    def _expect(reply: Reader) -> None:
        reply.u32()
        if status := reply.u32():
            raise NfsError(status)

    def _begin_session(self) -> None:
        reply = self._raw(u32(42) + self.owner() + u32(0, 0, 0))  # EXCHANGE_ID, no state protection
        self._expect(reply)
        self.client, sequence = reply.u64(), reply.u32()
        channel = u32(0, 1 << 20, 1 << 20, 4096, 16, 8, 0)
        create = u32(43) + u64(self.client) + u32(sequence, 0) + channel + channel + u32(0x40000000, 1, 0)
        reply = self._raw(create)  # CREATE_SESSION with AUTH_NONE callbacks
        self._expect(reply)
        self._session = reply.take(16)
