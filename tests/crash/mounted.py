"""A tree as a mount shows it, and work on a mount that nobody keeps account of."""

import os
import threading
from pathlib import Path

from tests.crash.rebuilt import Entry, Tree


def kernel_tree(root: Path) -> Tree:
    """The whole tree at `root` as the mount shows it; every byte comes from the gateway."""
    found: Tree = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = Path(directory) / name
            status = path.lstat()
            content, xattrs = b"", {}
            if path.is_symlink():
                content = os.readlink(path).encode()
            else:
                xattrs = {one.encode(): os.getxattr(path, one) for one in os.listxattr(path)}
                content = uncached(path) if path.is_file() else b""
            found[str(path.relative_to(root))] = Entry(
                status.st_mode, status.st_nlink, content, frozenset(xattrs.items())
            )
    return found


def uncached(path: Path) -> bytes:
    """All of a file; the kernel's own copies of it are dropped before."""
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            return file.readall()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None


def make_noise(directory: Path, stop: threading.Event) -> None:
    """Work that nobody syncs: whatever is left of it must be readable."""
    try:
        directory.mkdir(exist_ok=True)
        for number in range(100_000):
            if stop.wait(0.01):
                return
            (directory / f"n{number % 8}").write_bytes(os.urandom(number % 5 * 30_000))
            os.rename(directory / f"n{number % 8}", directory / f"m{number % 7}")
    except OSError:
        return
