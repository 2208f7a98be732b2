"""The index's disk fails for a moment, in the midst of shipping or of a recovery: it is told as that, and
once the disk works again, everything goes on."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lmdb
import pytest
import trio

from fusegw.clock import SystemClock
from fusegw.errors import Full
from fusegw.meta.load import Load
from fusegw.meta.metadata import Metadata, Row
from fusegw.meta.schema import LOG_SEALED, PACK_CLOSED, PACK_LOCAL, ROOT_INODE, Head
from fusegw.store.memory import MemoryStore
from tests.faults.support import content, forget_cached, read_file, source, until, volume, write_file
from tests.model.invariants import check_index


class Failing:
    """Commits of an index that fail as long as `wanted` says so of what they write; `applied` are made all
    the same."""

    def __init__(
        self, patch: pytest.MonkeyPatch, wanted: Callable[[list[Row]], bool], *, applied: bool
    ) -> None:
        self.failed = 0
        self.times = 1
        save, write = Metadata.save, Metadata.write

        def fail(rows: list[Row], work: Callable[[], None]) -> None:
            if self.failed >= self.times or not wanted(rows):
                work()
                return
            self.failed += 1
            if applied:
                work()
            raise Full("the disk of the index fails")

        def failing_save(self: Metadata) -> None:
            frozen = self._frozen or {}
            rows = [
                (table, key, value)
                for table in (PACK_LOCAL,)
                for key, value in frozen.get(table.name, {}).items()
            ]
            fail(rows, lambda: save(self))

        def failing_write(self: Metadata, rows: Iterable[Row]) -> None:
            given = list(rows)
            fail(given, lambda: write(self, given))

        patch.setattr(Metadata, "save", failing_save)
        patch.setattr(Metadata, "write", failing_write)


def is_shipped(rows: list[Row]) -> bool:
    return any(table is LOG_SEALED and value is None for table, _, value in rows)


def is_closed(rows: list[Row]) -> bool:
    return any(
        table is PACK_LOCAL and value is not None and value.state == PACK_CLOSED for table, _, value in rows
    )


def is_gone(rows: list[Row]) -> bool:
    return any(table is PACK_LOCAL and value is None for table, _, value in rows)


@pytest.mark.parametrize("applied", [False, True], ids=["failed", "reply lost"])
@pytest.mark.parametrize("wanted", [is_shipped, is_closed], ids=["segment shipped", "pack closed"])
async def test_shipping_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: Callable[[list[Row]], bool], applied: bool
) -> None:
    """A segment whose place in the index could not be moved on would be taken for another writer's; a pack
    that could not be entered as closed would never be uploaded, and the barrier never return."""
    store = MemoryStore(clock=SystemClock())
    data = content(1, 300_000)
    async with volume(source(tmp_path, store)) as runtime:
        await runtime.volume.barrier()
        failing = Failing(monkeypatch, wanted, applied=applied)
        await write_file(runtime, b"f", data)
        with trio.fail_after(30):
            await until(lambda: failing.failed == 1)
            while runtime.log.fenced is None:
                try:
                    await runtime.volume.barrier()
                    break
                except Full:
                    pass
        assert runtime.log.fenced is None
        assert runtime.metadata.unshipped_since_ns is None
        forget_cached(runtime)
        assert await read_file(runtime, b"f") == data
        check_index(runtime.metadata)
    async with volume(source(tmp_path / "elsewhere", store)) as runtime:
        assert await read_file(runtime, b"f") == data


async def test_a_pack_that_died_is_forgotten_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that could not be forgotten at once would keep its room in the cache, and the barrier waiting."""
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await runtime.volume.barrier()
        failing = Failing(monkeypatch, is_gone, applied=False)
        failing.times = 3
        await write_file(runtime, b"f", content(1, 1_500_000))
        runtime.volume.namespace.unlink(ROOT_INODE, b"f")
        with trio.fail_after(30):
            await until(lambda: failing.failed == 3)
            await runtime.volume.sync()
            await until(lambda: runtime.cache.stats().pinned_bytes == 0)
            await runtime.volume.barrier()
        check_index(runtime.metadata)


def test_a_load_that_the_disk_refuses_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def commit(self) -> None:
            self._inner.abort()
            raise lmdb.Error("mdb_txn_commit: Input/output error")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    metadata = Metadata(tmp_path, size_max_bytes=1 << 30)
    begin = metadata.begin
    monkeypatch.setattr(metadata, "begin", lambda: Refusing(begin()))
    load = Load(metadata)
    with pytest.raises(Full, match="cannot be written"):
        load.finish(Head())
    load.abandon()
    metadata.close()
