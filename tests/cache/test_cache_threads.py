"""Many threads at once: never a wrong byte, no room lost, no descriptor lost."""

import random
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache import PackCache
from tests.cache.conftest import BLOCK, OpenCache
from tests.cache.disks import HookedDisk, StoppedClock, allocated_on_disk, content, pack_name

SIZE = 9 * BLOCK + 123
BUDGET = 40 * BLOCK
ROUNDS = 240


@pytest.fixture(autouse=True)
def _frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def read_stored(cache: PackCache, seed: int) -> int:
    chance, right = random.Random(seed), 0
    for _ in range(ROUNDS):
        name = pack_name(chance.randrange(8))
        data = content(name, SIZE)
        offset = chance.randrange(SIZE)
        length = min(chance.randrange(1, 4 * BLOCK), SIZE - offset)
        found = cache.read(name, offset, length)
        if found is not None:
            assert found == data[offset : offset + length]
            right += 1
        for start, count in cache.missing(name, offset, length, size=SIZE):
            cache.fill(name, start, data[start : start + count])
        if chance.random() < 0.1:
            cache.invalidate(name, offset, length)
        if chance.random() < 0.01:
            cache.drop()
    return right


def write_new(cache: PackCache, seed: int) -> int:
    chance, written = random.Random(seed), 0
    for number in range(ROUNDS // 4):
        name = pack_name(1000 * seed + number)
        size = chance.randrange(1, SIZE)
        claim = -(-size // BLOCK) * BLOCK
        if not cache.reserve(claim):
            continue
        fd = cache.create(name)
        cache.account(name, size, claimed=claim)
        cache.disk.pwrite(fd, content(name, size), 0)
        assert cache.read(name, 0, size) == content(name, size)
        cache.seal(name, size)
        assert cache.stats().used_bytes <= BUDGET
        assert cache.read(name, 0, size) == content(name, size)
        if chance.random() < 0.8:
            cache.unpin(name)
        if chance.random() < 0.5 or cache.size(name) is not None:
            cache.discard(name)
        written += 1
    return written


def test_readers_and_writers_at_once(open_cache: OpenCache, tmp_path: Path) -> None:
    disk = HookedDisk()
    cache = open_cache(BUDGET, disk=disk, descriptors_max=6)
    with ThreadPoolExecutor(6) as pool:
        reads = [pool.submit(read_stored, cache, seed) for seed in range(4)]
        writes = [pool.submit(write_new, cache, seed) for seed in (5, 6)]
        assert sum(future.result() for future in reads) > 100
        assert sum(future.result() for future in writes) > 100
    stats = cache.stats()
    assert stats.evictions > 100
    assert stats.dirty_bytes == stats.pinned_files == 0
    assert stats.used_bytes <= BUDGET
    assert 0 <= allocated_on_disk(tmp_path / "cache") - stats.used_bytes <= 4096 * stats.files
    assert disk.open_now <= 6
    cache.drop()
    stats = cache.stats()
    assert stats.used_bytes == stats.files == stats.blocks == disk.open_now == 0


class AnnouncingClock(StoppedClock):
    """Tells when another thread than the first has asked, that is, when it is about to count what is free."""

    def __init__(self) -> None:
        super().__init__()
        self.first = threading.get_ident()
        self.asked = threading.Event()

    def __call__(self) -> float:
        if threading.get_ident() != self.first:
            self.asked.set()
        return super().__call__()


def test_claims_wait_for_room_that_others_are_freeing(open_cache: OpenCache) -> None:
    disk, clock = HookedDisk(), AnnouncingClock()
    cache = open_cache(BUDGET, disk=disk, monotonic=clock)
    for number in range(4):
        cache.fill(pack_name(number), 0, content(pack_name(number), 10 * BLOCK))
    futures = []

    def claim_from_another_thread() -> None:
        futures.append(pool.submit(cache.reserve, 10 * BLOCK))
        assert clock.asked.wait(60)

    with ThreadPoolExecutor(1) as pool:
        # This thread has taken every clean block out, and has freed none of them yet.
        disk.before["unlink"] = claim_from_another_thread
        assert cache.drop() == BUDGET
        assert futures[0].result()
    assert cache.stats().reserved_bytes == 10 * BLOCK


def test_a_discard_waits_for_a_fill_under_way(open_cache: OpenCache, tmp_path: Path) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk)
    name, futures, begun = pack_name(1), [], threading.Event()

    def discard() -> None:
        begun.set()
        cache.discard(name)

    def discard_from_another_thread() -> None:
        futures.append(pool.submit(discard))
        assert begun.wait(60)

    with ThreadPoolExecutor(1) as pool:
        disk.before["pwrite"] = discard_from_another_thread
        cache.fill(name, 0, content(name, 3 * BLOCK))
        futures[0].result()
    assert cache.stats().files == allocated_on_disk(tmp_path / "cache") == 0
