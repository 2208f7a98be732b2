"""A file several times larger than the cache goes in and comes back, within budget and little memory."""

import hashlib
import os
import random
import time
from pathlib import Path

import pytest

from tests.e2e.sampling import Watch
from tests.mount.gateways import Gateway, drop_kernel_caches

pytestmark = [pytest.mark.mount, pytest.mark.slow]

MIB = 1 << 20
PACK_BYTES = 32 * MIB
RESIDENT_MAX_BYTES = 400 * MIB
PIECE_BYTES = MIB


def write(path: Path, size: int) -> str:
    """Bytes that neither repeat nor compress; their hash."""
    chance, digest = random.Random(size), hashlib.blake2b()
    with open(path, "wb") as file:
        for _ in range(size // PIECE_BYTES):
            piece = chance.randbytes(PIECE_BYTES)
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def read(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def check(watch: Watch, budget: int) -> None:
    over = [sample for sample in watch.samples if max(sample.on_disk, sample.used) > budget + PACK_BYTES]
    assert over == [], f"more than {budget + PACK_BYTES} bytes in the cache"
    assert watch.resident_max <= RESIDENT_MAX_BYTES


def through(gateway: Gateway, size: int, budget: int) -> None:
    gateway.mount("--cache-size", budget)
    path = gateway.root / "large"
    with Watch(gateway) as writing:
        begun = time.monotonic()
        written = write(path, size)
        writing_s = time.monotonic() - begun
    drop_kernel_caches()
    with Watch(gateway) as reading:
        begun = time.monotonic()
        assert read(path) == written
        reading_s = time.monotonic() - begun
    stats = gateway.cache_stats()
    print(f"\nwritten in {writing_s:.1f} s: {writing.report()}")
    print(f"read in {reading_s:.1f} s: {reading.report()}")
    check(writing, budget)
    check(reading, budget)
    assert stats["evictions"] > 0 and stats["misses"] > 0
    gateway.command("sync", "--wait")
    assert gateway.cache_stats()["dirty_bytes"] == 0


def test_a_file_of_three_times_the_cache(gateway: Gateway) -> None:
    through(gateway, 192 * MIB, 64 * MIB)


def test_a_cache_over_its_budget_is_seen(gateway: Gateway) -> None:
    """The control: a gateway that has a larger budget than it is checked for."""
    gateway.mount("--cache-size", 256 * MIB)
    with Watch(gateway) as watch:
        write(gateway.root / "large", 128 * MIB)
    assert min(watch.on_disk_max, watch.used_max) > 64 * MIB + PACK_BYTES
    with pytest.raises(AssertionError, match="more than 100663296 bytes"):
        check(watch, 64 * MIB)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_gibibyte_through_a_quarter(any_gateway: Gateway) -> None:
    through(any_gateway, 1024 * MIB, 256 * MIB)
