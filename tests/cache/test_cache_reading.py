"""Reads, misses and fills, and what damage below a running cache does to them."""

import errno
import os
from pathlib import Path

import pytest

from cache import PackCache
from tests.cache.conftest import BLOCK, OpenCache
from tests.cache.disks import HookedDisk, allocated_on_disk, content, pack_name, pack_path

NAME = pack_name(1)
SIZE = 6 * BLOCK + 700
DATA = content(NAME, SIZE)


def fetch(cache: PackCache, offset: int, length: int, size: int = SIZE) -> None:
    """What a reader does after a miss."""
    for start, count in cache.missing(NAME, offset, length, size=size):
        cache.fill(NAME, start, content(NAME, size)[start : start + count])


def test_a_miss_tells_what_to_fetch_and_the_next_read_hits(open_cache: OpenCache) -> None:
    cache = open_cache()
    assert cache.read(NAME, 5000, 100) is None
    assert cache.missing(NAME, 5000, 100) == [(BLOCK, BLOCK)]
    cache.fill(NAME, BLOCK, DATA[BLOCK : 2 * BLOCK])
    assert cache.read(NAME, 5000, 100) == DATA[5000:5100]
    assert cache.missing(NAME, 5000, 100) == []
    assert cache.missing(NAME, 0, SIZE, size=SIZE) == [(0, BLOCK), (2 * BLOCK, SIZE - 2 * BLOCK)]
    fetch(cache, 0, SIZE)
    assert cache.read(NAME, 0, SIZE) == DATA
    stats = cache.stats()
    assert (stats.hits, stats.hit_bytes, stats.misses, stats.miss_bytes) == (2, 100 + SIZE, 1, 100)
    assert (stats.fills, stats.blocks, stats.used_bytes) == (7, 7, 7 * BLOCK)


def test_a_read_that_was_counted_as_a_miss_is_not_counted_again(open_cache: OpenCache) -> None:
    cache = open_cache()
    assert cache.read(NAME, 5000, 100) is None
    assert cache.read(NAME, 5000, 100, counted=False) is None
    fetch(cache, 5000, 100)
    assert cache.read(NAME, 5000, 100, counted=False) == DATA[5000:5100]
    assert (cache.stats().hits, cache.stats().misses) == (0, 1)


def test_nothing_is_read_past_the_end(open_cache: OpenCache) -> None:
    cache = open_cache()
    fetch(cache, 0, SIZE)
    assert cache.read(NAME, SIZE - 1, 1) == DATA[-1:]
    assert cache.read(NAME, SIZE - 1, 2) is None
    assert cache.read(NAME, SIZE - 1, 1) == DATA[-1:], "asking for too much harmed nothing"


def test_an_end_that_was_not_the_end_is_found_out(open_cache: OpenCache) -> None:
    cache = open_cache()
    cache.fill(NAME, 0, DATA[: BLOCK + 100])
    assert cache.read(NAME, BLOCK, 100) == DATA[BLOCK : BLOCK + 100]
    assert cache.missing(NAME, BLOCK, 200, size=SIZE) == [(BLOCK, BLOCK)]
    assert cache.missing(NAME, BLOCK, 200) == [(BLOCK, BLOCK)]
    fetch(cache, BLOCK, 200)
    assert cache.read(NAME, 0, 2 * BLOCK) == DATA[: 2 * BLOCK]
    assert cache.stats().used_bytes == 2 * BLOCK


def test_a_short_part_in_the_middle_is_left_out(open_cache: OpenCache) -> None:
    cache = open_cache()
    fetch(cache, 4 * BLOCK, SIZE - 4 * BLOCK)
    cache.fill(NAME, 0, DATA[: BLOCK + 100])
    assert cache.missing(NAME, 0, SIZE) == [(BLOCK, 3 * BLOCK)]


def test_fill_makes_room_or_does_nothing(open_cache: OpenCache) -> None:
    cache = open_cache(4 * BLOCK)
    fetch(cache, 0, 3 * BLOCK)
    fetch(cache, 3 * BLOCK, 3 * BLOCK)
    assert cache.stats().used_bytes == 4 * BLOCK
    assert cache.read(NAME, 3 * BLOCK, 3 * BLOCK) == DATA[3 * BLOCK : 6 * BLOCK]
    assert cache.stats().evictions == 2
    cache.fill(NAME, 0, DATA[: 5 * BLOCK])
    assert cache.reserve(3 * BLOCK)
    cache.fill(NAME, 0, DATA[: 2 * BLOCK])
    assert cache.stats().blocks == 1


