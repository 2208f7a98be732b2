"""What stays in the store and what goes, and who writes checkpoints when."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.errors import Corrupt, Fenced, FusegwError, NotFound
from fusegw.index import Source
from fusegw.meta.schema import ROOT_INODE
from fusegw.ship import checkpoint, segment
from fusegw.ship.checkpoints import Written, folders
from fusegw.ship.recover import Until
from fusegw.ship.retention import Retention, refuse_once_fenced
from fusegw.store.base import ObjectStore
from fusegw.store.memory import MemoryStore
from tests.faults.support import KEYS, TUNING, content, create, read_file, source, until, volume, write_file
from tests.ship.test_checkpoint import Stopping, checkpointed, counted, nothing
from tests.ship.test_log import lose
from tests.ship.test_recover import Dump, dump, recovered

DAY_NS = 86_400 * 10**9


def numbers(store: ObjectStore) -> list[int]:
    return [int(entry.key[4:]) for entry in store.list("log/")]


def kinds(store: ObjectStore) -> dict[int, int]:
    return {
        seq: segment.opened(store.get(segment.object_key(seq), size_max=1 << 24), seq, KEYS)[0].kind
        for seq in numbers(store)
    }


class Days:
    """A volume over several mounts, with a checkpoint now and then; what it was at each position."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.written: list[Written] = []
        self.states: dict[int, Dump] = {}
        self.began = 0
        self.told: tuple[set[checkpoint.Name], int] = (set(), 1)

    async def live(self, directory: Path, *, epochs: int = 3, checkpoints: int = 2) -> None:
        for _ in range(epochs):
            async with volume(source(directory, self.store)) as runtime:
                self.began = runtime.log.head.seq
                for _ in range(checkpoints):
                    for _ in range(2):
                        create(runtime, b"f%d" % runtime.log.head.seq)
                        await runtime.volume.barrier()
                        self.states[runtime.log.head.seq] = dump(runtime.metadata)
                    self.written.append(checkpointed(runtime, self.store))

    def sweep(
        self,
        *,
        retention_s: float,
        now_ns: int,
        spacing_s: float = 0,
        still_ours: Callable[[], None] = nothing,
    ) -> None:
        kept = Retention(
            self.store, KEYS, self, began=self.began, retention_s=retention_s, spacing_s=spacing_s
        )
        kept.sweep(self.written[-1], now_ns, still_ours)

    def let_go(self, names: set[checkpoint.Name], *, oldest: checkpoint.Name, prune: bool) -> None:
        """In the place of the record: what goes is still there when it is told of."""
        assert names <= {folder.name for folder in folders(self.store) if folder.finished}
        self.told = (names, oldest.seq if prune else 1)

    def names(self) -> list[checkpoint.Name]:
        return [folder.name for folder in folders(self.store)]

    def check(self, directory: Path) -> None:
        """Every position from the oldest checkpoint on is there, none before it, and no takeover is lost."""
        whole = {written.name: len(written.manifest.parts) + 1 for written in self.written}
        oldest = min(f.name.seq for f in folders(self.store) if len(f.sizes) == whole[f.name])
        for seq, state in self.states.items():
            if seq >= oldest:
                done, found = recovered(directory, self.store, until=Until(seq=seq))
                assert (done.head.seq, found) == (seq, state)


@pytest.fixture
async def days(tmp_path: Path) -> Days:
    told = Days(Stopping(clock=SystemClock()))
    await told.live(tmp_path / "volume")
    return told


