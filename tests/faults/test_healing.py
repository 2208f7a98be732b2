"""What damage in the store takes away comes back with the next write of the same data, in old files too."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from fusegw.assembly import Runtime
from fusegw.check.run import Check, Report, run
from fusegw.clock import SystemClock
from fusegw.errors import Corrupt
from fusegw.meta import chunks
from fusegw.meta.beside import IndexBeside
from fusegw.meta.schema import CHUNK, DAMAGED, PACK_NUMBER_END, ROOT_INODE
from fusegw.packs.format import HEADER_SIZE
from fusegw.store.memory import MemoryStore
from fusegw.vfs.mending import Suspect
from tests.faults.support import (
    KEYS,
    TUNING,
    content,
    forget_cached,
    read_file,
    source,
    until,
    volume,
    write_file,
)
from tests.model.invariants import check_index

DATA = content(1, 300_000)


def lose_packs(store: MemoryStore) -> list[str]:
    """Delete every pack that is there now."""
    keys = [info.key for info in store.list("packs/")]
    store.delete(keys)
    return keys


def read_back(host: Path, store: MemoryStore) -> Report:
    """What a check says that reads every record."""
    with IndexBeside(host / "meta") as index:
        return run(Check(index.view, store, KEYS, SystemClock(), lambda seconds: None, share=1.0))


def marked(runtime: Runtime) -> int:
    return len(list(runtime.metadata.scan(DAMAGED, b"", b"\xff" * 25)))


def chunk_count(runtime: Runtime) -> int:
    return len(list(runtime.metadata.scan(CHUNK, 0, PACK_NUMBER_END)))


async def poisoned(runtime: Runtime, store: MemoryStore) -> None:
    """A file whose packs are gone, which a read has found out."""
    await write_file(runtime, b"old", DATA)
    await runtime.volume.barrier()
    lose_packs(store)
    forget_cached(runtime)
    with pytest.raises(Corrupt, match="missing"):
        await read_file(runtime, b"old")


async def test_the_same_data_written_again_makes_the_old_file_whole(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await poisoned(runtime, store)
        before = chunk_count(runtime)
        assert 0 < marked(runtime) <= before
        # A read stops at the first chunk it misses: the others are found one by one.
        while marked(runtime) < before:
            forget_cached(runtime)
            for offset in range(0, len(DATA), 10_000):
                inode = runtime.volume.namespace.lookup(ROOT_INODE, b"old")
                assert inode is not None
                with pytest.raises(Corrupt):
                    await runtime.volume.files.read(inode.ino, offset, 10_000)
        await write_file(runtime, b"new", DATA)
        await runtime.volume.barrier()
        assert marked(runtime) == 0
        assert chunk_count(runtime) == before, "the old chunks moved, no others came"
        forget_cached(runtime)
        assert await read_file(runtime, b"old") == DATA
        assert await read_file(runtime, b"new") == DATA
        check_index(runtime.metadata)
    async with volume(source(tmp_path / "elsewhere", store)) as runtime:
        assert await read_file(runtime, b"old") == DATA
        check_index(runtime.metadata)
    report = read_back(tmp_path / "elsewhere", store)
    assert report.whole and report.chunks_read == report.chunks == before, report.damage


async def test_with_the_dedup_index_left_alone_the_old_file_stays_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: new copies refer to what is gone, and are lost with it."""
    monkeypatch.setattr(chunks, "mark_damaged", lambda *args: None)
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await poisoned(runtime, store)
        await write_file(runtime, b"new", DATA)
        await runtime.volume.barrier()
        forget_cached(runtime)
        for name in (b"old", b"new"):
            with pytest.raises(Corrupt):
                await read_file(runtime, name)
    assert {path for damage in read_back(tmp_path, store).damage for path in damage.files} == {"/old", "/new"}


