"""A standby: it shows what another gateway ships, position by position, and becomes the writer on demand."""

import errno
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from fusegw.assembly import Runtime, promote, running_volume
from fusegw.clock import SystemClock
from fusegw.errors import Corrupt, Fenced, Invalid, NotFound, Unavailable
from fusegw.index import Source
from fusegw.meta.rebuild import Changed
from fusegw.meta.records import decode_records, encode_delete, encode_put
from fusegw.meta.schema import INODE, LOGGED_TABLES, ROOT_INODE, Head
from fusegw.ship import segment
from fusegw.ship.chain import Pruned
from fusegw.ship.follow import Follower
from fusegw.ship.segment import CHANGES, SEGMENT_BYTES_MAX, Segment
from fusegw.store.base import ObjectInfo
from fusegw.store.faulty import FaultyStore
from fusegw.store.memory import MemoryStore
from fusegw.vfs.volume import Volume
from tests.faults.support import (
    KEYS,
    TUNING,
    content,
    create,
    read_file,
    source,
    until,
    volume,
    write_file,
)
from tests.model.invariants import check_index
from tests.model.world import World


def new_store() -> MemoryStore:
    return MemoryStore(clock=SystemClock())


class Untouchable(MemoryStore):
    """What `store` holds, for one who must not change it."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(clock=SystemClock())
        self._objects = store._objects

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        raise AssertionError(f"a standby puts {key}")

    def delete(self, keys: object) -> None:
        raise AssertionError(f"a standby deletes {keys}")


class Veiled(Untouchable):
    """One segment looks damaged, one is not there."""

    spoiled = hidden = ""

    def get(self, key: str, *, size_max: int) -> bytes:
        if key == self.hidden:
            raise NotFound(key)
        data = super().get(key, size_max=size_max)
        return data[:-1] + bytes((data[-1] ^ 1,)) if key == self.spoiled else data

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return (entry for entry in super().list(prefix, start_after=start_after) if entry.key != self.hidden)


def standby(directory: Path, store: MemoryStore | FaultyStore, *, interval_s: float = 0.02) -> Source:
    tuning = replace(TUNING, follow_interval_s=interval_s)
    return replace(source(directory, store, tuning=tuning), read_only=True, follow=True)


@asynccontextmanager
async def following(given: Source) -> AsyncIterator[tuple[Runtime, Follower]]:
    async with volume(given) as runtime:
        assert runtime.follower is not None
        yield runtime, runtime.follower


async def shown(writer: Runtime, follower: Follower) -> None:
    """All that the writer has is in the store, and shown by the standby."""
    await writer.volume.barrier()
    await until(lambda: follower.shown.seq >= writer.log.head.seq)


def everything(runtime: Runtime) -> dict[str, list[tuple[bytes, bytes]]]:
    with runtime.metadata.view() as view:
        return {table.name: list(view.stored(table)) for table in LOGGED_TABLES}


# what it shows


class FollowedWorld(World):
    """Random operations on the writer; the standby is compared with the reference at each barrier."""

    async def live(self, directory: Path, operations: int) -> int:
        rows_compared = 0
        async with running_volume(self._source) as writer:
            self.clock.now = self.reference.now
            await writer.volume.barrier()
            place = {"meta_dir": directory / "meta", "cache_dir": directory / "cache"}
            given = replace(self._source, read_only=True, follow=True, **place)
            async with running_volume(given) as runtime, trio.open_nursery() as nursery:
                follower = runtime.follower
                assert follower is not None
                for number in range(operations):
                    await self._step(writer, nursery)
                    if number % 40 == 0:
                        await writer.volume.barrier()
                        await follower.catch_up()
                        assert follower.shown.seq == writer.log.head.seq
                        await self.compare(runtime)
                        check_index(runtime.metadata)
                        assert runtime.usage.nbytes == writer.usage.nbytes
                        assert runtime.usage.files == writer.usage.files
                        if writer.metadata.commit_number == writer.log.head.commit:
                            assert everything(runtime) == everything(writer)
                            rows_compared += 1
        return rows_compared


def test_at_each_position_a_standby_equals_the_writer(tmp_path: Path) -> None:
    world = FollowedWorld(tmp_path / "writer", new_store(), seed=1)
    world.crashes = False
    assert trio.run(world.live, tmp_path / "standby", 2000, clock=MockClock()) > 25


async def test_it_changes_nothing_in_the_store(tmp_path: Path) -> None:
    store = new_store()
    async with volume(source(tmp_path / "writer", store)) as writer:
        await write_file(writer, b"before", content(1, 300_000))
        await writer.volume.barrier()
        async with following(standby(tmp_path / "standby", Untouchable(store))) as (runtime, follower):
            assert await read_file(runtime, b"before") == content(1, 300_000)
            ino = await write_file(writer, b"after", content(2, 200_000))
            await shown(writer, follower)
            assert await read_file(runtime, b"after") == content(2, 200_000)
            await runtime.volume.files.fsync(ino)
            assert runtime.usage.nbytes == writer.usage.nbytes
            assert runtime.chunks.stored_bytes == writer.chunks.stored_bytes
            assert runtime.volume.statfs().files == writer.volume.statfs().files
            assert (runtime.epoch, runtime.head.seq) == (writer.epoch, writer.log.head.seq)
            await until(lambda: follower.behind_segments == 0)
            assert follower.error is None


async def test_a_volume_of_which_nothing_was_shipped_yet_cannot_be_followed_until_it_is(
    tmp_path: Path,
) -> None:
    store = new_store()
    with pytest.raises(Invalid, match="nothing of the volume yet"):
        async with volume(standby(tmp_path / "standby", store)):
            pass
    slow = replace(TUNING, ship_interval_s=3600.0)
    async with volume(source(tmp_path / "writer", store, tuning=slow)) as writer:
        assert [entry.key for entry in store.list("log/")] == [segment.object_key(1)]
        with pytest.raises(Invalid, match="nothing of the volume yet"):
            async with volume(standby(tmp_path / "standby", store)):
                pass
        await writer.volume.barrier()
        async with following(standby(tmp_path / "standby", store)) as (_, follower):
            await shown(writer, follower)


async def test_what_changed_is_told_before_it_counts_as_shown(tmp_path: Path) -> None:
    store = new_store()
    told: list[Changed] = []
    async with volume(source(tmp_path / "writer", store)) as writer:
        ino = await write_file(writer, b"kept", content(1, 100_000))
        await writer.volume.barrier()
        async with following(standby(tmp_path / "standby", store)) as (runtime, follower):
            await follower.catch_up()
            before, refused = follower.shown, trio.Event()

            async def settle(changed: Changed) -> None:
                assert runtime.volume.namespace.lookup(ROOT_INODE, b"new") is not None
                assert follower.shown == before
                if not refused.is_set():
                    refused.set()
                    raise Unavailable("the kernel is busy")
                told.append(changed)

            follower.settle_with(settle)
            create(writer, b"new")
            await writer.volume.files.write(ino, 0, b"other")
            await shown(writer, follower)
            assert refused.is_set()
    entries = set().union(*(changed.entries for changed in told))
    assert entries == {(ROOT_INODE, b"new")}
    assert ino in set().union(*(changed.contents for changed in told))
    assert ROOT_INODE in set().union(*(changed.inodes for changed in told))


async def test_what_was_deleted_is_stale_for_who_has_it_open(tmp_path: Path) -> None:
    store = new_store()
    async with volume(source(tmp_path / "writer", store)) as writer:
        ino = await write_file(writer, b"f", content(1, 100_000))
        await writer.volume.barrier()
        async with following(standby(tmp_path / "standby", store)) as (runtime, follower):
            await follower.catch_up()
            runtime.volume.files.opened(ino)
            writer.volume.namespace.unlink(ROOT_INODE, b"f")
            await until(lambda: writer.volume.reap_backlog == 0)
            await shown(writer, follower)
            with pytest.raises(OSError) as caught:
                await runtime.volume.files.read(ino, 0, 10)
            assert caught.value.errno == errno.ESTALE
            runtime.volume.closed(ino)


# what keeps it from following


async def test_an_outage_is_told_and_ends(tmp_path: Path) -> None:
    store = new_store()
    faulty = FaultyStore(store)
    async with volume(source(tmp_path / "writer", store)) as writer:
        await write_file(writer, b"f", content(1, 100_000))
        await writer.volume.barrier()
        async with following(standby(tmp_path / "standby", faulty)) as (runtime, follower):
            await until(lambda: follower.behind_segments == 0)
            assert await read_file(runtime, b"f") == content(1, 100_000)
            faulty.set_outage(True)
            create(writer, b"g")
            await writer.volume.barrier()
            await until(lambda: follower.error is not None)
            lag = follower.lag_s
            await until(lambda: follower.lag_s > lag + 0.05)
            assert runtime.health.report().state != "ok"
            assert await read_file(runtime, b"f") == content(1, 100_000)
            with pytest.raises(Unavailable):
                await promote(runtime, switch=lambda: None)
            assert runtime.follower is follower
            faulty.set_outage(False)
            await until(lambda: follower.shown.seq == writer.log.head.seq and follower.error is None)
            assert runtime.health.report().state == "ok"
            assert runtime.volume.namespace.lookup(ROOT_INODE, b"g") is not None


async def test_it_stops_before_a_damaged_segment_and_goes_on_once_it_is_mended(tmp_path: Path) -> None:
    store = new_store()
    veiled = Veiled(store)
    async with volume(source(tmp_path / "writer", store)) as writer:
        await writer.volume.barrier()
        async with following(standby(tmp_path / "standby", veiled)) as (runtime, follower):
            await follower.catch_up()
            whole = writer.log.head
            veiled.spoiled = segment.object_key(whole.seq + 1)
            for name in (b"a", b"b"):
                create(writer, name)
                await writer.volume.barrier()
            with pytest.raises(Corrupt):
                await follower.catch_up()
            await until(lambda: follower.error is not None and bool(follower.behind_segments))
            assert f"Segment {whole.seq} is the newest state that is whole" in str(follower.error)
            assert follower.shown.seq == whole.seq
            assert runtime.volume.namespace.lookup(ROOT_INODE, b"a") is None
            with pytest.raises(Corrupt, match=veiled.spoiled):
                await promote(runtime, switch=lambda: None)
            assert runtime.follower is follower
            veiled.spoiled = ""
            await follower.catch_up()
            assert follower.error is None
            assert runtime.volume.namespace.lookup(ROOT_INODE, b"b") is not None


async def test_a_missing_segment_is_told_and_what_is_here_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusegw.ship.follow.GAP_LOOKS_S", 0.0)
    store = new_store()
    veiled = Veiled(store)
    async with volume(source(tmp_path / "writer", store)) as writer:
        await writer.volume.barrier()
        async with following(standby(tmp_path / "standby", veiled)) as (_, follower):
            await follower.catch_up()
            veiled.hidden = segment.object_key(follower.shown.seq + 1)
            for name in (b"a", b"b"):
                create(writer, name)
                await writer.volume.barrier()
            await until(lambda: "is missing" in str(follower.error))
        async with following(standby(tmp_path / "standby", veiled)) as (runtime, follower):
            assert runtime.volume.namespace.lookup(ROOT_INODE, b"b") is None
            await until(lambda: "is missing" in str(follower.error))
            veiled.hidden = ""
            await follower.catch_up()
            assert runtime.volume.namespace.lookup(ROOT_INODE, b"b") is not None


async def test_a_store_that_went_back_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusegw.ship.follow.GAP_LOOKS_S", 0.0)
    store = new_store()
    async with volume(source(tmp_path / "writer", store)) as writer:
        create(writer, b"f")
    async with following(standby(tmp_path / "standby", store)) as (runtime, follower):
        await until(lambda: follower.behind_segments == 0)
        store.delete([segment.object_key(follower.shown.seq)])
        await until(lambda: "set back, emptied or exchanged" in str(follower.error))
        lag = follower.lag_s
        await until(lambda: follower.lag_s > lag)
        assert runtime.volume.namespace.lookup(ROOT_INODE, b"f") is not None
        with pytest.raises(Invalid, match="set back"):
            await promote(runtime, switch=lambda: None)
        assert runtime.follower is follower


async def test_what_was_given_up_before_it_was_read_means_a_rebuild_at_the_next_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusegw.ship.follow.GAP_LOOKS_S", 0.0)
    store = new_store()
    brief = replace(TUNING, checkpoint_log_size_bytes=1024, checkpoint_retention_s=0.0)
    async with volume(source(tmp_path / "writer", store, tuning=brief)) as writer:
        await writer.volume.barrier()
        async with following(standby(tmp_path / "standby", store, interval_s=3600)) as (runtime, follower):
            # Its first look, the only one for an hour.
            await until(lambda: follower.behind_segments == 0)
            behind = segment.object_key(follower.shown.seq + 1)
            written = 0
            while written < 3 or any(entry.key == behind for entry in store.list("log/")):
                create(writer, b"f%d" % written)
                written += 1
                await writer.volume.barrier()
                await trio.sleep(0.01)
            with pytest.raises(Pruned):
                await follower.catch_up()
            assert runtime.volume.namespace.lookup(ROOT_INODE, b"f0") is None
        async with following(standby(tmp_path / "standby", store)) as (runtime, follower):
            await shown(writer, follower)
            assert everything(runtime) == everything(writer)
        assert not list((tmp_path / "standby").glob("unsent-*"))


async def test_the_index_of_a_fenced_writer_is_set_aside(tmp_path: Path) -> None:
    store = new_store()
    async with volume(source(tmp_path / "old", store, unmount_wait_s=0.0)) as old:
        await write_file(old, b"shared", content(1, 50_000))
        await old.volume.barrier()
        async with volume(source(tmp_path / "new", store)) as new:
            await write_file(old, b"late", content(2, 50_000))
            with pytest.raises(Fenced):
                await old.volume.barrier()
            await new.volume.barrier()
    async with volume(source(tmp_path / "new", store)) as new:
        async with following(standby(tmp_path / "old", store)) as (runtime, follower):
            await write_file(new, b"newer", content(3, 50_000))
            await shown(new, follower)
            assert runtime.volume.namespace.lookup(ROOT_INODE, b"late") is None
            assert await read_file(runtime, b"newer") == content(3, 50_000)
        (aside,) = (tmp_path / "old").glob("unsent-*")
        assert (aside / "meta" / "data.mdb").exists()


async def test_the_index_of_a_writer_that_ended_well_follows_on(tmp_path: Path) -> None:
    """Back to the first host: what it has is a position, and its commits are numbered on from there."""
    store = new_store()
    async with volume(source(tmp_path / "first", store)) as first:
        await write_file(first, b"f", content(1, 50_000))
    inode = (tmp_path / "first" / "meta" / "data.mdb").stat().st_ino
    async with volume(source(tmp_path / "second", store)) as second:
        await write_file(second, b"g", content(2, 50_000))
        await second.volume.barrier()
        async with following(standby(tmp_path / "first", store)) as (runtime, follower):
            await shown(second, follower)
            await promote(runtime, switch=lambda: None)
            await write_file(runtime, b"h", content(3, 50_000))
            await runtime.volume.barrier()
            assert runtime.log.oldest_unshipped_s is None
            assert runtime.log.head.commit == runtime.metadata.commit_number > 1
    assert (tmp_path / "first" / "meta" / "data.mdb").stat().st_ino == inode
    assert not list((tmp_path / "first").glob("unsent-*"))


# steps of several parts


def cut_in_two(store: MemoryStore, seq: int, at: Head) -> tuple[bytes, bytes]:
    """Take segment `seq`, the one after `at`, out of the store: as two parts it would be these objects."""
    key = segment.object_key(seq)
    whole = segment.unseal(store.get(key, size_max=SEGMENT_BYTES_MAX), at, KEYS)
    store.delete([key])
    records = [
        encode_delete(code, key) if value is None else encode_put(code, key, value)
        for code, key, value in decode_records(whole.body, "test")
    ]
    objects, previous = [], at.hash
    for number, part in enumerate((records[:1], records[1:])):
        what = Segment(seq + number, whole.epoch, CHANGES, number == 1, whole.time_ns, b"".join(part))
        data = segment.seal(what, previous, KEYS, salt=bytes([number]) * 32, nonce=bytes([number]) * 12)
        objects.append(data)
        previous = segment.digest(data)
    return objects[0], objects[1]


async def a_step_in_two_parts(directory: Path, store: MemoryStore) -> tuple[int, Head, bytes, bytes]:
    """Number of its first part, the position before it, and the parts, which are not in the store yet."""
    async with volume(source(directory, store)) as writer:
        await writer.volume.barrier()
        before = writer.log.head
        create(writer, b"f")
    seq = before.seq + 1
    return seq, before, *cut_in_two(store, seq, before)


async def test_a_step_is_shown_when_its_last_part_is_there(tmp_path: Path) -> None:
    store = new_store()
    seq, before, first, second = await a_step_in_two_parts(tmp_path / "writer", store)
    async with following(standby(tmp_path / "standby", store, interval_s=3600)) as (runtime, follower):
        await follower.catch_up()
        store.put(segment.object_key(seq), first)
        await follower.catch_up()
        assert follower.shown.seq == before.seq
        assert runtime.volume.namespace.lookup(ROOT_INODE, b"f") is None
        store.put(segment.object_key(seq + 1), second)
        await follower.catch_up()
        assert follower.shown.seq == seq + 1
        assert runtime.volume.namespace.lookup(ROOT_INODE, b"f") is not None
        check_index(runtime.metadata)


async def test_a_step_that_its_writer_never_finished_is_dropped_by_a_promotion(tmp_path: Path) -> None:
    store = new_store()
    seq, _, first, _ = await a_step_in_two_parts(tmp_path / "writer", store)
    async with following(standby(tmp_path / "standby", store)) as (runtime, _):
        store.put(segment.object_key(seq), first)
        await promote(runtime, switch=lambda: None)
        assert runtime.head.seq == seq + 1
        assert runtime.volume.namespace.lookup(ROOT_INODE, b"f") is None
        create(runtime, b"g")
        await runtime.volume.barrier()
    async with volume(source(tmp_path / "third", store)) as third:
        names = [name for name, _, _ in third.volume.namespace.readdir(ROOT_INODE, 0)]
        assert names == [b"g"]
        check_index(third.metadata)


# becoming the writer


async def test_a_promoted_standby_writes_and_the_old_writer_is_fenced(tmp_path: Path) -> None:
    store = new_store()
    async with volume(source(tmp_path / "old", store, unmount_wait_s=0.0)) as old:
        await write_file(old, b"shared", content(1, 150_000))
        await old.volume.barrier()
        async with following(standby(tmp_path / "new", store)) as (new, _):
            await write_file(old, b"last", content(2, 150_000))
            await old.volume.barrier()
            switched: list[Volume] = []
            reader = new.volume
            await promote(new, switch=lambda: switched.append(new.volume))
            assert switched == [new.volume] and new.volume is not reader
            assert new.follower is None and not new.source.read_only
            assert new.epoch == old.epoch + 1
            with trio.fail_after(10):
                await old.log.until_fenced()
            assert await read_file(new, b"last") == content(2, 150_000)
            ino = await write_file(new, b"mine", content(3, 150_000))
            inode = new.volume.inodes.get(ino)
            assert inode is not None and inode.generation == new.epoch
            await new.volume.barrier()
            with pytest.raises(Invalid, match="nothing to promote"):
                await promote(new, switch=lambda: None)
    async with volume(source(tmp_path / "third", store)) as third:
        assert await read_file(third, b"mine") == content(3, 150_000)
        check_index(third.metadata)


@pytest.mark.parametrize("adopting", [True, False], ids=["kept", "control"])
async def test_what_is_open_here_is_not_reaped_by_a_promotion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adopting: bool
) -> None:
    if not adopting:
        monkeypatch.setattr(Volume, "adopt", lambda self, other: None)
    store = new_store()
    async with volume(source(tmp_path / "old", store, unmount_wait_s=0.0)) as old:
        ino = await write_file(old, b"f", content(1, 100_000))
        old.volume.files.opened(ino)
        await old.volume.barrier()
        async with following(standby(tmp_path / "new", store)) as (new, follower):
            await follower.catch_up()
            new.volume.remember(ino)
            new.volume.files.opened(ino)
            old.volume.namespace.unlink(ROOT_INODE, b"f")
            await shown(old, follower)
            await promote(new, switch=lambda: None)
            await new.volume.barrier()
            if not adopting:
                await until(lambda: new.metadata.get(INODE, ino) is None)
                return
            assert await new.volume.files.read(ino, 0, 1 << 20) == content(1, 100_000)
            new.volume.forget(ino, 1)
            new.volume.closed(ino)
            await until(lambda: new.metadata.get(INODE, ino) is None)
            assert new.volume.reap_backlog == 0


async def test_reads_under_way_are_answered_across_a_promotion(tmp_path: Path) -> None:
    store = new_store()
    slow = FaultyStore(store)
    async with volume(source(tmp_path / "old", store, unmount_wait_s=0.0)) as old:
        await write_file(old, b"f", content(1, 900_000))
        await old.volume.barrier()
        async with following(standby(tmp_path / "new", slow)) as (new, follower):
            await follower.catch_up()
            async with trio.open_nursery() as nursery:
                results: list[bytes] = []

                async def read() -> None:
                    results.append(await read_file(new, b"f"))

                for _ in range(8):
                    nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                await promote(new, switch=lambda: None)
            assert results == [content(1, 900_000)] * 8


@pytest.mark.parametrize("lost", [1, 60])
async def test_slots_lost_to_the_old_writer_mean_catching_up_once_more(tmp_path: Path, lost: int) -> None:
    class Contested(MemoryStore):
        """The old writer gets its next segment in just before the takeover, `lost` times."""

        def __init__(self) -> None:
            super().__init__(clock=SystemClock())
            self.rival_at: Head | None = None
            self.left = lost

        def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
            at = self.rival_at
            if at is not None and self.left:
                self.left -= 1
                what = Segment(at.seq + 1, at.epoch, CHANGES, True, 0, b"")
                number = at.seq.to_bytes(4, "big")
                sealed = segment.seal(what, at.hash, KEYS, salt=number * 8, nonce=number * 3)
                super().put(segment.object_key(what.seq), sealed)
                self.rival_at = Head(what.seq, segment.digest(sealed), at.epoch)
            super().put(key, data, create_only=create_only)

    store = Contested()
    async with volume(source(tmp_path / "old", store)) as old:
        await write_file(old, b"f", content(1, 1000))
    async with following(standby(tmp_path / "new", store, interval_s=3600)) as (new, follower):
        await follower.catch_up()
        store.rival_at = follower.shown
        await promote(new, switch=lambda: None)
        assert new.head.seq == old.log.head.seq + lost + 1
        assert new.epoch == old.epoch + 1
        create(new, b"g")
        await new.volume.barrier()


async def test_a_promotion_whose_reply_was_lost_is_finished_by_the_next_one(tmp_path: Path) -> None:
    class Deaf(MemoryStore):
        """Puts, and says that it did not."""

        deaf = False

        def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
            super().put(key, data, create_only=create_only)
            if self.deaf:
                raise Unavailable("no reply")

    store = Deaf(clock=SystemClock())
    async with volume(source(tmp_path / "old", store)) as old:
        await write_file(old, b"f", content(1, 1000))
    async with following(standby(tmp_path / "new", store)) as (new, follower):
        await follower.catch_up()
        store.deaf = True
        with pytest.raises(Unavailable):
            await promote(new, switch=lambda: None)
        store.deaf = False
        await until(lambda: follower.shown.epoch == old.epoch + 1)
        assert new.follower is follower
        await promote(new, switch=lambda: None)
        assert new.epoch == old.epoch + 2
        await write_file(new, b"g", content(2, 1000))
        await new.volume.barrier()


async def test_who_asked_may_leave_and_it_is_one_or_the_other(tmp_path: Path) -> None:
    """A promotion that was called off at any checkpoint leaves a standby or a writer."""
    store = new_store()
    async with volume(source(tmp_path / "old", store)) as old:
        await write_file(old, b"f", content(1, 1000))
    chance = random.Random(1)
    outcomes = set()
    for number in range(12):
        async with following(standby(tmp_path / "new", store)) as (new, follower):
            with trio.move_on_after(chance.random() * 0.02):
                await promote(new, switch=lambda: None)
            assert new.source.read_only is (not follower.promoted.is_set())
            outcomes.add(follower.promoted.is_set())
            if follower.promoted.is_set():
                create(new, b"%d" % number)
                await new.volume.barrier()
    assert True in outcomes
