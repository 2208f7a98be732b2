"""The figures of `status` and `cache stats` against what lies on the disks."""

import os
import shutil
from pathlib import Path

import pytest

from tests.e2e.sampling import disk_usage
from tests.mount.gateways import Gateway, kernel_caches_dropped

pytestmark = pytest.mark.mount

MIB = 1 << 20
FILES, FILE_BYTES = 12, 2 * MIB
DATA_BYTES = FILES * FILE_BYTES


def write(root: Path) -> None:
    for number in range(FILES):
        (root / f"{number}").write_bytes(os.urandom(FILE_BYTES))


def read(root: Path) -> None:
    with kernel_caches_dropped():
        for number in range(FILES):
            assert len((root / f"{number}").read_bytes()) == FILE_BYTES


def packs_in(store: Path) -> int:
    return sum(path.stat().st_size for path in (store / "packs").rglob("*") if path.is_file())


def nearly(expected: int, *, rel: float = 0.02) -> object:
    return pytest.approx(expected, rel=rel)


def test_what_is_on_its_way_and_what_has_arrived(gateway: Gateway) -> None:
    gateway.configure("[volumes.tank]\nship_interval_s = 3600\n")
    gateway.mount()
    write(gateway.root)
    gateway.command("sync")
    first = gateway.status()
    assert first["backlog_bytes"] == 0 or first["backlog_bytes"] == nearly(DATA_BYTES)
    gateway.command("sync", "--wait")
    (gateway.root / "late").write_bytes(os.urandom(5 * MIB))
    older = gateway.status()
    newer = gateway.status()
    assert older["backlog_bytes"] == nearly(5 * MIB, rel=0.1)
    assert newer["oldest_unshipped_s"] > older["oldest_unshipped_s"] > 0
    assert gateway.cache_stats()["dirty_bytes"] == nearly(5 * MIB, rel=0.1)
    gateway.command("sync", "--wait")
    status = gateway.status()
    assert (status["backlog_bytes"], status["oldest_unshipped_s"]) == (0, None)
    assert status["stored_bytes"] == nearly(packs_in(gateway.store))
    assert status["logical_bytes"] == DATA_BYTES + 5 * MIB
    stats = gateway.cache_stats()
    assert stats["dirty_bytes"] == 0
    assert stats["used_bytes"] == nearly(disk_usage(gateway.cache))
    assert stats["used_bytes"] == nearly(packs_in(gateway.store))


def test_hits_and_misses(gateway: Gateway) -> None:
    gateway.mount()
    write(gateway.root)
    gateway.umount()
    stored = packs_in(gateway.store)
    shutil.rmtree(gateway.cache)
    gateway.mount()
    read(gateway.root)
    cold = gateway.cache_stats()
    # A block brings its neighbours: not all that was read had to be missed first.
    assert cold["misses"] >= FILES and cold["hit_ratio"] < 0.9
    assert cold["hit_bytes"] + cold["miss_bytes"] == nearly(stored)
    assert cold["used_bytes"] == nearly(stored)
    assert disk_usage(gateway.cache) == nearly(stored)
    gateway.remount()
    read(gateway.root)
    warm = gateway.cache_stats()
    assert (warm["misses"], warm["hit_ratio"]) == (0, 1.0)
    assert warm["hits"] == cold["hits"] + cold["misses"]
    assert warm["hit_bytes"] == cold["hit_bytes"] + cold["miss_bytes"]
    gateway.command("cache", "drop")
    dropped = gateway.cache_stats()
    assert dropped["used_bytes"] == 0 and disk_usage(gateway.cache) < MIB
