"""The faulty and the throttled store, the probe, and what `open_store` builds."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.errors import Denied, Invalid, Overloaded, Unavailable
from fusegw.store.faulty import Fault, FaultyStore
from fusegw.store.memory import MemoryStore
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from fusegw.store.probe import probe_create_only
from fusegw.store.throttle import ThrottledStore
from tests.plugins.fakes import ManualClock
from tests.plugins.s3servers import S3Server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore(clock=ManualClock())


@pytest.mark.parametrize(
    ("fault", "error", "applied"),
    [
        (Fault.SERVER_ERROR, Unavailable, False),
        (Fault.SLOW_DOWN, Overloaded, False),
        (Fault.DENIED, Denied, False),
        (Fault.RESET, Unavailable, False),
        (Fault.TRUNCATED, Unavailable, False),
        (Fault.STALL, Unavailable, False),
        (Fault.LOST_REPLY, Unavailable, True),
    ],
)
def test_each_fault_does_as_it_says(
    memory: MemoryStore, fault: Fault, error: type[Exception], applied: bool
) -> None:
    faulty = FaultyStore(memory, plan=[fault, None])
    with pytest.raises(error):
        faulty.put("key", b"bytes")
    assert [info.key for info in memory.list()] == (["key"] if applied else [])
    faulty.put("other", b"bytes")
    assert faulty.injected == {fault: 1}


def test_damaged_reads_differ_in_one_bit(memory: MemoryStore) -> None:
    memory.put("key", b"bytes")
    faulty = FaultyStore(memory, plan=[Fault.DAMAGED, Fault.DAMAGED])
    damaged = faulty.get("key", size_max=5)
    difference = [a ^ b for a, b in zip(damaged, b"bytes", strict=True)]
    assert sum(bits.bit_count() for bits in difference) == 1
    assert faulty.get_range("key", 0, 2) != b"by"
    assert faulty.get("key", size_max=5) == b"bytes"


def test_a_seed_repeats_its_faults(memory: MemoryStore) -> None:
    def faults(seed: int) -> list[str]:
        faulty = FaultyStore(memory, rates={Fault.RESET: 0.3, Fault.SLOW_DOWN: 0.3}, seed=seed)
        seen = []
        for _ in range(200):
            try:
                list(faulty.list())
                seen.append("none")
            except Unavailable as error:
                seen.append(str(error))
        return seen

    assert faults(1) == faults(1)
    assert faults(1) != faults(2)
    assert 40 < faults(1).count("none") < 120


def test_a_stall_passes_its_time(memory: MemoryStore) -> None:
    clock = ManualClock()
    faulty = FaultyStore(memory, plan=[Fault.STALL], sleep=clock.sleep, stall_s=12.5)
    with pytest.raises(Unavailable):
        faulty.head("key")
    assert clock.slept_s == [12.5]


def test_an_outage_hits_every_call(memory: MemoryStore) -> None:
    faulty = FaultyStore(memory)
    faulty.put("key", b"bytes")
    faulty.set_outage(True)
    with pytest.raises(Unavailable):
        faulty.get("key", size_max=5)
    with pytest.raises(Unavailable):
        faulty.list()
    with pytest.raises(Unavailable):
        faulty.delete(["key"])
    faulty.set_outage(False)
    assert faulty.get("key", size_max=5) == b"bytes"


class Crowd(MemoryStore):
    """Counts the puts inside at once; each waits until `wanted` are, or `patience_s` is over."""

    def __init__(self, wanted: int, patience_s: float) -> None:
        super().__init__(clock=ManualClock())
        self.inside = self.most = 0
        self.wanted, self.patience_s = wanted, patience_s
        self.changed = threading.Condition()

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        with self.changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most >= self.wanted, self.patience_s)
            self.inside -= 1


@pytest.mark.parametrize(("wanted", "patience_s", "most"), [(3, 30, 3), (4, 0.2, 3)])
def test_throttle_lets_so_many_in_and_no_more(wanted: int, patience_s: float, most: int) -> None:
    crowd = Crowd(wanted, patience_s)
    throttled = ThrottledStore(crowd, requests_max=3)
    with ThreadPoolExecutor(9) as pool:
        list(pool.map(lambda number: throttled.put(f"key/{number}", b""), range(9)))
    assert crowd.most == most


def test_a_throttled_caller_may_use_what_it_lists(memory: MemoryStore) -> None:
    throttled = ThrottledStore(memory, requests_max=1)
    for number in range(5):
        throttled.put(f"key/{number}", b"x")
    assert [throttled.get(info.key, size_max=1) for info in throttled.list()] == [b"x"] * 5


class Forgetful(MemoryStore):
    """Takes no notice of create-only, as some S3 look-alikes do."""

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        super().put(key, data, create_only=False)


class Strict(MemoryStore):
    """Refuses to know the condition."""

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        if create_only:
            raise Invalid("501 NotImplemented")
        super().put(key, data, create_only=False)


def test_probe(memory: MemoryStore) -> None:
    assert probe_create_only(memory, SystemEntropy())
    for store in (Forgetful(clock=ManualClock()), Strict(clock=ManualClock())):
        assert not probe_create_only(store, SystemEntropy())
        assert list(store.list()) == []


def test_probe_tells_an_outage_from_an_answer(memory: MemoryStore) -> None:
    with pytest.raises(Unavailable):
        probe_create_only(FaultyStore(memory, plan=[None, Fault.RESET]), SystemEntropy())
    assert list(memory.list()) == []


def test_rclone_is_seen_to_ignore_conditions(rclone_server: S3Server) -> None:
    options = rclone_server.options()
    with closing(open_store(options, clock=SystemClock(), entropy=SystemEntropy())) as store:
        store.put("key", b"bytes")
        assert store.get("key", size_max=5) == b"bytes"
        assert not probe_create_only(store, SystemEntropy())
        assert [info.key for info in store.list()] == ["key"]


def test_directory_stores_load_no_s3_client(tmp_path: Path) -> None:
    program = f"""
import sys
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
options = StoreOptions("file://{tmp_path}")
open_store(options, clock=SystemClock(), entropy=SystemEntropy()).put("key", b"")
print([name for name in ("boto3", "botocore", "urllib3", "asyncio") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_open_store_refuses_bad_options(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="connections_max"):
        open_store(
            StoreOptions(f"file://{tmp_path}", connections_max=0),
            clock=SystemClock(),
            entropy=SystemEntropy(),
        )
    with pytest.raises(Unavailable, match="is it mounted"):
        open_store(StoreOptions(f"file://{tmp_path}/missing"), clock=SystemClock(), entropy=SystemEntropy())
