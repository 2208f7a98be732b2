"""A check knows which checkpoints were finished and from where on the log must be there: what is lost of
them is found, what was given up or never finished is not missed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

import fusegw.check.log
from fusegw.assembly import Runtime
from fusegw.check.damages import LOG
from fusegw.check.run import Check, Report, run
from fusegw.clock import SystemClock
from fusegw.errors import Invalid
from fusegw.meta.beside import IndexBeside
from fusegw.ship import segment
from fusegw.ship.checkpoints import Folder, folders
from fusegw.ship.kept import KeptRecord, kept_of
from fusegw.store.memory import MemoryStore
from tests.faults.support import KEYS, content, source, until, volume, write_file
from tests.meta.indexes import open_index
from tests.ship.test_retention import eager, grow, numbers


class Place:
    """A store, and the host whose gateway wrote it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = MemoryStore(clock=SystemClock())

    @property
    def meta(self) -> Path:
        return self.directory / "meta"

    def objects(self) -> dict[str, bytes]:
        return {info.key: self.store.get(info.key, size_max=1 << 26) for info in self.store.list()}

    def check(self, *, share: float = 1.0, meta: Path | None = None, is_newest: bool = True) -> Report:
        with IndexBeside(meta or self.meta) as index:
            given = Check(index.view, self.store, KEYS, SystemClock(), lambda seconds: None, share=share)
            return run(replace(given, is_newest=is_newest))

    def copy(self, to: Path) -> "Place":
        """The same store and host at another place."""
        copied = Place(to)
        for key, data in self.objects().items():
            copied.store.put(key, data)
        shutil.copytree(self.directory, to, ignore=shutil.ignore_patterns("lock*"))
        return copied

    def folders(self) -> list[Folder]:
        return folders(self.store)


async def checkpoint_of_all(runtime: Runtime, turn: int) -> None:
    """One of the position that the log has reached, and what is then given up is gone."""
    await grow(runtime, turn)
    head, checkpointer = runtime.log.head.seq, runtime.checkpointer
    await until(lambda: checkpointer.newest is not None and checkpointer.newest.name.seq == head)
    await until(lambda: checkpointer._taken is None)


async def reigns(place: Place, *, count: int, turns: int, **settings: float) -> None:
    for reign in range(count):
        async with volume(eager(place.directory, place.store, **settings)) as runtime:
            epoch = runtime.log.head.epoch
            await write_file(runtime, b"file %d" % epoch, content(epoch, 30_000))
            for turn in range(turns):
                await checkpoint_of_all(runtime, reign * turns + turn)
            await runtime.volume.barrier()
            await until(lambda: runtime.checkpointer._ready)
            await write_file(runtime, b"more %d" % epoch, content(100 + epoch, 300))
            await runtime.volume.barrier()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Place]]:
    """One whose log was pruned, with two checkpoints; one that has the whole log, and one checkpoint."""
    pruned = Place(tmp_path_factory.mktemp("pruned"))
    trio.run(lambda: reigns(pruned, count=3, turns=2))
    whole = Place(tmp_path_factory.mktemp("whole"))
    trio.run(lambda: reigns(whole, count=2, turns=0, checkpoint_log_size_bytes=1 << 30))
    trio.run(lambda: reigns(whole, count=1, turns=1))
    yield pruned, whole


@pytest.fixture
def pruned(made: tuple[Place, Place], tmp_path: Path) -> Place:
    return made[0].copy(tmp_path / "pruned")


@pytest.fixture
def unpruned(made: tuple[Place, Place], tmp_path: Path) -> Place:
    return made[1].copy(tmp_path / "unpruned")


def forget_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusegw.check.log, "kept_of", lambda view: None)


def test_both_are_whole(pruned: Place, unpruned: Place) -> None:
    for place, count in ((pruned, 2), (unpruned, 1)):
        report = place.check()
        assert report.whole and report.checkpoints == count, report.damage
        assert report.segments == len(numbers(place.store))
    assert numbers(pruned.store)[:2] != [1, 2] and numbers(unpruned.store)[:3] == [1, 2, 3]


