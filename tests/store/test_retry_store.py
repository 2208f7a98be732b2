"""Retries: what is tried again, how long, and what a lost reply may and may not do.

Each test names its control: the same faults without `RetryingStore` are seen to fail.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fusegw.clock import SystemClock
from fusegw.errors import Denied, Exists, NotFound, Overloaded, Unavailable
from fusegw.store.base import ObjectInfo, ObjectStore
from fusegw.store.faulty import Fault, FaultyStore
from fusegw.store.memory import MemoryStore
from fusegw.store.retry import RetryingStore, RetryPolicy
from tests.plugins.fakes import ManualClock, SeededEntropy

PASSING = [
    Fault.SERVER_ERROR,
    Fault.SLOW_DOWN,
    Fault.RESET,
    Fault.TRUNCATED,
    Fault.STALL,
    Fault.LOST_REPLY,
]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(clock: ManualClock) -> MemoryStore:
    return MemoryStore(clock=clock)


def retrying(inner: ObjectStore, clock: ManualClock, policy: RetryPolicy = RetryPolicy()) -> RetryingStore:
    return RetryingStore(inner, clock=clock, entropy=SeededEntropy(), policy=policy, sleep=clock.sleep)


def use_everything(store: ObjectStore) -> None:
    """One call of each kind, with its result checked."""
    store.put("a/key", b"bytes")
    store.put("b/key", b"old", create_only=False)
    store.put("b/key", b"new", create_only=False)
    assert store.get("a/key", size_max=5) == b"bytes"
    assert store.get_range("a/key", 1, 3) == b"yte"
    assert store.head("b/key").size == 3
    assert [info.key for info in store.list()] == ["a/key", "b/key"]
    store.delete(["a/key", "b/key"])
    assert list(store.list()) == []


@pytest.mark.parametrize("fault", PASSING)
def test_passing_faults_are_outlived(memory: MemoryStore, clock: ManualClock, fault: Fault) -> None:
    # Every request fails once or twice before it gets through.
    plan = [fault, None, fault, fault, None] * 20
    store = retrying(FaultyStore(memory, plan=plan), clock)
    use_everything(store)
    with pytest.raises(Unavailable):  # control
        use_everything(FaultyStore(memory, plan=plan))


def test_storm_of_random_faults_is_outlived(memory: MemoryStore, clock: ManualClock) -> None:
    rates = dict.fromkeys(PASSING, 0.08)
    faulty = FaultyStore(memory, rates=rates, seed=42)
    policy = RetryPolicy(tries_max=50, elapsed_max_s=1e6)
    store = retrying(faulty, clock, policy)
    for number in range(500):
        store.put(f"key/{number:03}", b"%d" % number)
    assert [info.key for info in store.list()] == [f"key/{number:03}" for number in range(500)]
    for number in range(500):
        assert store.get(f"key/{number:03}", size_max=10) == b"%d" % number
    assert set(faulty.injected) == set(PASSING)


def test_denied_is_not_tried_again(memory: MemoryStore, clock: ManualClock) -> None:
    faulty = FaultyStore(memory, plan=[Fault.DENIED])
    with pytest.raises(Denied):
        retrying(faulty, clock).put("key", b"")
    assert clock.slept_s == []
    assert list(memory.list()) == []


def test_tries_are_bounded_and_told(memory: MemoryStore, clock: ManualClock) -> None:
    faulty = FaultyStore(memory, plan=[Fault.SERVER_ERROR] * 100)
    with pytest.raises(Unavailable, match=r"500 InternalError.*gave up after 5 tries"):
        retrying(faulty, clock, RetryPolicy(tries_max=5)).get("key", size_max=1)
    assert faulty.injected[Fault.SERVER_ERROR] == 5
    assert len(clock.slept_s) == 4


def test_time_is_bounded(memory: MemoryStore, clock: ManualClock) -> None:
    faulty = FaultyStore(memory, plan=[Fault.STALL] * 100, sleep=clock.sleep, stall_s=60)
    started = clock.monotonic()
    with pytest.raises(Unavailable, match="gave up after 2 tries"):
        retrying(faulty, clock, RetryPolicy(elapsed_max_s=100)).get("key", size_max=1)
    assert clock.monotonic() - started < 100 + 60


def test_waits_double_up_to_a_ceiling_with_jitter(memory: MemoryStore, clock: ManualClock) -> None:
    policy = RetryPolicy(tries_max=9, wait_first_s=0.1, wait_max_s=2.0)
    with pytest.raises(Unavailable):
        retrying(FaultyStore(memory, plan=[Fault.RESET] * 9), clock, policy).head("key")
    longest = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert len(clock.slept_s) == len(longest)
    for slept, limit in zip(clock.slept_s, longest, strict=True):
        assert limit / 2 <= slept <= limit
    assert len(set(clock.slept_s)) == len(longest)  # no two clients in step


def test_slow_down_waits_longer_than_a_reset(memory: MemoryStore) -> None:
    waited = {}
    for fault, error in ((Fault.SLOW_DOWN, Overloaded), (Fault.RESET, Unavailable)):
        clock = ManualClock()
        with pytest.raises(error):
            retrying(FaultyStore(memory, plan=[fault] * 2), clock, RetryPolicy(tries_max=2)).head("key")
        waited[fault] = clock.slept_s[0]
    assert waited[Fault.SLOW_DOWN] > 4 * waited[Fault.RESET]


def test_lost_reply_of_a_create_only_put_is_success(memory: MemoryStore, clock: ManualClock) -> None:
    retrying(FaultyStore(memory, plan=[Fault.LOST_REPLY]), clock).put("log/1", b"bytes")
    assert memory.get("log/1", size_max=5) == b"bytes"
    naive = FaultyStore(memory, plan=[Fault.LOST_REPLY])  # control: trying again without comparing
    with pytest.raises(Unavailable):
        naive.put("log/2", b"bytes")
    with pytest.raises(Exists):
        naive.put("log/2", b"bytes")


@pytest.mark.parametrize("theirs", [b"other", b"longer than ours", b""])
def test_another_writers_object_is_never_taken_for_ours(
    memory: MemoryStore, clock: ManualClock, theirs: bytes
) -> None:
    memory.put("log/1", theirs)
    store = retrying(FaultyStore(memory, plan=[Fault.RESET]), clock)
    with pytest.raises(Exists):
        store.put("log/1", b"bytes")
    assert memory.get("log/1", size_max=100) == theirs


def test_lost_reply_and_an_outage_while_comparing(memory: MemoryStore, clock: ManualClock) -> None:
    plan = [Fault.LOST_REPLY, None, Fault.SERVER_ERROR, None, Fault.SLOW_DOWN]
    retrying(FaultyStore(memory, plan=plan), clock).put("log/1", b"bytes")
    assert memory.get("log/1", size_max=5) == b"bytes"


def test_exists_at_the_first_try_is_news(memory: MemoryStore, clock: ManualClock) -> None:
    memory.put("log/1", b"bytes")
    with pytest.raises(Exists):
        retrying(memory, clock).put("log/1", b"bytes")


def test_memoryview_is_compared_by_its_bytes(memory: MemoryStore, clock: ManualClock) -> None:
    store = retrying(FaultyStore(memory, plan=[Fault.LOST_REPLY]), clock)
    store.put("log/1", memoryview(b"-bytes-")[1:6])


class BreakingLists(MemoryStore):
    """A store whose lists break after every `entries_max` entries."""

    def __init__(self, *, clock: ManualClock, entries_max: int) -> None:
        super().__init__(clock=clock)
        self.entries_max = entries_max

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        for number, info in enumerate(super().list(prefix, start_after=start_after)):
            if number == self.entries_max:
                raise Unavailable("the next page did not come")
            yield info


def test_lists_go_on_where_they_broke(clock: ManualClock) -> None:
    broken = BreakingLists(clock=clock, entries_max=1500)
    keys = [f"key/{number:05}" for number in range(5000)]
    for key in keys:
        broken.put(key, b"")
    with pytest.raises(Unavailable):  # control
        list(broken.list())
    store = retrying(broken, clock)
    assert [info.key for info in store.list("key/", start_after="key/00099")] == keys[100:]


def test_deletes_are_cut_into_batches(clock: ManualClock) -> None:
    batches: list[int] = []

    class Counting(MemoryStore):
        def delete(self, keys: Iterable[str]) -> None:
            batches.append(len(list(keys)))

    retrying(Counting(clock=clock), clock).delete(f"key/{number}" for number in range(2500))
    assert batches == [1000, 1000, 500]


def test_outage_ends_when_the_store_is_back(memory: MemoryStore) -> None:
    faulty = FaultyStore(memory)
    faulty.set_outage(True)

    class ClockThatMends(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            faulty.set_outage(len(self.slept_s) < 3)

    clock = ClockThatMends()
    retrying(faulty, clock).put("key", b"bytes")
    assert len(clock.slept_s) == 3
    assert memory.get("key", size_max=5) == b"bytes"


def test_close_wakes_who_waits() -> None:
    asked = threading.Event()

    class Down(MemoryStore):
        def head(self, key: str) -> ObjectInfo:
            asked.set()
            raise Unavailable("down")

    policy = RetryPolicy(wait_first_s=30, wait_max_s=30, tries_max=2)
    store = RetryingStore(
        Down(clock=SystemClock()), clock=SystemClock(), entropy=SeededEntropy(), policy=policy
    )
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.head, "key")
        asked.wait()
        store.close()
        with pytest.raises(Unavailable, match=r"closed while|after 1 tries"):  # it may not yet have waited
            waiting.result()


def test_an_error_that_is_no_outage_passes_at_once(memory: MemoryStore, clock: ManualClock) -> None:
    with pytest.raises(NotFound):
        retrying(memory, clock).get("missing", size_max=1)
    assert clock.slept_s == []
