"""Recovery to a position, to a time, and against an anchor kept elsewhere."""

from pathlib import Path

import msgspec
import pytest

from fusegw.clock import SystemClock
from fusegw.errors import Invalid, NotFound
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import LOGGED_TABLES, Head
from fusegw.ship import segment
from fusegw.ship.chain import LogReader
from fusegw.ship.recover import Recovered, Until, recover
from fusegw.store.memory import MemoryStore
from tests.faults.support import KEYS, create, source, volume

Dump = dict[str, list[tuple[bytes, bytes]]]


def dump(metadata: Metadata) -> Dump:
    with metadata.view() as view:
        return {table.name: list(view.stored(table)) for table in LOGGED_TABLES}


def recovered(directory: Path, store: MemoryStore, **how: object) -> tuple[Recovered, Dump]:
    """A recovery into a new place under `directory`, and what it gave."""
    place = directory / f"recovered-{len(list(directory.iterdir()))}"
    done = recover(place, store, KEYS, metadata_limit_bytes=1 << 30, clock=SystemClock(), **how)  # type: ignore[arg-type]
    metadata = Metadata(place, size_max_bytes=1 << 30)
    try:
        assert metadata.head == done.head
        return done, dump(metadata)
    finally:
        metadata.close()


class History(msgspec.Struct):
    """What a volume was at each position of its log."""

    store: MemoryStore
    states: dict[int, Dump] = {}
    heads: dict[int, Head] = {}
    times: dict[int, int] = {}


@pytest.fixture
async def history(tmp_path: Path) -> History:
    told = History(MemoryStore(clock=SystemClock()))
    # Parts of 600 bytes: some steps take several segments.
    async with volume(source(tmp_path / "volume", told.store)) as runtime:
        runtime.log._part_bytes = 600
        await runtime.volume.barrier()
        for number in range(6):
            for name in range(1 + number % 2 * 8):
                create(runtime, b"f%d-%d" % (number, name))
            await runtime.volume.barrier()
            told.states[runtime.log.head.seq] = dump(runtime.metadata)
    reader = LogReader(told.store, KEYS, Head())
    while (found := reader.next()) is not None:
        told.heads[found.seq] = reader.at
        told.times[found.seq] = found.time_ns
    assert len(told.states) == 6 < len(told.heads) - 2
    return told


async def test_every_position_comes_back_as_it_was(tmp_path: Path, history: History) -> None:
    for seq, state in history.states.items():
        done, found = recovered(tmp_path, history.store, until=Until(seq=seq))
        assert (done.head, done.time_ns) == (history.heads[seq], history.times[seq])
        assert found == state


async def test_a_part_of_a_step_means_the_position_before_it(tmp_path: Path, history: History) -> None:
    first, *_, last = history.states
    for seq in range(first, last):
        before = max(position for position in history.states if position <= seq)
        done, found = recovered(tmp_path, history.store, until=Until(seq=seq))
        assert done.head.seq == before
        assert found == history.states[before]


async def test_a_time_means_the_last_position_that_was_sealed_by_then(
    tmp_path: Path, history: History
) -> None:
    for seq, state in history.states.items():
        done, found = recovered(tmp_path, history.store, until=Until(time_ns=history.times[seq]))
        assert (done.head.seq, found) == (seq, state)
    done, _ = recovered(tmp_path, history.store, until=Until(time_ns=history.times[max(history.times)] + 1))
    assert done.head.seq == max(history.heads)


async def test_what_was_never_there_is_refused(tmp_path: Path, history: History) -> None:
    for until in (Until(seq=0), Until(time_ns=history.times[1] - 1)):
        with pytest.raises(NotFound, match="oldest position that is kept is 1, of 20"):
            recovered(tmp_path, history.store, until=until)
    with pytest.raises(NotFound, match=f"newest one is {max(history.heads)}"):
        recovered(tmp_path, history.store, until=Until(seq=max(history.heads) + 1))


async def test_an_anchor_in_the_history_is_found(tmp_path: Path, history: History) -> None:
    for anchor in history.heads.values():
        for until in (None, Until(seq=min(history.states))):
            done, _ = recovered(tmp_path, history.store, anchor=anchor, until=until)
            assert done.anchor_checked
    done, _ = recovered(tmp_path, history.store)
    assert not done.anchor_checked


async def test_another_history_than_the_anchor_s_is_refused(tmp_path: Path, history: History) -> None:
    newest = max(history.heads)
    wrong = [
        msgspec.structs.replace(history.heads[3], hash=bytes(32)),
        msgspec.structs.replace(history.heads[3], epoch=9),
    ]
    for anchor in wrong:
        with pytest.raises(
            Invalid, match=f"segment 3 .*{history.heads[3].hash.hex()}.* set back or exchanged"
        ):
            recovered(tmp_path, history.store, anchor=anchor)
    history.store.delete([segment.object_key(newest)])
    with pytest.raises(Invalid, match=f"ends with segment {newest - 1} .* before the anchor"):
        recovered(tmp_path, history.store, anchor=history.heads[newest])