async def test_all_positions_of_the_retention_time_can_be_recovered(tmp_path: Path, days: Days) -> None:
    takeovers = [seq for seq, kind in kinds(days.store).items() if kind == segment.TAKEOVER]
    third = days.written[2]
    # The retention time begins between the third checkpoint and the fourth.
    now_ns = third.manifest.time_ns + DAY_NS + 1
    days.sweep(retention_s=86_400, now_ns=now_ns)
    assert days.names() == [written.name for written in reversed(days.written[2:])]
    assert days.told == ({written.name for written in days.written[:2]}, third.name.seq)
    left = numbers(days.store)
    assert [seq for seq in left if seq < third.name.seq] == [s for s in takeovers if s < third.name.seq]
    assert set(takeovers) < set(left)
    assert left[-1] == max(days.states)
    days.check(tmp_path)
    late = Until(time_ns=days.written[3].manifest.time_ns - 1)
    assert recovered(tmp_path, days.store, until=late)[0].head.seq < days.written[3].name.seq
    when = f"oldest position that is kept is {third.name.seq}, of 20"
    for gone in (Until(seq=third.name.seq - 1), Until(time_ns=third.manifest.time_ns - 1)):
        with pytest.raises(NotFound, match=when):
            recovered(tmp_path, days.store, until=gone)


async def test_older_ones_are_thinned_out_and_no_position_is_lost(tmp_path: Path, days: Days) -> None:
    days.sweep(retention_s=86_400, spacing_s=3600, now_ns=days.written[0].manifest.time_ns)
    assert days.names() == [days.written[which].name for which in (5, 4, 0)]
    days.check(tmp_path)


async def test_two_that_count_stay_however_old(tmp_path: Path, days: Days) -> None:
    damaged = days.written[-2].name
    days.store.delete([checkpoint.object_key(damaged, 1)])
    days.sweep(retention_s=0, now_ns=10**19)
    # The one that lost a part is younger than the second that counts, and stays for who may restore it.
    assert days.names() == [days.written[-1].name, damaged, days.written[-3].name]
    days.check(tmp_path)
    days.sweep(retention_s=0, now_ns=10**19)
    assert len(days.names()) == 3


async def test_the_log_stays_whole_until_there_are_two(tmp_path: Path) -> None:
    told = Days(MemoryStore(clock=SystemClock()))
    await told.live(tmp_path / "volume", epochs=1, checkpoints=1)
    before = numbers(told.store)
    told.sweep(retention_s=0, now_ns=10**19)
    assert (numbers(told.store), len(told.names())) == (before, 1)


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_step_of_a_pass(tmp_path: Path, days: Days, applied: bool) -> None:
    store = days.store
    assert isinstance(store, Stopping)
    store.applied = applied
    garbage = checkpoint.Name(days.written[1].name.seq, b"unended!")
    store.put(checkpoint.object_key(garbage, 1), b"torn")
    for steps in range(50):
        store.left = steps % 3
        try:
            days.sweep(retention_s=0, now_ns=10**19)
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            store.left = None
        assert len(list(counted(store))) >= 2
        newest = max(days.states)
        assert recovered(tmp_path, store)[1] == days.states[newest]
    assert steps > 2
    assert days.names() == [written.name for written in reversed(days.written[-2:])]
    assert min(set(numbers(store)) - set(range(days.written[-2].name.seq))) == days.written[-2].name.seq
    days.check(tmp_path)


async def test_a_fenced_writer_takes_nothing_away(tmp_path: Path, days: Days) -> None:
    head = checkpoint.head_of(days.written[-1].name, days.written[-1].manifest)
    refuse_once_fenced(days.store, KEYS, head)
    async with volume(source(tmp_path / "new", days.store)):
        before = [entry.key for entry in days.store.list()]
        with pytest.raises(Fenced, match="took the volume over"):
            days.sweep(
                retention_s=0,
                now_ns=10**19,
                still_ours=lambda: refuse_once_fenced(days.store, KEYS, head),
            )
        assert [entry.key for entry in days.store.list()] == before


async def test_what_another_gateway_is_writing_is_left_alone(days: Days) -> None:
    """It lies above all that this one has shipped."""
    theirs = checkpoint.Name(days.written[-1].name.seq + 1, bytes(8))
    days.store.put(checkpoint.object_key(theirs, 1), b"begun")
    days.sweep(retention_s=0, now_ns=10**19)
    assert theirs in days.names()


