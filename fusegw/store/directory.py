"""A directory as object store: `file:///srv/backup`. An object `packs/ab/x` is the file `packs/ab/x`.

Promises:

- Whole or not at all: bytes go to a staging file, fdatasync, then link(2) (create-only: the kernel refuses a
  taken name) or rename(2) (overwrite), then fsync of the directory. A crash leaves at most a staging file.
- Staging files lie in `.staging` and are locked while written; opening the store sweeps those nobody holds.
- `.staging` also marks the directory as a store in use: when it vanishes (a disk unmounted below us, an empty
  mount point left) every call is Unavailable rather than NotFound or a write to the wrong disk.

Files and directories are made for the owner alone. Names the store would not give (`lost+found`) are ignored.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fusegw.clock import Entropy
from fusegw.durable import sync_directory, sync_way_to
from fusegw.errors import Corrupt, Denied, Exists, Full, FusegwError, Invalid, NotFound, Unavailable
from fusegw.store.base import (
    ObjectInfo,
    beyond_end,
    check_key,
    check_prefix,
    check_range,
    is_key_part,
    too_large,
)

STAGING = ".staging"

_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
_NO_OBJECT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


class DirectoryStore:
    """`ObjectStore` over the files below `top`. Thread-safe; several processes may share the directory."""

    def __init__(self, top: Path, *, entropy: Entropy, create: bool = False) -> None:
        """Open the directory; nothing is written before the first put, except that stale staging files go.

        create: the first put makes a missing `top`; otherwise a missing one is Unavailable at once.
        """
        self._top = os.path.abspath(top)
        self._staging = os.path.join(self._top, STAGING)
        self._entropy = entropy
        self._create = create
        self._settled: set[str] = set()  # directories whose way up to the top this process has fsynced
        self.url = f"file://{self._top}"
        if os.path.isfile(self._top):
            raise Invalid(f"store {self.url}: it is a file, expected a directory")
        with self._errors("", writing=True):
            if not _is_directory(self._top) and not create:
                raise Unavailable(self._missing())
            self._marked = _is_directory(self._staging)
        self._sweep()

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        check_key(key)
        target = os.path.join(self._top, key)
        with self._errors(key, writing=True):
            staged, fd = self._stage()
            try:
                _write_all(fd, data)
                os.fdatasync(fd)
                self._place(staged, target, key, create_only=create_only)
            finally:
                os.close(fd)
                with suppress(OSError):  # gone by rename; anything else is swept at the next start
                    os.unlink(staged)

    def get(self, key: str, *, size_max: int) -> bytes:
        check_key(key)
        with self._errors(key):
            fd = os.open(os.path.join(self._top, key), os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = _expect_file(os.fstat(fd)).st_size
                if size > size_max:
                    raise Corrupt(too_large(self.url, key, size, size_max))
                data = _read_range(fd, 0, size)
            finally:
                os.close(fd)
        if len(data) != size:
            raise Unavailable(
                f"object {key} in {self.url} shrank while read: does something else write there?"
            )
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        check_key(key)
        check_range(key, offset, length)
        with self._errors(key):
            fd = os.open(os.path.join(self._top, key), os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = _read_range(fd, offset, length)
                if len(data) != length:
                    raise Invalid(beyond_end(self.url, key, offset, length, os.fstat(fd).st_size))
            finally:
                os.close(fd)
        return data

    def head(self, key: str) -> ObjectInfo:
        check_key(key)
        with self._errors(key):
            status = _expect_file(os.stat(os.path.join(self._top, key)))
        return ObjectInfo(key, status.st_size, status.st_mtime_ns)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._errors(prefix):
            self._expect_store()
        return self._walk("", prefix, start_after)

    def delete(self, keys: Iterable[str]) -> None:
        touched: set[str] = set()
        for key in keys:
            check_key(key)
            path = os.path.join(self._top, key)
            with self._errors(key, writing=True):
                try:
                    os.unlink(path)
                    touched.add(os.path.dirname(path))
                except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    self._expect_store()
        with self._errors("", writing=True):
            for directory in sorted(touched):
                sync_directory(directory)

    def close(self) -> None:
        """Nothing is held open."""

    def _stage(self) -> tuple[str, int]:
        """A new locked staging file: its path and descriptor."""
        path = os.path.join(self._staging, self._entropy.token(12).hex())
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._mark()
            fd = os.open(path, flags, 0o600)
        self._marked = True
        with suppress(OSError):  # no locks on this file system: then nothing sweeps, either
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path, fd

    def _mark(self) -> None:
        """Make `.staging`, and the top if that is wanted, in a directory not yet in use."""
        self._expect_store()
        if self._marked:  # by another thread, just now
            return
        for made in _make_directories(self._top):
            sync_directory(os.path.dirname(made))
        with suppress(FileExistsError):
            os.mkdir(self._staging, 0o700)

    def _place(self, staged: str, target: str, key: str, *, create_only: bool) -> None:
        """Give the finished staging file its name, durably. Exists comes only after that name is durable."""
        directory = os.path.dirname(target)
        place = os.link if create_only else os.replace
        try:
            try:
                place(staged, target)
            except FileNotFoundError:
                _make_directories(directory)
                place(staged, target)
        except FileExistsError:
            if not os.path.isfile(target):  # a file in the way of a directory, or the reverse
                raise
            self._settle(directory)
            raise Exists(f"object {key} is already in {self.url}, expected a free name") from None
        except OSError as error:
            if create_only and error.errno in _NO_LINKS and not _links_work(staged):
                raise Invalid(
                    f"store {self.url}: its file system has no hard links, which create-only writes need; use"
                    " another file system or an S3 server"
                ) from error
            raise
        self._settle(directory)

    def _settle(self, directory: str) -> None:
        """fsync `directory` and, the first time, the ones above that hold its name, and the store's own."""
        sync_directory(directory)
        unsettled = []
        while directory not in self._settled and directory != self._top:
            unsettled.append(directory)
            directory = os.path.dirname(directory)
            sync_directory(directory)
        if self._top not in self._settled:
            sync_way_to(self._top)
            unsettled.append(self._top)
        self._settled.update(unsettled)  # only now may other threads rely on it

    def _walk(self, folder: str, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
        """Objects below `folder` ("" or ending in "/") in key order: directories sort with their slash."""
        with self._errors(folder):
            try:
                with os.scandir(os.path.join(self._top, folder)) as entries:
                    names = [
                        f"{folder}{entry.name}{'/' if entry.is_dir() else ''}"
                        for entry in entries
                        if is_key_part(entry.name)
                    ]
            except (FileNotFoundError, NotADirectoryError):
                self._expect_store()
                return
        names.sort()
        for name in names:
            if name.endswith("/"):
                below_prefix = name.startswith(prefix) or prefix.startswith(name)
                if below_prefix and (name > start_after or start_after.startswith(name)):
                    yield from self._walk(name, prefix, start_after)
            elif name.startswith(prefix) and name > start_after:
                with suppress(NotFound):  # deleted meanwhile
                    yield self.head(name)

    def _sweep(self) -> None:
        """Unlink staging files whose writer is gone: nobody holds their lock."""
        with suppress(OSError):
            for name in os.listdir(self._staging):
                path = os.path.join(self._staging, name)
                with suppress(OSError):
                    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(path)
                    finally:
                        os.close(fd)

    def _expect_store(self) -> None:
        """Unavailable when the directory, or its mark once seen, is missing."""
        if self._marked:
            found = _is_directory(self._staging)
        else:
            found = self._create or _is_directory(self._top)
        if not found:
            raise Unavailable(self._missing())

    def _missing(self) -> str:
        what = f"{STAGING} in it" if os.path.isdir(self._top) else "the directory"
        return f"store {self.url}: {what} is missing, expected a store there: is it mounted?"

    @contextmanager
    def _errors(self, key: str, *, writing: bool = False) -> Iterator[None]:
        """Turn every OSError into the class that tells the caller what to do."""
        try:
            yield
        except OSError as error:
            raise self._translate(error, key, writing=writing) from error

    def _translate(self, error: OSError, key: str, *, writing: bool) -> FusegwError:
        reason = error.strerror or str(error)
        if error.errno in _NO_OBJECT | {errno.EEXIST, errno.ENOTEMPTY}:
            try:
                self._expect_store()
            except Unavailable as unavailable:
                return unavailable
            except OSError as blind:
                return self._translate(blind, key, writing=writing)
            if not writing:
                return NotFound(f"object {key} is not in {self.url}")
            if error.errno == errno.ENOENT:  # the staging file was swept, or a directory vanished, under us
                return Unavailable(f"object {key} in {self.url}: {reason} while it was written; try again")
            return Invalid(f"object {key} cannot lie in {self.url}: another object's name is in its way")
        if error.errno in _DENIED:
            return Denied(f"store {self.url}: {reason} for {key!r}; check owner, mode and mount options")
        if error.errno in _FULL:
            return Full(f"store {self.url}: {reason} while writing {key}; free space there")
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP):
            return Invalid(f"object {key} in {self.url}: {reason}")
        return Unavailable(f"store {self.url}: {reason} for {key!r}; check the disk below")


