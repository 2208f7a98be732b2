"""What a running gateway says of itself agrees with what was done to it."""

import json
import os
from typing import Any

import pytest

from tests.mount.gateways import NAME, Gateway, drop_kernel_caches

pytestmark = pytest.mark.mount

MIB = 1 << 20


def cache_stats(gateway: Gateway) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(gateway.command("cache", "stats", NAME, "--json"))
    return figures


def test_backlog_until_everything_is_stored(gateway: Gateway) -> None:
    gateway.configure(f"[volumes.{NAME}]\nship_interval_s = 3600\n")
    gateway.mount()
    gateway.command("sync", NAME, "--wait")  # the empty root of a new volume is a change, too
    assert (gateway.status()["backlog_bytes"], gateway.status()["oldest_unshipped_s"]) == (0, None)
    (gateway.root / "file").write_bytes(os.urandom(3 * MIB))
    (gateway.root / "small").write_bytes(b"x")
    status = gateway.status()
    assert status["backlog_bytes"] >= 3 * MIB
    assert status["oldest_unshipped_s"] > 0
    assert cache_stats(gateway)["dirty_bytes"] > 0
    gateway.command("sync", NAME, "--wait")
    status = gateway.status()
    assert (status["backlog_bytes"], status["oldest_unshipped_s"]) == (0, None)
    assert cache_stats(gateway)["dirty_bytes"] == 0
    assert status["files"] == 3
    assert status["logical_bytes"] == 3 * MIB + 1
    assert 3 * MIB < status["stored_bytes"] < 3 * MIB + 10_000
    assert status["store_health"]["state"] == "ok"
    assert (status["pid"], status["volume"], status["mountpoint"]) == (gateway.pid, NAME, str(gateway.root))


def test_open_files_are_counted(gateway: Gateway) -> None:
    gateway.mount()
    with open(gateway.root / "one", "wb"), open(gateway.root / "two", "wb"):
        assert gateway.status()["open_files"] == 2
    assert gateway.status()["open_files"] == 0


def test_cache_hits_misses_and_ratios(gateway: Gateway) -> None:
    gateway.mount()
    noise = os.urandom(4 * MIB)
    (gateway.root / "noise").write_bytes(noise)
    (gateway.root / "noise again").write_bytes(noise)
    (gateway.root / "text").write_bytes(b"".join(b"line %d\n" % number for number in range(400_000)))
    gateway.command("sync", NAME, "--wait")
    gateway.command("cache", "drop", NAME)
    drop_kernel_caches()
    before = cache_stats(gateway)
    assert before["used_bytes"] == 0
    assert before["dedup_ratio"] > 1.3
    assert before["compression_ratio"] > 1.3
    assert (gateway.root / "noise").read_bytes() == noise
    after = cache_stats(gateway)
    assert after["misses"] > before["misses"]
    # What one fetch brings along for the next chunk counts as a hit of that.
    assert after["miss_bytes"] > before["miss_bytes"]
    assert after["miss_bytes"] + after["hit_bytes"] - before["miss_bytes"] - before["hit_bytes"] >= 4 * MIB
    assert after["used_bytes"] >= 4 * MIB
    gateway.remount()
    assert (gateway.root / "noise").read_bytes() == noise
    again = cache_stats(gateway)
    assert (again["misses"], again["hit_ratio"]) == (0, 1.0)
    assert again["hits"] > 0
    assert again["used_bytes"] <= again["budget_bytes"]
