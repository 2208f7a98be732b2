"""Opening the file of an index, for writing or beside its writer: it is whole as far as can be told at once.

LMDB has no checksums, and takes a damaged file for what it then seems to be: with a flipped bit in a name
there is one table less, and an empty one would take its place. So an index has all tables or is damaged; only
a new one gets them, all in one transaction.
"""

import errno
import os
from pathlib import Path
from typing import Any

import lmdb

from fusegw.errors import Busy, Corrupt, Denied, Full, FusegwError
from fusegw.meta import schema
from fusegw.meta.pages import REMEDY, refuse_cut_off

DATA_NAME = "data.mdb"
_LOCK_NAME = "lock.mdb"
_LOCK_BYTES = 8192
"""As LMDB makes it, for 126 readers."""
_TABLES_MAX = 32
_MEMORY_SHARE = 4
"""An index of no more than memory by this is read ahead of what is asked for."""


def open_to_write(directory: Path, map_size_bytes: int) -> tuple[Any, dict[str, Any]]:
    """The environment and its databases by table name, made if there is nothing yet. Busy, Denied,
    Full, Corrupt."""
    refuse_cut_off(directory / DATA_NAME)
    _make_lock_file(directory / _LOCK_NAME)
    try:
        environment = lmdb.open(
            str(directory),
            map_size=map_size_bytes,
            max_dbs=_TABLES_MAX,
            mode=0o600,
            readahead=_fits_memory(directory / DATA_NAME),
            max_spare_txns=4,
        )
    except lmdb.LockError as error:
        raise Busy(f"metadata index {directory} is in use: {error}") from None
    except lmdb.Error as error:
        raise _failed(directory, error) from None
    return environment, _databases(environment, directory, create=True)


def open_to_read(directory: Path, map_size_bytes: int) -> tuple[Any, dict[str, Any]]:
    """As `open_to_write`, for an index that is there. Denied, Corrupt."""
    refuse_cut_off(directory / DATA_NAME)
    try:
        environment = lmdb.open(
            str(directory),
            map_size=map_size_bytes,
            max_dbs=_TABLES_MAX,
            readonly=True,
            create=False,
            readahead=False,
            max_spare_txns=0,
        )
    except (lmdb.ReadonlyError, PermissionError) as error:
        raise Denied(f"metadata index {directory} cannot be read: {error}") from None
    except lmdb.Error as error:
        raise _failed(directory, error) from None
    return environment, _databases(environment, directory, create=False)


def _fits_memory(data: Path) -> bool:
    """Whether all of the index may stay in memory: then a page's neighbours are worth reading with it. In a
    larger one they would only take the place of pages that are needed."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return not data.exists() or data.stat().st_size <= memory_bytes // _MEMORY_SHARE


def _databases(environment: Any, directory: Path, *, create: bool) -> dict[str, Any]:
    try:
        with environment.begin() as transaction:
            create = create and not transaction.stat()["entries"]
        if create:
            with environment.begin(write=True) as transaction:
                for table in schema.TABLES:
                    environment.open_db(table.name.encode(), txn=transaction)
        found = {}
        for table in schema.TABLES:
            try:
                found[table.name] = environment.open_db(table.name.encode(), create=False)
            except lmdb.NotFoundError:
                raise _damaged(directory, f"it has no table {table.name!r}") from None
    except lmdb.Error as error:
        environment.close()
        raise _failed(directory, error) from None
    except Corrupt:
        environment.close()
        raise
    return found


def _make_lock_file(path: Path) -> None:
    """With its blocks on the disk: LMDB would make one without, write to it through memory, and so be killed
    by SIGBUS on a full disk. One that has them is not touched, since to close it would lose its locks."""
    try:
        if path.stat().st_blocks * 512 >= _LOCK_BYTES:
            return
    except FileNotFoundError:
        pass
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _LOCK_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        raise _refused(path.parent, error) from None


def _refused(directory: Path, error: OSError) -> FusegwError:
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return Denied(f"metadata index {directory} cannot be opened: {error}; it must be writable")
    return Full(f"metadata index {directory} cannot be opened: {error}; free disk space, or check the disk")


def _failed(directory: Path, error: lmdb.Error) -> FusegwError:
    """What the disk or its rights refuse is no damage."""
    why = str(error)
    if isinstance(error, lmdb.DiskError | lmdb.MapFullError):
        return Full(f"metadata index {directory} cannot be opened: {why}; free disk space, or check the disk")
    if isinstance(error, lmdb.ReadonlyError) or os.strerror(errno.EROFS) in why:
        return Denied(f"metadata index {directory} cannot be opened: {why}; it must be writable")
    return _damaged(directory, why)


def _damaged(directory: Path, why: str) -> Corrupt:
    return Corrupt(f"metadata index {directory} is damaged: {why}; {REMEDY}")