def _write_all(fd: int, data: bytes | memoryview) -> None:
    written = os.write(fd, data)
    if written < len(data):  # the kernel stops at 2 GiB or where the disk is full
        rest = memoryview(data)
        while written < len(rest):
            written += os.write(fd, rest[written:])


def _read_range(fd: int, offset: int, length: int) -> bytes:
    """`length` bytes, fewer only at the end of the file."""
    data = os.pread(fd, length, offset)
    if len(data) == length or not data:
        return data
    parts = [data]
    got = len(data)
    while got < length and (data := os.pread(fd, length - got, offset + got)):
        parts.append(data)
        got += len(data)
    return b"".join(parts)


def _expect_file(status: os.stat_result) -> os.stat_result:
    """`status`, unless it is a folder's: no object has that key."""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return status


def _is_directory(path: str) -> bool:
    """Unlike os.path.isdir, lets errors out that tell nothing of what is there: permission, a dead disk."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _make_directories(path: str) -> list[str]:
    """Make `path` and what is missing above it, for the owner alone; those made, the topmost first."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return []
    except FileNotFoundError:
        above = _make_directories(os.path.dirname(path))
        return above + _make_directories(path)
    return [path]


def _links_work(staged: str) -> bool:
    """Whether a hard link beside the staging file succeeds, so the refusal concerned the target alone."""
    try:
        os.link(staged, f"{staged}.link")
    except OSError:
        return False
    os.unlink(f"{staged}.link")
    return True
