"""A directory of a million entries: made, listed while it changes, and removed."""

import os
import shutil

import pytest

from tests.mount.gateways import Gateway

pytestmark = [pytest.mark.mount, pytest.mark.soak, pytest.mark.timeout(3600)]

ENTRIES = 1_000_000


def test_a_million_names(gateway: Gateway) -> None:
    gateway.mount()
    huge = gateway.root / "huge"
    huge.mkdir()
    names = [f"entry {number:07}" for number in range(ENTRIES)]
    for name in names:
        os.mknod(huge / name)
    gateway.remount()
    seen: list[str] = []
    with os.scandir(huge) as entries:
        for entry in entries:
            seen.append(entry.name)
            if len(seen) % 10 == 0:
                os.unlink(huge / entry.name)
    assert len(seen) == ENTRIES
    assert set(seen) == set(names)
    assert huge.stat().st_nlink == 2
    left = os.listdir(huge)
    assert len(left) == len(set(left)) == ENTRIES - ENTRIES // 10
    (huge / "entry 0000000").stat()
    assert gateway.status()["files"] == len(left) + 2
    shutil.rmtree(huge)
    assert gateway.status()["files"] == 1
