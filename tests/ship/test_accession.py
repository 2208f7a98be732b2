"""Taking over from a writer that goes on: its newest changes are applied, its reign ends, nothing is lost."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fusegw.index
from fusegw.clock import SystemClock
from fusegw.errors import Busy
from fusegw.index import open_index
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import LOG_SEALED, LOGGED_TABLES, Head, Sealed
from fusegw.ship.recover import recover
from fusegw.ship.segment import TAKEOVER
from fusegw.ship.tail import Tail
from fusegw.ship.takeover import Superseded
from fusegw.store.memory import MemoryStore
from tests.faults.support import KEYS, create, source, volume

Dump = dict[str, list[tuple[bytes, bytes]]]
KIND_OFFSET = 10


def dump(metadata: Metadata) -> Dump:
    with metadata.view() as view:
        return {table.name: list(view.stored(table)) for table in LOGGED_TABLES}


class Shown(MemoryStore):
    """A store in which a writer's log appears bit by bit; `rival` is asked before each takeover."""

    def __init__(self, log: dict[str, bytes], first: int) -> None:
        super().__init__(clock=SystemClock())
        self._hidden = dict(sorted(log.items()))
        self.rival: Callable[[], None] = lambda: None
        self.takeovers = 0
        self.show(first)

    def show(self, segments: int) -> None:
        """The writer ships that many more."""
        for key in list(self._hidden)[:segments]:
            super().put(key, self._hidden.pop(key))

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        if key.startswith("log/") and data[KIND_OFFSET] == TAKEOVER:
            self.takeovers += 1
            self.rival()
        super().put(key, data, create_only=create_only)


@pytest.fixture
async def log(tmp_path: Path) -> dict[str, bytes]:
    """A reign with steps of several segments; the first one ends with segment 3."""
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path / "writer", store)) as runtime:
        await runtime.volume.barrier()
        runtime.log._part_bytes = 480
        for step in range(5):
            for name in range(1 + step % 2 * 9):
                create(runtime, b"f%d-%d" % (step, name))
            await runtime.volume.barrier()
    return {info.key: store.get(info.key, size_max=1 << 20) for info in store.list("log/")}


@pytest.fixture
def recoveries(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where an index was rebuilt from the store."""
    places: list[Path] = []

    def counted(place: Path, *arguments: Any, **how: Any) -> object:
        places.append(place)
        return recover(place, *arguments, **how)

    monkeypatch.setattr(fusegw.index, "recover", counted)
    return places


def rebuilt(place: Path, store: MemoryStore) -> Dump:
    recover(place, store, KEYS, metadata_limit_bytes=1 << 30, clock=SystemClock())
    return dumped(place)


def dumped(place: Path) -> Dump:
    metadata = Metadata(place, size_max_bytes=1 << 30)
    try:
        return dump(metadata)
    finally:
        metadata.close()


def opened(place: Path, store: MemoryStore) -> tuple[Head, Dump]:
    """A mount's beginning: the head of the new epoch and the index at it."""
    metadata = open_index(source(place, store))
    try:
        return metadata.head, dump(metadata)
    finally:
        metadata.close()


@pytest.mark.parametrize("first", range(2, 10))
async def test_a_writer_that_ships_before_each_takeover_is_caught_up_with(
    tmp_path: Path, log: dict[str, bytes], recoveries: list[Path], first: int
) -> None:
    """Wherever in a step of several segments this host comes in."""
    store = Shown(log, first)
    store.rival = lambda: store.show(1)
    head, state = opened(tmp_path / "here", store)
    assert (head.seq, head.epoch) == (len(log) + 1, 2)
    assert store.takeovers <= len(log) - first + 1
    assert len(recoveries) == 1, "the first index of this host, and no other"
    assert state == rebuilt(tmp_path / "again", store)


async def test_without_catching_up_such_a_writer_is_not_beaten(
    tmp_path: Path, log: dict[str, bytes], recoveries: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""

    def give_up(*arguments: object, **how: object) -> Head:
        raise Superseded("the log went on")

    monkeypatch.setattr(fusegw.index, "catch_up_and_take_over", give_up)
    store = Shown(log, 2)
    store.rival = lambda: store.show(1)
    with pytest.raises(Busy):
        opened(tmp_path / "here", store)
    assert len(recoveries) > 3


async def test_a_host_set_back_reads_only_what_it_lacks(
    tmp_path: Path, log: dict[str, bytes], recoveries: list[Path]
) -> None:
    store, place = Shown(log, 2), tmp_path / "here"
    place.mkdir()
    recover(place / "meta", store, KEYS, metadata_limit_bytes=1 << 30, clock=SystemClock())
    store.show(len(log))
    head, state = opened(place, store)
    assert head.seq == len(log) + 1 and recoveries == []
    assert state == rebuilt(tmp_path / "again", store)


@pytest.mark.parametrize("cut", range(2, 11))
async def test_wherever_the_writer_is_in_a_step_the_takeover_follows_what_it_shipped(
    tmp_path: Path, log: dict[str, bytes], cut: int
) -> None:
    assert cut < len(log)
    store = Shown(log, cut)
    head, state = opened(tmp_path / "here", store)
    assert (head.seq, head.epoch) == (cut + 1, 2)
    assert state == rebuilt(tmp_path / "again", store), "parts that have no end are void"
    assert opened(tmp_path / "here", store)[0].epoch == 3


@pytest.mark.parametrize("cut", range(1, 11))
async def test_an_index_recovered_in_the_midst_of_a_step_can_follow_it_to_its_end(
    tmp_path: Path, log: dict[str, bytes], cut: int
) -> None:
    store, place = Shown(log, cut), tmp_path / "meta"
    rebuilt(place, store)
    store.show(len(log))
    metadata = Metadata(place, size_max_bytes=1 << 30)
    try:
        tail = Tail(metadata, store, KEYS, metadata.head)
        while tail.advance(look_for_gap=True) is not None:
            pass
        assert tail.position.seq == len(log)
        assert dump(metadata) == rebuilt(tmp_path / "again", store)
    finally:
        metadata.close()


async def test_a_takeover_that_lost_its_slot_in_a_crash_is_dropped(
    tmp_path: Path, log: dict[str, bytes], recoveries: list[Path]
) -> None:
    store, place = Shown(log, 2), tmp_path / "here"
    opened(place, store)
    shutil.copytree(place, tmp_path / "crashed")
    # There it was sealed and not sent; then another one had the slot.
    metadata = Metadata(tmp_path / "crashed" / "meta", size_max_bytes=1 << 30)
    seq = metadata.head.seq + 1
    metadata.write([(LOG_SEALED, seq, Sealed(Head(seq, bytes(32), 9), bytes(100)))])
    metadata.close()
    opened(place, store)
    del recoveries[:]
    head, state = opened(tmp_path / "crashed", store)
    assert head.epoch == 4 and recoveries == []
    assert state == rebuilt(tmp_path / "again", store)
    metadata = Metadata(tmp_path / "crashed" / "meta", size_max_bytes=1 << 30)
    with metadata.view() as view:
        assert list(view.rows(LOG_SEALED)) == []
    metadata.close()
