"""A file is called stored only when the store alone gives it back, as it is."""

from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.errors import Corrupt, NotFound, Unavailable
from fusegw.meta.schema import CHUNK, EXTENT, ROOT_INODE
from fusegw.meta.unshipped import Standing, Unshipped
from fusegw.store.memory import MemoryStore
from fusegw.vfs import unstored
from fusegw.vfs.xattrs import STATE
from tests.faults.support import KEYS, TUNING, content, create, source, until, volume, write_file
from tests.ship.truth import check_claims


class Gated(MemoryStore):
    """Takes no object whose key begins with one of `closed`."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock())
        self.closed: tuple[str, ...] = ()

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        if key.startswith(self.closed or ("-",)):
            raise Unavailable(f"{key}: held back")
        super().put(key, data, create_only=create_only)


class Claims:
    """What a volume says of its files, checked each time it is asked."""

    def __init__(self, runtime: Runtime, store: MemoryStore, base: Path) -> None:
        self._runtime = runtime
        self._store = store
        self._base = base
        self._count = 0

    def __call__(self) -> dict[int, str]:
        self._count += 1
        said = check_claims(self._runtime, self._store, KEYS, self._base / f"recovered-{self._count}")
        return {ino: standing.value for ino, standing in said.items()}


def state(runtime: Runtime, ino: int) -> str:
    return runtime.volume.xattrs.get(ino, STATE).decode()


async def are_stored(runtime: Runtime, *inos: int) -> None:
    await until(lambda: all(state(runtime, ino) == "stored" for ino in inos))


async def test_a_file_is_stored_no_sooner_than_its_packs_and_its_log(tmp_path: Path) -> None:
    store = Gated()
    async with volume(source(tmp_path, store)) as runtime:
        claims = Claims(runtime, store, tmp_path)
        await runtime.volume.barrier()
        assert claims() == {ROOT_INODE: "stored"}
        store.closed = ("packs/",)
        ino = await write_file(runtime, b"f", content(1, 300_000))
        assert state(runtime, ino) == "local"
        await runtime.volume.sync()
        await until(lambda: state(runtime, ino) == "shipping")
        assert claims() == {ROOT_INODE: "shipping", ino: "shipping"}
        store.closed = ("log/",)
        stored = runtime.shipper.stored_packs
        await until(lambda: runtime.shipper.stored_packs > stored)
        failures = runtime.health.failures
        await until(lambda: runtime.health.failures > failures)
        assert claims() == {ROOT_INODE: "shipping", ino: "shipping"}
        store.closed = ()
        await are_stored(runtime, ino)
        assert claims()[ino] == "stored"


async def test_each_kind_of_change_ends_the_claim_until_it_is_shipped(tmp_path: Path) -> None:
    store = Gated()
    async with volume(source(tmp_path, store)) as runtime:
        names, files = runtime.volume.namespace, runtime.volume.files
        claims = Claims(runtime, store, tmp_path)
        ino = await write_file(runtime, b"f", content(1, 200_000))
        other = create(runtime, b"g")

        async def written() -> None:
            await files.write(ino, 100_000, content(2, 10_000))

        for change in (
            written,
            lambda: files.truncate(ino, 50_000),
            lambda: runtime.volume.xattrs.set(ino, b"user.a", b"b"),
            lambda: runtime.volume.attributes.setattr(ino, mode=0o100600),
            lambda: names.link(ino, ROOT_INODE, b"second"),
            lambda: names.rename(ROOT_INODE, b"second", ROOT_INODE, b"third", 0),
            lambda: names.rename(ROOT_INODE, b"f", ROOT_INODE, b"g", 2),
            lambda: names.unlink(ROOT_INODE, b"third"),
        ):
            await runtime.volume.barrier()
            await are_stored(runtime, ino, other)
            done = change()
            if done is not None and hasattr(done, "__await__"):
                await done
            assert state(runtime, ino) == "local"
            claims()
            await runtime.volume.sync()
            claims()
        await runtime.volume.barrier()
        assert set(claims().values()) == {"stored"}


async def test_a_restart_forgets_no_change(tmp_path: Path) -> None:
    store = Gated()
    async with volume(source(tmp_path, store, unmount_wait_s=0.0)) as runtime:
        early = await write_file(runtime, b"early", content(1, 100_000))
        await runtime.volume.barrier()
        store.closed = ("packs/",)
        late = await write_file(runtime, b"late", content(2, 100_000))
        await runtime.volume.sync()
    async with volume(source(tmp_path, store, unmount_wait_s=0.0)) as runtime:
        claims = Claims(runtime, store, tmp_path)
        said = claims()
        assert said[early] == "stored" and said[late] != "stored"
        await until(lambda: state(runtime, late) == "shipping")
        assert claims()[early] == "stored"
        store.closed = ()
        await are_stored(runtime, late)
        assert claims()[late] == "stored"


async def test_a_read_only_start_tells_what_was_left_behind(tmp_path: Path) -> None:
    store = Gated()
    async with volume(source(tmp_path, store, unmount_wait_s=0.0)) as runtime:
        await runtime.volume.barrier()
        store.closed = ("packs/", "log/")
        late = await write_file(runtime, b"late", content(2, 100_000))
        await runtime.volume.sync()
    async with volume(replace(source(tmp_path, store), read_only=True)) as runtime:
        assert state(runtime, late) == "local"


async def test_a_file_with_lost_data_is_never_safe(tmp_path: Path) -> None:
    store = Gated()
    async with volume(source(tmp_path, store)) as runtime:
        ino = await write_file(runtime, b"f", content(1, 100_000))
        await runtime.volume.barrier()
        assert state(runtime, ino) == "stored"
        with runtime.metadata.change() as change:
            for (_, _), extent in runtime.metadata.scan(EXTENT, (ino, 0), (ino + 1, 0)):
                change.delete(CHUNK, extent.chunk)
        runtime.volume.files.opened(ino)
        await runtime.volume.files.write(ino, 0, b"x" * 100_000)
        with pytest.raises(Corrupt):
            await runtime.volume.files.fsync(ino)
        runtime.volume.closed(ino)
        await runtime.volume.barrier()
        assert state(runtime, ino) == "local"


async def test_the_bytes_of_a_file_that_only_this_host_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unstored, "_EXTENTS_PER_TURN", 3)
    store = Gated()
    async with volume(source(tmp_path, store)) as runtime:
        files = runtime.volume.files

        async def nbytes() -> int:
            return await unstored.unstored_bytes(runtime.metadata, files, ino)

        ino = await write_file(runtime, b"f", content(1, 1_000_000))
        assert await nbytes() == 1_000_000
        await runtime.volume.barrier()
        assert await nbytes() == 0
        store.closed = ("packs/",)
        files.opened(ino)
        await files.write(ino, 100_000, content(2, 300_000))
        assert await nbytes() == 300_000, "in memory"
        await files.write(ino, 5_000_000, content(3, 200_000))
        await files.settle(ino)
        assert await nbytes() == 500_000, "in the index, the hole not counted"
        await runtime.volume.sync()
        await until(lambda: state(runtime, ino) == "shipping")
        assert await nbytes() == 500_000
        store.closed = ("log/",)
        stored = runtime.shipper.stored_packs
        await until(lambda: runtime.shipper.stored_packs > stored)
        assert (state(runtime, ino), await nbytes()) == ("shipping", 0), "metadata alone"
        store.closed = ()
        files.truncate(ino, 0)
        runtime.volume.closed(ino)


async def test_what_is_not_shipped_is_as_old_as_its_write(tmp_path: Path) -> None:
    """Not as its arrival in the index, nor as that of what was committed before."""
    tuning = replace(TUNING, ship_interval_s=3600)
    async with volume(source(tmp_path, Gated(), tuning=tuning)) as runtime:
        ino = create(runtime, b"f")
        await runtime.volume.barrier()
        runtime.volume.files.opened(ino)
        await runtime.volume.files.write(ino, 0, b"data")
        written = trio.current_time()

        def check() -> None:
            elapsed = trio.current_time() - written
            ages = runtime.volume.files.oldest_dirty_s, runtime.log.oldest_unshipped_s
            assert max(age for age in ages if age is not None) >= elapsed - 0.001

        check()
        await trio.sleep(0.05)
        create(runtime, b"younger")
        await runtime.committer.commit()
        check()
        runtime.volume.files.send_all()
        check()
        await runtime.volume.files.settle(ino)
        check()
        await runtime.committer.commit()
        check()
        runtime.volume.closed(ino)
        await runtime.volume.barrier()
        assert runtime.log.oldest_unshipped_s is None


@pytest.mark.parametrize("broken", ["head ignored", "memory ignored"])
async def test_a_rule_that_is_broken_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The control: without one of its parts the rule calls too much stored, and the comparison finds it."""
    store = Gated()
    async with volume(source(tmp_path, store)) as runtime:
        await runtime.volume.barrier()
        store.closed = ("log/",)
        await write_file(runtime, b"f", content(1, 100_000))
        if broken == "head ignored":
            await runtime.volume.sync()
            monkeypatch.setattr(Unshipped, "standing", lambda self, ino: Standing.STORED)
        else:
            monkeypatch.setattr(
                runtime.metadata.__class__, "standing", lambda self, ino: self.unshipped.standing(ino)
            )
            monkeypatch.setattr(runtime.volume.inodes.__class__, "is_held", lambda self, ino: False)
        with pytest.raises((AssertionError, NotFound), match="not in the store"):
            check_claims(runtime, store, KEYS, tmp_path / "recovered")
        store.closed = ()
