"""A drill passes on a whole store, names what is damaged in another, and changes nothing in either."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fusegw.check.damages import Damage
from fusegw.clock import SystemClock
from fusegw.drill.run import Drill, Held, Report, held_by_index, run
from fusegw.drill.sample import EVERYTHING, Size
from fusegw.errors import Denied, Unavailable
from fusegw.meta.schema import ROOT_INODE, Head
from fusegw.packs.format import HEADER_SIZE
from fusegw.ship import checkpoint
from fusegw.ship.recover import recover
from fusegw.store.base import ObjectStore
from fusegw.store.faulty import FaultyStore
from fusegw.store.memory import MemoryStore
from fusegw.store.readonly import ReadOnlyStore
from tests.faults.support import KEYS, ROOT_USER, content, source, volume, write_file
from tests.ship.test_checkpoint import checkpointed

FILES = 12


class Stored:
    """A volume in a store, whose gateway is gone."""

    def __init__(self, base: Path) -> None:
        self.store = MemoryStore(clock=SystemClock())
        self.base = base
        self.head: Head | None = None

    def objects(self) -> dict[str, bytes]:
        return {info.key: self.store.get(info.key, size_max=1 << 26) for info in self.store.list()}

    def put(self, key: str, data: bytes) -> None:
        self.store.put(key, data, create_only=False)

    def packs(self) -> list[str]:
        return [info.key for info in self.store.list("packs/")]

    def segments(self) -> list[str]:
        return [info.key for info in self.store.list("log/")]

    def drill(self, store: ObjectStore | None = None, *, size: Size = EVERYTHING, seed: int = 1) -> Report:
        clock = SystemClock()
        return run(
            Drill(
                name="tank",
                store=store or self.store,
                keys=KEYS,
                begun=clock.monotonic(),
                base=self.base,
                held=Held("gateway", self.head, None),
                size=size,
                seed=seed,
                metadata_limit_bytes=1 << 30,
                clock=clock,
            )
        )


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[Stored]:
    one = Stored(tmp_path)
    async with volume(source(tmp_path / "host", one.store)) as runtime:
        names = runtime.volume.namespace
        below = names.mkdir(ROOT_INODE, b"dir", 0o755, ROOT_USER).ino
        for number in range(FILES):
            await write_file(runtime, b"f%d" % number, content(number, 200_000))
            names.rename(ROOT_INODE, b"f%d" % number, below, b"f%d" % number, 0)
            await runtime.volume.barrier()
        await write_file(runtime, b"copy", content(3, 200_000))
        await write_file(runtime, b"empty", b"")
        await runtime.volume.barrier()
        one.head = runtime.log.head
    yield one


def only(report: Report) -> Damage:
    assert not report.whole
    (damage,) = report.damage
    return damage


async def test_a_whole_store_passes_and_nothing_changes(stored: Stored) -> None:
    before, files = stored.objects(), sorted(path for path in stored.base.rglob("*"))
    report = stored.drill()
    assert report.whole and report.damage == []
    assert (report.files, report.files_checked, report.files_checked_partly) == (FILES + 2, FILES + 2, 0)
    assert report.bytes_checked == report.file_bytes == (FILES + 1) * 200_000
    assert report.bytes_fetched == report.stored_bytes, "what two files share is fetched once"
    assert (
        stored.head is not None and report.segment == stored.head.seq and report.packs == len(stored.packs())
    )
    assert report.rpo_s == 0.0 and report.rpo_by == "gateway"
    assert report.rto_index_s is not None and report.rto_first_byte_s is not None
    assert report.rto_index_s < report.rto_first_byte_s <= report.drill_s
    assert report.rto_everything_s is not None and report.rto_everything_s > report.rto_index_s
    assert stored.objects() == before
    assert sorted(path for path in stored.base.rglob("*")) == files


async def test_a_flipped_byte_in_a_pack_is_named_with_the_files(stored: Stored) -> None:
    key = stored.packs()[0]
    data = bytearray(stored.objects()[key])
    data[HEADER_SIZE + 100] ^= 1
    stored.put(key, bytes(data))
    damage = only(stored.drill())
    assert damage.object == key and "record 0" in damage.problem
    assert damage.files and all(path.startswith(("/dir/f", "/copy")) for path in damage.files)


async def test_without_verifying_a_flipped_byte_would_pass(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    key = stored.packs()[0]
    data = bytearray(stored.objects()[key])
    data[HEADER_SIZE + 100] ^= 1
    stored.put(key, bytes(data))
    monkeypatch.setattr(
        "fusegw.check.reading.read_pieces", lambda reader, pieces: [bytes(piece.length) for piece in pieces]
    )
    assert stored.drill().whole


async def test_a_pack_that_is_gone_is_named_even_if_no_file_of_it_is_read(stored: Stored) -> None:
    key = stored.packs()[0]
    stored.store.delete([key])
    damage = only(stored.drill(size=Size(files=1, bytes_max=1 << 20)))
    assert damage.object == key and "missing" in damage.problem and damage.files


async def test_a_pack_that_is_cut_off_is_named_even_if_no_file_of_it_is_read(stored: Stored) -> None:
    key = stored.packs()[0]
    stored.put(key, stored.objects()[key][:-1])
    damage = only(stored.drill(size=Size(files=1, bytes_max=1 << 20)))
    assert damage.object == key and "bytes" in damage.problem and damage.files


@pytest.mark.parametrize("harm", ["delete", "cut", "flip"])
async def test_a_damaged_segment_is_named(stored: Stored, harm: str) -> None:
    key = stored.segments()[3]
    data = stored.objects()[key]
    stored.store.delete([key])
    if harm != "delete":
        stored.put(key, data[:-9] if harm == "cut" else data[:-1] + bytes((data[-1] ^ 1,)))
    damage = only(stored.drill())
    assert key in damage.problem and damage.files == []


async def test_a_log_without_its_end_is_no_newest_position(stored: Stored) -> None:
    """The chain alone cannot tell; what the gateway has shipped can."""
    last = stored.segments()[-1]
    stored.store.delete([last])
    damage = only(stored.drill())
    assert damage.object == last and "set back" in damage.problem
    stored.head = None
    assert stored.drill().whole, "the control: nobody knows of a later one"


async def test_a_damaged_checkpoint_is_named_though_recovery_does_without_it(
    stored: Stored, tmp_path: Path
) -> None:
    async with volume(source(tmp_path / "host", stored.store)) as runtime:
        await runtime.volume.barrier()
        written = checkpointed(runtime, stored.store)
        stored.head = runtime.log.head
    report = stored.drill()
    assert report.whole and report.checkpoint == written.name.seq
    part = checkpoint.object_key(written.name, 1)
    data = stored.objects()[part]
    stored.put(part, data[:-1])
    damage = only(stored.drill())
    assert part in damage.problem and part.startswith(damage.object)
    # One without a manifest may be one that is being written: said, and no damage.
    stored.store.delete([checkpoint.object_key(written.name, checkpoint.MANIFEST)])
    report = stored.drill()
    assert report.whole and report.checkpoint is None
    (unused,) = report.checkpoints_unused
    assert "never finished" in unused


async def test_a_store_without_a_log_is_damage(stored: Stored) -> None:
    stored.store.delete(stored.segments())
    assert "ends with segment 0" in only(stored.drill()).problem
    stored.head = None
    assert "no log" in only(stored.drill()).problem


async def test_a_store_that_was_exchanged_is_damage(stored: Stored) -> None:
    assert stored.head is not None
    stored.head = Head(stored.head.seq, bytes(32), stored.head.epoch)
    damage = only(stored.drill())
    assert damage.object == stored.segments()[-1] and "exchanged" in damage.problem


async def test_a_chunk_that_is_not_read_is_not_vouched_for(stored: Stored) -> None:
    """The control of the sample: damage outside it is not seen, and the report says how little was read."""
    key = stored.packs()[0]
    data = bytearray(stored.objects()[key])
    data[HEADER_SIZE + 100] ^= 1
    stored.put(key, bytes(data))
    outcomes = [stored.drill(size=Size(files=3, bytes_max=4 << 20), seed=seed) for seed in range(12)]
    assert {one.files_checked for one in outcomes} == {3}
    assert {one.whole for one in outcomes} == {True, False}


async def test_the_same_seed_reads_the_same_files(stored: Stored) -> None:
    class Watched(ReadOnlyStore):
        def __init__(self, inner: ObjectStore) -> None:
            super().__init__(inner)
            self.ranges: set[tuple[str, int, int]] = set()

        def get_range(self, key: str, offset: int, length: int) -> bytes:
            self.ranges.add((key, offset, length))
            return super().get_range(key, offset, length)

    def ranges(seed: int) -> set[tuple[str, int, int]]:
        watched = Watched(stored.store)
        assert stored.drill(watched, size=Size(files=2, bytes_max=4 << 20), seed=seed).whole
        return watched.ranges

    assert ranges(7) == ranges(7)
    assert len({frozenset(ranges(seed)) for seed in range(8)}) > 1


async def test_large_files_are_read_in_part(stored: Stored) -> None:
    report = stored.drill(size=Size(files=100, bytes_max=16 * 70_000))
    assert report.whole and report.files_checked_partly > 0
    assert 0 < report.bytes_checked < report.file_bytes


async def test_a_store_that_falls_silent_is_no_damage_and_leaves_nothing_behind(stored: Stored) -> None:
    class Silent(FaultyStore):
        def get_range(self, key: str, offset: int, length: int) -> bytes:
            self.set_outage(True)
            return super().get_range(key, offset, length)

    with pytest.raises(Unavailable):
        stored.drill(Silent(stored.store))
    assert not list(stored.base.glob(".fusegw-drill-*"))


async def test_leftovers_of_a_killed_drill_go_and_a_living_one_stays(stored: Stored) -> None:
    dead = stored.base / ".fusegw-drill-tank-dead"
    (dead / "meta").mkdir(parents=True)
    (stored.base / ".fusegw-drill-tank-link").symlink_to(stored.base / "host")

    class Nested(ReadOnlyStore):
        """Another drill begins while this one reads."""

        inner_report: Report | None = None

        def get_range(self, key: str, offset: int, length: int) -> bytes:
            if self.inner_report is None:
                self.inner_report = stored.drill()
            return super().get_range(key, offset, length)

    nested = Nested(stored.store)
    assert stored.drill(nested).whole
    assert nested.inner_report is not None and nested.inner_report.whole
    assert not dead.exists() and (stored.base / "host").is_dir()


async def test_a_drill_cannot_write(stored: Stored) -> None:
    store = ReadOnlyStore(stored.store)
    with pytest.raises(Denied):
        store.put("log/x", b"")
    with pytest.raises(Denied):
        store.delete(["log/x"])


async def test_what_an_unmounted_index_knows(stored: Stored, tmp_path: Path) -> None:
    held = held_by_index(tmp_path / "host" / "meta", SystemClock())
    assert held is not None and held.by == "index" and held.oldest_unshipped_s is None
    assert held.head is not None and stored.head is not None and held.head.seq >= stored.head.seq
    assert held_by_index(tmp_path / "nowhere", SystemClock()) is None
    assert not os.path.exists(tmp_path / "nowhere")


async def test_extents_that_do_not_cover_a_file_are_damage(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that recovers and is wrong in itself: a segment sealed with the volume's own keys can say
    anything."""

    def holed(index: Path, *arguments: object, **options: object) -> object:
        recovered = recover(index, *arguments, **options)  # type: ignore[arg-type]
        drop_an_extent(index)
        return recovered

    monkeypatch.setattr("fusegw.drill.run.recover", holed)
    damage = only(stored.drill())
    assert damage.object == "index" and "no valid extent" in damage.problem
    assert damage.files and damage.files[0].startswith("/")


def drop_an_extent(index: Path) -> None:
    from fusegw.meta.metadata import Metadata
    from fusegw.meta.schema import EXTENT

    metadata = Metadata(index, size_max_bytes=1 << 30)
    with metadata.view() as view:
        key, _ = next(iter(view.rows(EXTENT)))
    metadata.write([(EXTENT, key, None)])
    metadata.close()
