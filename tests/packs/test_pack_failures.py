"""The pack writer while the disk fails: nothing acknowledged is lost, nothing lost is acknowledged."""

import errno
from concurrent.futures import ThreadPoolExecutor

import pytest
from blake3 import blake3

from fusegw.errors import Corrupt, Full, FusegwError, NotFound
from fusegw.packs.format import Location
from fusegw.packs.recover import close_torn
from fusegw.packs.verify import verify_pack
from fusegw.packs.writer import PackWriter
from tests.packs.conftest import World
from tests.packs.fakes import chunk, chunk_id_of, ref_of

Written = list[tuple[bytes, Location]]

STEPS = ["open", "pwritev", "fdatasync", "fsync_dir"]


def append(writer: PackWriter, numbers: range, size: int = 3000) -> Written:
    return [(raw, writer.append(chunk_id_of(raw), raw)) for raw in (chunk(n, size) for n in numbers)]


def moved(written: Written, moves: dict[Location, Location]) -> Written:
    return [(raw, moves.get(place, place)) for raw, place in written]


def read(world: World, writer: PackWriter, written: Written) -> None:
    refs = [ref_of(writer, chunk_id_of(raw), place) for raw, place in written]
    assert world.reader(writer).read(refs) == [raw for raw, _ in written]


def survives(world: World, writer: PackWriter, written: Written) -> None:
    """After power loss each of them is read back, by a gateway that knows only where they lie."""
    places: dict[int, list[tuple[bytes, Location]]] = {}
    for raw, place in written:
        places.setdefault(place.pack, []).append((chunk_id_of(raw), place))
    infos = {number: writer.describe(number) for number in places}
    world.reopen_cache({info.name for info in infos.values()}, crash=True)
    for number, committed in places.items():
        closing = close_torn(world.cache, world.keys, infos[number], committed, entropy=world.entropy)
        assert closing.damaged == ()
        assert closing.pack is not None
        data = world.path(closing.pack.name).read_bytes()
        assert blake3(data).digest() == closing.pack.hash
        entries = verify_pack(data, world.keys, pack_id=closing.pack.pack_id, number=number)
        assert set(entries) == set(committed)
    refs = [ref_of(writer, chunk_id_of(raw), place) for raw, place in written]
    assert world.reader().read(refs) == [raw for raw, _ in written]


def test_synced_records_survive_power_loss(world: World) -> None:
    writer = world.writer(size_max_bytes=30_000)
    written = append(writer, range(40))
    assert writer.sync() == {}
    append(writer, range(40, 45))
    survives(world, writer, written)


@pytest.mark.parametrize("deaf", [False, True])
def test_control_unsynced_records_do_not_survive(world: World, deaf: bool) -> None:
    """The disk of these tests does forget: without a sync, or with one that does nothing, all is lost."""
    writer = world.writer()
    written = append(writer, range(40), size=100_000)
    assert world.disk.calls["pwritev"] > 0
    if deaf:
        world.disk.deaf = True
        writer.sync()
    with pytest.raises((AssertionError, Corrupt, NotFound)):
        survives(world, writer, written)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("step", STEPS)
def test_one_failure_moves_what_was_not_durable(world: World, step: str, code: int) -> None:
    writer = world.writer()
    written = append(writer, range(20))
    world.disk.fail_once[step] = code
    moves = writer.sync()
    assert set(moves) == {place for _, place in written}
    assert {place.pack for place in moves.values()} == {written[0][1].pack + 1}
    after = moved(written, moves)
    read(world, writer, after)
    read(world, writer, written)
    assert writer.sync() == {}
    assert writer.held_bytes() == 0
    assert world.cache.size(writer.describe(written[0][1].pack).name) is None, "the failed pack is gone"
    survives(world, writer, after)


@pytest.mark.parametrize("step", ["pwritev", "fdatasync"])
def test_durable_records_of_a_failed_pack_stay_and_it_is_closed(world: World, step: str) -> None:
    writer = world.writer()
    durable = append(writer, range(20))
    writer.sync()
    failed = durable[0][1].pack
    later = append(writer, range(20, 30))
    world.disk.fail_once[step] = errno.EIO
    moves = writer.sync()
    assert set(moves) == {place for _, place in later}
    (closed,) = writer.take_closed()
    assert (closed.number, closed.records) == (failed, 20)
    data = world.path(closed.name).read_bytes()
    assert blake3(data).digest() == closed.hash
    assert len(verify_pack(data, world.keys, pack_id=closed.pack_id)) == 20
    assert writer.take_damaged() == []
    survives(world, writer, durable + moved(later, moves))


def test_a_failed_pack_gets_no_more_records(world: World) -> None:
    """Once a write or a sync failed, that file only ever gets its end."""
    writer = world.writer()
    first = append(writer, range(5))
    writer.sync()
    second = append(writer, range(5, 10))
    world.disk.fail_once["fdatasync"] = errno.EIO
    moves = writer.sync()
    third = append(writer, range(10, 15))
    writer.sync()
    failed = first[0][1].pack
    assert all(place.pack != failed for place in moves.values())
    assert all(place.pack != failed for _, place in third)
    assert {place.pack for _, place in second} == {failed}


def test_failing_while_a_full_pack_is_closed(world: World) -> None:
    writer = world.writer(size_max_bytes=20_000)
    written = append(writer, range(30))
    world.disk.fail_once["fdatasync"] = errno.EIO
    moves = writer.sync()
    assert moves
    assert len({old.pack for old in moves}) == 1
    after = moved(written, moves)
    read(world, writer, after)
    writer.close_current()
    assert writer.sync() == {}
    closed = {pack.number for pack in writer.take_closed()}
    assert closed == {place.pack for _, place in after}
    survives(world, writer, after)


