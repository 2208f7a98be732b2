"""Opens and locks of NFS 4.1 and up, as a client holds them that can say who it was before (RFC 8881)."""

from typing import Self

from tests.exports.nfs_wire import Nfs4, NfsError, opaque, u32, u64

GRACE, NO_GRACE, RECLAIM_BAD, DENIED = 10013, 10033, 10034, 10010
_SETTLED_BEFORE = 10054
_READ_WRITE, _WRITE_LOCK = 3 | 0x400, 2


class Holder(Nfs4):
    """The client `name`, in this life of it (`verifier`), which holds files open and bytes locked."""

    def __init__(self, port: int, name: str, minor: int, *, verifier: bytes = b"same one") -> None:
        self._owner = verifier + opaque(name.encode())
        super().__init__(port, minor)

    def __enter__(self) -> Self:
        return self

    def owner(self) -> bytes:
        return self._owner

    def settled(self) -> None:
        """It has nothing more to reclaim; said once in a life, whatever the connections."""
        try:
            self._compound(u32(58, 0))
        except NfsError as error:
            if error.status != _SETTLED_BEFORE:
                raise

    def open(self, directory: bytes, name: str, *, create: bool = False) -> bytes:
        """The state of the open file."""
        how = u32(1, 0, 0, 0) if create else u32(0)
        return self._open(directory, how, u32(0) + opaque(name.encode()))

    def reclaim_open(self, file: bytes) -> bytes:
        return self._open(file, u32(0), u32(1, 0))

    def lock(self, file: bytes, state: bytes, *, reclaim: bool = False) -> None:
        """The first ten bytes, for writing."""
        locker = u32(1, 0) + state + u32(0) + u64(self.client) + opaque(b"locker")
        self._compound(u32(22) + opaque(file), u32(12, _WRITE_LOCK, int(reclaim)) + u64(0) + u64(10) + locker)

    def _open(self, where: bytes, how: bytes, claim: bytes) -> bytes:
        opener = u32(18, 0, _READ_WRITE, 0) + u64(self.client) + opaque(b"opener")
        return self._compound(u32(22) + opaque(where), opener + how + claim).take(16)