async def test_a_segment_of_an_earlier_reign_that_cannot_be_read_stays(days: Days) -> None:
    victim = segment.object_key(2)
    days.store.delete([victim])
    days.store.put(victim, b"neither a takeover nor none" * 10)
    days.sweep(retention_s=0, now_ns=10**19)
    assert 2 in numbers(days.store)
    assert 3 not in numbers(days.store)


async def test_nothing_is_taken_away_from_a_reign_that_does_not_begin_with_a_takeover(days: Days) -> None:
    before = numbers(days.store)
    days.began += 1
    with pytest.raises(Corrupt, match="does not begin a reign"):
        days.sweep(retention_s=0, now_ns=10**19)
    assert numbers(days.store) == before


async def test_a_gateway_starts_on_a_pruned_log(tmp_path: Path, days: Days) -> None:
    days.sweep(retention_s=0, now_ns=10**19)
    async with volume(source(tmp_path / "volume", days.store)) as runtime:
        create(runtime, b"next")
        await runtime.volume.barrier()
        state = dump(runtime.metadata)
    lose(tmp_path / "volume")
    async with volume(source(tmp_path / "volume", days.store)) as runtime:
        assert dump(runtime.metadata) == state


@pytest.mark.parametrize("back", ["within the pruned", "just before a takeover"])
async def test_an_index_that_lies_below_the_pruned_log_follows_the_store(tmp_path: Path, back: str) -> None:
    """As when a virtual machine is set back by weeks, or a fenced gateway starts after weeks."""
    told = Days(MemoryStore(clock=SystemClock()))
    old = source(tmp_path / "old", told.store)
    async with volume(old) as runtime:
        create(runtime, b"mine")
        await runtime.volume.barrier()
        position = runtime.log.head.seq
    if back == "within the pruned":
        (tmp_path / "old" / "meta").rename(tmp_path / "kept")
        await told.live(tmp_path / "old", epochs=1)
        (tmp_path / "old" / "meta").rename(tmp_path / "gone")
        (tmp_path / "kept").rename(tmp_path / "old" / "meta")
    await told.live(tmp_path / "volume")
    told.sweep(retention_s=0, now_ns=10**19)
    assert position not in numbers(told.store)
    async with volume(old) as runtime:
        assert runtime.volume.namespace.lookup(ROOT_INODE, b"mine") is not None
        created = runtime.volume.namespace.lookup(ROOT_INODE, b"f%d" % max(told.states))
        assert created is None, "the name was given before the last position"
        assert runtime.log.head.seq > max(told.states)


async def stale_writer_after_pruning(tmp_path: Path) -> tuple[Days, Fenced | None]:
    """An old writer, cut off while others took over and the log was pruned, goes on as if nothing were."""
    told = Days(MemoryStore(clock=SystemClock()))
    told_source = source(tmp_path / "old", told.store, unmount_wait_s=0.0)
    quiet = msgspec.structs.replace(TUNING, ship_interval_s=3600)
    async with volume(msgspec.structs.replace(told_source, tuning=quiet)) as old:
        create(old, b"early")
        await old.volume.barrier()
        await told.live(tmp_path / "new")
        told.sweep(retention_s=0, now_ns=10**19)
        assert old.log.head.seq not in numbers(told.store)
        create(old, b"late")
        try:
            await old.volume.barrier()
        except Fenced as error:
            return told, error
    return told, None


async def test_pruning_gives_no_slot_back_to_a_writer_that_was_taken_over(tmp_path: Path) -> None:
    _, fenced = await stale_writer_after_pruning(tmp_path)
    assert fenced is not None


async def test_control_without_the_takeovers_it_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retention, "_may_go", lambda self, seq: True)
    told, fenced = await stale_writer_after_pruning(tmp_path)
    assert fenced is None
    assert kinds(told.store)


def eager(directory: Path, store: ObjectStore, **settings: float) -> Source:
    """A source whose gateway writes checkpoints all the time."""
    tuning = msgspec.structs.replace(
        TUNING, **({"checkpoint_log_size_bytes": 1024, "checkpoint_retention_s": 0.0} | settings)
    )
    return source(directory, store, tuning=tuning)


