"""What a volume is after a power cut: a record is cut off after each of its changes, what may be left of it
is put into a fresh directory, and the gateway's own code opens it there.

Two kinds of remains are tried. Before every change of what is durable: that alone, and the store as it was,
which is another machine; so whatever the prefix, what is durable of it is among them. And after every single
change a choice of what else survived: any of it, or all but the last sectors of that change. The store is
then on the same lossy disk or elsewhere, or the gateway is lost and that store alone left. Demanded is the
tree after the last step that was acknowledged or a later one that had begun, a whole index, a barrier that
returns, and a check that finds nothing when it reads all data.

The remains are tried in child processes: an index that ends too early kills its reader (SIGBUS).
"""

import copy
import faulthandler
import logging
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

import trio

from fusegw.assembly import Runtime, running_volume
from fusegw.check.run import Check, run
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.config import Tuning, VolumePaths, cache_of
from fusegw.errors import FusegwError
from fusegw.index import Source
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.keys.volume import read_volume
from fusegw.registry import Registry
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from tests.crash.journal import SYNCED, Journal
from tests.crash.power_disk import SECTOR_BYTES, PowerDisk, Remains, write_out
from tests.crash.rebuilt import Tree, tree
from tests.crash.recording import Kind, Note
from tests.model.invariants import check_index
from tests.mount.gateways import NAME

STORE = "store"
_CHILDREN = 2 * (os.cpu_count() or 1)
"""Each waits for its own threads half of the time."""
_FAST = Path("/dev/shm")
_ROOM_BYTES = 2 << 30
_REMOVED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Standing:
    """What had been acknowledged at some place of a record, in steps of each journal."""

    created: bool
    """`init` had returned."""
    confirmed: tuple[int, ...]
    """By an fsync that returned."""
    begun: tuple[int, ...]
    stored: tuple[int, ...]
    """By a barrier that returned; -1 before the first."""

    def after(self, note: Note) -> "Standing":
        """What it is once `note` has been made."""
        if note.kind is not Kind.MARK:
            return self
        event, *what = note.mark
        if event == "created":
            return replace(self, created=True)
        if event == "barrier":
            # What is in the store is durable here as well.
            confirmed = tuple(map(max, self.confirmed, what[0]))
            return replace(self, stored=tuple(what[0]), confirmed=confirmed)
        journal, number, kind = what
        if event == "begun":
            return replace(self, begun=_with(self.begun, journal, number))
        return replace(self, confirmed=_with(self.confirmed, journal, number)) if kind in SYNCED else self


@dataclass(frozen=True)
class Record:
    """A record, the disk and the standing at its beginning, and what was done."""

    notes: Sequence[Note]
    disk: PowerDisk
    standing: Standing
    journals: Sequence[Journal]
    keys: VolumeKeys
    tuning: Tuning

    def changes(self) -> int:
        """How many of the notes are changes, each of which ends a prefix that is tried."""
        disk = copy.deepcopy(self.disk)
        return sum(disk.follow(note) for note in self.notes)


@dataclass(frozen=True)
class Plan:
    """Which remains of a record are tried."""

    seed: int
    share: float = 1.0
    """Of them, chosen by the seed."""
    failures_max: int = 10
    """Leave off when there are so many."""
    ignored: Callable[[Note], bool] = lambda note: False
    """Syncs that are taken not to have happened."""


@dataclass(frozen=True)
class Case:
    """One power cut."""

    what: str
    remains: Remains
    standing: Standing
    only_store: bool = False


@dataclass(slots=True)
class Findings:
    """What became of the remains that were tried."""

    tried: int = 0
    refused: int = 0
    """Of these, with a clear error, when nothing had been acknowledged."""
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        self.tried += other.tried
        self.refused += other.refused
        self.failures += other.failures


class _Enough(Exception):
    """Ends a volume as a crash would."""


