"""How a fail point fails, and the edges of the gateway at which calls are caught.

Nothing in the gateway knows of this: it is a real `fusegw` whose edges were exchanged before it began
(`tests.failpoints.daemon`). Those are few, since all system calls on cache files go through a `Disk`, all
requests through an `ObjectStore`, and commits through LMDB; `os.rename` and `os.fsync` are what is left, for
the registry and for directories that take their place. So production code has no hook that could be left
on, costs nothing, and cannot forget to call one: a step that moved is found by its system call all the same.

Store requests fail above the store's own retries, so that each failure reaches the engine. One order is
carried out at a time, by the process that is first to get there: it renames the file `order` to `fired`. What
is reached is noted in the file `seen`. Calls: open (of a new file), write, sync, sync-directory, cut, punch,
unlink (cache files); put, delete (store); commit (LMDB); rename, fsync (anything else).
"""

import contextlib
import enum
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import lmdb
import msgspec

from cache.disk import Buffer
from fusegw.errors import Unavailable
from fusegw.store import opening
from fusegw.store.base import ObjectStore
from tests.crash.lossy_disk import NotingDisk
from tests.failpoints.points import BY_NAME, POINTS, Point


class Outcome(enum.StrEnum):
    """What becomes of the step."""

    ERROR = "error"
    """It fails as it really could, and nothing is done; of a write the first half."""
    ABORT_BEFORE = "abort-before"
    """The process dies right before it; in the middle of a write."""
    ABORT_AFTER = "abort-after"
    """The process dies right after it."""
    REPLY_LOST = "reply-lost"
    """It is done, and the caller is told that it failed."""

    @property
    def kills(self) -> bool:
        return self in (Outcome.ABORT_BEFORE, Outcome.ABORT_AFTER)


class Order(msgspec.Struct):
    """What is to happen in a scene: nothing but notes without a point."""

    scene: str
    point: str = ""
    outcome: Outcome = Outcome.ERROR


_ERRNOS = {"open": errno.ENOSPC, "write": errno.ENOSPC}


def _error(call: str, what: str) -> Exception:
    """The error that this call really gives."""
    if call in ("put", "delete"):
        return Unavailable(f"{call} {what}: connection reset by the test")
    if call == "commit":
        return lmdb.Error("mdb_txn_commit: Input/output error")
    code = _ERRNOS.get(call, errno.EIO)
    return OSError(code, os.strerror(code))


