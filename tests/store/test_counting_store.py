"""The count of requests: by kind, with failures and retries, page by page, and as a client sends them."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import msgspec
import pytest

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.errors import Corrupt, Denied, Exists, NotFound, Unavailable
from fusegw.store.base import DELETE_BATCH_MAX, ObjectInfo
from fusegw.store.counting import LIST_PAGE, CountingStore, Traffic, TrafficCounter
from fusegw.store.faulty import Fault, FaultyStore
from fusegw.store.memory import MemoryStore
from fusegw.store.opening import open_store
from fusegw.store.retry import RetryingStore, RetryPolicy
from fusegw.store.s3 import S3Store
from tests.plugins.fakes import ManualClock, SeededEntropy
from tests.plugins.s3servers import S3Server
from tests.plugins.wire import Reply, Request, Wire

QUICK = RetryPolicy(tries_max=4, wait_first_s=0.0, wait_first_overloaded_s=0.0, wait_max_s=0.0)


@pytest.fixture
def counter() -> TrafficCounter:
    return TrafficCounter()


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore(clock=ManualClock())


@pytest.fixture
def store(memory: MemoryStore, counter: TrafficCounter) -> CountingStore:
    return CountingStore(memory, counter)


def test_each_kind_is_counted_with_its_bytes(store: CountingStore, counter: TrafficCounter) -> None:
    store.put("a", b"12345")
    store.put("b", memoryview(b"123456789")[2:5])
    assert store.get("a", size_max=5) == b"12345"
    assert store.get_range("a", 1, 2) == b"23"
    store.head("a")
    assert [info.key for info in store.list()] == ["a", "b"]
    store.delete(["a", "b"])
    traffic = counter.traffic()
    assert traffic == Traffic(
        put_requests=2,
        get_requests=2,
        head_requests=1,
        list_requests=1,
        delete_requests=1,
        sent_bytes=8,
        received_bytes=7,
    )
    assert traffic.requests == 7
    assert traffic.plus(traffic).sent_bytes == 16


def test_a_request_that_is_refused_was_made(store: CountingStore, counter: TrafficCounter) -> None:
    store.put("a", b"12345")
    with pytest.raises(Exists):
        store.put("a", b"other")
    with pytest.raises(NotFound):
        store.get("b", size_max=5)
    with pytest.raises(Corrupt):
        store.get("a", size_max=4)
    with pytest.raises(NotFound):
        store.head("b")
    assert counter.traffic() == Traffic(put_requests=2, get_requests=2, head_requests=1, sent_bytes=5)


def test_what_got_no_answer_has_failed(memory: MemoryStore, counter: TrafficCounter) -> None:
    plan = [Fault.RESET, Fault.SLOW_DOWN, Fault.DENIED, Fault.LOST_REPLY]
    store = CountingStore(FaultyStore(memory, plan=plan), counter)
    for error in (Unavailable, Unavailable, Denied, Unavailable):
        with pytest.raises(error):
            store.put("a", b"12345")
    assert counter.traffic() == Traffic(put_requests=4, failed_requests=3)


def test_each_try_is_a_request(memory: MemoryStore, counter: TrafficCounter) -> None:
    faulty = FaultyStore(memory, plan=[Fault.RESET, Fault.LOST_REPLY])
    clock = ManualClock()
    store = RetryingStore(
        CountingStore(faulty, counter),
        clock=clock,
        entropy=SeededEntropy(),
        policy=QUICK,
        sleep=clock.sleep,
    )
    store.put("a", b"12345")
    # Refused the third time, it looks whether its own object is there.
    assert counter.traffic() == Traffic(put_requests=3, failed_requests=2, get_requests=1, received_bytes=5)


def test_above_the_retries_tries_would_be_missed(memory: MemoryStore, counter: TrafficCounter) -> None:
    """The control: where it stands in the chain matters."""
    clock = ManualClock()
    faulty = FaultyStore(memory, plan=[Fault.RESET])
    retrying = RetryingStore(faulty, clock=clock, entropy=SeededEntropy(), policy=QUICK, sleep=clock.sleep)
    CountingStore(retrying, counter).put("a", b"12345")
    assert counter.traffic().put_requests == 1


@pytest.mark.parametrize(
    ("objects", "pages"),
    [(0, 1), (1, 1), (LIST_PAGE, 1), (LIST_PAGE + 1, 2), (2 * LIST_PAGE, 2), (2 * LIST_PAGE + 1, 3)],
)
def test_a_list_is_a_request_for_each_page(
    memory: MemoryStore, store: CountingStore, counter: TrafficCounter, objects: int, pages: int
) -> None:
    for number in range(objects):
        memory.put(f"many/{number:06}", b"")
    assert len(list(store.list("many/"))) == objects
    assert counter.traffic() == Traffic(list_requests=pages)


def test_pages_that_nobody_takes_are_not_asked_for(
    memory: MemoryStore, store: CountingStore, counter: TrafficCounter
) -> None:
    for number in range(LIST_PAGE + 1):
        memory.put(f"many/{number:06}", b"")
    listing = store.list("many/")
    assert counter.traffic().list_requests == 0
    for _ in range(LIST_PAGE):
        next(listing)
    assert counter.traffic().list_requests == 1
    next(listing)
    assert counter.traffic().list_requests == 2


class Tearing(MemoryStore):
    """Its lists end after a page, as when the request for the next one fails."""

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        for number, info in enumerate(super().list(prefix, start_after=start_after)):
            if number == LIST_PAGE:
                raise Unavailable("503")
            yield info


def test_a_page_that_fails_was_asked_for(counter: TrafficCounter) -> None:
    memory = Tearing(clock=ManualClock())
    for number in range(LIST_PAGE + 5):
        memory.put(f"many/{number:06}", b"")
    with pytest.raises(Unavailable):
        list(CountingStore(memory, counter).list())
    assert counter.traffic() == Traffic(list_requests=2, failed_requests=1)


def test_a_delete_is_a_request_for_each_batch(
    memory: MemoryStore, store: CountingStore, counter: TrafficCounter
) -> None:
    store.delete([])
    assert counter.traffic().delete_requests == 0
    store.delete(f"key/{number}" for number in range(DELETE_BATCH_MAX))
    assert counter.traffic().delete_requests == 1
    store.delete(f"key/{number}" for number in range(2 * DELETE_BATCH_MAX + 1))
    assert counter.traffic().delete_requests == 4


class Slow(int):
    """A number that lets other threads go first when it is added."""

    def __radd__(self, other: int) -> int:
        time.sleep(0.0001)
        return int(other) + int(self)


def test_threads_lose_no_count(counter: TrafficCounter) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: counter.add("put_requests", Slow(1)), range(400)))
    assert counter.traffic() == Traffic(put_requests=400)


def kind_of(request: Request) -> str:
    """What a bill calls it."""
    if request.method == "POST":
        return "delete_requests" if "delete" in request.target else "put_requests"
    if request.method == "GET" and "list-type=2" in request.target:
        return "list_requests"
    return f"{request.method.lower()}_requests"


def test_the_wire_sees_as_many(moto_server: S3Server, counter: TrafficCounter) -> None:
    """Faults and retries, a pack-sized object, more objects than a page: what is counted is what was sent."""
    direct = moto_server.options()
    keys = [f"many/{number:04}" for number in range(LIST_PAGE + 1)]
    with closing(S3Store(direct)) as filling, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: filling.put(key, b"x"), keys))
    with Wire(moto_server.endpoint_url) as wire:
        options = msgspec.structs.replace(direct, endpoint_url=wire.endpoint_url)
        opened = open_store(
            options, clock=SystemClock(), entropy=SystemEntropy(), policy=QUICK, counter=counter
        )
        with closing(opened) as store:
            wire.plan += [Reply(503, "SlowDown"), Reply(500, "InternalError")]
            store.put("large", bytes(32 << 20))
            wire.plan.append(Reply(503, "SlowDown"))
            assert len(store.get("large", size_max=32 << 20)) == 32 << 20
            store.get_range("large", 5, 10)
            store.head("large")
            wire.plan.append(Reply(503, "SlowDown"))
            assert len(list(store.list("many/"))) == len(keys)
            store.delete(keys)
        seen = Counter(map(kind_of, wire.requests))
    traffic = counter.traffic()
    assert seen == {
        "put_requests": 3,
        "get_requests": 3,
        "head_requests": 1,
        "list_requests": 3,
        "delete_requests": 2,
    }
    assert {kind: getattr(traffic, kind) for kind in seen} == seen
    assert (traffic.requests, traffic.failed_requests) == (12, 4)
    assert traffic.sent_bytes == 32 << 20
    assert traffic.received_bytes == (32 << 20) + 10
