"""A private directory for the time of a block, gone afterwards however it ends.

A process that is killed leaves its directory behind; the next one of the same volume removes it. The living
are told from the dead by a lock on the directory itself, which the kernel frees with its holder.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusegw.errors import Denied, FusegwError


@contextmanager
def private_directory(base: Path, name: str) -> Iterator[Path]:
    """A new directory below `base`, 0700. Denied or FusegwError when `base` cannot be written to."""
    prefix = f".fusegw-drill-{name}-"
    try:
        _remove_leftovers(base, prefix)
        directory, lock = _make(base, prefix)
    except PermissionError as error:
        raise Denied(f"directory {base} cannot be written to: {error.strerror}; give --directory") from None
    except OSError as error:
        raise FusegwError(f"directory {base} cannot be used: {error.strerror}; give --directory") from None
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _make(base: Path, prefix: str) -> tuple[Path, int]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        try:
            lock = _locked(directory)
        except FileNotFoundError:
            continue  # taken for a leftover before it was locked
        if lock is not None and directory.exists():
            return directory, lock
        if lock is not None:
            os.close(lock)


def _remove_leftovers(base: Path, prefix: str) -> None:
    for path in base.glob(prefix + "*"):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            lock = _locked(path)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _locked(directory: Path) -> int | None:
    """Its descriptor with the lock held; None when somebody else has it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
