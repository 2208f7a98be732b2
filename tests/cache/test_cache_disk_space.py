"""The file system below is smaller than the budget, or others fill it."""

import errno

from tests.cache.conftest import BLOCK, OpenCache
from tests.cache.disks import HookedDisk, StoppedClock, content, pack_name

NAME = pack_name(1)


def test_claims_stop_short_of_a_full_disk(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    disk.free = 30 * BLOCK
    cache = open_cache(disk=disk, disk_reserve_bytes=10 * BLOCK)
    assert cache.reserve(20 * BLOCK)
    assert not cache.reserve(1)
    assert cache.fill_ratio() == 1.0
    assert cache.stats().disk_free_bytes == 30 * BLOCK
    # Control: the budget alone would have allowed three times as much.
    disk.free = 3000 * BLOCK
    cache = open_cache(disk=disk, disk_reserve_bytes=10 * BLOCK)
    assert cache.reserve(64 * BLOCK)


def test_a_disk_that_others_fill_shrinks_the_cache(open_cache: OpenCache) -> None:
    disk, clock = HookedDisk(), StoppedClock()
    disk.free = 1000 * BLOCK
    cache = open_cache(disk=disk, disk_reserve_bytes=10 * BLOCK, monotonic=clock)
    cache.fill(NAME, 0, content(NAME, 40 * BLOCK))
    assert cache.stats().blocks == 40
    disk.free = 4 * BLOCK
    clock.now += 2
    assert cache.reserve(BLOCK)
    # The reserve lacks 6 blocks and the claim needs one.
    assert cache.stats().blocks == 33


def test_fills_make_their_own_room_on_a_full_disk(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    disk.free = 10 * BLOCK
    cache = open_cache(disk=disk, disk_reserve_bytes=0)
    for start in range(0, 40, 4):
        cache.fill(NAME, start * BLOCK, content(NAME, 40 * BLOCK)[start * BLOCK : (start + 4) * BLOCK])
        assert cache.stats().blocks <= 10
    assert cache.read(NAME, 36 * BLOCK, 4 * BLOCK) == content(NAME, 40 * BLOCK)[36 * BLOCK :]


def test_the_disk_is_asked_once_a_second(open_cache: OpenCache) -> None:
    disk, clock = HookedDisk(), StoppedClock()
    cache = open_cache(disk=disk, monotonic=clock)
    disk.calls.clear()
    for _ in range(1000):
        assert cache.reserve(BLOCK)
        cache.release(BLOCK)
    assert disk.calls.get("free_bytes", 0) == 0
    clock.now += 1
    cache.reserve(BLOCK)
    cache.reserve(BLOCK)
    assert disk.calls["free_bytes"] == 1


def test_the_disk_is_asked_after_much_growth(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    cache = open_cache(1 << 30, disk=disk)
    cache.create(NAME)
    disk.calls.clear()
    for mebibytes in range(1, 201):
        cache.account(NAME, mebibytes << 20)
    assert disk.calls["free_bytes"] == 3


def test_a_disk_that_does_not_answer_keeps_the_last_limit(open_cache: OpenCache) -> None:
    disk, clock = HookedDisk(), StoppedClock()
    cache = open_cache(disk=disk, monotonic=clock)
    disk.failing["free_bytes"] = errno.EIO
    clock.now += 10
    assert cache.reserve(BLOCK)
    assert not cache.reserve(64 * BLOCK)
