"""The metadata index: LMDB below, a pending set of changes above it, one view over both.

An operation reads, validates and then merges its `Change` into the pending set without giving up the event
loop in between, so changes are atomic and in order without locks. `freeze` hands the pending set to a
commit; until that is durable its rows stay visible in the frozen set. Reads look at the change itself, then
pending, frozen, LMDB.

Each commit that changes what describes the volume gets a number and leaves its log records in the log tail,
in the same transaction, so that whatever is durable here can be told to the store later, in the order it
was made.

All methods belong to the event loop's thread except `save` (the commit, in a worker thread: begins, fills and
commits its write transaction in that one call), `write` (likewise) and `find_chunk` (any thread, may miss
what was merged just now).
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import lmdb

from fusegw.clock import Clock, SystemClock
from fusegw.durable import sync_directory, sync_way_to
from fusegw.errors import Corrupt, Full, UnknownFormat
from fusegw.meta import schema
from fusegw.meta.codec import Table
from fusegw.meta.layers import Layer, Rows, new_layer, overlay
from fusegw.meta.opening import open_to_write
from fusegw.meta.records import encode_delete, encode_put
from fusegw.meta.unshipped import Standing, Unshipped, earlier
from fusegw.meta.view import View

K = TypeVar("K")
V = TypeVar("V")
_ABSENT: Any = object()
UNREAD: Any = object()
"""In place of a row that was not looked up."""
_RESERVE_NAME = "reserve"
_LOGGED = frozenset(table.name for table in schema.LOGGED_TABLES)

Row = tuple[Table[Any, Any], Any, Any]
"""Table, key, value (None: deleted)."""


class Keeper(Protocol):
    """Who saves for snapshots what is about to change."""

    def keep(self, change: "Change", table: Table[Any, Any], key: Any, value: Any, was: Any = UNREAD) -> None:
        """The row is about to get `value` (None: to go), for the first time in this change. `was` is what it
        is up to now, if that was read already."""

    def merged(self, kept: Rows) -> None:
        """These rows of the history are part of the pending set now."""


class Change:
    """One operation's rows, merged whole or not at all; reads see its own writes.

    As a context manager it merges on a clean exit and is dropped on an exception.
    """

    __slots__ = ("_layer", "_metadata", "since_ns")

    def __init__(self, metadata: "Metadata") -> None:
        self._metadata = metadata
        self._layer: Layer = {}
        self.since_ns: int | None = None
        """When what it tells was acknowledged (ns since 1970), if that was before the merge."""

    def get(self, table: Table[K, V], key: K) -> V | None:
        rows = self._layer.get(table.name)
        if rows is not None:
            value = rows.get(key, _ABSENT)
            if value is not _ABSENT:
                found: V | None = value
                return found
        return self._metadata.get(table, key)

    def put(self, table: Table[K, V], key: K, value: V, *, was: V | None = UNREAD) -> None:
        """`was` is the row as this change has read it, if it did: that spares reading it once more."""
        rows = self._layer.get(table.name)
        if rows is None:
            rows = self._layer[table.name] = Rows()
        if table.kept and self._metadata.keeper is not None and key not in rows:
            self._metadata.keeper.keep(self, table, key, value, was)
        rows[key] = value

    def delete(self, table: Table[K, V], key: K, *, was: V | None = UNREAD) -> None:
        self.put(table, key, cast(V, None), was=was)

    def scan(self, table: Table[K, V], low: K, high: K, *, reverse: bool = False) -> Iterator[tuple[K, V]]:
        """Rows with low <= key < high, ascending or descending; do not change `table` while it runs."""
        return self._metadata._scan(table, low, high, reverse, self._layer.get(table.name))

    def merge(self) -> None:
        """Make it part of the pending set."""
        self._metadata._merge(self._layer, self.since_ns)
        self._layer = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.merge()


class Metadata:
    """The index of one volume, opened for writing by one gateway.

    `size_max_bytes` is the soft limit for pages in use: above it `full` is true and operations that add
    rows are to be refused; deletions still commit. A preallocated reserve beside the data file is given up
    when the disk is full, so that deletions commit there as well. `map_size_bytes` is address space only: it
    cannot grow under live readers, so it is far above any limit.
    """

    def __init__(
        self,
        directory: Path,
        *,
        size_max_bytes: int,
        reserve_bytes: int = 16 << 20,
        map_size_bytes: int = 1 << 40,
        clock: Clock | None = None,
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self._size_max_bytes = size_max_bytes
        self._reserve_bytes = reserve_bytes
        self._clock = clock or SystemClock()
        self._env, self.databases = open_to_write(directory, map_size_bytes)
        # LMDB syncs what it writes, not the names of its files.
        sync_directory(directory)
        sync_way_to(directory)
        self._pending = new_layer()
        self._frozen: Layer | None = None
        self._pending_rows = 0
        self._frozen_rows = 0
        self._pending_since_ns: int | None = None
        self._frozen_since_ns: int | None = None
        self._in_doubt = False
        """Whether a commit has begun and nobody knows what became of it."""
        self.keeper: Keeper | None = None
        """None while there is no snapshot."""
        self.unshipped = Unshipped()
        """Whoever ships the log tells it how far that is."""
        self._reader: Any = None
        try:
            self._reader = self._env.begin(buffers=False)
            self._check_version()
            self._keep_reserve()
            self._used_bytes = self._measure()
            with self.view() as view:
                for table in schema.TABLES:
                    if not table.code:  # what is nowhere else
                        view.refuse_lost_rows(table)
                self._commit = view.commit
                self.unshipped.load(view)
        except lmdb.Error as error:
            self.close()
            raise Corrupt(f"metadata index {directory} is damaged: {error}; restore it from a copy") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the files; what is still pending is lost."""
        if self._reader is not None:
            self._reader.abort()
        self._env.close()

    # reading

    def get(self, table: Table[K, V], key: K) -> V | None:
        """The present value, None when there is no row."""
        value = self._pending[table.name].get(key, _ABSENT)
        if value is _ABSENT:
            if self._frozen is not None:
                value = self._frozen[table.name].get(key, _ABSENT)
            if value is _ABSENT:
                raw_key = table.encode_key(key)
                try:
                    stored = self._reader.get(raw_key, db=self.databases[table.name])
                except lmdb.Error as error:
                    raise self._unreadable(table, error) from None
                return None if stored is None else table.decode(key, raw_key, stored)
        found: V | None = value
        return found

    def scan(self, table: Table[K, V], low: K, high: K, *, reverse: bool = False) -> Iterator[tuple[K, V]]:
        """Rows with low <= key < high; consume it before the loop runs anything else."""
        return self._scan(table, low, high, reverse, None)

    def find_chunk(self, chunk_id: bytes) -> bool:
        """Whether the dedup index has a chunk; from any thread, and may miss the newest."""
        key = schema.chunk_key(chunk_id)
        name = schema.CHUNK_ID.name
        for layer in (self._pending, self._frozen):
            if layer is not None:
                value = layer[name].get(key, _ABSENT)
                if value is not _ABSENT:
                    return value is not None
        with self._env.begin() as reader:
            return reader.get(key, db=self.databases[name]) is not None

    def number(self, name: bytes) -> int:
        """A volume-wide number of the state table, 0 when it was never set."""
        value = self.get(schema.STATE, name)
        return 0 if value is None else int.from_bytes(value, "big")

    def view(self) -> View:
        """The durable state as it is now, for a worker thread to read at leisure; close it."""
        return View(self._env, self.databases)

    @property
    def head(self) -> schema.Head:
        """How much of this index is in the log, as of the last commit."""
        row = self.get(schema.LOCAL, schema.LOCAL_HEAD)
        return schema.Head() if row is None else schema.decode_head(row)

    @property
    def commit_number(self) -> int:
        """Number of the newest commit."""
        return self._commit

    @property
    def unsaved_since_ns(self) -> int | None:
        """When the oldest change was made that describes the volume and is not committed; None without."""
        return earlier(self._frozen_since_ns, self._pending_since_ns)

    @property
    def unshipped_since_ns(self) -> int | None:
        """When the oldest change was made that describes the volume and is not in the log; None without."""
        return earlier(self.unshipped.since_ns, self.unsaved_since_ns)

    def standing(self, ino: int) -> Standing:
        """How far the newest change of the inode's rows has come."""
        name = schema.INODE.name
        if ino in self._pending[name] or (self._frozen is not None and ino in self._frozen[name]):
            return Standing.LOCAL
        return self.unshipped.standing(ino)

    @property
    def used_bytes(self) -> int:
        """Pages in use, as of the last commit."""
        return self._used_bytes

    @property
    def full(self) -> bool:
        """Whether operations that add rows are to be refused."""
        return self._used_bytes > self._size_max_bytes

    @property
    def pending_rows(self) -> int:
        """Upper bound of the rows that are not durable yet."""
        return self._pending_rows + self._frozen_rows

    # changing

    def change(self) -> Change:
        """An empty change set."""
        return Change(self)

    def freeze(self) -> bool:
        """Set the pending rows aside for a commit; False when there is nothing to save.

        A frozen set that could not be saved stays and takes the newer rows in.
        """
        if self._frozen is None:
            if not self._pending_rows:
                return False
            self._frozen = self._pending
        else:
            for name, rows in self._pending.items():
                self._frozen[name].update(rows)
        self._frozen_since_ns = earlier(self._frozen_since_ns, self._pending_since_ns)
        self._pending_since_ns = None
        self._frozen_rows = sum(map(len, self._frozen.values()))
        self._pending = new_layer()
        self._pending_rows = 0
        return True

    def save(self) -> None:
        """Write the frozen rows in one durable transaction; Full when the disk or the map is full.

        From a worker thread, one at a time. Nothing is lost when it fails: call it again.
        """
        if self._frozen is None:
            return
        try:
            self._write(self._frozen)
        except (lmdb.MapFullError, lmdb.DiskError, lmdb.Error, OSError) as error:
            if not self._give_up_reserve():
                raise self.saving_failed(error) from None
            try:
                self._write(self._frozen)
            except (lmdb.Error, OSError) as again:
                raise self.saving_failed(again) from None
        else:
            self._keep_reserve()

    def saved(self) -> None:
        """After `save`: readers see LMDB's new state, the frozen set is done with.

        Places of readers in other processes that ended without leaving are freed: they would hold pages.
        """
        self._env.reader_check()
        self._reader.abort()
        self._reader = self._env.begin(buffers=False)
        if self._frozen is not None:
            inodes = self._frozen[schema.INODE.name]
            self.unshipped.committed(self._commit, inodes, self._frozen_since_ns)
        self._frozen = None
        self._frozen_rows = 0
        self._frozen_since_ns = None
        self._used_bytes = self._measure()

    def write(self, rows: Iterable[Row]) -> None:
        """Rows that are not for the log, durable on return; `renew` shows them to the loop. Full.

        From a worker thread; for this gateway's own tables, which the pending set must not hold as well.
        """
        try:
            with self._env.begin(write=True) as writer:
                for table, key, value in rows:
                    raw_key, database = table.encode_key(key), self.databases[table.name]
                    if value is None:
                        writer.delete(raw_key, db=database)
                    else:
                        writer.put(raw_key, table.encode(raw_key, value), db=database)
        except (lmdb.Error, OSError) as error:
            raise self.saving_failed(error) from None

    def begin(self) -> Any:
        """A write transaction of LMDB, for `fusegw.meta` only; to be ended in the thread that began it."""
        return self._env.begin(write=True)

    def renew(self) -> None:
        """Let the loop see what `write`, or a step of the log, wrote."""
        self._reader.abort()
        self._reader = self._env.begin(buffers=False)
        self._used_bytes = self._measure()

    def unsaved(self, table: Table[K, V]) -> list[tuple[K, V]]:
        """Rows of `table` that are not durable yet, newest value each."""
        rows: dict[K, V | None] = dict(self._frozen[table.name]) if self._frozen is not None else {}
        rows.update(self._pending[table.name])
        return [(key, value) for key, value in rows.items() if value is not None]

    # inside

    def _merge(self, layer: Layer, since_ns: int | None) -> None:
        if since_ns is not None:
            self._pending_since_ns = earlier(self._pending_since_ns, since_ns)
        if self.keeper is not None and (kept := layer.get(schema.HISTORY.name)):
            self.keeper.merged(kept)
        for name, rows in layer.items():
            if self._pending_since_ns is None and name in _LOGGED:
                self._pending_since_ns = self._clock.time_ns()
            target = self._pending[name]
            before = len(target)
            if len(rows) < 8:
                for key, value in rows.items():
                    target[key] = value
            else:
                target.update(rows)
            self._pending_rows += len(target) - before

    def _scan(
        self, table: Table[K, V], low: K, high: K, reverse: bool, own: Rows | None
    ) -> Iterator[tuple[K, V]]:
        rows = self._scan_saved(table, low, high, reverse)
        frozen = self._frozen[table.name] if self._frozen is not None else None
        for layer in (frozen, self._pending[table.name], own):
            if layer:
                rows = overlay(rows, layer, low, high, reverse=reverse)
        for key, value in rows:
            if value is not None:
                yield key, value

    def _scan_saved(self, table: Table[K, V], low: K, high: K, reverse: bool) -> Iterator[tuple[K, V | None]]:
        raw_low, raw_high = table.encode_key(low), table.encode_key(high)
        try:
            with self._reader.cursor(db=self.databases[table.name]) as cursor:
                if reverse:
                    found = cursor.prev() if cursor.set_range(raw_high) else cursor.last()
                    while found and (raw := cursor.key()) >= raw_low:
                        key = table.decode_key(raw)
                        yield key, table.decode(key, raw, cursor.value())
                        found = cursor.prev()
                else:
                    found = cursor.set_range(raw_low)
                    while found and (raw := cursor.key()) < raw_high:
                        key = table.decode_key(raw)
                        yield key, table.decode(key, raw, cursor.value())
                        found = cursor.next()
        except lmdb.Error as error:
            raise self._unreadable(table, error) from None

    def _write(self, layer: Layer) -> None:
        records: list[bytes] = []
        # A commit that failed may be there all the same, and in the log by now: then this is one more, and
        # what is to be deleted is gone already but has to be told again.
        again, self._in_doubt = self._in_doubt, True
        if again:
            with self.view() as view:
                self._commit = max(self._commit, view.commit)
        number = self._commit + 1
        with self._env.begin(write=True) as writer:
            for table in schema.TABLES:
                rows = layer[table.name]
                if not rows:
                    continue
                code = table.code
                encode_key: Callable[[Any], bytes] = table.encode_key
                with writer.cursor(db=self.databases[table.name]) as cursor:
                    for key in sorted(rows):
                        value = rows[key]
                        raw_key = encode_key(key)
                        if value is not None:
                            stored = table.encode(raw_key, value)
                            cursor.put(raw_key, stored)
                            if code:
                                records.append(encode_put(code, raw_key, stored))
                        else:
                            found = cursor.set_key(raw_key) and cursor.delete()
                            if code and (found or again):
                                records.append(encode_delete(code, raw_key))
            if records:
                commit = schema.Commit(self._frozen_since_ns or 0, b"".join(records))
                raw_key = schema.LOG_TAIL.encode_key(number)
                tail = self.databases[schema.LOG_TAIL.name]
                writer.put(raw_key, schema.LOG_TAIL.encode(raw_key, commit), db=tail)
        self._in_doubt = False
        if records:
            self._commit = number

    def saving_failed(self, error: Exception) -> Full:
        """What to raise for an error of LMDB, for `fusegw.meta` only."""
        if isinstance(error, lmdb.MapFullError) or "No space" in str(error):
            return Full(
                f"metadata index {self.directory} cannot grow: {error}; delete files or free disk space"
            )
        return Full(f"metadata index {self.directory} cannot be written: {error}; check the disk")

    def _unreadable(self, table: Table[Any, Any], error: Exception) -> Corrupt:
        return Corrupt(
            f"table {table.name!r} of metadata index {self.directory} cannot be read: {error}; "
            "restore the state directory from a copy"
        )

    def _measure(self) -> int:
        pages = 0
        for database in self.databases.values():
            stat = self._reader.stat(database)
            pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        used: int = pages * self._env.stat()["psize"]
        return used

    def _keep_reserve(self) -> None:
        path = self.directory / _RESERVE_NAME
        if path.exists():
            return
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._reserve_bytes)
        except OSError as error:
            path.unlink()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        finally:
            os.close(fd)

    def _give_up_reserve(self) -> bool:
        path = self.directory / _RESERVE_NAME
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def _check_version(self) -> None:
        found = self.number(schema.STATE_SCHEMA)
        if found not in (0, schema.SCHEMA_VERSION):
            raise UnknownFormat(
                f"metadata index {self.directory} has schema {found}, this fusegw knows "
                f"{schema.SCHEMA_VERSION}; use the fusegw that wrote it, or a newer one"
            )
