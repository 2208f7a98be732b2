"""A check passes on a whole volume, and names what is damaged in another with the files that suffer."""

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from fusegw.assembly import Runtime
from fusegw.check.run import Check, Report, run
from fusegw.clock import SystemClock
from fusegw.errors import Unavailable
from fusegw.meta.beside import IndexBeside
from fusegw.meta.schema import CHUNK, PACK_NUMBER_END, ROOT_INODE
from fusegw.packs.format import HEADER_SIZE
from fusegw.store.base import ObjectStore
from fusegw.store.faulty import FaultyStore
from fusegw.store.memory import MemoryStore
from fusegw.vfs.mending import Suspect
from tests.collect.support import Life, collecting
from tests.faults.support import KEYS, ROOT_USER, content, source, volume, write_file
from tests.meta.indexes import underneath
from tests.ship.test_checkpoint import checkpointed

FILES = 6
SIZE = 150_000


class Stored:
    """A volume in a store, whose gateway has ended."""

    def __init__(self, base: Path) -> None:
        self.store = MemoryStore(clock=SystemClock())
        self.base = base
        self.waits: list[float] = []

    def objects(self) -> dict[str, bytes]:
        return {info.key: self.store.get(info.key, size_max=1 << 26) for info in self.store.list()}

    def packs(self) -> list[str]:
        return [info.key for info in self.store.list("packs/")]

    def change(self, key: str, data: bytes) -> None:
        self.store.put(key, data, create_only=False)

    def check(self, *, share: float = 1.0, store: ObjectStore | None = None, **options: object) -> Report:
        with IndexBeside(self.base / "host" / "meta") as index:
            given = Check(
                views=index.view,
                store=store or self.store,
                keys=KEYS,
                clock=SystemClock(),
                wait=self.waits.append,
                places=[self.base / "host" / "cache" / "packs"],
                share=share,
            )
            return run(replace(given, **options))


async def fill(runtime: Runtime) -> None:
    names = runtime.volume.namespace
    below = names.mkdir(ROOT_INODE, b"dir", 0o755, ROOT_USER).ino
    for number in range(FILES):
        await write_file(runtime, b"f%d" % number, content(number, SIZE))
        names.rename(ROOT_INODE, b"f%d" % number, below, b"f%d" % number, 0)
        await runtime.volume.barrier()
    await write_file(runtime, b"copy", content(3, SIZE))
    await runtime.volume.barrier()


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[Stored]:
    one = Stored(tmp_path)
    async with volume(source(tmp_path / "host", one.store)) as runtime:
        await fill(runtime)
        checkpointed(runtime, one.store)
        await write_file(runtime, b"later", b"after the checkpoint")
        await runtime.volume.barrier()
    yield one


async def test_a_whole_volume_passes_and_nothing_changes(stored: Stored) -> None:
    before = stored.objects()
    report = stored.check()
    assert report.whole and report.damage == []
    assert report.chunks_read == report.chunks and report.packs == len(stored.packs())
    assert report.bytes_read > FILES * SIZE and report.checkpoints == 1 and report.segments > 0
    assert stored.objects() == before


async def test_without_reading_only_lists_and_heads_are_asked(stored: Stored) -> None:
    report = stored.check(share=0)
    assert report.whole and report.chunks_read == 0 and report.packs == len(stored.packs())


