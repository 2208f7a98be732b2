"""The pack reader: right bytes or an error, few requests, and healing from whichever copy is good."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from fusegw.errors import Corrupt, NotFound, Unavailable
from fusegw.packs.fetch import merge, subtract
from fusegw.packs.format import Location, object_key
from fusegw.packs.reader import ChunkRef
from tests.packs.conftest import BLOCK, World
from tests.packs.fakes import chunk, chunk_id_of, ref_of

REQUEST = 16 * BLOCK


class Stored:
    """Chunks in closed packs, in the store, with an empty cache."""

    def __init__(self, world: World, sizes: list[int], *, size_max_bytes: int = 32 << 20) -> None:
        writer = world.writer(size_max_bytes=size_max_bytes)
        self.raws = [chunk(n, size) for n, size in enumerate(sizes)]
        places = [writer.append(chunk_id_of(raw), raw) for raw in self.raws]
        writer.close_current()
        self.packs = writer.take_closed()
        for pack in self.packs:
            world.store.put(object_key(pack.pack_id), world.path(pack.name).read_bytes())
            world.cache.unpin(pack.name)
        world.cache.drop()
        sizes_of = {pack.number: pack.size for pack in self.packs}
        self.refs = [
            ref_of(writer, chunk_id_of(raw), place, sizes_of[place.pack])
            for raw, place in zip(self.raws, places, strict=True)
        ]


def flip_in_store(world: World, ref: ChunkRef, distance: int = 20) -> None:
    key = object_key(ref.pack_id)
    data = bytearray(world.store.get(key, size_max=1 << 30))
    data[ref.location.offset + distance] ^= 1
    world.store.put(key, bytes(data), create_only=False)


def flip_in_cache(world: World, ref: ChunkRef, distance: int = 20) -> None:
    with world.path(ref.pack_id.hex()).open("r+b") as file:
        file.seek(ref.location.offset + distance)
        byte = file.read(1)
        file.seek(ref.location.offset + distance)
        file.write(bytes([byte[0] ^ 1]))


def test_neighbours_come_in_one_request_and_then_from_the_cache(world: World) -> None:
    stored = Stored(world, [3000] * 20)
    reader = world.reader()
    assert reader.read(stored.refs) == stored.raws
    (request,) = world.store.ranges
    assert request == (object_key(stored.packs[0].pack_id), 0, request[2])
    last = stored.refs[-1].location
    assert last.offset + last.stored <= request[2] <= stored.packs[0].size
    assert reader.read(list(reversed(stored.refs))) == list(reversed(stored.raws))
    assert len(world.store.ranges) == 1


def test_what_is_fetched_was_missed_once(world: World) -> None:
    stored = Stored(world, [3000] * 20)
    reader = world.reader()
    assert reader.read_local(stored.refs) == [None] * 20
    assert reader.fetch(stored.refs) == stored.raws
    stats = world.cache.stats()
    assert (stats.hits, stats.misses) == (0, 20)
    assert stats.miss_bytes == sum(ref.location.stored for ref in stored.refs)
    assert reader.read_local(stored.refs) == stored.raws
    assert (world.cache.stats().hits, world.cache.stats().misses) == (20, 20)


def test_half_a_chunk_in_the_cache_is_a_miss_and_no_hit(world: World) -> None:
    stored = Stored(world, [3 * BLOCK // 2] * 4)
    reader = world.reader()
    for ref, raw in zip(stored.refs, stored.raws, strict=True):
        if reader.read_local([ref]) == [None]:
            assert reader.fetch([ref]) == [raw]
    stats = world.cache.stats()
    assert stats.hits + stats.misses == 4
    assert stats.misses >= 3


def test_fetching_heals_what_is_damaged_in_the_cache(world: World) -> None:
    stored = Stored(world, [3000] * 5)
    reader = world.reader()
    reader.prefetch(stored.refs)
    flip_in_cache(world, stored.refs[2])
    (damaged,) = [
        ref for ref, raw in zip(stored.refs, reader.read_local(stored.refs), strict=True) if not raw
    ]
    assert damaged == stored.refs[2]
    before = len(world.store.ranges)
    assert reader.fetch([damaged]) == [stored.raws[2]]
    assert len(world.store.ranges) == before + 1
    assert reader.read_local(stored.refs) == stored.raws, "the new copy is in the cache"


def test_requests_have_a_bound(world: World) -> None:
    stored = Stored(world, [9000] * 40)
    assert world.reader(request_max_bytes=REQUEST).read(stored.refs) == stored.raws
    assert len(world.store.ranges) > 2
    assert max(length for _, _, length in world.store.ranges) == REQUEST
    assert sum(length for _, _, length in world.store.ranges) <= stored.packs[0].size


def test_only_what_is_missing_is_fetched(world: World) -> None:
    stored = Stored(world, [9000] * 40)
    reader = world.reader()
    middle = slice(15, 25)
    assert reader.read(stored.refs[middle]) == stored.raws[middle]
    (first,) = world.store.ranges
    assert reader.read(stored.refs) == stored.raws
    before, after = world.store.ranges[1:]
    assert before[1] + before[2] == first[1]
    assert after[1] == first[1] + first[2]


def test_far_apart_is_two_requests(world: World) -> None:
    stored = Stored(world, [9000] * 40)
    wanted = [stored.refs[0], stored.refs[39]]
    assert world.reader().read(wanted) == [stored.raws[0], stored.raws[39]]
    assert len(world.store.ranges) == 2
    assert sum(length for _, _, length in world.store.ranges) < stored.packs[0].size / 4


def test_several_packs_in_any_order(world: World) -> None:
    stored = Stored(world, [3000] * 40, size_max_bytes=20_000)
    assert len(stored.packs) > 3
    order = [n * 7 % 40 for n in range(40)]
    assert world.reader().read([stored.refs[n] for n in order]) == [stored.raws[n] for n in order]
    assert len(world.store.ranges) == len(stored.packs)


def test_prefetch_fills_the_cache(world: World) -> None:
    stored = Stored(world, [3000] * 20)
    reader = world.reader()
    reader.prefetch(stored.refs)
    fetched = list(world.store.ranges)
    assert len(fetched) == 1
    assert reader.read(stored.refs) == stored.raws
    assert world.store.ranges == fetched


def test_reading_what_is_local_never_asks_the_store(world: World) -> None:
    stored = Stored(world, [9000] * 10)
    reader = world.reader()
    assert reader.read_local(stored.refs) == [None] * 10
    assert reader.read(stored.refs[:1]) == stored.raws[:1]
    fetched = list(world.store.ranges)
    flip_in_cache(world, stored.refs[0])
    local = reader.read_local(stored.refs)
    assert local[0] is None, "a damaged copy is as good as none"
    assert local[9] is None
    assert world.store.ranges == fetched
    assert reader.read(stored.refs) == stored.raws
    assert reader.read_local(stored.refs[1:]) == stored.raws[1:]


def test_nothing_to_read(world: World) -> None:
    assert world.reader().read([]) == []


def test_reading_without_room_in_the_cache(world: World) -> None:
    stored = Stored(world, [9000] * 10)
    world.reopen_cache(set(), budget_bytes=0)
    reader = world.reader()
    assert reader.read(stored.refs) == stored.raws
    assert len(world.store.ranges) == 1
    assert world.cache.stats().used_bytes == 0


def test_a_record_across_a_cached_and_a_fetched_block(world: World) -> None:
    stored = Stored(world, [40_000] * 3)
    reader = world.reader()
    reader.prefetch(stored.refs[:1])
    assert reader.read(stored.refs[1:2]) == stored.raws[1:2]
    assert len(world.store.ranges) == 2, "the block both records touch was not fetched again"


def test_the_same_with_a_cache_that_lost_its_part_meanwhile(world: World) -> None:
    stored = Stored(world, [40_000] * 3)
    reader = world.reader()
    reader.prefetch(stored.refs[:1])
    world.store.before_get = lambda: world.cache.invalidate(stored.packs[0].name, 0, 1 << 20) and None
    assert reader.read(stored.refs[1:2]) == stored.raws[1:2]


@pytest.mark.parametrize("distance", [0, 12, 20, -1])
def test_a_damaged_cache_heals_from_the_store(world: World, distance: int) -> None:
    stored = Stored(world, [3000] * 20)
    reader = world.reader()
    reader.read(stored.refs)
    victim = stored.refs[7]
    flip_in_cache(world, victim, distance if distance >= 0 else victim.location.stored - 1)
    del world.store.ranges[:]
    assert reader.read(stored.refs) == stored.raws
    assert len(world.store.ranges) >= 1
    del world.store.ranges[:]
    assert reader.read(stored.refs) == stored.raws
    assert reader.read(stored.refs) == stored.raws
    assert len(world.store.ranges) <= 1, "the block was dropped and came back whole"


def test_a_deleted_cache_file_heals_from_the_store(world: World) -> None:
    stored = Stored(world, [3000] * 20)
    reader = world.reader()
    reader.read(stored.refs)
    world.path(stored.packs[0].name).unlink()
    world.reopen_cache({stored.packs[0].name})
    assert world.reader().read(stored.refs) == stored.raws


def test_a_damaged_store_is_corrupt_and_never_stays_in_the_cache(world: World) -> None:
    stored = Stored(world, [3000] * 20)
    victim = stored.refs[7]
    good = world.store.get(object_key(victim.pack_id), size_max=1 << 30)
    flip_in_store(world, victim)
    reader = world.reader()
    with pytest.raises(Corrupt, match=f"record 7 of pack {victim.pack_id.hex()}"):
        reader.read(stored.refs)
    assert reader.read(stored.refs[:7] + stored.refs[8:]) == stored.raws[:7] + stored.raws[8:]
    world.store.put(object_key(victim.pack_id), good, create_only=False)
    assert reader.read(stored.refs) == stored.raws


def test_a_transfer_that_garbles_once_heals(world: World) -> None:
    stored = Stored(world, [3000] * 3)

    def garble(data: bytes) -> bytes:
        world.store.spoil = None
        return bytes(len(data))

    world.store.spoil = garble
    assert world.reader().read(stored.refs[:1]) == stored.raws[:1]


def test_a_good_cached_copy_hides_a_damaged_store(world: World) -> None:
    stored = Stored(world, [3000] * 5)
    reader = world.reader()
    reader.read(stored.refs)
    flip_in_store(world, stored.refs[2])
    assert reader.read(stored.refs) == stored.raws


@pytest.mark.parametrize("field", ["record", "offset", "raw", "codec", "chunk_id", "salt", "key_version"])
def test_a_wrong_reference_never_reads_bytes(world: World, field: str) -> None:
    stored = Stored(world, [3000] * 5)
    ref, other = stored.refs[1], stored.refs[2]
    wrong = {
        "record": replace(ref, location=replace(ref.location, record=2)),
        "offset": replace(ref, location=replace(ref.location, offset=other.location.offset)),
        "raw": replace(ref, location=replace(ref.location, raw=2999)),
        "codec": replace(ref, location=replace(ref.location, codec=0)),
        "chunk_id": replace(ref, chunk_id=other.chunk_id),
        "salt": replace(ref, salt=bytes(32)),
        "key_version": replace(ref, key_version=2),
    }[field]
    reader = world.reader()
    assert reader.read([ref]) == [stored.raws[1]]
    with pytest.raises(Corrupt):
        reader.read([wrong])


def test_a_chunk_whose_id_is_not_its_own_is_corrupt(world: World) -> None:
    """The tag alone does not do: what was sealed under a wrong id is refused as well."""
    writer = world.writer()
    place = writer.append(bytes(32), b"data")
    with pytest.raises(Corrupt, match="another chunk"):
        world.reader(writer).read([ref_of(writer, bytes(32), place)])
    trusting = world.reader(writer, chunk_id_of=lambda raw: bytes(32))
    assert trusting.read([ref_of(writer, bytes(32), place)]) == [b"data"]


def test_damage_that_exists_only_here_says_so(world: World) -> None:
    writer = world.writer()
    raw = chunk(1, 3000)
    place = writer.append(chunk_id_of(raw), raw)
    writer.sync()
    ref = ref_of(writer, chunk_id_of(raw), place)
    reader = world.reader(writer)
    assert reader.read([ref]) == [raw]
    flip_in_cache(world, ref)
    with pytest.raises(Corrupt, match="the store has no copy"):
        reader.read([ref])
    flip_in_cache(world, ref)
    assert reader.read([ref]) == [raw]


def test_a_pack_that_is_gone_is_not_found(world: World) -> None:
    stored = Stored(world, [3000] * 3)
    world.store.delete([object_key(stored.packs[0].pack_id)])
    with pytest.raises(NotFound):
        world.reader().read(stored.refs)
    with pytest.raises(NotFound):
        world.reader().read([replace(stored.refs[0], pack_size=0)])


def test_a_pack_cut_off_in_the_store_is_corrupt(world: World) -> None:
    stored = Stored(world, [3000] * 3)
    key = object_key(stored.packs[0].pack_id)
    world.store.put(key, world.store.get(key, size_max=1 << 30)[:1000], create_only=False)
    with pytest.raises(Corrupt, match="cut off"):
        world.reader().read(stored.refs)


def test_an_outage_passes_through_and_cached_chunks_stay_readable(world: World) -> None:
    stored = Stored(world, [40_000] * 10)
    reader = world.reader()
    reader.read(stored.refs[:2])

    def outage() -> None:
        raise Unavailable("store is away")

    world.store.before_get = outage
    with pytest.raises(Unavailable, match="away"):
        reader.read(stored.refs)
    assert reader.read(stored.refs[:2]) == stored.raws[:2]
    world.store.before_get = None
    assert reader.read(stored.refs) == stored.raws


def test_two_threads_fetch_a_block_once(world: World) -> None:
    stored = Stored(world, [3000] * 20)
    reader = world.reader()
    asked, answer = threading.Event(), threading.Event()

    def stall() -> None:
        asked.set()
        assert answer.wait(60)

    world.store.before_get = stall
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(reader.read, stored.refs)
        assert asked.wait(60)
        others = [threads.submit(reader.read, stored.refs[n:]) for n in (0, 5)]
        while world.cache.stats().misses < 20 + 20 + 15:
            os.sched_yield()
        answer.set()
        assert first.result() == stored.raws
        assert [other.result() for other in others] == [stored.raws, stored.raws[5:]]
    assert len(world.store.ranges) == 1


def test_who_waits_for_a_failed_request_asks_itself(world: World) -> None:
    stored = Stored(world, [3000] * 20)
    reader = world.reader()
    asked, answer = threading.Event(), threading.Event()

    def fail_first() -> None:
        world.store.before_get = None
        asked.set()
        assert answer.wait(60)
        raise Unavailable("only this once")

    world.store.before_get = fail_first
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(reader.read, stored.refs)
        assert asked.wait(60)
        second = threads.submit(reader.read, stored.refs)
        answer.set()
        with pytest.raises(Unavailable):
            first.result()
        assert second.result() == stored.raws


def test_threads_read_and_evict_at_once(world: World) -> None:
    stored = Stored(world, [3000 + 500 * n for n in range(60)], size_max_bytes=40_000)
    world.reopen_cache(set(), budget_bytes=20 * BLOCK)
    reader = world.reader(request_max_bytes=REQUEST)

    def work(thread: int) -> None:
        for n in range(120):
            start = (n * (2 * thread + 3)) % 55
            assert reader.read(stored.refs[start : start + 5]) == stored.raws[start : start + 5]
            if n % 40 == 0:
                world.cache.drop()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert world.cache.stats().used_bytes <= 20 * BLOCK


def test_ranges() -> None:
    assert merge([(8, 12), (0, 4), (4, 6), (10, 14)]) == [(0, 6), (8, 14)]
    assert merge([]) == []
    whole = [(0, 10), (20, 30)]
    assert subtract(whole, 5, 25) == [(0, 5), (25, 30)]
    assert subtract(whole, 0, 30) == []
    assert subtract(whole, 10, 20) == whole
    assert subtract(whole, 22, 24) == [(0, 10), (20, 22), (24, 30)]
    assert subtract(whole, 40, 50) == whole


def test_an_open_packs_records_come_from_memory_or_file(world: World) -> None:
    writer = world.writer()
    raws = [chunk(n, 2000) for n in range(6)]
    places: list[Location] = []
    for n, raw in enumerate(raws):
        places.append(writer.append(chunk_id_of(raw), raw))
        if n == 2:
            writer.sync()
    refs = [ref_of(writer, chunk_id_of(raw), place) for raw, place in zip(raws, places, strict=True)]
    assert world.reader(writer).read(refs) == raws
    assert world.store.ranges == []
    with pytest.raises(NotFound):
        world.reader().read(refs)