class Injection:
    """Carries out the order in `directory`. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._order = directory / "order"
        self._fired = directory / "fired"
        self._seen = directory / "seen"
        self._lock = threading.Lock()
        self._again: tuple[Point, Outcome, int] | None = None

    def step(
        self,
        call: str,
        work: Callable[[], Any],
        *,
        what: str = "",
        wrote: set[str] = frozenset(),  # type: ignore[assignment]
        half: Callable[[], object] = lambda: None,
        undo: Callable[[], object] = lambda: None,
    ) -> Any:
        """The result of `work`, unless it is the point of the order. `half` does a part of it, `undo` ends it
        without effect."""
        outcome = self._due(call, wrote, what)
        if outcome is None:
            return work()
        if outcome is Outcome.ABORT_BEFORE:
            half()
            _die()
        if outcome is Outcome.ERROR:
            half()
            undo()
            raise _error(call, what)
        # Whatever it gives: a PUT of what is there already says so.
        with contextlib.suppress(Exception):
            work()
        if outcome is Outcome.ABORT_AFTER:
            _die()
        raise _error(call, what)

    def _due(self, call: str, wrote: set[str], what: str) -> Outcome | None:
        with self._lock:
            if self._again is None:
                try:
                    order = msgspec.json.decode(self._order.read_bytes(), type=Order)
                except (FileNotFoundError, msgspec.DecodeError):
                    return None
            elif not self._is_it(self._again[0], call, wrote, what):
                return None
            else:
                point, outcome, left = self._again
                self._again = (point, outcome, left - 1) if left > 1 else None
                return outcome
            found = [one for one in POINTS if one.scene == order.scene]
            reached = [one for one in found if self._is_it(one, call, wrote, what)]
            if reached:
                with self._seen.open("a") as seen:
                    seen.write("".join(f"{one.name}\n" for one in reached))
            point = BY_NAME.get(order.point)
            if point is None or point not in reached:
                return None
            try:
                os.replace(self._order, self._fired)
            except FileNotFoundError:  # another process was faster
                return None
            if point.times > 1 and not order.outcome.kills:
                self._again = point, order.outcome, point.times - 1
            return order.outcome

    def _is_it(self, point: Point, call: str, wrote: set[str], what: str) -> bool:
        return point.call == call and point.is_it(call, _stack(), wrote, what)


def _stack() -> set[str]:
    names = set()
    frame = sys._getframe(2)
    while frame is not None:
        names.add(f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}")
        frame = frame.f_back  # type: ignore[assignment]
    return names


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed")


class FailingDisk(NotingDisk):
    """The cache's disk; `tests.crash.lossy_disk` takes away afterwards what was not synced."""

    def __init__(self, injection: Injection, notes: Path, *, sync: bool = True) -> None:
        super().__init__(notes, sync=sync)
        self._injection = injection

    def open(self, path: str, flags: int) -> int:
        if not flags & os.O_CREAT:
            return super().open(path, flags)
        fd: int = self._injection.step("open", lambda: super(FailingDisk, self).open(path, flags), what=path)
        return fd

    def pwrite(self, fd: int, data: Buffer, offset: int) -> None:
        self.pwritev(fd, [data], offset)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        def half() -> None:
            whole = b"".join(buffers)
            super(FailingDisk, self).pwrite(fd, whole[: len(whole) // 2], offset)

        write = super().pwritev
        self._injection.step("write", lambda: write(fd, buffers, offset), half=half)

    def fdatasync(self, fd: int) -> None:
        sync = super().fdatasync
        self._injection.step("sync", lambda: sync(fd))

    def fsync_dir(self, path: str) -> None:
        sync = super().fsync_dir
        self._injection.step("sync-directory", lambda: sync(path), what=path)

    def ftruncate(self, fd: int, size: int) -> None:
        cut = super().ftruncate
        self._injection.step("cut", lambda: cut(fd, size))

    def punch(self, fd: int, offset: int, length: int) -> None:
        punch = super().punch
        self._injection.step("punch", lambda: punch(fd, offset, length))

    def unlink(self, path: str) -> None:
        unlink = super().unlink
        self._injection.step("unlink", lambda: unlink(path), what=path)


class FailingStore:
    """`ObjectStore` whose changes may fail."""

    def __init__(self, inner: ObjectStore, injection: Injection) -> None:
        self._inner = inner
        self._injection = injection

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        self._injection.step("put", lambda: self._inner.put(key, data, create_only=create_only), what=key)

    def delete(self, keys: Iterable[str]) -> None:
        given = list(keys)
        for key in given[:1]:
            self._injection.step("delete", lambda: self._inner.delete(given), what=key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Cursor:
    """Notes what is written through it."""

    def __init__(self, inner: Any, table: str, wrote: set[str]) -> None:
        self._inner = inner
        self._table = table
        self._wrote = wrote

    def put(self, *given: Any, **how: Any) -> Any:
        self._wrote.add(f"+{self._table}")
        return self._inner.put(*given, **how)

    def putmulti(self, *given: Any, **how: Any) -> Any:
        self._wrote.add(f"+{self._table}")
        return self._inner.putmulti(*given, **how)

    def delete(self, *given: Any, **how: Any) -> Any:
        self._wrote.add(f"-{self._table}")
        return self._inner.delete(*given, **how)

    def __enter__(self) -> "_Cursor":
        return self

    def __exit__(self, *error: object) -> None:
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Transaction:
    """A write transaction whose commit may fail."""

    def __init__(self, inner: Any, tables: dict[int, str], injection: Injection) -> None:
        self._inner = inner
        self._tables = tables
        self._injection = injection
        self._wrote: set[str] = set()

    def cursor(self, db: Any) -> _Cursor:
        return _Cursor(self._inner.cursor(db=db), self._tables[id(db)], self._wrote)

    def put(self, key: bytes, value: bytes, *, db: Any) -> Any:
        self._wrote.add(f"+{self._tables[id(db)]}")
        return self._inner.put(key, value, db=db)

    def delete(self, key: bytes, *, db: Any) -> Any:
        self._wrote.add(f"-{self._tables[id(db)]}")
        return self._inner.delete(key, db=db)

    def commit(self) -> None:
        self._injection.step("commit", self._inner.commit, wrote=self._wrote, undo=self._inner.abort)

    def __enter__(self) -> "_Transaction":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.commit()
        else:
            self._inner.abort()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Environment:
    """An LMDB environment whose commits may fail."""

    def __init__(self, inner: Any, injection: Injection) -> None:
        self._inner = inner
        self._injection = injection
        self._tables: dict[int, str] = {}

    def open_db(self, name: bytes, **how: Any) -> Any:
        if isinstance(within := how.get("txn"), _Transaction):
            how["txn"] = within._inner
        database = self._inner.open_db(name, **how)
        self._tables[id(database)] = name.decode()
        return database

    def begin(self, *, write: bool = False, **how: Any) -> Any:
        if not write:
            return self._inner.begin(**how)
        return _Transaction(self._inner.begin(write=True, **how), self._tables, self._injection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def install(injection: Injection) -> None:
    """Exchange the edges in this process, but for the disk."""
    open_environment, retrying = lmdb.open, opening.RetryingStore
    rename, fsync = os.rename, os.fsync

    def failing_open(*given: Any, **how: Any) -> Any:
        inner = open_environment(*given, **how)
        return inner if how.get("readonly") else _Environment(inner, injection)

    def failing_rename(old: Any, new: Any, **how: Any) -> None:
        injection.step("rename", lambda: rename(old, new, **how), what=os.fspath(old))

    lmdb.open = failing_open
    opening.RetryingStore = lambda *given, **how: FailingStore(retrying(*given, **how), injection)
    os.rename = failing_rename
    os.fsync = lambda fd: injection.step("fsync", lambda: fsync(fd))
