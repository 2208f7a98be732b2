"""The pack writer while the disk works: places, batches, bounds, closed packs, threads."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from blake3 import blake3

from fusegw.errors import Invalid
from fusegw.packs.closing import ClosedPack
from fusegw.packs.format import (
    HEADER_SIZE,
    NONCE_SIZE,
    RAW_SIZE_MAX,
    RECORD_OVERHEAD,
    RECORDS_MAX,
    TRAILER_SIZE,
    Location,
    PackCipher,
    decode_trailer,
    footer_size,
)
from fusegw.packs.verify import verify_pack
from fusegw.packs.writer import PackWriter
from tests.packs.conftest import World
from tests.packs.fakes import chunk, chunk_id_of, ref_of


def closed_packs(world: World, writer: PackWriter) -> dict[int, tuple[ClosedPack, bytes]]:
    """Close the current pack; every closed one by its number, with the bytes of its file, all verified."""
    writer.close_current()
    packs = {}
    for closed in writer.take_closed():
        data = world.path(closed.name).read_bytes()
        assert len(data) == closed.size == world.cache.size(closed.name)
        assert blake3(data).digest() == closed.hash
        entries = verify_pack(
            data, world.keys, pack_id=closed.pack_id, number=closed.number, chunk_id_of=chunk_id_of
        )
        assert len(entries) == closed.records
        packs[closed.number] = closed, data
    return packs


def test_small_records_make_no_system_call(world: World) -> None:
    writer = world.writer()
    before = dict(world.disk.calls)
    places = [writer.append(chunk_id_of(chunk(n, 4000)), chunk(n, 4000)) for n in range(100)]
    assert world.disk.calls == before
    assert world.reader(writer).read(
        [ref_of(writer, chunk_id_of(chunk(n, 4000)), place) for n, place in enumerate(places)]
    ) == [chunk(n, 4000) for n in range(100)]
    assert world.disk.calls == before
    assert writer.sync() == {}
    new = {name: count - before.get(name, 0) for name, count in world.disk.calls.items()}
    assert (new["open"], new["pwritev"], new["fdatasync"], new["fsync_dir"]) == (1, 1, 1, 1)
    assert writer.held_bytes() == 0
    assert [writer.peek(place) for place in places] == [None] * 100


def test_runs_of_a_mebibyte_are_written_by_append(world: World) -> None:
    writer = world.writer()
    raw = chunk(1, 512 << 10)
    writer.append(bytes(32), raw[: 300 << 10])
    assert "pwritev" not in world.disk.calls
    for n in range(5):
        writer.append(bytes([n] * 32), raw)
    assert world.disk.calls["pwritev"] == 1
    assert "fdatasync" not in world.disk.calls


def test_places_follow_each_other_and_numbers_carry_the_epoch(world: World) -> None:
    world.epoch = 6
    writer = world.writer(size_max_bytes=20_000)
    places = [writer.append(chunk_id_of(chunk(n, 3000)), chunk(n, 3000)) for n in range(30)]
    assert places[0].offset == HEADER_SIZE
    assert places[0].pack == 7 << 40 | 1
    for before, after in pairwise(places):
        if before.pack == after.pack:
            assert (after.record, after.offset) == (before.record + 1, before.offset + before.stored)
        else:
            assert (after.pack, after.record, after.offset) == (before.pack + 1, 0, HEADER_SIZE)
    packs = closed_packs(world, writer)
    assert list(packs) == sorted({place.pack for place in places})
    for number, (closed, _) in packs.items():
        assert closed.size <= 20_000
        info = writer.describe(number)
        assert (info.pack_id, info.key_version, info.salt) == (
            closed.pack_id, closed.key_version, closed.salt,
        )  # fmt: skip


def test_one_record_may_exceed_the_pack_size(world: World) -> None:
    writer = world.writer(size_max_bytes=1000)
    raw = chunk(1, 50_000)
    first, second = writer.append_many([(chunk_id_of(raw), raw), (chunk_id_of(raw), raw)])
    assert (first.record, second.record) == (0, 0)
    assert len(closed_packs(world, writer)) == 2


def test_a_pack_has_a_bounded_number_of_records(world: World) -> None:
    writer = world.writer(size_max_bytes=1 << 30)
    items = [(bytes(32), b"x")] * (RECORDS_MAX + 1)
    places = writer.append_many(items)
    assert [places[-2].record, places[-1].record] == [RECORDS_MAX - 1, 0]
    writer.sync()
    (closed,) = writer.take_closed()
    end = HEADER_SIZE + RECORDS_MAX * (1 + RECORD_OVERHEAD)
    assert closed.size == end + footer_size(RECORDS_MAX) + TRAILER_SIZE


def test_batches_are_one_round(world: World) -> None:
    writer = world.writer()
    items = [(chunk_id_of(chunk(n, 5000)), chunk(n, 5000)) for n in range(50)]
    assert writer.append_many([]) == []
    places = writer.append_many(items)
    assert [place.record for place in places] == list(range(50))
    refs = [ref_of(writer, chunk_id, place) for (chunk_id, _), place in zip(items, places, strict=True)]
    assert world.reader(writer).read(refs) == [raw for _, raw in items]


@pytest.mark.parametrize(("chunk_id", "size"), [(bytes(31), 1), (bytes(33), 1), (bytes(32), 0)])
def test_chunks_have_bounds(world: World, chunk_id: bytes, size: int) -> None:
    writer = world.writer()
    with pytest.raises(Invalid):
        writer.append(chunk_id, bytes(size))
    with pytest.raises(Invalid):
        writer.append(bytes(32), bytes(RAW_SIZE_MAX + 1))
    assert writer.append(bytes(32), bytes(RAW_SIZE_MAX)).raw == RAW_SIZE_MAX


def test_pack_sizes_have_bounds(world: World) -> None:
    for size in (0, (1 << 30) + 1):
        with pytest.raises(Invalid, match="pack size"):
            world.writer(size_max_bytes=size)


def test_at_most_the_bound_is_held(world: World) -> None:
    writer = world.writer(held_max_bytes=100_000)
    most = 0
    for n in range(60):
        raw = chunk(n, 20_000)
        writer.append(chunk_id_of(raw), raw)
        most = max(most, writer.held_bytes())
    assert 0 < most <= 100_000
    assert world.disk.calls["fdatasync"] > 5


def test_the_bound_holds_while_a_sync_is_under_way(world: World) -> None:
    writer = world.writer(held_max_bytes=100_000)
    held = []

    def fill() -> None:
        while writer.append_nowait(bytes(32), chunk(1, 20_000)) is not None:
            held.append(writer.held_bytes())

    writer.append(bytes(32), chunk(0, 20_000))
    world.disk.before["fdatasync"] = fill
    writer.sync()
    assert 80_000 < max(held) <= 100_000
    assert writer.held_bytes() == held[-1] - held[0] // 2, "what came during the sync is held still"
    writer.sync()
    assert writer.held_bytes() == 0


def test_nowait_never_touches_the_disk(world: World) -> None:
    writer = world.writer(held_max_bytes=100_000)
    before = dict(world.disk.calls)
    taken = 0
    while writer.append_nowait(bytes(32), chunk(taken, 20_000)) is not None:
        taken += 1
    assert taken in range(5, 12)
    assert world.disk.calls == before
    writer.append(bytes(32), chunk(0, 20_000))
    assert writer.append_nowait(bytes(32), chunk(1, 20_000)) is not None


def test_claims_are_given_back_as_bytes_are_written(world: World) -> None:
    writer = world.writer()
    for n in range(3):
        assert world.cache.reserve(10_000)
        writer.append(bytes(32), chunk(n, 10_000), claimed=10_000)
    assert world.cache.stats().reserved_bytes == 30_000
    writer.sync()
    stats = world.cache.stats()
    assert stats.reserved_bytes == 0
    assert stats.pinned_bytes >= 10_000


def test_close_current_of_nothing(world: World) -> None:
    writer = world.writer()
    writer.close_current()
    assert writer.sync() == {}
    assert writer.take_closed() == []
    assert writer.take_damaged() == []


def test_a_new_key_version_reaches_the_next_pack(world: World) -> None:
    writer = world.writer()
    first = writer.append(bytes(32), b"old")
    world.keys.current_version = 2
    assert writer.append(bytes(32), b"same pack").pack == first.pack
    writer.close_current()
    second = writer.append(bytes(32), b"new")
    assert [writer.describe(place.pack).key_version for place in (first, second)] == [1, 2]


def test_no_nonce_and_no_salt_comes_twice(world: World) -> None:
    """Over all records and footers of many packs; keys differ by salt and pack id."""
    writer = world.writer(size_max_bytes=30_000)
    for n in range(400):
        writer.append(chunk_id_of(chunk(n, 1000)), chunk(n, 1000))
    packs = closed_packs(world, writer)
    nonces: list[bytes] = []
    for closed, data in packs.values():
        footer_at = len(data) - TRAILER_SIZE - decode_trailer(data[-TRAILER_SIZE:], len(data), "it")
        nonces.append(data[footer_at : footer_at + NONCE_SIZE])
        cipher = PackCipher(world.keys, closed.key_version, closed.pack_id, closed.salt)
        for _, place in cipher.open_footer(data[footer_at:-TRAILER_SIZE], footer_at, closed.number):
            nonces.append(data[place.offset : place.offset + NONCE_SIZE])
    assert len(nonces) == 400 + len(packs)
    assert len(set(nonces)) == len(nonces)
    assert len({closed.salt for closed, _ in packs.values()}) == len(packs) > 5


def test_same_chunk_seals_differently_each_time(world: World) -> None:
    writer = world.writer()
    raw = chunk(1, 1000)
    sealed = {writer.peek(writer.append(chunk_id_of(raw), raw)) for _ in range(10)}
    assert len(sealed) == 10


def test_threads_append_sync_and_read_at_once(world: World) -> None:
    writer = world.writer(size_max_bytes=300_000, held_max_bytes=200_000)
    reader = world.reader(writer)

    def work(thread: int) -> list[tuple[bytes, Location]]:
        written = []
        for n in range(80):
            raw = chunk(1000 * thread + n, 500 + 97 * n)
            if n % 3:
                place = writer.append(chunk_id_of(raw), raw)
            else:
                (place,) = writer.append_many([(chunk_id_of(raw), raw)])
            assert reader.read([ref_of(writer, chunk_id_of(raw), place)]) == [raw]
            written.append((raw, place))
            if n % 20 == thread:
                assert writer.sync() == {}
        return written

    with ThreadPoolExecutor(4) as threads:
        written = [item for part in threads.map(work, range(4)) for item in part]
    assert len({place for _, place in written}) == 320
    packs = closed_packs(world, writer)
    assert sum(closed.records for closed, _ in packs.values()) == 320
    for raw, place in written:
        closed, data = packs[place.pack]
        cipher = PackCipher(world.keys, closed.key_version, closed.pack_id, closed.salt)
        cipher.open(data[place.offset : place.offset + place.stored], chunk_id_of(raw), place)
