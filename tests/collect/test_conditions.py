"""What must hold before a pack is deleted, each with its control: without the condition, data is lost or a
promise broken."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest

from fusegw.assembly import Runtime, promote
from fusegw.collect.deletion import Deletion
from fusegw.collect.passes import Pass
from fusegw.errors import Corrupt, Fenced
from fusegw.meta.schema import CHUNK, CONDEMNED, PACK, PACK_NUMBER_END, Condemned
from fusegw.ship.checkpoint import Name, object_key
from fusegw.ship.checkpoints import folders
from fusegw.ship.horizon import oldest_kept
from fusegw.store.memory import MemoryStore
from tests.collect.support import Life, check_position, collecting, new_store, packs
from tests.faults.support import KEYS, content, forget_cached, volume
from tests.ship.test_follow import following, standby

DAY_S = 86_400.0
protected = pytest.mark.parametrize("protected", [True, False], ids=["protected", "control"])


async def sparse(life: Life, runtime: Runtime) -> None:
    """Packs of which a quarter lives."""
    for number in range(12):
        await life.write(runtime, b"%d" % number, content(number, 200_000))
    await life.checkpoint(runtime)
    await life.remove(runtime, *[name for name in life.files if int(name) % 4])


@pytest.fixture
def life() -> Iterator[Life]:
    return Life(new_store())


@protected
async def test_what_condemned_it_is_in_the_store(
    tmp_path: Path, life: Life, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """(a) Whoever recovers the newest position of the store finds all that it refers to."""
    if not protected:
        monkeypatch.setattr(Deletion, "is_shipped", lambda self, row: True)
    async with volume(collecting(tmp_path / "volume", life.store, ship_interval_s=3600.0)) as runtime:
        await sparse(life, runtime)
        at = await life.barrier(runtime)
        await life.age(runtime)
        shipped = dict(life.files)

        async def nothing(self: Pass) -> None:
            """The store takes no log: what was condemned stays unshipped."""

        with monkeypatch.context() as patch:
            patch.setattr(Pass, "_note_shipped", nothing)
            await runtime.collector.collect()
            await runtime.collector.collect()
        assert runtime.log.head.seq >= at
        if protected:
            await check_position(tmp_path, life.store, None, shipped)
        else:
            with pytest.raises(BaseExceptionGroup) as caught:
                await check_position(tmp_path, life.store, None, shipped)
            assert caught.group_contains(Corrupt, match="missing", depth=None)


@protected
async def test_no_kept_position_needs_it(
    tmp_path: Path, life: Life, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """(b) Every position of the retention time can be read, whatever was collected since."""
    if not protected:
        monkeypatch.setattr(Deletion, "is_past", lambda self, row, horizon: True)
    given = collecting(tmp_path / "volume", life.store, checkpoint_retention_s=DAY_S)
    async with volume(given) as runtime:
        await sparse(life, runtime)
        await life.checkpoint(runtime)
        for _ in range(3):
            await runtime.collector.collect()
            await life.checkpoint(runtime)
        first = min(seq for seq, files in life.history.items() if len(files) == 12)
        if protected:
            assert await life.check_positions(tmp_path) == len(life.history) >= 5
        else:
            with pytest.raises(BaseExceptionGroup) as caught:
                await check_position(tmp_path, life.store, first, life.history[first])
            assert caught.group_contains(Corrupt, match="missing", depth=None)


async def test_once_no_kept_position_needs_it_it_goes(tmp_path: Path, life: Life) -> None:
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await sparse(life, runtime)
        await life.barrier(runtime)
        before = packs(life.store)
        for checkpoints in range(3):
            done = await runtime.collector.collect()
            assert (done.deleted_packs > 0) == (checkpoints == 2), "two checkpoints stay, whatever their age"
            await life.checkpoint(runtime)
        assert sum(packs(life.store).values()) < sum(before.values()) / 2
        assert not [number for number, _ in runtime.metadata.scan(CONDEMNED, 0, PACK_NUMBER_END)]


@protected
async def test_readers_have_their_grace(
    tmp_path: Path, life: Life, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """(c) A standby that does not get to the log reads on for that time."""
    if not protected:
        monkeypatch.setattr(Deletion, "is_over", lambda self, since_ns, now_ns: True)
    async with volume(collecting(tmp_path / "volume", life.store, gc_grace_s=3600.0)) as runtime:
        await sparse(life, runtime)
        await life.barrier(runtime)
        given = standby(tmp_path / "standby", life.store, interval_s=3600.0)
        async with following(given) as (reader, follower):
            reader.reading.refresh_with(no_news)
            await shown_once(runtime, follower)
            await runtime.collector.collect()
            await life.age(runtime)
            await runtime.collector.collect()
            forget_cached(reader)
            if protected:
                await life.check(reader)
            else:
                with pytest.raises(Corrupt, match="missing"):
                    await life.check(reader)


async def no_news() -> None:
    """The log cannot be had."""


async def shown_once(runtime: Runtime, follower: object) -> None:
    await runtime.volume.barrier()
    await follower.catch_up()  # type: ignore[attr-defined]


@protected
async def test_a_standby_that_is_behind_looks_the_chunk_up_again(
    tmp_path: Path, life: Life, protected: bool
) -> None:
    """After the grace it finds a pack gone, catches up, and reads where the data lies now."""
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await sparse(life, runtime)
        await life.barrier(runtime)
        given = standby(tmp_path / "standby", life.store, interval_s=3600.0)
        async with following(given) as (reader, follower):
            if not protected:
                reader.reading.refresh_with(no_news)
            await shown_once(runtime, follower)
            await runtime.collector.collect()
            there = log_of(life.store)
            await life.age(runtime)
            assert (await runtime.collector.collect()).deleted_packs
            # As if the request that pruned the log had not come to its end.
            for key in [key for key in there if key not in log_of(life.store)][1:]:
                life.store.put(key, there[key])
            before = follower.shown
            forget_cached(reader)
            if protected:
                await life.check(reader)
                assert follower.shown == before, "the kernel is told later"
                await follower.catch_up()
                assert follower.shown.seq > before.seq
            else:
                with pytest.raises(Corrupt, match="missing"):
                    await life.check(reader)


def log_of(store: MemoryStore) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key, size_max=1 << 30) for entry in store.list("log/")}


@protected
async def test_references_are_counted_again(
    tmp_path: Path, life: Life, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """(d) A pack that was condemned by mistake is reprieved by the rows of its chunks."""
    if not protected:
        monkeypatch.setattr(Deletion, "needed", lambda self, view, batch: set())
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await life.write(runtime, b"needed", content(1, 100_000))
        await life.barrier(runtime)
        await mistake(runtime)
        await life.age(runtime)
        await runtime.collector.collect()
        forget_cached(runtime)
        if protected:
            await life.check(runtime)
            assert not [number for number, _ in runtime.metadata.scan(CONDEMNED, 0, PACK_NUMBER_END)]
        else:
            with pytest.raises(Corrupt, match="no row of pack"):
                await life.check(runtime)


async def mistake(runtime: Runtime) -> None:
    """Condemn every pack, as if nothing lay in it."""
    with runtime.metadata.change() as change:
        for number, pack in list(runtime.metadata.scan(PACK, 0, PACK_NUMBER_END)):
            change.put(PACK, number, msgspec.structs.replace(pack, live=0, live_bytes=0))
            change.put(CONDEMNED, number, Condemned(0, 1))
    await runtime.committer.commit()


@protected
async def test_what_cannot_be_read_deletes_nothing(
    tmp_path: Path, life: Life, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """(d) A damaged row may be the one that refers to the pack."""
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await sparse(life, runtime)
        await life.barrier(runtime)
        await runtime.collector.collect()
        await life.age(runtime)
        before = packs(life.store)
        chunk = next(number for number, _ in runtime.metadata.scan(CHUNK, 0, PACK_NUMBER_END))
        good = spoil(runtime, chunk)
        if protected:
            with pytest.raises(Corrupt, match="chunk"):
                await runtime.collector.collect()
            assert packs(life.store) == before
        else:
            monkeypatch.setattr(Deletion, "needed", lambda self, view, batch: set())
            await runtime.collector.collect()
            assert len(packs(life.store)) < len(before)
        mend(runtime, chunk, good)
        forget_cached(runtime)
        await life.check(runtime)


def spoil(runtime: Runtime, chunk: int) -> bytes:
    """One bit of the row in LMDB is flipped; the row as it was."""
    key = CHUNK.encode_key(chunk)
    database = runtime.metadata.databases[CHUNK.name]
    with runtime.metadata.begin() as writer:
        good: bytes = writer.get(key, db=database)
        writer.put(key, good[:50] + bytes((good[50] ^ 1,)) + good[51:], db=database)
    runtime.metadata.renew()
    return good


def mend(runtime: Runtime, chunk: int, good: bytes) -> None:
    with runtime.metadata.begin() as writer:
        writer.put(CHUNK.encode_key(chunk), good, db=runtime.metadata.databases[CHUNK.name])
    runtime.metadata.renew()


@protected
async def test_a_fenced_writer_deletes_nothing(
    tmp_path: Path, life: Life, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    if not protected:
        monkeypatch.setattr("fusegw.collect.deletion.refuse_once_fenced", lambda store, keys, head: None)
    given = collecting(tmp_path / "volume", life.store, ship_interval_s=3600.0)
    async with volume(msgspec.structs.replace(given, unmount_wait_s=0.0)) as runtime:
        await sparse(life, runtime)
        await life.barrier(runtime)
        await runtime.collector.collect()
        await life.age(runtime)
        before = packs(life.store)
        async with volume(collecting(tmp_path / "other", life.store, ship_interval_s=3600.0)):
            pass
        with pytest.raises(Fenced) if protected else nullcontext():
            await runtime.collector.collect()
        assert (packs(life.store) == before) == protected


async def test_the_horizon_is_the_oldest_folder_once_the_log_has_lost_its_beginning(
    tmp_path: Path, life: Life
) -> None:
    store: MemoryStore = life.store
    async with volume(collecting(tmp_path / "volume", store)) as runtime:
        await life.write(runtime, b"f", content(1, 1000))
        await life.barrier(runtime)
        assert oldest_kept(store, KEYS) == 0
        await life.write(runtime, b"e", content(3, 1000))
        await life.checkpoint(runtime)
        assert oldest_kept(store, KEYS) == 0, "the log is whole"
        await life.write(runtime, b"g", content(2, 1000))
        await life.checkpoint(runtime)
        oldest = folders(store)[-1].name.seq
        assert oldest_kept(store, KEYS) == oldest > 1
        store.put(object_key(Name(oldest - 1, bytes(8)), 1), b"begun by somebody")
        assert oldest_kept(store, KEYS) == oldest - 1


async def test_whoever_takes_over_knows_what_is_to_go(tmp_path: Path, life: Life) -> None:
    """Condemned here, deleted by a gateway on another host and by a standby that was promoted."""
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await sparse(life, runtime)
        await life.barrier(runtime)
        condemned = (await runtime.collector.collect()).waiting_packs
        await life.barrier(runtime)
    async with volume(collecting(tmp_path / "other", life.store)) as runtime:
        await life.check(runtime)
        kept = (await runtime.collector.collect()).waiting_packs
        assert kept == condemned > 0
        await life.barrier(runtime)
    given = standby(tmp_path / "standby", life.store)
    given = msgspec.structs.replace(given, tuning=collecting(tmp_path, life.store).tuning)
    async with following(given) as (runtime, _):
        await promote(runtime, switch=lambda: None)
        await life.age(runtime)
        assert (await runtime.collector.collect()).deleted_packs == condemned
        forget_cached(runtime)
        await life.check(runtime)
