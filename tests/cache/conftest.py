"""A way to open caches that closes them at the end of the test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache import PackCache
from tests.cache.disks import StoppedClock

BLOCK = 4096

OpenCache = Callable[..., PackCache]


@pytest.fixture
def open_cache(tmp_path: Path) -> Iterator[OpenCache]:
    """Opens a cache on one directory, closing the one opened before; small blocks, a stopped clock."""
    opened: list[PackCache] = []

    def open_it(budget_bytes: int = 64 * BLOCK, **options: Any) -> PackCache:
        while opened:
            opened.pop().close()
        settings: dict[str, Any] = {
            "pinned": set(), "known": set().intersection, "monotonic": StoppedClock(), "block_bytes": BLOCK,
            "margin_bytes": 0, "disk_reserve_bytes": 0, **options,
        }  # fmt: skip
        opened.append(PackCache(tmp_path / "cache", budget_bytes, **settings))
        return opened[0]

    yield open_it
    while opened:
        opened.pop().close()