@contextmanager
def fast_directory() -> Iterator[Path]:
    """A directory without the cost of a real disk's syncs, if there is such a place: what a sync saves is
    told by the record, not by the disk.
    """
    fast = _FAST if _FAST.is_dir() and shutil.disk_usage(_FAST).free > _ROOM_BYTES else None
    with tempfile.TemporaryDirectory(prefix="fusegw-power-", dir=fast) as directory:
        yield Path(directory)


def replay(record: Record, plan: Plan) -> Findings:
    """Try the remains, in several processes."""
    findings = Findings()
    with fast_directory() as directory, ExitStack() as stack:
        doing = {}
        for number in range(_CHILDREN):
            place = directory / str(number)
            place.mkdir()
            child, results = _started(record, plan, number, place)
            stack.callback(results.close)
            stack.callback(child.join)
            stack.callback(child.kill)
            doing[results] = (child, "nothing yet")
        while doing and len(findings.failures) < plan.failures_max:
            for results in wait(list(doing)):
                assert isinstance(results, Connection)
                child, case = doing[results]
                try:
                    said = results.recv()
                except EOFError:
                    child.join()
                    said = Findings(1, failures=[f"{case}: the process ended with {child.exitcode}"])
                if isinstance(said, Findings):
                    findings.add(said)
                if said is None or child.exitcode is not None:
                    del doing[results]
                elif isinstance(said, str):
                    doing[results] = (child, said)
    return findings


def _started(record: Record, plan: Plan, number: int, place: Path) -> tuple[ForkProcess, Connection]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(record, plan, number, place, theirs))
    child.start()
    theirs.close()
    return child, ours


def cases(record: Record, plan: Plan, wanted: Callable[[int], bool]) -> Iterator[Case]:
    """The power cuts of a record in order; `wanted` is asked about each, with the number of its note. Each is
    to be used before the next is asked for."""
    disk, standing = copy.deepcopy(record.disk), record.standing
    disk.ignored = plan.ignored
    since = standing
    for number, note in enumerate(record.notes):
        if disk.saves(note) or _shows_in_store(disk, note):
            if wanted(number):
                yield Case(f"before note {number}, what is durable", _beside(disk), _range(since, standing))
            since = standing
        changed = disk.follow(note)
        standing = standing.after(note)
        if changed and wanted(number):
            chance = random.Random(f"{plan.seed}/{number}")
            torn = len(note.data) > SECTOR_BYTES and chance.random() < 0.5
            yield _chosen(disk, chance, number, standing, torn=torn)
    if wanted(len(record.notes)):
        yield Case("at the end, what is durable", _beside(disk), _range(since, standing))


def _range(since: Standing, now: Standing) -> Standing:
    """For what was durable all that time: the last that was acknowledged, and the first that had begun."""
    return replace(now, begun=since.begun)


def _shows_in_store(disk: PowerDisk, note: Note) -> bool:
    """Whether another machine's store is not the same afterwards."""
    below = disk.named(note)
    return below.startswith(f"{STORE}/") and not below.startswith(f"{STORE}/.staging")


def _beside(
    disk: PowerDisk, chance: random.Random | None = None, kept: str = "none", names: str = "none"
) -> Remains:
    """What is left here, and a store on another machine."""
    here = disk.lost(chance or random.Random(0), kept, names)
    return {path: what for path, what in here.items() if not _in_store(path)} | _store_alone(disk.now())


def _chosen(disk: PowerDisk, chance: random.Random, number: int, standing: Standing, *, torn: bool) -> Case:
    kept, names = disk.choice(chance)
    if torn:
        kept = "torn"
    where = chance.choice(("elsewhere", "elsewhere", "here", "here", "alone"))
    what = f"after note {number}, bytes {kept}, names {names}, store {where}"
    if where == "elsewhere":
        return Case(what, _beside(disk, chance, kept, names), standing)
    remains = disk.lost(chance, kept, names)
    if where == "here":
        return Case(what, remains, standing)
    return Case(what, _store_alone(remains), standing, only_store=True)


