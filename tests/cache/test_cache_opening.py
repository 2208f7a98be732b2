"""What a restart takes over, deletes and refuses."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cache import CacheInUse, CacheUnsuitable, PackCache
from tests.cache.conftest import BLOCK, OpenCache
from tests.cache.disks import HookedDisk, StoppedClock, allocated_on_disk, content, pack_name, pack_path

SIZE = 6 * BLOCK + 700
PINNED, CLEAN, UNKNOWN = pack_name(1), pack_name(2), pack_name(3)


def write(cache: PackCache, name: str) -> None:
    fd = cache.create(name)
    cache.account(name, SIZE)
    cache.disk.pwrite(fd, content(name, SIZE), 0)
    cache.seal(name, SIZE)


def test_a_restart_keeps_pins_and_clean_blocks_and_deletes_the_unknown(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    cache = open_cache()
    for name in (PINNED, CLEAN, UNKNOWN):
        write(cache, name)
    cache.unpin(CLEAN)
    cache.invalidate(CLEAN, BLOCK, 3 * BLOCK)
    cache = open_cache(pinned={PINNED}, known={PINNED, CLEAN}.intersection)
    stats = cache.stats()
    assert (stats.pinned_bytes, stats.clean_bytes, stats.files, stats.blocks) == (7 * BLOCK, 4 * BLOCK, 2, 4)
    assert stats.used_bytes == allocated_on_disk(tmp_path / "cache")
    assert not pack_path(tmp_path / "cache", UNKNOWN).exists()
    assert cache.size(PINNED) == SIZE
    assert cache.read(PINNED, 0, SIZE) == content(PINNED, SIZE)
    assert cache.missing(CLEAN, 0, SIZE, size=SIZE) == [(BLOCK, 3 * BLOCK)]
    assert cache.read(CLEAN, 4 * BLOCK, SIZE - 4 * BLOCK) == content(CLEAN, SIZE)[4 * BLOCK :]
    assert cache.drop() == 4 * BLOCK
    assert cache.read(PINNED, 0, SIZE) == content(PINNED, SIZE)


def test_a_pinned_pack_can_be_completed_after_a_crash(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache()
    fd = cache.create(PINNED)
    cache.account(PINNED, SIZE)
    cache.disk.pwrite(fd, content(PINNED, SIZE), 0)
    cache = open_cache(pinned={PINNED})
    fd = cache.reopen(PINNED)
    cache.disk.ftruncate(fd, 2 * BLOCK)
    cache.account(PINNED, 2 * BLOCK)
    cache.account(PINNED, 2 * BLOCK + 6)
    cache.disk.pwritev(fd, [b"foo", b"ter"], 2 * BLOCK)
    cache.disk.fdatasync(fd)
    cache.sync_directory(PINNED)
    cache.seal(PINNED, 2 * BLOCK + 6)
    assert (
        cache.read(PINNED, 2 * BLOCK - 1, 7) == content(PINNED, SIZE)[2 * BLOCK - 1 : 2 * BLOCK] + b"footer"
    )
    assert cache.stats().used_bytes == 3 * BLOCK == allocated_on_disk(tmp_path / "cache")


def test_a_pinned_pack_that_is_gone_is_reported_as_absent(open_cache: OpenCache) -> None:
    cache = open_cache(pinned={PINNED})
    assert cache.size(PINNED) is None
    assert cache.stats().files == 0


def test_half_filled_blocks_are_freed(open_cache: OpenCache, tmp_path: Path) -> None:
    options = {"block_bytes": 4 * BLOCK, "budget_bytes": 64 * BLOCK}
    open_cache(**options)
    path = pack_path(tmp_path / "cache", CLEAN)
    with path.open("wb") as file:
        file.write(content(CLEAN, 4 * BLOCK))  # whole
        file.seek(5 * BLOCK)
        file.write(b"x" * BLOCK)  # torn
        file.seek(8 * BLOCK)
        file.write(content(CLEAN, 16 * BLOCK)[8 * BLOCK : 14 * BLOCK])  # whole, then half of the last
        file.truncate(15 * BLOCK)
    path.chmod(0o600)
    cache = open_cache(known={CLEAN}.intersection, **options)
    assert cache.missing(CLEAN, 0, 16 * BLOCK) == [(4 * BLOCK, 4 * BLOCK), (12 * BLOCK, 4 * BLOCK)]
    assert cache.stats().used_bytes == 8 * BLOCK == allocated_on_disk(tmp_path / "cache")


def test_a_torn_end_heals_when_the_reader_knows_the_size(open_cache: OpenCache, tmp_path: Path) -> None:
    open_cache()
    pack_path(tmp_path / "cache", CLEAN).write_bytes(content(CLEAN, SIZE)[: BLOCK + 1000])
    cache = open_cache(known={CLEAN}.intersection)
    assert cache.read(CLEAN, BLOCK + 900, 200) is None
    assert cache.missing(CLEAN, BLOCK + 900, 200, size=SIZE) == [(BLOCK, BLOCK)]
    cache.fill(CLEAN, BLOCK, content(CLEAN, SIZE)[BLOCK : 2 * BLOCK])
    assert cache.read(CLEAN, BLOCK + 900, 200) == content(CLEAN, SIZE)[BLOCK + 900 : BLOCK + 1100]


def test_garbage_of_any_kind_is_deleted(open_cache: OpenCache, tmp_path: Path) -> None:
    open_cache()
    top = tmp_path / "cache" / "packs"
    secret = tmp_path / "elsewhere"
    secret.write_bytes(b"kept")
    (top / "00" / "notes.txt").write_bytes(b"x")
    (top / "00" / PINNED).write_bytes(b"wrong directory")
    pack_path(tmp_path / "cache", CLEAN).write_bytes(b"")
    pack_path(tmp_path / "cache", UNKNOWN).symlink_to(secret)
    cache = open_cache(pinned={PINNED, UNKNOWN}, known={CLEAN}.intersection)
    assert cache.stats().files == 0
    assert [path.name for path in top.glob("*/*")] == [UNKNOWN]
    cache.fill(UNKNOWN, 0, b"y" * BLOCK)
    assert secret.read_bytes() == b"kept", "symbolic links are not followed"


def test_a_smaller_budget_evicts_at_the_start(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache()
    for name in (PINNED, CLEAN, UNKNOWN):
        write(cache, name)
    cache = open_cache(10 * BLOCK, pinned={PINNED}, known={CLEAN, UNKNOWN}.intersection)
    stats = cache.stats()
    assert (stats.used_bytes, stats.pinned_bytes) == (10 * BLOCK, 7 * BLOCK)
    assert allocated_on_disk(tmp_path / "cache") == 10 * BLOCK
    cache = open_cache(2 * BLOCK, pinned={PINNED}, known={CLEAN, UNKNOWN}.intersection)
    assert cache.stats().used_bytes == 7 * BLOCK, "what is pinned stays, whatever the budget"
    assert not cache.reserve(1)


def test_two_gateways_never_share_a_directory(open_cache: OpenCache, tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib, cache\n"
        "directory = pathlib.Path(sys.argv[1])\n"
        "held = cache.PackCache(directory, 1 << 20, pinned=(), known=set, monotonic=time.monotonic)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "cache")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
            with pytest.raises(CacheInUse, match=rf"process {holder.pid}\b"):
                open_cache()
        finally:
            holder.kill()
    # Control: a lock does not outlive its holder.
    open_cache()


def test_a_refused_open_lets_go_of_the_directory(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    disk.failing["punch"] = errno.EOPNOTSUPP
    with pytest.raises(CacheUnsuitable, match="cannot punch holes"):
        open_cache(disk=disk)
    open_cache()


def test_a_file_system_that_hides_holes_is_refused(open_cache: OpenCache) -> None:
    disk = HookedDisk()
    disk.holes_visible = False
    with pytest.raises(CacheUnsuitable, match="SEEK_DATA"):
        open_cache(disk=disk)


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheUnsuitable, match="choose another"):
        PackCache(
            tmp_path / "file" / "cache",
            1 << 20,
            pinned=(),
            known=set,
            monotonic=StoppedClock(),
        )


@pytest.mark.parametrize("block_bytes", [0, 1000, 5000, 6144])
def test_odd_block_sizes_are_refused(open_cache: OpenCache, block_bytes: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        open_cache(block_bytes=block_bytes)


def test_the_probe_needs_no_space_and_leaves_nothing(open_cache: OpenCache, tmp_path: Path) -> None:
    disk = HookedDisk()
    disk.failing["pwrite"] = errno.ENOSPC
    open_cache(disk=disk)
    assert sorted(os.listdir(tmp_path / "cache")) == ["lock", "packs"]


def test_a_cache_file_that_cannot_be_read_is_dropped_but_a_pinned_one_is_not(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    write(open_cache(), CLEAN)
    disk = HookedDisk()
    disk.before["stat"] = lambda: disk.failing.update(stat=errno.EIO)
    with pytest.raises(CacheUnsuitable, match="not in the store yet"):
        open_cache(pinned={CLEAN}, disk=disk)
    assert pack_path(tmp_path / "cache", CLEAN).exists()
    cache = open_cache(known={CLEAN}.intersection, disk=disk)
    assert cache.stats().files == 0
    assert not pack_path(tmp_path / "cache", CLEAN).exists()


class SyncingDisk(HookedDisk):
    def __init__(self) -> None:
        super().__init__()
        self.synced: list[str] = []

    def fsync_dir(self, path: str) -> None:
        super().fsync_dir(path)
        self.synced.append(os.path.normpath(path))


def test_every_directory_above_a_pack_survives_power_loss(open_cache: OpenCache, tmp_path: Path) -> None:
    disk = SyncingDisk()
    cache = open_cache(disk=disk)
    cache.create(PINNED)
    cache.sync_directory(PINNED)
    path = pack_path(tmp_path / "cache", PINNED)
    for directory in list(path.parents)[:4]:
        assert str(directory) in disk.synced


def test_nobody_is_asked_what_is_known_when_there_is_nothing_but_what_is_pinned(
    open_cache: OpenCache,
) -> None:
    asked: list[set[str]] = []

    def known(names: set[str]) -> set[str]:
        asked.append(names)
        return names

    write(open_cache(known=known), PINNED)
    open_cache(pinned={PINNED}, known=known)
    assert asked == []
    open_cache(pinned={UNKNOWN}, known=known)
    assert asked == [{PINNED}]