@pytest.mark.parametrize("which", [0, 1], ids=["the newest", "the one before"])
@pytest.mark.parametrize("what", ["manifest", "all of it"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_finished_checkpoint_that_is_lost_is_missed(
    pruned: Place, which: int, what: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"checkpoints/{pruned.folders()[which].name}/"
    lost = [info.key for info in pruned.store.list(place)]
    pruned.store.delete([key for key in lost if what != "manifest" or key.endswith("manifest")])
    (damage,) = pruned.check(share=share).damage
    assert damage.object == place and "manifest is missing" in damage.problem
    forget_what_is_kept(monkeypatch)
    assert pruned.check(share=share).whole, "the control"


def test_a_checkpoint_that_was_never_finished_is_not_missed(pruned: Place) -> None:
    part = next(key for key in pruned.objects() if key.endswith("/000001"))
    at = pruned.folders()[0].name.seq
    pruned.store.put(f"checkpoints/{at:016d}-{'ab' * 8}/000001", pruned.objects()[part])
    assert pruned.check().whole


def test_every_object_of_the_log_that_is_lost_is_missed(pruned: Place, unpruned: Place) -> None:
    for place in (pruned, unpruned):
        for key, data in place.objects().items():
            if key.startswith("log/"):
                place.store.delete([key])
                damage = place.check().damage
                assert damage and all(one.object in (key, LOG) for one in damage), key
                place.store.put(key, data)
        assert place.check().whole


def test_every_object_of_the_log_that_is_damaged_is_named(pruned: Place, unpruned: Place) -> None:
    for place in (pruned, unpruned):
        for key, data in place.objects().items():
            if key.startswith("log/"):
                for harmed in (data[:-1], data[:50] + bytes((data[50] ^ 4,)) + data[51:]):
                    place.store.put(key, harmed, create_only=False)
                    damage = place.check().damage
                    assert damage and all(key in one.problem for one in damage), (key, damage)
                place.store.put(key, data, create_only=False)


def test_control_without_memory_the_log_s_beginning_may_be_missing(
    unpruned: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert segment.object_key(3) < segment.object_key(unpruned.folders()[0].name.seq)
    unpruned.store.delete([segment.object_key(3)])
    assert not unpruned.check(share=0).whole
    forget_what_is_kept(monkeypatch)
    assert unpruned.check(share=0).whole


def test_control_takeovers_that_nobody_opens_may_be_missing(
    pruned: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned.store.delete([segment.object_key(1)])
    (damage,) = pruned.check().damage
    assert "epoch 1" in damage.problem
    monkeypatch.setattr(fusegw.check.log._Checking, "_open_before", lambda self, at: None)
    assert pruned.check().whole


async def forked(place: Place, to: Path) -> dict[int, bytes]:
    """Authentic segments of this volume from another history of it: a copy that went on by itself."""
    other = Place(to)
    for reign in range(3):
        async with volume(source(to, other.store)) as runtime:
            for turn in range(len(numbers(place.store))):
                await write_file(runtime, b"other %d-%d" % (reign, turn), b"x")
                await runtime.volume.barrier()
    return {segment.number_of(key) or 0: data for key, data in other.objects().items() if key[:4] == "log/"}


def test_segments_of_another_history_are_named(
    unpruned: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They open, at their place in this volume: what tells is the chain of hashes alone."""
    others = trio.run(forked, unpruned, tmp_path / "fork")
    tried = 0
    for seq in numbers(unpruned.store):
        key = segment.object_key(seq)
        mine = unpruned.objects()[key]
        if seq not in others or segment.opened(mine, seq, KEYS)[0].kind == segment.TAKEOVER:
            continue
        tried += 1
        unpruned.store.put(key, others[seq], create_only=False)
        damage = unpruned.check().damage
        assert damage and any(str(seq) in one.problem for one in damage), (seq, damage)
        unpruned.store.put(key, mine, create_only=False)
    assert tried > 3
    unpruned.store.put(segment.object_key(2), others[2], create_only=False)
    assert not unpruned.check().whole
    monkeypatch.setattr(fusegw.check.log, "_may_follow", lambda *_: True)
    assert unpruned.check().whole, "the control"


async def test_an_index_that_is_older_than_the_store_checks_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path / "host")
    await reigns(place, count=1, turns=0)
    old = place.copy(tmp_path / "old")
    await reigns(place, count=1, turns=0)
    with pytest.raises(Invalid, match=r"older one.*Nothing was checked"):
        place.check(meta=old.meta)
    assert place.check(meta=old.meta, is_newest=False).whole, "as beside a standby"
    assert place.check().whole
    async with volume(source(old.directory, place.store)) as runtime:
        await runtime.volume.barrier()
    assert place.check(meta=old.meta).whole, "the mount brought it up to date"


async def test_what_is_kept_is_known_on_from_reign_to_reign_of_one_host(tmp_path: Path) -> None:
    place = Place(tmp_path / "host")
    await reigns(place, count=1, turns=2)
    lost = place.folders()[0].name
    place.store.delete([info.key for info in place.store.list(f"checkpoints/{lost}/")])
    await reigns(place, count=1, turns=0, checkpoint_log_size_bytes=1 << 30)
    assert not place.check().whole
    elsewhere = Place(tmp_path / "elsewhere")
    elsewhere.store = place.store
    await reigns(elsewhere, count=1, turns=0, checkpoint_log_size_bytes=1 << 30)
    await reigns(place, count=1, turns=0, checkpoint_log_size_bytes=1 << 30)
    assert place.check().whole, "another gateway may have given it up"


def test_the_record_says_nothing_in_another_reign(tmp_path: Path) -> None:
    metadata = open_index(tmp_path)
    record = KeptRecord(metadata, 1)
    record.begin([])
    with metadata.view() as view:
        assert kept_of(view) is None, "the index is in epoch 0"
    metadata.close()
