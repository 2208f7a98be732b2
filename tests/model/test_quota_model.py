"""Random operations on a volume with quotas, data and lives included, against a count that walks.

`FUSEGW_MODEL_OPERATIONS` and `FUSEGW_MODEL_SEED` choose how many and which; a failure names its seed.
"""

import os
from pathlib import Path

import pytest

from fusegw.clock import SystemClock
from fusegw.meta.metadata import Change
from fusegw.meta.schema import Inode
from fusegw.store.memory import MemoryStore
from fusegw.vfs.usage import Usage
from tests.model.quota_world import QuotaWorld

SEED = int(os.environ.get("FUSEGW_MODEL_SEED", "1"))


def operations(default: int) -> int:
    return int(os.environ.get("FUSEGW_MODEL_OPERATIONS", default))


LIVES = [["remount", "crash"], ["loss", "crash"]]


@pytest.mark.parametrize("life", LIVES, ids="-".join)
def test_quotas_hold_and_count_what_is_there(tmp_path: Path, life: list[str]) -> None:
    world = QuotaWorld(tmp_path, MemoryStore(clock=SystemClock()), SEED)
    world.run(operations(2_500), life)
    assert any(world.refused.values()) and world.counted, world.refused


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_operations(tmp_path: Path) -> None:
    world = QuotaWorld(tmp_path, MemoryStore(clock=SystemClock()), SEED)
    world.run(operations(100_000), ["remount", "crash", "loss"])
    print(f"{world.operations:,} operations, seed {SEED}: {world.refused}, {world.counted} trees counted")


def test_a_removal_that_does_not_count_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison itself."""
    moved = Usage.moved

    def forgetful(self: Usage, change: Change, before: Inode | None, after: Inode | None) -> None:
        if after is not None and before is not None and before.quota and before.nlink and not after.nlink:
            return
        moved(self, change, before, after)

    monkeypatch.setattr(Usage, "moved", forgetful)
    world = QuotaWorld(tmp_path, MemoryStore(clock=SystemClock()), SEED)
    with pytest.raises(BaseExceptionGroup):
        world.run(2_500, ["remount"])
