"""Disks for the cache's tests: one that tests can hook into, and clocks that stand still."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from cache import Buffer, OsDisk


class HookedDisk(OsDisk):
    """A real disk that calls `before[name]()` and `after_open()` once, and fails where `failing` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, Callable[[], object]] = {}
        self.after_open: Callable[[], object] | None = None
        self.failing: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        self.open_now = 0
        self.open_most = 0
        self.free: int | None = None
        self.holes_visible = True

    def _enter(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        hook = self.before.pop(name, None)
        if hook is not None:
            hook()
        if name in self.failing:
            code = self.failing[name]
            raise OSError(code, os.strerror(code))

    def open(self, path: str, flags: int) -> int:
        self._enter("open")
        fd = super().open(path, flags)
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        hook, self.after_open = self.after_open, None
        if hook is not None:
            hook()
        return fd

    def close(self, fd: int) -> None:
        self.open_now -= 1
        super().close(fd)

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

    def punch(self, fd: int, offset: int, length: int) -> None:
        self._enter("punch")
        super().punch(fd, offset, length)

    def unlink(self, path: str) -> None:
        self._enter("unlink")
        super().unlink(path)

    def stat(self, fd: int) -> os.stat_result:
        self._enter("stat")
        return super().stat(fd)

    def data_ranges(self, fd: int) -> list[tuple[int, int]]:
        return super().data_ranges(fd) if self.holes_visible else [(0, os.fstat(fd).st_size)]

    def free_bytes(self, path: str) -> int:
        self._enter("free_bytes")
        return super().free_bytes(path) if self.free is None else self.free


class StoppedClock:
    """A monotonic clock that moves only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def content(name: str, size: int) -> bytes:
    """What pack `name` holds: no stretch of zeros, and no two blocks alike."""
    return hashlib.shake_128(name.encode()).digest(size)


def pack_name(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08x}{number:024x}"


def pack_path(directory: Path, name: str) -> Path:
    return directory / "packs" / name[:2] / name


def allocated_on_disk(directory: Path) -> int:
    """Bytes that all pack files take on disk."""
    return sum(path.stat().st_blocks * 512 for path in (directory / "packs").glob("*/*"))
