"""S3Fifo: a scan passes through, reuse is kept. An LRU and a policy without bursts are the controls."""

import random
from collections import OrderedDict
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.policy import FIRST_SLOT, S3Fifo

CAPACITY = 512


class Policy(Protocol):
    def insert(self, key: int, fingerprint: int) -> int: ...
    def touch(self, slot: int) -> None: ...
    def evict(self) -> int | None: ...
    def bury(self, fingerprint: int) -> None: ...


class Lru:
    """Negative control: the policy everybody writes first."""

    def __init__(self) -> None:
        self._order: OrderedDict[int, None] = OrderedDict()

    def insert(self, key: int, fingerprint: int) -> int:
        self._order[key] = None
        return key

    def touch(self, slot: int) -> None:
        self._order.move_to_end(slot)

    def evict(self) -> int | None:
        return self._order.popitem(last=False)[0] if self._order else None

    def bury(self, fingerprint: int) -> None:
        pass


class Simulation:
    """A cache of CAPACITY blocks in which every use of a block is a burst of four reads."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.slots: dict[int, int] = {}
        self.hits = 0

    def use(self, key: int) -> None:
        if key in self.slots:
            self.hits += 1
        else:
            if len(self.slots) == CAPACITY:
                victim = self.policy.evict()
                assert victim is not None
                del self.slots[victim]
                self.policy.bury(self._fingerprint(victim))
            self.slots[key] = self.policy.insert(key, self._fingerprint(key))
        for _ in range(4):
            self.policy.touch(self.slots[key])

    def kept(self, keys: range) -> float:
        return sum(key in self.slots for key in keys) / len(keys)

    def _fingerprint(self, key: int) -> int:
        return key * 0x9E3779B97F4A7C15 % 2**64


def after_scan(policy: Policy) -> float:
    """The share of a hot set of half the capacity that is left after a scan of ten times the capacity."""
    simulation = Simulation(policy)
    hot = range(CAPACITY // 2)
    for _ in range(3):
        for key in hot:
            simulation.use(key)
    for key in range(1000, 1000 + 10 * CAPACITY):
        simulation.use(key)
    return simulation.kept(hot)


def test_a_scan_of_ten_times_the_budget_does_not_flush_the_hot_set() -> None:
    assert after_scan(S3Fifo(CAPACITY)) == 1.0


def test_control_an_lru_is_flushed_by_the_same_scan() -> None:
    assert after_scan(Lru()) == 0.0


def test_control_without_the_burst_window_the_scan_looks_hot() -> None:
    assert after_scan(S3Fifo(CAPACITY, window=0)) < 0.1


def test_a_block_that_comes_back_soon_after_its_eviction_is_kept_through_a_scan() -> None:
    simulation = Simulation(S3Fifo(CAPACITY))
    for key in range(2 * CAPACITY):
        simulation.use(key)
    back = range(CAPACITY - 60, CAPACITY - 10)
    assert simulation.kept(back) == 0.0
    for key in back:
        simulation.use(key)
    for key in range(10_000, 10_000 + 5 * CAPACITY):
        simulation.use(key)
    assert simulation.kept(back) > 0.9


def test_what_was_read_ahead_survives_until_its_reader_arrives() -> None:
    simulation = Simulation(S3Fifo(CAPACITY))
    for _ in range(3):
        for key in range(CAPACITY):
            simulation.use(key)
    ahead = range(5000, 5016)
    for key in ahead:
        simulation.use(key)
    for key in range(6000, 6032):
        simulation.use(key)
    assert simulation.kept(ahead) == 1.0


@pytest.mark.parametrize("skew", [0.8, 1.0])
def test_skewed_use_hits_at_least_as_often_as_with_lru(skew: float) -> None:
    keys = range(8 * CAPACITY)
    weights = [1 / (key + 1) ** skew for key in keys]
    uses = random.Random(7).choices(keys, weights, k=30_000)
    mine, lru = Simulation(S3Fifo(CAPACITY)), Simulation(Lru())
    for key in uses:
        mine.use(key)
        lru.use(key)
    assert mine.hits >= lru.hits


def test_old_favourites_give_way_to_new_ones() -> None:
    simulation = Simulation(S3Fifo(CAPACITY))
    for _ in range(6):
        for key in range(CAPACITY):
            simulation.use(key)
    new = range(9000, 9000 + CAPACITY // 2)
    for _ in range(12):
        for key in new:
            simulation.use(key)
    assert simulation.kept(new) > 0.9


@given(st.lists(st.tuples(st.sampled_from(["insert", "touch", "remove", "evict"]), st.integers(0, 40))))
def test_every_block_leaves_exactly_once(steps: list[tuple[str, int]]) -> None:
    policy = S3Fifo(16)
    slots: dict[int, int] = {}
    for step, key in steps:
        if step == "insert" and key not in slots:
            slots[key] = policy.insert(key, key << 32 | key)
            assert slots[key] >= FIRST_SLOT
        elif step == "touch" and key in slots:
            policy.touch(slots[key])
        elif step == "remove" and key in slots:
            policy.remove(slots.pop(key))
        elif step == "evict":
            victim = policy.evict()
            assert (victim is None) == (not slots)
            if victim is not None:
                del slots[victim]
                policy.bury(victim << 32 | victim)
        assert len(policy) == len(slots)
        assert len(set(slots.values())) == len(slots)
    while (victim := policy.evict()) is not None:
        del slots[victim]
    assert not slots
