"""Keys, chance, disks and stores that the tests of the packs own."""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from cache import Buffer, OsDisk
from fusegw.clock import SystemClock
from fusegw.packs.format import Location
from fusegw.packs.reader import ChunkRef
from fusegw.packs.writer import PackWriter
from fusegw.store.memory import MemoryStore

VOLUME_ID = bytes(range(16))


class FakeKeys:
    """Keys of one volume with master versions up to `current_version`."""

    def __init__(self, current_version: int = 1) -> None:
        self.volume_id = VOLUME_ID
        self.current_version = current_version

    def pack_key(self, version: int, salt: bytes, pack_id: bytes) -> bytes:
        return hashlib.sha256(b"%d" % version + salt + pack_id).digest()


class OneKey(FakeKeys):
    """The same key for every pack: only the associated data tells them apart."""

    def pack_key(self, version: int, salt: bytes, pack_id: bytes) -> bytes:
        return bytes(32)


class SeededEntropy:
    """The same bytes at each run, never the same twice within one. Thread-safe."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._count = 0
        self._lock = threading.Lock()

    def token(self, size: int) -> bytes:
        with self._lock:
            self._count += 1
            return hashlib.shake_128(b"%d %d" % (self._seed, self._count)).digest(size)

    def uniform(self, low: float, high: float) -> float:
        return low


class TroubledDisk(OsDisk):
    """Fails the calls named in `failing`, counts calls, and forgets at `crash` what was never synced."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[str, int] = {}
        self.fail_once: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        self.before: dict[str, Callable[[], None]] = {}
        self.deaf = False
        """fdatasync and fsync_dir do nothing: the negative control."""
        self._paths: dict[int, str] = {}
        self._synced: dict[str, bytes] = {}
        self._named: set[str] = set()

    def crash(self, top: Path) -> None:
        """Power loss: files keep what was synced, and vanish if their directory was not."""
        for path in map(str, (top / "packs").glob("*/*")):
            if path in self._named:
                Path(path).write_bytes(self._synced.get(path, b""))
            else:
                os.unlink(path)

    def open(self, path: str, flags: int) -> int:
        self._enter("open")
        fd = super().open(path, flags)
        self._paths[fd] = path
        return fd

    def pread_nowait(self, fd: int, length: int, offset: int) -> bytes | None:
        """As if all were in memory, so that the same faults are met."""
        try:
            data = self.pread(fd, length, offset)
        except OSError:
            return None
        return data if len(data) == length else None

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self._enter("pread")
        return super().pread(fd, length, offset)

    def pwrite(self, fd: int, data: Buffer, offset: int) -> None:
        self._enter("pwrite")
        super().pwrite(fd, data, offset)

    def pwritev(self, fd: int, buffers: list[Buffer], offset: int) -> None:  # type: ignore[override]
        try:
            self._enter("pwritev")
        except OSError:
            super().pwrite(fd, bytes(buffers[0])[:100], offset)
            raise
        super().pwritev(fd, buffers, offset)

    def ftruncate(self, fd: int, size: int) -> None:
        self._enter("ftruncate")
        super().ftruncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        self._enter("fdatasync")
        if not self.deaf:
            path = self._paths[fd]
            self._synced[path] = Path(path).read_bytes()

    def fsync_dir(self, path: str) -> None:
        self._enter("fsync_dir")
        if not self.deaf:
            self._named.update(map(str, Path(path).iterdir()))

    def _enter(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        hook = self.before.pop(name, None)
        if hook is not None:
            hook()
        code = self.fail_once.pop(name, None) or self.failing.get(name)
        if code:
            raise OSError(code, os.strerror(code))


class WatchedStore(MemoryStore):
    """Remembers ranged reads; `before_get` runs before each, `spoil` changes what it returns."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock())
        self.ranges: list[tuple[str, int, int]] = []
        self.before_get: Callable[[], None] | None = None
        self.spoil: Callable[[bytes], bytes] | None = None

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.ranges.append((key, offset, length))
        if self.before_get is not None:
            self.before_get()
        data = super().get_range(key, offset, length)
        return data if self.spoil is None else self.spoil(data)


def chunk_id_of(raw: bytes | memoryview) -> bytes:
    return blake3(raw, key=bytes(32)).digest()


def chunk(number: int, size: int) -> bytes:
    """Half noise, half text, so that it compresses somewhat."""
    noise = hashlib.shake_128(b"%d" % number).digest(size // 2)
    return (noise + b"the same words again and again, " * (size // 32 + 1))[:size]


def ref_of(writer: PackWriter, chunk_id: bytes, place: Location, pack_size: int = 0) -> ChunkRef:
    info = writer.describe(place.pack)
    return ChunkRef(chunk_id, place, info.pack_id, info.key_version, info.salt, pack_size)
