"""An old writer ships while a new one takes the volume over: a barrier that returned is in the recovered
state, always.

In `Lockstep` a seed decides the order of every request, reply and thread of all gateways; with Ceph's
gateway they run freely, with delays by chance. FUSEGW_RACE_SEED chooses other seeds.
"""

import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.errors import Corrupt, Exists
from fusegw.index import Source
from fusegw.store.base import ObjectInfo, ObjectStore
from fusegw.store.memory import MemoryStore
from fusegw.store.opening import open_store
from tests.faults.support import TUNING, source
from tests.plugins.s3servers import RgwServer
from tests.ship.contest import Writer, contest, verify
from tests.ship.lockstep import Contested, Lockstep, LockstepClock, SeededEntropy

SEED = int(os.environ.get("FUSEGW_RACE_SEED", "0"))
DAY_S = 86_400.0
PRUNING = msgspec.structs.replace(
    TUNING, checkpoint_interval_s=0.1, checkpoint_log_size_bytes=1 << 10, checkpoint_retention_s=0.0
)
Result = TypeVar("Result")


class Credulous(MemoryStore):
    """The control without the fencing check: a slot of the log that is taken counts as won."""

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        try:
            super().put(key, data, create_only=create_only)
        except Exists:
            if not key.startswith("log/"):
                raise


class Overwriting(MemoryStore):
    """The control without conditional writes."""

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        super().put(key, data, create_only=create_only and not key.startswith("log/"))


def race(directory: Path, seed: int, kind: type[MemoryStore] = MemoryStore) -> list[Writer]:
    """One interleaving, and the proof of what it left. Every other seed has a store that loses requests, of
    each two every other one checkpoints at every turn that leave next to nothing of the log behind them."""
    lockstep = Lockstep(seed, faults=bool(seed % 2))
    tuning = PRUNING if seed % 4 > 1 else TUNING
    store = kind(clock=LockstepClock(lockstep))
    writers: list[Writer] = []

    def source_of(name: str) -> Source:
        ahead_s = {"old": DAY_S, "new": -DAY_S}.get(name, 0.0)
        return msgspec.structs.replace(
            source(directory / name, Contested(store, lockstep), tuning=tuning, unmount_wait_s=0.0),
            clock=LockstepClock(lockstep, ahead_s=ahead_s),
            entropy=SeededEntropy(f"{seed} {name}"),
        )

    async def body() -> None:
        writers.extend(await contest(lockstep.random, source_of, partial(setattr, lockstep, "faults", False)))
        lockstep.faults = False
        await verify(writers, source_of("recovered"))

    try:
        lockstep.run(body)
    finally:
        shutil.rmtree(directory)
    return writers


def tell(all_writers: Iterable[list[Writer]]) -> None:
    """What happened, and that it was enough to prove something."""
    tally: Counter[str] = Counter()
    for writers in all_writers:
        tally["races"] += 1
        tally["barriers confirmed"] += sum(writer.barriers for writer in writers)
        tally["takeovers"] += len(writers) - 1
        tally["fenced with unconfirmed work"] += sum(
            writer.fenced and writer.confirmed < len(writer.history) for writer in writers
        )
    print(", ".join(f"{count} {what}" for what, count in tally.items()))
    assert tally["barriers confirmed"] > tally["races"]
    assert tally["fenced with unconfirmed work"] > tally["races"] // 5


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: a race makes three indexes, and none is to survive."""
    if not os.path.isdir("/dev/shm"):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="fusegw-race-") as directory:
        yield Path(directory)


@contextmanager
def named(seed: int) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


def races(base: Path, seeds: Iterable[int]) -> Iterator[list[Writer]]:
    for seed in seeds:
        with named(seed):
            yield race(base / str(seed), seed)


def test_a_few_races(base: Path) -> None:
    tell(races(base, range(SEED, SEED + 20)))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_races(base: Path) -> None:
    tell(races(base, range(SEED + 1000, SEED + 2000)))


def test_a_race_can_be_run_again(base: Path) -> None:
    first, second = (race(base / name, 11) for name in ("first", "second"))
    assert [(writer.history, writer.confirmed, writer.fenced) for writer in first] == [
        (writer.history, writer.confirmed, writer.fenced) for writer in second
    ]


@pytest.mark.parametrize("kind", [Credulous, Overwriting])
def test_without_fencing_the_races_fail(base: Path, kind: type[MemoryStore]) -> None:
    """The control: the same races notice that a taken slot of the log does not stop a writer."""
    with pytest.raises(BaseExceptionGroup) as caught:
        for seed in range(0, 40, 2):
            race(base / str(seed), seed, kind)
    _, other = caught.value.split((AssertionError, Corrupt))
    assert other is None, "not what is to be noticed"


class Dawdling:
    """`ObjectStore` with delays by chance, before a request leaves and before its reply arrives."""

    def __init__(self, inner: ObjectStore, seed: object) -> None:
        self._inner = inner
        self._chance = random.Random(str(seed))
        self.url = inner.url

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        self._slowly(lambda: self._inner.put(key, data, create_only=create_only))

    def get(self, key: str, *, size_max: int) -> bytes:
        return self._slowly(lambda: self._inner.get(key, size_max=size_max))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._slowly(lambda: self._inner.get_range(key, offset, length))

    def head(self, key: str) -> ObjectInfo:
        return self._slowly(lambda: self._inner.head(key))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return iter(self._slowly(lambda: [*self._inner.list(prefix, start_after=start_after)]))

    def delete(self, keys: Iterable[str]) -> None:
        self._slowly(lambda: self._inner.delete(keys))

    def close(self) -> None:
        self._inner.close()

    def _slowly(self, request: Callable[[], Result]) -> Result:
        time.sleep(self._chance.choice((0.0, 0.01, 0.05)))
        try:
            return request()
        finally:
            time.sleep(self._chance.choice((0.0, 0.01, 0.05)))


async def real_race(directory: Path, seed: int, store: ObjectStore) -> list[Writer]:
    """One race whose order nobody decides."""

    def source_of(name: str) -> Source:
        return source(directory / name, Dawdling(store, f"{seed} {name}"), unmount_wait_s=0.0)

    writers = await contest(random.Random(seed), source_of)
    await verify(writers, source(directory / "recovered", store))
    shutil.rmtree(directory)
    return writers


@pytest.mark.soak
@pytest.mark.rgw
@pytest.mark.timeout(3600)
async def test_a_hundred_races_on_a_real_store(base: Path, rgw_server: RgwServer) -> None:
    all_writers = []
    for seed in range(SEED, SEED + 100):
        store = open_store(rgw_server.options(), clock=SystemClock(), entropy=SystemEntropy())
        with closing(store), named(seed):
            all_writers.append(await real_race(base / str(seed), seed, store))
    tell(all_writers)
