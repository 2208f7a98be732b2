"""Objects that no metadata knows: found, remembered, and deleted when no kept position can need them."""

from pathlib import Path

import msgspec
import pytest

from fusegw.collect.deletion import Deletion
from fusegw.packs.format import object_key, pack_id_of
from tests.collect.support import Life, check_position, collecting, new_store, packs
from tests.faults.support import content, forget_cached, volume

STRAY = object_key(b"sixteen bytes id")


async def test_an_orphan_goes_once_all_positions_are_younger(tmp_path: Path) -> None:
    life = Life(new_store())
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await life.write(runtime, b"f", content(1, 300_000))
        await life.checkpoint(runtime)
        await life.write(runtime, b"e", content(3, 1000))
        await life.barrier(runtime)
        life.store.put(STRAY, b"never finished")
        for foreign in ("packs/README", "packs/00/" + "ab" * 16, "packs/zz/file"):
            life.store.put(foreign, b"not a pack's name")
        first = await runtime.collector.collect(look_for_orphans=True)
        assert (first.orphans, first.orphan_bytes, first.deleted_orphans) == (1, 14, 0)
        would = await runtime.collector.collect(preview=True)
        assert would.deleted_orphans == 0
        await life.write(runtime, b"g", content(2, 1000))
        await life.age(runtime)
        would = await runtime.collector.collect(preview=True)
        assert (would.deleted_orphans, would.deleted_orphan_bytes) == (1, 14)
        done = await runtime.collector.collect()
        assert (done.deleted_orphans, done.orphans) == (1, 0)
        assert STRAY not in packs(life.store)
        assert "packs/README" in packs(life.store)
        forget_cached(runtime)
        await life.check(runtime)


async def test_it_is_given_time_by_our_own_clock(tmp_path: Path) -> None:
    life = Life(new_store())
    given = collecting(tmp_path / "volume", life.store, gc_orphan_grace_s=3600.0)
    async with volume(given) as runtime:
        life.store.put(STRAY, b"of somebody who may come back")
        for _ in range(3):
            await runtime.collector.collect(look_for_orphans=True)
            await life.age(runtime)
        assert STRAY in packs(life.store)
    async with volume(given) as runtime:
        done = await runtime.collector.collect()
        assert (done.orphans, done.deleted_orphans) == (1, 0), "a restart forgets nothing"
    early = collecting(tmp_path / "volume", life.store)
    async with volume(early) as runtime:
        assert (await runtime.collector.collect()).deleted_orphans == 1


async def test_a_look_is_rare_unless_it_is_asked_for(tmp_path: Path) -> None:
    life = Life(new_store())
    async with volume(collecting(tmp_path / "volume", life.store)) as runtime:
        await runtime.collector.collect()
        life.store.put(STRAY, b"left behind")
        assert (await runtime.collector.collect()).orphans == 0
        assert (await runtime.collector.collect(look_for_orphans=True)).orphans == 1
        life.store.delete([STRAY])
        assert (await runtime.collector.collect(look_for_orphans=True)).orphans == 0


@pytest.mark.parametrize("protected", [True, False], ids=["protected", "control"])
async def test_a_pack_that_a_kept_position_needs_is_no_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """Should its row be lost, the positions that know it keep it."""
    if not protected:
        monkeypatch.setattr(Deletion, "horizon", lambda self: 1 << 40)
    life = Life(new_store())
    given = collecting(tmp_path / "volume", life.store, checkpoint_retention_s=86_400.0)
    async with volume(given) as runtime:
        await life.write(runtime, b"f", content(1, 300_000))
        await life.checkpoint(runtime)
        kept, files = max(life.history), dict(life.files)
        await life.remove(runtime, b"f")
        await life.barrier(runtime)
        await forget_packs(runtime)
        for _ in range(3):
            await runtime.collector.collect(look_for_orphans=True)
            await life.checkpoint(runtime)
        if protected:
            await check_position(tmp_path, life.store, kept, files)
        else:
            assert not packs(life.store)


async def forget_packs(runtime) -> None:  # type: ignore[no-untyped-def]
    from fusegw.meta.schema import PACK, PACK_NUMBER_END

    with runtime.metadata.change() as change:
        for number, _ in list(runtime.metadata.scan(PACK, 0, PACK_NUMBER_END)):
            change.delete(PACK, number)
    await runtime.committer.commit()


async def test_what_a_fenced_writer_left_is_found_by_the_next(tmp_path: Path) -> None:
    life = Life(new_store())
    slow = msgspec.structs.replace(
        collecting(tmp_path / "first", life.store, ship_interval_s=3600.0), unmount_wait_s=0.0
    )
    async with volume(slow) as first:
        await life.write(first, b"shipped", content(1, 300_000))
        await life.barrier(first)
        shipped = set(packs(life.store))
        await life.write(first, b"lost", content(2, 300_000))
        await first.volume.sync()
        await first.shipper.close()
        while set(packs(life.store)) == shipped:
            await first.log._wait()
        async with volume(collecting(tmp_path / "second", life.store)) as second:
            del life.files[b"lost"]
            await second.collector.collect(look_for_orphans=True)
            await life.age(second)
            assert (await second.collector.collect()).deleted_orphans == 1
            forget_cached(second)
            await life.check(second)
    assert set(packs(life.store)) == shipped


def test_only_names_of_packs_are_taken_for_packs() -> None:
    assert pack_id_of(STRAY) == b"sixteen bytes id"
    for other in ("packs/00/" + "ab" * 16, "packs/ab/" + "AB" * 16, "packs/ab/abab", "log/1", "packs/ab/x"):
        assert pack_id_of(other) is None
