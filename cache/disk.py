"""Every system call on cache files goes through a `Disk`.

That makes failures injectable: a test passes a disk that refuses to punch holes, is full, or
forgets what was never synced, and no code has to be patched. `OsDisk` is the real one. All
methods are thread-safe, block, and raise plain `OSError`; offsets and lengths are bytes.
"""

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Protocol

_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02

Buffer = bytes | bytearray | memoryview


class Disk(Protocol):
    """The system calls of the cache and of the pack writer."""

    def open(self, path: str, flags: int) -> int:
        """A descriptor; new files are 0600, symbolic links are never followed."""
        ...

    def close(self, fd: int) -> None: ...

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Up to `length` bytes; fewer only at the end of the file."""
        ...

    def pread_nowait(self, fd: int, length: int, offset: int) -> bytes | None:
        """Exactly `length` bytes if they are in memory, so that nobody waits for a device; else None."""
        ...

    def pwrite(self, fd: int, data: Buffer, offset: int) -> None:
        """All of `data`, or OSError."""
        ...

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        """All of `buffers` one after the other, or OSError."""
        ...

    def fdatasync(self, fd: int) -> None:
        """On return the bytes and the size of the file survive power loss."""
        ...

    def fsync_dir(self, path: str) -> None:
        """On return the names in directory `path` survive power loss."""
        ...

    def ftruncate(self, fd: int, size: int) -> None: ...

    def punch(self, fd: int, offset: int, length: int) -> None:
        """Free the space of that range; it reads as zeros afterwards and the size stays."""
        ...

    def unlink(self, path: str) -> None: ...

    def make_dir(self, path: str) -> None:
        """Make directory `path` (0700) and those above it; no error if it exists."""
        ...

    def scan(self, path: str) -> list[str]:
        """Names of the regular files in directory `path`."""
        ...

    def stat(self, fd: int) -> os.stat_result: ...

    def data_ranges(self, fd: int) -> list[tuple[int, int]]:
        """(start, end) of each stretch that is not a hole, ascending."""
        ...

    def free_bytes(self, path: str) -> int:
        """Free space of the file system that holds `path`."""
        ...

    def total_bytes(self, path: str) -> int:
        """Size of the file system that holds `path`."""
        ...


class OsDisk:
    """The disk of this machine."""

    def __init__(self) -> None:
        self._fallocate = ctypes.CDLL(None, use_errno=True).fallocate
        self._fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        self._fallocate.restype = ctypes.c_int

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        data = os.pread(fd, length, offset)
        while 0 < len(data) < length:
            more = os.pread(fd, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def pread_nowait(self, fd: int, length: int, offset: int) -> bytes | None:
        buffer = bytearray(length)
        try:
            present = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError:  # not in memory, or a file system that cannot tell
            return None
        return bytes(buffer) if present == length else None

    def pwrite(self, fd: int, data: Buffer, offset: int) -> None:
        written = os.pwrite(fd, data, offset)
        if written < len(data):
            self._write_rest(fd, memoryview(data)[written:], offset + written)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        iov_max = os.sysconf("SC_IOV_MAX")
        for start in range(0, len(buffers), iov_max):
            batch = buffers[start : start + iov_max]
            written = os.pwritev(fd, batch, offset)
            for buffer in batch:
                if written < len(buffer):
                    self._write_rest(fd, memoryview(buffer)[written:], offset + written)
                offset += len(buffer)
                written = max(0, written - len(buffer))

    def _write_rest(self, fd: int, rest: memoryview, offset: int) -> None:
        """Go on after a short write, until the disk says why it was short."""
        while rest:
            written = os.pwrite(fd, rest, offset)
            if written == 0:
                raise OSError(errno.ENOSPC, "the disk took no byte of a write")
            rest = rest[written:]
            offset += written

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def fsync_dir(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def punch(self, fd: int, offset: int, length: int) -> None:
        if self._fallocate(fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, offset, length) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"cannot punch a hole of {length} bytes at {offset}: {os.strerror(code)}")

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def make_dir(self, path: str) -> None:
        os.makedirs(path, mode=0o700, exist_ok=True)

    def scan(self, path: str) -> list[str]:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]

    def stat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def data_ranges(self, fd: int) -> list[tuple[int, int]]:
        ranges: list[tuple[int, int]] = []
        end = 0
        while True:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return ranges
                raise
            end = os.lseek(fd, start, os.SEEK_HOLE)
            ranges.append((start, end))

    def free_bytes(self, path: str) -> int:
        space = os.statvfs(path)
        return space.f_bavail * space.f_frsize

    def total_bytes(self, path: str) -> int:
        space = os.statvfs(path)
        return space.f_blocks * space.f_frsize