def _store_alone(remains: Remains) -> Remains:
    return {path: what for path, what in remains.items() if _in_store(path)}


def _in_store(path: str) -> bool:
    return path.partition("/")[0] == STORE


def _child(record: Record, plan: Plan, number: int, directory: Path, results: Connection) -> None:
    """Tries its stretch of the record: sends what it is about to try, then what it found; None at the end."""
    logging.disable()
    # Its end by SIGBUS is told by its exit status.
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    chance = random.Random(plan.seed)

    def wanted(note: int) -> bool:
        return chance.random() < plan.share and note * _CHILDREN // (len(record.notes) + 1) == number

    for tried, case in enumerate(cases(record, plan, wanted), 1):
        results.send(case.what)
        place = directory / str(tried)
        place.mkdir()
        results.send(_try(record, case, place))
        if tried % _REMOVED_AT_ONCE == 0:
            # A cache has hundreds of directories: rm is several times faster than shutil.
            subprocess.run(["rm", "-rf", "--", *directory.iterdir()], check=True)
    results.send(None)


def _try(record: Record, case: Case, place: Path) -> Findings:
    write_out(case.remains, place)
    try:
        _compare(record, case, opened(record, case, place))
    except FusegwError as error:
        if not case.standing.created:
            return Findings(1, refused=1)
        return Findings(1, failures=[f"{case.what}: refused: {error}"])
    except Exception as error:
        return Findings(1, failures=[f"{case.what}: {error!r}"])
    return Findings(1)


def opened(record: Record, case: Case, place: Path) -> Tree:
    """The tree in `place`, when its index is whole and a check finds nothing wrong."""
    clock, entropy = SystemClock(), SystemEntropy()
    paths = VolumePaths(place / "state", NAME)
    if not case.only_store:
        Registry(place / "state").get(NAME)
    options = StoreOptions(url=f"file://{place / STORE}")
    with closing(open_store(options, clock=clock, entropy=entropy)) as store:
        volume_id = read_volume(store).header.volume_id
        assert volume_id == record.keys.volume_id
        source = Source(
            store=store,
            keys=record.keys,
            meta_dir=paths.meta_dir,
            cache_dir=cache_of(place / "cache", volume_id.hex(), 1, None),
            cache_size_bytes=1 << 30,
            tuning=record.tuning,
            clock=clock,
            entropy=entropy,
            free_bytes=lambda: 1 << 40,
        )
        return trio.run(_looked_at, source)


async def _looked_at(source: Source) -> Tree:
    found: Tree = {}
    problem: Exception | None = None
    try:
        async with running_volume(source) as runtime:
            try:
                found = await _whole(runtime)
            except Exception as error:
                problem = error
            raise _Enough
    except* _Enough:
        pass
    if problem is not None:
        raise problem
    return found


async def _whole(runtime: Runtime) -> Tree:
    check_index(runtime.metadata)
    found = await tree(runtime)
    await runtime.volume.barrier()
    given = Check(
        views=runtime.metadata.view,
        store=runtime.source.store,
        keys=runtime.source.keys,
        clock=runtime.source.clock,
        wait=time.sleep,
        places=[runtime.source.cache_dir / "packs"],
        share=1.0,
    )
    report = await trio.to_thread.run_sync(run, given)
    assert report.whole, f"check found {[damage.problem for damage in report.damage]}"
    return found


def _compare(record: Record, case: Case, found: Tree) -> None:
    standing = case.standing
    least = standing.stored if case.only_store else standing.confirmed
    for number, journal in enumerate(record.journals):
        above = f"j{number}/"
        if least[number] >= 0:
            below = {path[len(above) :]: entry for path, entry in found.items() if path.startswith(above)}
            journal.find(below, least[number], standing.begun[number])


def _with(numbers: tuple[int, ...], place: int, number: int) -> tuple[int, ...]:
    return (*numbers[:place], number, *numbers[place + 1 :])