def use(cache: PackCache, name: str, blocks: int) -> int:
    """Read every block of a pack once, in four parts, fetching what is missing; the number of misses."""
    misses, data = 0, content(name, blocks * BLOCK)
    for start in range(0, blocks * BLOCK, BLOCK):
        if cache.read(name, start, BLOCK // 4) is None:
            misses += 1
            cache.fill(name, start, data[start : start + BLOCK])
        for part in range(1, 4):
            cache.read(name, start + part * BLOCK // 4, BLOCK // 4)
    return misses


@pytest.mark.parametrize(("rounds", "kept"), [(3, True), (1, False)])
def test_what_is_read_again_survives_a_scan_of_ten_times_the_budget(
    open_cache: OpenCache, rounds: int, kept: bool
) -> None:
    cache = open_cache(256 * BLOCK)
    for _ in range(rounds):
        use(cache, NAME, 64)
    for number in range(2, 42):
        use(cache, pack_name(number), 64)
    # Control: what was read only once is gone.
    assert use(cache, NAME, 64) == (0 if kept else 64)


def test_fill_leaves_pinned_packs_alone(open_cache: OpenCache) -> None:
    cache = open_cache()
    fd = cache.create(NAME)
    cache.account(NAME, BLOCK)
    cache.disk.pwrite(fd, DATA[:BLOCK], 0)
    cache.fill(NAME, 0, b"?" * 2 * BLOCK)
    assert cache.missing(NAME, 0, 2 * BLOCK) == []
    cache.invalidate(NAME, 0, BLOCK)
    assert cache.read(NAME, 0, BLOCK) == DATA[:BLOCK]


def test_invalidate_forgets_and_the_next_fetch_heals(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache()
    fetch(cache, 0, SIZE)
    with pack_path(tmp_path / "cache", NAME).open("r+b") as file:
        file.seek(2 * BLOCK + 5)
        file.write(bytes([DATA[2 * BLOCK + 5] ^ 1]))
    bad = cache.read(NAME, 2 * BLOCK, BLOCK)
    assert bad is not None and bad != DATA[2 * BLOCK : 3 * BLOCK]
    cache.invalidate(NAME, 2 * BLOCK + 5, 1)
    assert cache.missing(NAME, 0, SIZE) == [(2 * BLOCK, BLOCK)]
    assert cache.stats().used_bytes == 6 * BLOCK == allocated_on_disk(tmp_path / "cache")
    fetch(cache, 0, SIZE)
    assert cache.read(NAME, 0, SIZE) == DATA


def test_files_deleted_by_hand_are_misses_and_heal(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache(descriptors_max=1)
    fetch(cache, 0, SIZE)
    pack_path(tmp_path / "cache", NAME).unlink()
    cache.fill(pack_name(2), 0, b"x" * BLOCK)  # takes the only descriptor kept open
    assert cache.read(NAME, 0, SIZE) is None
    assert cache.stats().used_bytes == BLOCK == allocated_on_disk(tmp_path / "cache")
    fetch(cache, 0, SIZE)
    assert cache.read(NAME, 0, SIZE) == DATA


def test_a_deleted_directory_is_survived(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache(descriptors_max=1)
    fetch(cache, 0, SIZE)
    path = pack_path(tmp_path / "cache", NAME)
    path.unlink()
    path.parent.rmdir()
    cache.fill(pack_name(2), 0, b"x" * BLOCK)
    assert cache.read(NAME, 0, 1) is None
    fetch(cache, 0, SIZE)
    assert cache.read(NAME, 0, SIZE) == DATA
    assert cache.stats().used_bytes == 8 * BLOCK == allocated_on_disk(tmp_path / "cache")


def test_files_truncated_by_hand_are_misses_and_heal(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache()
    fetch(cache, 0, SIZE)
    os.truncate(pack_path(tmp_path / "cache", NAME), 2 * BLOCK)
    assert cache.read(NAME, 0, 2 * BLOCK) == DATA[: 2 * BLOCK]
    assert cache.read(NAME, BLOCK, 2 * BLOCK) is None
    fetch(cache, 0, SIZE)
    cache.invalidate(NAME, 3 * BLOCK, SIZE)  # what the reader does once the zeros there do not open
    fetch(cache, 0, SIZE)
    assert cache.read(NAME, 0, SIZE) == DATA
    assert cache.stats().used_bytes == 7 * BLOCK


def test_a_pinned_file_deleted_by_hand_is_a_miss(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache(descriptors_max=1)
    cache.create(NAME)
    cache.seal(NAME, BLOCK)
    pack_path(tmp_path / "cache", NAME).unlink()
    cache.fill(pack_name(2), 0, b"x" * BLOCK)
    assert cache.read(NAME, 0, 10) is None
    cache.discard(NAME)
    assert cache.stats().used_bytes == BLOCK


@pytest.mark.parametrize("call", ["open", "pwrite"])
def test_a_fill_that_the_disk_refuses_leaves_no_trace(
    open_cache: OpenCache, tmp_path: Path, call: str
) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk)
    disk.failing[call] = errno.ENOSPC
    fetch(cache, 0, SIZE)
    del disk.failing[call]
    assert cache.read(NAME, 0, 1) is None
    assert cache.stats().used_bytes == cache.stats().files == 0
    assert allocated_on_disk(tmp_path / "cache") == 0
    fetch(cache, 0, SIZE)
    assert cache.read(NAME, 0, SIZE) == DATA


def test_a_read_error_of_the_disk_is_a_miss_and_heals(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk)
    fetch(cache, 0, SIZE)
    disk.failing["pread"] = errno.EIO
    assert cache.read(NAME, 0, 10) is None
    del disk.failing["pread"]
    assert cache.missing(NAME, 0, SIZE) == [(0, BLOCK)]
    fetch(cache, 0, SIZE)
    assert cache.read(NAME, 0, SIZE) == DATA


def test_no_descriptors_left_is_a_miss_that_loses_nothing(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk, descriptors_max=1)
    fetch(cache, 0, SIZE)
    cache.fill(pack_name(2), 0, b"x" * BLOCK)
    disk.failing["open"] = errno.EMFILE
    assert cache.read(NAME, 0, 10) is None
    del disk.failing["open"]
    assert cache.read(NAME, 0, SIZE) == DATA


@pytest.mark.parametrize(("call", "needed"), [("punch", BLOCK), ("unlink", 7 * BLOCK)])
def test_space_the_disk_does_not_free_stays_counted(
    open_cache: OpenCache, tmp_path: Path, call: str, needed: int
) -> None:
    disk = HookedDisk()
    cache = open_cache(7 * BLOCK, disk=disk)
    fetch(cache, 0, SIZE)
    disk.failing[call] = errno.EIO
    assert not cache.reserve(needed)
    stats = cache.stats()
    assert (stats.used_bytes, stats.blocks, stats.evictions) == (7 * BLOCK, 7, 0)
    assert cache.read(NAME, 0, SIZE) == DATA
    del disk.failing[call]
    assert cache.reserve(needed)
    assert cache.stats().used_bytes == allocated_on_disk(tmp_path / "cache") == 7 * BLOCK - needed


def test_a_read_that_an_eviction_overtakes_does_not_return_its_hole(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk)
    fetch(cache, 0, SIZE)
    disk.before["pread"] = lambda: cache.invalidate(NAME, 0, BLOCK)
    # Control: the bytes below are zeros by the time they are read.
    assert cache.read(NAME, 0, 10) is None
    assert pack_path(tmp_path / "cache", NAME).read_bytes()[:10] == bytes(10)


def test_a_read_beside_an_eviction_still_hits(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk)
    fetch(cache, 0, SIZE)
    disk.before["pread"] = lambda: cache.invalidate(NAME, 0, BLOCK)
    assert cache.read(NAME, BLOCK, 10) == DATA[BLOCK : BLOCK + 10]


def test_blocks_being_punched_are_neither_read_nor_filled(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk)
    fetch(cache, 0, SIZE)
    seen: list[object] = []

    def meanwhile() -> None:
        seen.append(cache.read(NAME, 0, 10))
        cache.fill(NAME, 0, DATA[:BLOCK])
        seen.append(cache.missing(NAME, 0, BLOCK))

    disk.before["punch"] = meanwhile
    cache.invalidate(NAME, 0, BLOCK)
    assert seen == [None, [(0, BLOCK)]]
    assert cache.missing(NAME, 0, BLOCK) == [(0, BLOCK)]
    fetch(cache, 0, SIZE)
    assert cache.read(NAME, 0, SIZE) == DATA


def test_a_file_being_unlinked_is_not_filled_into(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk)
    fetch(cache, 0, SIZE)
    disk.before["unlink"] = lambda: cache.fill(NAME, 0, DATA[:BLOCK])
    assert cache.drop() == 7 * BLOCK
    assert cache.read(NAME, 0, 10) is None
    fetch(cache, 0, SIZE)
    assert cache.read(NAME, 0, SIZE) == DATA


def test_a_reader_keeps_its_descriptor_while_the_file_goes(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk)
    fetch(cache, 0, SIZE)
    disk.before["pread"] = cache.drop
    assert cache.read(NAME, 0, 10) is None
    assert disk.open_now == 0


def test_a_pack_turning_out_longer_while_room_is_made_is_not_mixed_up(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    disk, step = HookedDisk(), 4 * BLOCK
    data = content(NAME, 8 * step)
    cache = open_cache(8 * step, disk=disk, block_bytes=step)
    cache.fill(pack_name(2), 0, content(pack_name(2), 8 * step))
    # A short fill, wrong about the end of the pack, comes in between.
    disk.before["punch"] = lambda: cache.fill(NAME, step, data[step : step + 100])
    cache.fill(NAME, 0, data[: 3 * step])
    for start, count in cache.missing(NAME, 0, 3 * step):
        cache.fill(NAME, start, data[start : start + count])
    assert cache.read(NAME, 0, 3 * step) == data[: 3 * step]
    assert cache.stats().used_bytes == allocated_on_disk(tmp_path / "cache")


def test_a_descriptor_opened_just_before_its_file_went_is_closed(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk, descriptors_max=1)
    fetch(cache, 0, SIZE)
    cache.fill(pack_name(2), 0, b"x" * BLOCK)  # takes the only descriptor kept open
    disk.after_open = cache.drop
    assert cache.read(NAME, 0, 10) is None
    assert disk.open_now == cache.stats().files == 0
