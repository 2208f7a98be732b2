"""A past that comes back: the host set back to a snapshot, or the store to a copy. Nothing is overwritten.

Each case compares every object of the store, byte for byte, before and after.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import fusegw.index
from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.errors import Corrupt, Invalid
from fusegw.meta.schema import Head
from fusegw.store.memory import MemoryStore
from tests.faults.support import TUNING, content, read_file, source, volume, write_file
from tests.model.invariants import check_index

Objects = dict[str, bytes]


def new_store() -> MemoryStore:
    return MemoryStore(clock=SystemClock())


def objects(store: MemoryStore) -> Objects:
    return {info.key: store.get(info.key, size_max=1 << 30) for info in store.list()}


def put_back(store: MemoryStore, kept: Objects) -> None:
    """The bucket as it was when `kept` was taken."""
    store.delete([key for key in objects(store) if key not in kept])
    for key, data in kept.items():
        store.put(key, data, create_only=False)


async def a_day(place: Path, store: MemoryStore, name: bytes) -> Head:
    """Mount, write a file and have it confirmed; where the log stood before the end."""
    async with volume(source(place, store)) as runtime:
        await write_file(runtime, name, content(len(name), 120_000))
        await runtime.volume.barrier()
        return runtime.log.head


async def names(runtime: Runtime) -> list[bytes]:
    return [name for name in (b"a", b"bb", b"ccc") if runtime.volume.namespace.lookup(1, name) is not None]


def snapshot(place: Path) -> Callable[[], None]:
    """The host's state now; called, it puts the host back there."""
    kept = place.with_name(f"{place.name}-kept")
    shutil.copytree(place, kept)

    def back() -> None:
        shutil.rmtree(place)
        kept.rename(place)

    return back


async def test_a_host_set_back_takes_what_the_store_has_and_overwrites_nothing(tmp_path: Path) -> None:
    store, host = new_store(), tmp_path / "host"
    await a_day(host, store, b"a")
    back = snapshot(host)
    await a_day(host, store, b"bb")
    before = objects(store)
    back()
    async with volume(source(host, store)) as runtime:
        assert await names(runtime) == [b"a", b"bb"]
        assert await read_file(runtime, b"bb") == content(2, 120_000)
        check_index(runtime.metadata)
        await runtime.volume.barrier()
    after = objects(store)
    assert {key: after.get(key) for key in before} == before
    assert all(key.startswith("log/") for key in after.keys() - before.keys())


async def test_what_a_host_set_back_had_not_shipped_is_kept_beside(tmp_path: Path) -> None:
    """The snapshot is of a running host, with changes on their way."""
    store, host = new_store(), tmp_path / "host"
    tuning = msgspec.structs.replace(TUNING, ship_interval_s=3600)
    async with volume(source(host, store, tuning=tuning)) as runtime:
        await write_file(runtime, b"a", content(1, 120_000))
        await runtime.volume.sync()
        back = snapshot_of_running(host)
        await write_file(runtime, b"bb", content(2, 120_000))
        await runtime.volume.barrier()
    before = objects(store)
    back()
    async with volume(source(host, store)) as runtime:
        assert await names(runtime) == [b"a", b"bb"]
        assert await read_file(runtime, b"a") == content(1, 120_000)
    assert len(list(host.glob("unsent-*/meta/data.mdb"))) == 1
    after = objects(store)
    assert {key: after.get(key) for key in before} == before


def snapshot_of_running(place: Path) -> Callable[[], None]:
    """As of a virtual machine: the disk in the middle of a run."""
    kept = place.with_name(f"{place.name}-running")
    shutil.copytree(place / "meta", kept)

    def back() -> None:
        shutil.rmtree(place / "meta")
        kept.rename(place / "meta")

    return back


async def set_back(tmp_path: Path, store: MemoryStore) -> None:
    """A day is missing from the bucket."""
    await a_day(tmp_path / "host", store, b"a")
    kept = objects(store)
    await a_day(tmp_path / "host", store, b"bb")
    put_back(store, kept)


async def set_back_and_gone_on(tmp_path: Path, store: MemoryStore) -> None:
    """A day is missing from the bucket, and others have gone on from there, further than this host came."""
    await set_back(tmp_path, store)
    for _ in range(3):
        await a_day(tmp_path / "other", store, b"ccc")
        shutil.rmtree(tmp_path / "other")
        async with volume(source(tmp_path / "other", store)) as runtime:
            runtime.volume.namespace.unlink(1, b"ccc")
            await runtime.volume.barrier()


async def exchanged(tmp_path: Path, store: MemoryStore) -> None:
    """Another bucket with the same keys and the same number of segments."""
    await a_day(tmp_path / "host", store, b"a")
    mine = [key for key in objects(store) if key.startswith("log/")]
    other = new_store()
    while len([key for key in objects(other) if key.startswith("log/")]) < len(mine):
        await a_day(tmp_path / "other", other, b"ccc")
    put_back(store, objects(other))


async def emptied(tmp_path: Path, store: MemoryStore) -> None:
    """The log is gone, the packs are there."""
    await a_day(tmp_path / "host", store, b"a")
    store.delete([key for key in objects(store) if key.startswith("log/")])


CASES = {function.__name__: function for function in (set_back, set_back_and_gone_on, exchanged, emptied)}


@pytest.mark.parametrize("case", CASES)
async def test_a_store_set_back_is_refused_with_the_evidence_and_not_touched(
    tmp_path: Path, case: str
) -> None:
    store = new_store()
    await CASES[case](tmp_path, store)
    before = objects(store)
    host = tmp_path / "host"
    local = sorted(path.relative_to(host) for path in host.rglob("*"))
    for _ in range(2):
        with pytest.raises(Invalid, match="set back or exchanged") as refused:
            async with volume(source(host, store)):
                pass
        said = str(refused.value)
        assert "it shipped segment" in said and "epoch" in said and "hash" in said
        assert objects(store) == before
    assert sorted(path.relative_to(host) for path in host.rglob("*")) == local


@pytest.mark.parametrize("case", ["set_back", "emptied"])
async def test_without_the_check_the_store_would_be_written_to(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: it is admission that keeps the two histories apart."""
    store = new_store()
    await CASES[case](tmp_path, store)
    before = objects(store)
    monkeypatch.setattr(fusegw.index, "admit", lambda metadata, store, keys, head: head)
    async with volume(source(tmp_path / "host", store)):
        pass
    assert objects(store).keys() - before.keys()
    with pytest.raises(Corrupt, match="log segment"):
        async with volume(source(tmp_path / "another", store)):
            pass


async def test_host_and_store_set_back_together_go_on(tmp_path: Path) -> None:
    store, host = new_store(), tmp_path / "host"
    await a_day(host, store, b"a")
    kept, back = objects(store), snapshot(host)
    await a_day(host, store, b"bb")
    put_back(store, kept)
    back()
    async with volume(source(host, store)) as runtime:
        assert await names(runtime) == [b"a"]
        await runtime.volume.barrier()
