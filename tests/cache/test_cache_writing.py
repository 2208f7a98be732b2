"""Pack files from creation to the store: pins, claims, and what each call does to the sums."""

import os
import stat
from pathlib import Path

import pytest

from cache import PackCache
from tests.cache.conftest import BLOCK, OpenCache
from tests.cache.disks import HookedDisk, StoppedClock, allocated_on_disk, content, pack_name, pack_path

NAME = pack_name(1)


def write_pack(cache: PackCache, name: str, size: int) -> None:
    fd = cache.create(name)
    cache.account(name, size)
    cache.disk.pwrite(fd, content(name, size), 0)
    cache.seal(name, size)


def test_a_claim_becomes_pinned_then_clean_bytes(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache()
    size = 3 * BLOCK + 100
    assert cache.reserve(size)
    assert cache.stats().dirty_bytes == cache.stats().reserved_bytes == size
    fd = cache.create(NAME)
    cache.account(NAME, size, claimed=size)
    cache.disk.pwrite(fd, content(NAME, size), 0)
    assert cache.size(NAME) == size
    assert cache.read(NAME, 10, size - 10) == content(NAME, size)[10:]
    cache.seal(NAME, size)
    stats = cache.stats()
    assert (stats.reserved_bytes, stats.pinned_bytes, stats.clean_bytes) == (0, 4 * BLOCK, 0)
    cache.unpin(NAME)
    stats = cache.stats()
    assert (stats.dirty_bytes, stats.pinned_bytes, stats.clean_bytes, stats.blocks) == (0, 0, 4 * BLOCK, 4)
    assert stats.used_bytes == allocated_on_disk(tmp_path / "cache")
    assert cache.size(NAME) is None
    assert cache.read(NAME, 10, size - 10) == content(NAME, size)[10:]


def test_pinned_packs_are_never_evicted_and_clean_ones_are(open_cache: OpenCache) -> None:
    cache = open_cache(8 * BLOCK)
    write_pack(cache, NAME, 5 * BLOCK)
    other = pack_name(2)
    write_pack(cache, other, 2 * BLOCK)
    cache.unpin(other)
    assert cache.reserve(3 * BLOCK)
    assert cache.read(other, 0, 1) is None
    assert cache.drop() == 0
    assert cache.read(NAME, 0, 5 * BLOCK) == content(NAME, 5 * BLOCK)
    # Control: the same pack goes once it is unpinned.
    cache.unpin(NAME)
    assert cache.reserve(5 * BLOCK)
    assert cache.read(NAME, 0, 5 * BLOCK) is None


def test_no_claim_is_granted_when_everything_is_dirty(open_cache: OpenCache) -> None:
    cache = open_cache(8 * BLOCK)
    write_pack(cache, NAME, 6 * BLOCK)
    cache.unpin(NAME)
    assert cache.reserve(5 * BLOCK)
    assert not cache.reserve(4 * BLOCK)
    assert cache.stats().blocks == 3, "a claim in vain evicts nothing"
    assert cache.reserve(3 * BLOCK)
    assert cache.fill_ratio() == 1.0
    assert not cache.reserve(1)
    cache.release(8 * BLOCK)
    assert cache.fill_ratio() == 0.0
    assert cache.reserve(8 * BLOCK)


def test_the_margin_takes_no_claims_but_absorbs_overhead(open_cache: OpenCache) -> None:
    cache = open_cache(16 * BLOCK, margin_bytes=2 * BLOCK)
    assert cache.reserve(14 * BLOCK)
    assert not cache.reserve(1)
    cache.create(NAME)
    cache.account(NAME, 15 * BLOCK, claimed=14 * BLOCK)
    assert cache.stats().used_bytes == 15 * BLOCK
    assert cache.fill_ratio() > 1.0


def test_growth_without_a_claim_evicts_first(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache(8 * BLOCK)
    write_pack(cache, NAME, 8 * BLOCK)
    cache.unpin(NAME)
    write_pack(cache, pack_name(2), 6 * BLOCK)
    assert cache.stats().used_bytes == 8 * BLOCK == allocated_on_disk(tmp_path / "cache")
    assert cache.stats().evictions == 6


def test_a_pack_that_shrank_gives_room_back(open_cache: OpenCache) -> None:
    cache = open_cache()
    fd = cache.create(NAME)
    cache.account(NAME, 5 * BLOCK)
    cache.disk.pwrite(fd, content(NAME, 5 * BLOCK), 0)
    cache.disk.ftruncate(fd, BLOCK)
    cache.account(NAME, BLOCK)
    cache.seal(NAME, BLOCK)
    assert cache.stats().pinned_bytes == BLOCK
    assert cache.read(NAME, 0, BLOCK + 1) is None


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("clean", [False, True])
def test_discard_frees_everything(open_cache: OpenCache, tmp_path: Path, sealed: bool, clean: bool) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk)
    fd = cache.create(NAME)
    cache.account(NAME, 5 * BLOCK)
    cache.disk.pwrite(fd, content(NAME, 5 * BLOCK), 0)
    if sealed:
        cache.seal(NAME, 5 * BLOCK)
    if clean:
        cache.unpin(NAME)
    cache.discard(NAME)
    cache.discard(NAME)
    assert cache.stats().used_bytes == cache.stats().files == allocated_on_disk(tmp_path / "cache") == 0
    assert not pack_path(tmp_path / "cache", NAME).exists()
    assert disk.open_now == 0
    assert cache.read(NAME, 0, 1) is None


def test_an_empty_pack_vanishes_when_unpinned(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache()
    write_pack(cache, NAME, 0)
    cache.unpin(NAME)
    assert cache.stats().files == 0
    assert not pack_path(tmp_path / "cache", NAME).exists()


def test_wrong_use_is_refused(open_cache: OpenCache) -> None:
    cache = open_cache()
    with pytest.raises(ValueError, match="not pinned"):
        cache.account(NAME, 1)
    with pytest.raises(ValueError, match="not pinned"):
        cache.seal(NAME, 1)
    with pytest.raises(ValueError, match="not the name of a pack"):
        cache.create("../../etc/passwd")
    with pytest.raises(FileNotFoundError):
        cache.reopen(NAME)
    with pytest.raises(ValueError, match="multiple"):
        cache.fill(NAME, 1, b"x")
    cache.unpin(NAME)
    cache.create(NAME)
    with pytest.raises(FileExistsError):
        cache.create(NAME)
    with pytest.raises(ValueError, match="has a writer"):
        cache.reopen(NAME)


def test_a_failed_create_leaves_nothing(open_cache: OpenCache, tmp_path: Path) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk)
    disk.failing["open"] = 28
    with pytest.raises(OSError, match="No space"):
        cache.create(NAME)
    del disk.failing["open"]
    assert cache.stats().files == 0
    write_pack(cache, NAME, BLOCK)
    assert cache.stats().pinned_bytes == BLOCK


def test_nobody_else_may_read_the_files(open_cache: OpenCache, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        cache = open_cache()
        write_pack(cache, NAME, 10)
        cache.fill(pack_name(2), 0, b"x" * BLOCK)
    finally:
        os.umask(old)
    top = tmp_path / "cache"
    for path in [top, *top.rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_reserve_nowait_never_touches_the_disk(open_cache: OpenCache) -> None:
    disk, clock = HookedDisk(), StoppedClock()
    cache = open_cache(8 * BLOCK, disk=disk, monotonic=clock)
    write_pack(cache, NAME, 4 * BLOCK)
    cache.unpin(NAME)
    disk.calls.clear()
    assert cache.reserve_nowait(4 * BLOCK)
    assert not cache.reserve_nowait(1), "needs an eviction"
    cache.release(2 * BLOCK)
    assert cache.reserve_nowait(1)
    clock.now += 5
    assert not cache.reserve_nowait(1), "needs a look at the free space"
    assert not disk.calls
    assert cache.reserve(1)
    assert cache.reserve_nowait(1)
    assert disk.calls == {"free_bytes": 1}


def test_reserve_evicts_ahead_so_that_the_next_claims_are_cheap(open_cache: OpenCache) -> None:
    cache = open_cache(256 * BLOCK)
    write_pack(cache, NAME, 256 * BLOCK)
    cache.unpin(NAME)
    assert cache.reserve(1)
    assert cache.stats().evictions == 8
    assert cache.reserve_nowait(7 * BLOCK)


def test_a_writer_keeps_its_descriptor_however_many_files_are_read(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    cache = open_cache(disk=disk, descriptors_max=4)
    fd = cache.create(NAME)
    for number in range(2, 40):
        cache.fill(pack_name(number), 0, content(pack_name(number), BLOCK))
    for number in range(2, 40):
        assert cache.read(pack_name(number), 0, BLOCK) == content(pack_name(number), BLOCK)
    cache.account(NAME, BLOCK)
    cache.disk.pwrite(fd, content(NAME, BLOCK), 0)
    cache.seal(NAME, BLOCK)
    assert cache.read(NAME, 0, BLOCK) == content(NAME, BLOCK)
    assert disk.open_now <= 4
    assert disk.open_most <= 6


def test_an_upload_reads_pinned_packs_without_counting(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache()
    write_pack(cache, NAME, 2 * BLOCK)
    assert cache.read_pinned(NAME, 2 * BLOCK) == content(NAME, 2 * BLOCK)
    assert cache.read_pinned(NAME, 2 * BLOCK + 1) is None
    assert cache.read_pinned(pack_name(2), 1) is None
    os.truncate(pack_path(tmp_path / "cache", NAME), BLOCK)
    assert cache.read_pinned(NAME, 2 * BLOCK) is None
    cache.unpin(NAME)
    assert cache.read_pinned(NAME, BLOCK) is None
    assert cache.stats().hits == cache.stats().misses == 0
