"""Shared by the key tests: seeded chance, a still clock, cheap KDF costs, stores that stop or misbehave."""

import random
from collections.abc import Callable, Iterable, Iterator

import pytest

from fusegw.clock import SystemEntropy
from fusegw.keys import KdfParameters, Secret, create_volume
from fusegw.store.base import ObjectInfo
from fusegw.store.memory import MemoryStore


class SeededEntropy:
    """Repeatable chance."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


class StillClock:
    """Time moves a second at each look."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000_000_000_000

    def time_ns(self) -> int:
        self.now_ns += 1_000_000_000
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9


class PowerCut(Exception):
    """The process is gone."""


class StoppingStore:
    """Lets `steps` changes through and dies in the next: before it took effect, or after."""

    def __init__(self, inner: MemoryStore, steps: int, *, applied: bool) -> None:
        self.inner, self.url = inner, inner.url
        self.steps, self.applied = steps, applied
        self.died = False

    def _change(self, act: Callable[[], None]) -> None:
        if self.died:
            raise PowerCut
        self.died = self.steps == 0
        self.steps -= 1
        if not self.died or self.applied:
            act()
        if self.died:
            raise PowerCut

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        self._change(lambda: self.inner.put(key, data, create_only=create_only))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._change(lambda key=key: self.inner.delete([key]))

    def get(self, key: str, *, size_max: int) -> bytes:
        return self.inner.get(key, size_max=size_max)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self.inner.get_range(key, offset, length)

    def head(self, key: str) -> ObjectInfo:
        return self.inner.head(key)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return self.inner.list(prefix, start_after=start_after)

    def close(self) -> None:
        self.inner.close()


class InterruptedStore(StoppingStore):
    """Calls `between` once, right before the first put: another actor gets there first."""

    def __init__(self, inner: MemoryStore, between: Callable[[], object]) -> None:
        super().__init__(inner, -1, applied=True)
        self.between: Callable[[], object] | None = between

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        between, self.between = self.between, None
        if between is not None:
            between()
        super().put(key, data, create_only=create_only)


class Bench:
    """A volume `vol` in memory, with a passphrase and a recovery key, and what is needed to act on it."""

    kdf = KdfParameters(memory_kib=19 * 1024, iterations=2, lanes=1)
    passphrase = Secret.passphrase("correct horse battery staple")
    other = Secret.passphrase("Tr0ub4dor and three")
    keyfile = Secret.keyfile(bytes(range(64)))

    StoppingStore = StoppingStore
    InterruptedStore = InterruptedStore
    PowerCut = PowerCut

    def __init__(self, seed: int = 1) -> None:
        self.clock, self.entropy = StillClock(), SeededEntropy(seed)
        self.store = MemoryStore(clock=self.clock)
        self.created = create_volume(self.store, "vol", self.passphrase, **self.chance, kdf=self.kdf)
        self.recovery = Secret.recovery(self.created.recovery_key)

    @property
    def chance(self) -> dict[str, object]:
        return {"clock": self.clock, "entropy": self.entropy}

    def objects(self) -> dict[str, bytes]:
        return snapshot(self.store)

    def with_objects(self, objects: dict[str, bytes]) -> MemoryStore:
        store = MemoryStore(clock=self.clock)
        for key, data in objects.items():
            store.put(key, data)
        return store


class QuickBench(Bench):
    """The same, with secrets that all derive in no time: for tests that open a volume hundreds of times."""

    passphrase, other, keyfile = (Secret("recovery", bytes([n]) * 32) for n in (1, 2, 3))


def snapshot(store: MemoryStore) -> dict[str, bytes]:
    return {info.key: store.get(info.key, size_max=1 << 20) for info in store.list()}


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def quick_bench() -> QuickBench:
    return QuickBench()


@pytest.fixture(scope="module")
def shared_bench() -> Bench:
    """For tests that only read it."""
    return Bench()


@pytest.fixture
def empty_store() -> MemoryStore:
    return MemoryStore(clock=StillClock())


@pytest.fixture
def chance() -> dict[str, object]:
    return {"clock": StillClock(), "entropy": SystemEntropy()}