async def test_a_missing_pack_is_named_with_its_files(stored: Stored) -> None:
    (key, *_) = stored.packs()
    stored.store.delete([key])
    for share in (0.0, 1.0):
        (damage,) = stored.check(share=share).damage
        assert damage.object == key and "missing" in damage.problem
        assert damage.files and all(path.startswith(("/dir/f", "/copy", "/later")) for path in damage.files)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("harm", "names_files"),
    [
        (lambda data: flip(data, HEADER_SIZE + 50), True),
        (lambda data: flip(data, 30), False),
        (lambda data: flip(data, len(data) - 3), False),
        (lambda data: flip(data, len(data) - 40), False),
        (lambda data: data[: len(data) // 2], True),
        (lambda data: data + b"more", False),
    ],
    ids=["record", "header", "trailer", "footer", "cut off", "longer"],
)
async def test_damage_anywhere_in_a_pack_is_found(
    stored: Stored, harm: Callable[[bytes], bytes], names_files: bool
) -> None:
    key = max(stored.packs(), key=lambda key: len(stored.objects()[key]))
    stored.change(key, harm(stored.objects()[key]))
    report = stored.check()
    (damage,) = report.damage
    assert damage.object == key and bool(damage.files) is names_files
    assert bool(report.damaged_chunks) is names_files


async def test_packs_that_changed_places_are_found(stored: Stored) -> None:
    one, other, *_ = stored.packs()
    data = stored.objects()
    stored.change(one, data[other])
    stored.change(other, data[one])
    assert {damage.object for damage in stored.check().damage} == {one, other}


async def test_any_flipped_bit_of_log_and_checkpoint_is_found(stored: Stored) -> None:
    """Objects that recovery may need; segments before the checkpoint are not."""
    draw = random.Random(5)
    objects = stored.objects()
    (manifest,) = {key.rpartition("/")[0] for key in objects if key.startswith("checkpoints/")}
    position = int(manifest.rpartition("/")[2].partition("-")[0])
    wanted = [
        key
        for key in objects
        if key.startswith("checkpoints/") or (key.startswith("log/") and int(key[4:]) > position)
    ]
    assert len(wanted) > 2
    for key in wanted:
        stored.change(key, flip(objects[key], draw.randrange(len(objects[key]))))
        assert not stored.check().whole, key
        stored.change(key, objects[key])
        if key.startswith("log/"):
            stored.store.delete([key])
            assert not stored.check(share=0).whole, f"{key} deleted"
            stored.change(key, objects[key])
    assert stored.check().whole


async def test_a_sample_is_chosen_by_its_seed(stored: Stored) -> None:
    first, again, other = (stored.check(share=0.3, seed=seed) for seed in (1, 1, 2))
    assert first.whole and 0 < first.chunks_read < first.chunks
    assert (first.chunks_read, first.bytes_read) == (again.chunks_read, again.bytes_read)
    assert (first.chunks_read, first.bytes_read) != (other.chunks_read, other.bytes_read)


async def test_the_rate_is_kept(stored: Stored) -> None:
    stored.check(rate_bytes_s=1000.0)
    assert max(stored.waits) > 1.0


async def test_objects_that_nobody_knows_are_counted_and_harm_nobody(stored: Stored) -> None:
    stored.change("packs/00/" + "0" * 32, b"left behind")
    report = stored.check()
    assert report.whole and (report.packs_unknown, report.packs_unknown_bytes) == (1, 11)


@pytest.mark.parametrize("table", ["pack", "chunk", "extent", "dirent"])
async def test_a_damaged_row_ends_nothing(stored: Stored, table: str) -> None:
    """It is named, the rest is checked, and other damage still gets the names of files."""
    with underneath(stored.base / "host" / "meta", table) as rows:
        key, value = next(iter(rows.cursor()))
        rows.put(key, bytes([value[0] ^ 1]) + value[1:])
    lost = stored.packs()[-1]
    stored.store.delete([lost])
    report = stored.check()
    assert any(f"table {table!r} is damaged" in damage.problem for damage in report.damage)
    named = {damage.object: damage.files for damage in report.damage}
    assert lost in named or table == "pack"
    assert report.chunks_read


async def test_what_can_be_mended_is_no_damage(stored: Stored) -> None:
    key = stored.packs()[0]
    stored.store.delete([key])
    asked: list[Suspect] = []
    with IndexBeside(stored.base / "host" / "meta") as index:
        check = Check(
            views=index.view, store=stored.store, keys=KEYS, clock=SystemClock(), wait=stored.waits.append
        )

        def mend(suspects: object) -> set[int]:
            asked.extend(suspects)  # type: ignore[call-overload]
            return {one.number for one in asked[1:]}

        report = run(check, mend=mend)
    assert asked and report.damaged_chunks == 1 and report.mended_chunks == len(asked) - 1


async def test_a_store_that_does_not_answer_is_no_damage(stored: Stored) -> None:
    down = FaultyStore(stored.store, seed=1)
    down.set_outage(True)
    with pytest.raises(Unavailable):
        stored.check(store=down)


async def test_data_that_is_not_in_the_store_yet_is_read_where_it_lies(tmp_path: Path) -> None:
    one = Stored(tmp_path)
    store = FaultyStore(one.store, seed=1)
    async with volume(source(tmp_path / "host", store, unmount_wait_s=0.1)) as runtime:
        await runtime.volume.barrier()
        store.set_outage(True)
        await write_file(runtime, b"only here", content(1, SIZE))
        await runtime.volume.sync()
    report = one.check()
    assert report.whole and report.chunks_read == report.chunks > 0 and report.packs == 0
    for path in (tmp_path / "host" / "cache" / "packs").rglob("*"):
        if path.is_file():
            path.write_bytes(flip(path.read_bytes(), HEADER_SIZE + 100))
    (damage,) = one.check().damage
    assert damage.files == ["/only here"]


async def test_beside_a_gateway_that_writes_and_collects(tmp_path: Path) -> None:
    """What is written, deleted, shipped, rewritten and given up meanwhile is no damage."""
    store = MemoryStore(clock=SystemClock())
    life = Life(store)
    async with volume(collecting(tmp_path, store)) as runtime:
        rounds = 0

        async def load(scope: trio.CancelScope) -> None:
            nonlocal rounds
            with scope:
                while True:
                    for number in range(6):
                        await life.write(
                            runtime, b"%d-%d" % (rounds, number), content(number, 40_000 + rounds)
                        )
                    await life.barrier(runtime)
                    await life.remove(runtime, *[b"%d-%d" % (rounds, number) for number in range(5)])
                    await life.age(runtime)
                    await runtime.collector.collect()
                    rounds += 1

        check = Check(
            views=runtime.metadata.view,
            store=store,
            keys=KEYS,
            clock=SystemClock(),
            wait=lambda seconds: None,
            places=[tmp_path / "cache" / "packs"],
            share=1.0,
        )
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load, scope)
            checks = 0
            while checks < 4 or rounds < 2:
                report = await trio.to_thread.run_sync(run, check)
                assert report.whole, report.damage
                checks += 1
            scope.cancel()
        await runtime.volume.barrier()


async def test_damage_that_was_found_before_is_damage_until_it_is_whole(tmp_path: Path) -> None:
    one = Stored(tmp_path)
    async with volume(source(tmp_path / "host", one.store)) as runtime:
        await fill(runtime)
        key = one.packs()[0]
        data = one.objects()[key]
        one.store.delete([key])
        with runtime.metadata.change() as change:
            for number, _ in list(runtime.metadata.scan(CHUNK, 0, PACK_NUMBER_END)):
                runtime.chunks.distrust(change, number)
        await runtime.volume.barrier()
    (damage,) = one.check(share=0).damage
    assert damage.object == key
    one.change(key, data)
    assert one.check(share=0).whole, "what is marked is read, and was good after all"