async def grow(runtime: Runtime, turn: int) -> None:
    """More than there was before, so that another checkpoint is due."""
    for number in range(20 << turn):
        create(runtime, content(turn * 1000 + number, 20).hex().encode())
    await runtime.volume.barrier()


async def test_a_gateway_writes_checkpoints_and_prunes_by_itself(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(eager(tmp_path, store)) as runtime:
        checkpointer = runtime.checkpointer
        for turn in range(4):
            await grow(runtime, turn)
            head = runtime.log.head.seq
            while checkpointer.newest is None or checkpointer.newest.name.seq != head:
                await trio.sleep(0.01)
        await until(lambda: len(folders(store)) == 2 and numbers(store)[1] == folders(store)[1].name.seq)
        assert 0 <= (checkpointer.age_s or -1) < 600
        assert numbers(store)[0] == 1
        await write_file(runtime, b"last", content(7, 50_000))
        await runtime.volume.barrier()
        state = dump(runtime.metadata)
    lose(tmp_path)
    async with volume(eager(tmp_path, store, checkpoint_log_size_bytes=1 << 30)) as runtime:
        assert dump(runtime.metadata) == state
        assert await read_file(runtime, b"last") == content(7, 50_000)
        # The next start knows what there is.
        await until(lambda: runtime.checkpointer.newest is not None)


async def test_age_alone_makes_a_checkpoint_due_when_there_were_changes(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    given = eager(tmp_path, store, checkpoint_log_size_bytes=1 << 30, checkpoint_interval_s=0.01)
    async with volume(given) as runtime:
        create(runtime, b"f")
        await runtime.volume.barrier()
        await until(lambda: runtime.checkpointer.newest is not None)
        newest = runtime.checkpointer.newest
        await until(lambda: runtime.checkpointer.newest.name.seq == runtime.log.head.seq)
        for _ in range(3):
            await runtime.volume.barrier()
        assert len(folders(store)) <= 2
    assert newest is not None


class Slow(MemoryStore):
    """Holds PUTs of checkpoints back until it is told to go on."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock())
        self.waiting = 0
        self.go = False

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        if key.startswith("checkpoints/"):
            self.waiting += 1
            trio.from_thread.run(self._held)
        super().put(key, data, create_only=create_only)

    async def _held(self) -> None:
        while not self.go:
            await trio.sleep(0.01)


async def test_the_log_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    store = Slow()
    async with volume(eager(tmp_path, store)) as runtime:
        await grow(runtime, 0)
        at = runtime.log.head.seq
        state = dump(runtime.metadata)
        await until(lambda: store.waiting)
        for turn in range(1, 4):
            await grow(runtime, turn)
        assert runtime.log.head.seq > at
        assert runtime.checkpointer.newest is None
        store.go = True
        await until(lambda: runtime.checkpointer.newest is not None)
        written = runtime.checkpointer.newest
        assert written is not None and written.name.seq == at
        assert recovered(tmp_path, store, until=Until(seq=at))[1] == state


async def test_a_writer_that_was_fenced_meanwhile_finishes_no_checkpoint(tmp_path: Path) -> None:
    store = Slow()
    async with volume(eager(tmp_path / "old", store)) as old:
        await grow(old, 0)
        await until(lambda: store.waiting)
        async with volume(source(tmp_path / "new", store)):
            store.go = True
            await old.log.until_fenced()
    assert not any(folder.finished for folder in folders(store))


async def test_a_store_that_fails_costs_checkpoints_only(tmp_path: Path) -> None:
    class Refusing(MemoryStore):
        refused = 0

        def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
            if key.startswith("checkpoints/"):
                self.refused += 1
                raise FusegwError("no room for checkpoints")
            super().put(key, data, create_only=create_only)

    store = Refusing(clock=SystemClock())
    async with volume(eager(tmp_path, store)) as runtime:
        await grow(runtime, 0)
        await until(lambda: store.refused)
        await grow(runtime, 1)
        await grow(runtime, 2)
        assert store.refused == 1, "the next try comes later"
        assert runtime.checkpointer.age_s is None
