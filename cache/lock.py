"""One lock file per cache directory, so that two gateways never share one."""

import fcntl
import os

from cache.disk import Disk
from cache.errors import CacheInUse, CacheUnsuitable


class DirectoryLock:
    """Held from construction to `close`; the kernel lets go of it when the process dies."""

    def __init__(self, directory: str) -> None:
        """Raises CacheInUse, naming the holder."""
        path = os.path.join(directory, "lock")
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 100, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise CacheInUse(
                f"cache directory {directory} is in use by process {holder}: stop that gateway, "
                "or give this one a cache directory of its own"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode("ascii"), 0)

    def close(self) -> None:
        os.close(self._fd)


def _sync_way_to(disk: Disk, directory: str) -> None:
    """Make the names of the directory and of those above it durable, whoever made them, up to the root of its
    file system. What may not be read was not made by us.
    """
    below, device = os.path.abspath(directory), os.stat(directory).st_dev
    while (above := os.path.dirname(below)) != below and os.stat(above).st_dev == device:
        try:
            disk.fsync_dir(above)
        except PermissionError:
            pass
        below = above


def lock_directory(disk: Disk, directory: str) -> DirectoryLock:
    """Make the cache directory (0700) durably and lock it. Raises CacheUnsuitable, CacheInUse."""
    try:
        disk.make_dir(os.path.join(directory, "packs"))
        os.chmod(directory, 0o700)
        disk.fsync_dir(directory)
        _sync_way_to(disk, directory)
        return DirectoryLock(directory)
    except OSError as error:
        raise CacheUnsuitable(
            f"cache directory {directory} cannot be used ({error.strerror}): "
            "it must be a directory this process may write to; choose another"
        ) from error
