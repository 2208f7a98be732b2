"""Random operations on a whole volume, data and lives included, against the reference.

`FUSEGW_MODEL_OPERATIONS` and `FUSEGW_MODEL_SEED` choose how many and which; a failure names its seed.
"""

import os
from pathlib import Path

import pytest

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.store.memory import MemoryStore
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from tests.model.world import World

SEED = int(os.environ.get("FUSEGW_MODEL_SEED", "1"))


def operations(default: int) -> int:
    return int(os.environ.get("FUSEGW_MODEL_OPERATIONS", default))


LIVES = [["remount"], ["crash"], ["remount", "crash", "crash"], ["loss", "crash", "loss"]]


@pytest.mark.parametrize("life", LIVES, ids="-".join)
def test_volume_equals_the_reference(tmp_path: Path, life: list[str]) -> None:
    world = World(tmp_path, MemoryStore(clock=SystemClock()), SEED)
    world.run(operations(2_500), life)
    assert world.operations >= operations(2_500)
    assert world.recut_spans
    assert world.collected_packs
    assert world.checkpoints


def test_volume_on_a_directory_store_equals_the_reference(tmp_path: Path) -> None:
    options = StoreOptions(url=f"file://{tmp_path}/store")
    store = open_store(options, clock=SystemClock(), entropy=SystemEntropy(), create=True)
    World(tmp_path, store, SEED + 1).run(operations(2_000), ["crash", "remount"])


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_hundred_thousand_operations(tmp_path: Path) -> None:
    world = World(tmp_path, MemoryStore(clock=SystemClock()), SEED)
    world.run(operations(200_000), ["remount", "crash", "loss"])
    print(
        f"{world.operations:,} operations, seed {SEED}: {world.snapshots_made} snapshots made, "
        f"{world.snapshots_deleted} deleted, {world.rollbacks} rollbacks and {world.interrupted} that were "
        f"cut off, {world.clones} clones"
    )
    assert world.snapshots_made and world.snapshots_deleted and world.rollbacks and world.interrupted


def test_a_lost_write_is_noticed(tmp_path: Path) -> None:
    """The comparison itself: one byte changed behind the reference's back is a difference."""
    world = World(tmp_path, MemoryStore(clock=SystemClock()), SEED)
    world.run(1_500, ["remount"])
    named = [node for ino, node in world.reference.nodes.items() if world.reference.nlink(ino)]
    node = next(node for node in named if len(node.data) > 10)
    node.data[5] ^= 1
    with pytest.raises(BaseExceptionGroup):
        world.run(1_600, ["remount"])