async def test_marks_outlive_a_restart_and_go_with_their_chunk(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await poisoned(runtime, store)
        count = marked(runtime)
        await runtime.volume.barrier()
    async with volume(source(tmp_path, store)) as runtime:
        assert marked(runtime) == count
        check_index(runtime.metadata)
        runtime.volume.namespace.unlink(ROOT_INODE, b"old")
        await until(lambda: runtime.volume.reap_backlog == 0)
        assert marked(runtime) == 0
        await write_file(runtime, b"new", DATA)
        await runtime.volume.barrier()
        forget_cached(runtime)
        assert await read_file(runtime, b"new") == DATA
        check_index(runtime.metadata)


async def test_a_chunk_that_moved_while_it_was_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await write_file(runtime, b"old", DATA)
        await runtime.volume.barrier()
        old = lose_packs(store)
        with runtime.metadata.change() as change:
            for number, _ in list(runtime.metadata.scan(CHUNK, 0, PACK_NUMBER_END)):
                runtime.chunks.distrust(change, number)
        stale = {
            number: runtime.reading._loads.reference(number)
            for number, _ in runtime.metadata.scan(CHUNK, 0, PACK_NUMBER_END)
        }
        await write_file(runtime, b"new", DATA)
        await runtime.volume.barrier()
        assert not set(old) & {info.key for info in store.list("packs/")}
        forget_cached(runtime)
        real = runtime.reading._loads.reference
        monkeypatch.setattr(
            runtime.reading._loads, "reference", lambda number: stale.pop(number, None) or real(number)
        )
        assert await read_file(runtime, b"old") == DATA
        assert not stale and marked(runtime) == 0


def suspects(runtime: Runtime) -> list[Suspect]:
    return [Suspect(number, chunk.pack) for number, chunk in runtime.metadata.scan(CHUNK, 0, PACK_NUMBER_END)]


async def test_what_the_cache_has_is_stored_anew(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await write_file(runtime, b"old", DATA)
        await runtime.volume.barrier()
        lose_packs(store)
        asked = suspects(runtime)
        mended = await runtime.mender.mend(asked, repair=True)
        assert mended.whole == [one.number for one in asked] and mended.marked == 0
        assert marked(runtime) == 0
        await runtime.volume.barrier()
        forget_cached(runtime)
        assert await read_file(runtime, b"old") == DATA
        check_index(runtime.metadata)
        await write_file(runtime, b"new", DATA)
        await runtime.volume.barrier()
        assert chunk_count(runtime) == len(asked), "it is in the dedup index"
        again = await runtime.mender.mend(asked, repair=True)
        assert len(again.whole) == len(asked), "they lie elsewhere by now"


async def test_what_the_cache_has_not_is_marked_and_stays_lost(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await write_file(runtime, b"old", DATA)
        await runtime.volume.barrier()
        lose_packs(store)
        forget_cached(runtime)
        asked = suspects(runtime)
        mended = await runtime.mender.mend(asked, repair=True)
        assert mended.whole == [] and mended.marked == len(asked) == marked(runtime)
        await write_file(runtime, b"new", DATA)
        await runtime.volume.barrier()
        forget_cached(runtime)
        assert await read_file(runtime, b"old") == DATA and marked(runtime) == 0


async def test_damaged_bytes_in_the_cache_are_not_stored_anew(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await write_file(runtime, b"old", DATA)
        await runtime.volume.barrier()
        lose_packs(store)
        for path in (tmp_path / "cache" / "packs").rglob("*"):
            if path.is_file():
                path.write_bytes(bytes(path.stat().st_size))
        mended = await runtime.mender.mend(suspects(runtime), repair=True)
        assert mended.whole == [] and mended.marked


async def test_without_repair_nothing_is_stored_and_what_is_good_is_trusted_again(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await write_file(runtime, b"old", DATA)
        await runtime.volume.barrier()
        packs = [info.key for info in store.list("packs/")]
        asked = suspects(runtime)
        mended = await runtime.mender.mend(asked, repair=False)
        assert mended.whole == [] and marked(runtime) == len(asked)
        good = [Suspect(one.number, one.pack, good=True) for one in asked]
        mended = await runtime.mender.mend(good, repair=False)
        assert len(mended.whole) == len(asked) and marked(runtime) == 0
        await write_file(runtime, b"new", DATA)
        await runtime.volume.barrier()
        assert [info.key for info in store.list("packs/")] == packs, "it is in the dedup index again"
        check_index(runtime.metadata)


class Crash(Exception):
    """The gateway dies here."""


async def test_a_record_that_was_torn_in_a_crash_comes_back_with_its_data(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    given = source(tmp_path, store, tuning=replace(TUNING, ship_interval_s=3600))
    with pytest.raises(ExceptionGroup):
        async with volume(given) as runtime:
            await write_file(runtime, b"old", DATA)
            await runtime.volume.sync()
            raise Crash
    (pack,) = [path for path in (tmp_path / "cache" / "packs").rglob("*") if path.is_file()]
    data = bytearray(pack.read_bytes())
    data[HEADER_SIZE + 100] ^= 1
    pack.write_bytes(data)
    async with volume(source(tmp_path, store)) as runtime:
        assert marked(runtime) == 1
        with pytest.raises(Corrupt):
            await read_file(runtime, b"old")
        await write_file(runtime, b"new", DATA)
        await runtime.volume.barrier()
        assert marked(runtime) == 0
        forget_cached(runtime)
        assert await read_file(runtime, b"old") == DATA
        check_index(runtime.metadata)