@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, Full), (errno.EDQUOT, Full), (errno.EIO, FusegwError)]
)
@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_keeps_failing(world: World, step: str, code: int, error: type[FusegwError]) -> None:
    writer = world.writer()
    written = append(writer, range(10))
    world.disk.failing[step] = code
    for round_ in range(3):
        with pytest.raises(error, match=r"writing pack [0-9a-f]{32}") as caught:
            writer.sync()
        assert caught.value.errno == (errno.ENOSPC if error is Full else errno.EIO)
        read(world, writer, written)
        written += append(writer, range(100 * round_ + 100, 100 * round_ + 105))
    held = writer.held_bytes()
    assert held == sum(place.stored for _, place in written), "copies made in vain are forgotten"
    world.disk.failing.clear()
    moves = writer.sync()
    assert moves
    assert writer.held_bytes() == 0
    after = moved(written, moves)
    read(world, writer, after)
    packs = {writer.describe(place.pack).name for _, place in after}
    left = {path.name for path in (world.top / "packs").glob("*/*")}
    assert left == packs, "packs that failed without a durable record leave nothing behind"
    survives(world, writer, after)


def test_append_raises_when_the_bound_is_reached(world: World) -> None:
    writer = world.writer(held_max_bytes=100_000)
    world.disk.failing["pwritev"] = errno.ENOSPC
    written: Written = []
    with pytest.raises(Full):
        for n in range(20):
            written += append(writer, range(n, n + 1), size=20_000)
    assert len(written) in range(5, 12)
    assert writer.held_bytes() <= 100_000
    assert writer.append_nowait(bytes(32), chunk(1, 20_000)) is None
    read(world, writer, written)
    world.disk.failing.clear()
    written += append(writer, range(50, 60), size=20_000)
    survives(world, writer, moved(written, writer.sync()))


def test_failed_write_in_append_comes_up_at_sync(world: World) -> None:
    writer = world.writer()
    world.disk.fail_once["pwritev"] = errno.EIO
    written = append(writer, range(20), size=200_000)
    assert "pwritev" not in world.disk.fail_once
    moves = writer.sync()
    assert moves
    survives(world, writer, moved(written, moves))


def test_old_places_are_readable_until_the_sync_after_the_report(world: World) -> None:
    writer = world.writer()
    written = append(writer, range(5))
    world.disk.fail_once["fdatasync"] = errno.EIO
    writer.close_current()
    moves = writer.sync()
    assert len(moves) == 5
    read(world, writer, written)
    assert writer.sync() == {}
    assert [writer.peek(place) for _, place in written] == [None] * 5
    with pytest.raises(NotFound):
        read(world, writer, written)
    read(world, writer, moved(written, moves))


def test_a_pack_that_cannot_be_closed_is_closed_later(world: World) -> None:
    writer = world.writer()
    durable = append(writer, range(5))
    writer.sync()
    later = append(writer, range(5, 10))
    world.disk.fail_once["fdatasync"] = errno.EIO
    world.disk.failing["ftruncate"] = errno.EIO
    after = durable + moved(later, writer.sync())
    assert writer.take_closed() == []
    with pytest.raises(FusegwError, match="closing pack"):
        writer.close_current()
    assert [pack.number for pack in writer.take_closed()] == [after[-1][1].pack]
    world.disk.failing.clear()
    writer.close_current()
    assert [pack.number for pack in writer.take_closed()] == [durable[0][1].pack]
    survives(world, writer, after)


def test_durable_records_that_cannot_be_read_back_are_named(world: World) -> None:
    writer = world.writer()
    durable = append(writer, range(5))
    writer.sync()
    append(writer, range(5, 10))
    spoiled = durable[2][1]
    path = world.path(writer.describe(spoiled.pack).name)
    data = bytearray(path.read_bytes())
    data[spoiled.offset + 20] ^= 1
    path.write_bytes(data)
    world.disk.fail_once["fdatasync"] = errno.EIO
    writer.sync()
    (closed,) = writer.take_closed()
    assert closed.records == 4
    assert writer.take_damaged() == [(chunk_id_of(durable[2][0]), spoiled)]
    verify_pack(path.read_bytes(), world.keys, pack_id=closed.pack_id, chunk_id_of=chunk_id_of)


def test_claims_are_given_back_when_a_pack_fails(world: World) -> None:
    writer = world.writer()
    assert world.cache.reserve(50_000)
    writer.append(bytes(32), chunk(1, 50_000), claimed=50_000)
    world.disk.failing["open"] = errno.EIO
    with pytest.raises(FusegwError):
        writer.sync()
    world.disk.failing.clear()
    writer.sync()
    assert world.cache.stats().reserved_bytes == 0


@pytest.mark.parametrize("step", ["pwritev", "fdatasync"])
def test_threads_append_while_the_disk_fails_now_and_then(world: World, step: str) -> None:
    writer = world.writer(size_max_bytes=3 << 20, held_max_bytes=3 << 20)
    moves: dict[Location, Location] = {}

    def work(thread: int) -> Written:
        written: Written = []
        for n in range(60):
            raw = chunk(1000 * thread + n, 120_000)
            while True:
                try:
                    written.append((raw, writer.append(chunk_id_of(raw), raw)))
                    break
                except FusegwError:
                    pass
            if n % 15 == 5 * thread:
                world.disk.fail_once[step] = errno.EIO
        return written

    with ThreadPoolExecutor(3) as threads:
        written = [item for part in threads.map(work, range(3)) for item in part]
    while writer.held_bytes():
        try:
            moves |= writer.sync()
        except FusegwError:
            pass
    moves |= writer.sync()
    assert moves
    after = []
    for raw, place in written:
        while place in moves:
            place = moves[place]
        after.append((raw, place))
    survives(world, writer, after)
