"""The log in the store: rebuilding from it, taking over, being taken over."""

import shutil
from pathlib import Path

import pytest
import trio

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.errors import Corrupt, Fenced, FusegwError, Invalid, NotFound
from fusegw.meta.schema import LOGGED_TABLES, ROOT_INODE
from fusegw.ship import segment
from fusegw.store.faulty import FaultyStore
from fusegw.store.memory import MemoryStore
from tests.faults.support import content, create, read_file, source, until, volume, write_file
from tests.model.invariants import check_index


def new_store() -> MemoryStore:
    return MemoryStore(clock=SystemClock())


def lose(directory: Path) -> None:
    """What a fire does to the host."""
    shutil.rmtree(directory / "meta")
    shutil.rmtree(directory / "cache")


def everything(runtime: Runtime) -> dict[str, list[tuple[bytes, bytes]]]:
    """All rows that describe the volume, as they are stored."""
    with runtime.metadata.view() as view:
        return {table.name: list(view.stored(table)) for table in LOGGED_TABLES}


async def test_all_a_barrier_confirmed_comes_back_from_the_store_alone(tmp_path: Path) -> None:
    store = new_store()
    files = {b"f%d" % n: content(n, 300_000) for n in range(5)}
    async with volume(source(tmp_path, store)) as runtime:
        for name, data in files.items():
            await write_file(runtime, name, data)
        await runtime.volume.barrier()
        runtime.volume.namespace.unlink(ROOT_INODE, b"f0")
        del files[b"f0"]
        await runtime.volume.barrier()
        await until(lambda: runtime.volume.reap_backlog == 0)
        await runtime.volume.barrier()
        assert runtime.log.oldest_unshipped_s is None
        before = everything(runtime)
    lose(tmp_path)
    async with volume(source(tmp_path, store)) as runtime:
        assert everything(runtime) == before
        check_index(runtime.metadata)
        for name, data in files.items():
            assert await read_file(runtime, name) == data
        assert runtime.volume.namespace.lookup(ROOT_INODE, b"f0") is None


async def test_a_segment_is_not_there_before_its_packs(tmp_path: Path) -> None:
    class Order(MemoryStore):
        def __init__(self) -> None:
            super().__init__(clock=SystemClock())
            self.keys: list[str] = []

        def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
            super().put(key, data, create_only=create_only)
            self.keys.append(key.split("/")[0])

    store = Order()
    async with volume(source(tmp_path, store)) as runtime:
        await runtime.volume.barrier()
        store.keys.clear()
        await write_file(runtime, b"f", content(1, 3_000_000))
        await runtime.volume.barrier()
    assert "packs" in store.keys
    assert "log" in store.keys[store.keys.index("packs") + 1 :]
    assert store.keys[-1] == "log"


async def test_an_idle_gateway_learns_that_it_is_fenced(tmp_path: Path) -> None:
    store = new_store()
    async with volume(source(tmp_path / "old", store)) as old:
        await write_file(old, b"shared", content(1, 200_000))
        await old.volume.barrier()
        async with volume(source(tmp_path / "new", store)) as new:
            assert new.epoch == old.epoch + 1
            with trio.fail_after(10):
                await old.log.until_fenced()
            with pytest.raises(Fenced, match="took the volume over"):
                await old.volume.barrier()
            assert await read_file(new, b"shared") == content(1, 200_000)


async def test_a_busy_writer_does_not_keep_a_new_one_off(tmp_path: Path) -> None:
    """Whoever loses a slot goes on from where it is: it does not read the whole log again."""

    class Outrun(MemoryStore):
        """Before each of the first takeovers arrives, the old writer fills the slot."""

        def __init__(self) -> None:
            super().__init__(clock=SystemClock())
            self.left = 0
            self.read: list[str] = []

        def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
            if self.left and key.startswith("log/"):
                left, self.left = self.left - 1, 0
                trio.from_thread.run(ship_one_more, left)
                self.left = left
            super().put(key, data, create_only=create_only)

        def get(self, key: str, *, size_max: int) -> bytes:
            self.read.append(key)
            return super().get(key, size_max=size_max)

    store = Outrun()
    async with volume(source(tmp_path / "old", store, unmount_wait_s=0.0)) as old:

        async def ship_one_more(number: int) -> None:
            create(old, b"%d" % number)
            await old.volume.barrier()

        await old.volume.barrier()
        store.left, store.read = 20, []
        async with volume(source(tmp_path / "new", store)) as new:
            assert store.left == 0
            for number in range(20):
                assert new.volume.namespace.lookup(ROOT_INODE, b"%d" % number) is not None
            first = [key for key in store.read if key == segment.object_key(1)]
            assert len(first) == 1, "the index was built more than once"


async def test_a_slot_that_holds_something_huge_is_taken(tmp_path: Path) -> None:
    store = new_store()
    async with volume(source(tmp_path, store)) as runtime:
        await runtime.volume.barrier()
        store.put(segment.object_key(runtime.log.head.seq + 1), bytes(segment.SEGMENT_BYTES_MAX + 1))
        create(runtime, b"late")
        with pytest.raises(Fenced, match="is no segment"):
            await runtime.volume.barrier()


async def test_what_a_fenced_writer_has_left_never_reaches_the_store(tmp_path: Path) -> None:
    store = new_store()
    async with volume(source(tmp_path / "old", store, unmount_wait_s=0.0)) as old:
        await old.volume.barrier()
        async with volume(source(tmp_path / "new", store)) as new:
            await write_file(new, b"new", content(2, 100_000))
            await new.volume.barrier()
            await write_file(old, b"late", content(3, 100_000))
            with pytest.raises(Fenced):
                await old.volume.barrier()
    async with volume(source(tmp_path / "third", store)) as third:
        assert third.volume.namespace.lookup(ROOT_INODE, b"late") is None
        assert await read_file(third, b"new") == content(2, 100_000)
    # The fenced one starts again: as the store has it, its late file put aside.
    async with volume(source(tmp_path / "old", store)) as old:
        assert old.volume.namespace.lookup(ROOT_INODE, b"late") is None
        assert await read_file(old, b"new") == content(2, 100_000)
    (aside,) = (tmp_path / "old").glob("unsent-*")
    assert (aside / "meta" / "data.mdb").exists()


async def test_packs_that_only_a_fenced_host_has_are_kept_there(tmp_path: Path) -> None:
    store = new_store()
    cut_off = FaultyStore(store)
    async with volume(source(tmp_path / "old", cut_off, unmount_wait_s=0.0)) as old:
        cut_off.set_outage(True)
        await write_file(old, b"late", content(3, 100_000))
        await old.volume.sync()
        async with volume(source(tmp_path / "new", store)):
            pass
    (pack,) = [path for path in (tmp_path / "old" / "cache" / "packs").rglob("*") if path.is_file()]
    data = pack.read_bytes()
    async with volume(source(tmp_path / "old", store)):
        pass
    (aside,) = (tmp_path / "old").glob("unsent-*")
    assert (aside / pack.name).read_bytes() == data


async def test_a_store_that_went_back_in_time_is_refused(tmp_path: Path) -> None:
    store = new_store()
    async with volume(source(tmp_path, store)) as runtime:
        create(runtime, b"a")
        await runtime.volume.barrier()
        keep = runtime.log.head.seq
    async with volume(source(tmp_path, store)) as runtime:
        create(runtime, b"b")
        await runtime.volume.barrier()
    late = [entry.key for entry in store.list("log/") if int(entry.key[4:]) > keep]
    store.delete(late)
    with pytest.raises(Invalid, match="set back or exchanged"):
        async with volume(source(tmp_path, store)):
            pass


async def test_an_old_copy_of_the_state_follows_the_store(tmp_path: Path) -> None:
    """As when a virtual machine is set back to a snapshot."""
    store = new_store()
    async with volume(source(tmp_path, store)) as runtime:
        create(runtime, b"early")
        await runtime.volume.barrier()
    shutil.copytree(tmp_path / "meta", tmp_path / "saved")
    async with volume(source(tmp_path, store)) as runtime:
        await write_file(runtime, b"later", content(4, 50_000))
        await runtime.volume.barrier()
    shutil.rmtree(tmp_path / "meta")
    (tmp_path / "saved").rename(tmp_path / "meta")
    async with volume(source(tmp_path, store)) as runtime:
        assert await read_file(runtime, b"later") == content(4, 50_000)


@pytest.mark.parametrize("harm", ["flip", "cut", "delete", "swap"])
async def test_a_damaged_log_is_named_and_nothing_is_made_of_it(tmp_path: Path, harm: str) -> None:
    store = new_store()
    async with volume(source(tmp_path, store)) as runtime:
        for number in range(4):
            create(runtime, b"f%d" % number)
            await runtime.volume.barrier()
    keys = [entry.key for entry in store.list("log/")]
    victim, other = keys[2], keys[3]
    data = store.get(victim, size_max=1 << 20)
    if harm == "flip":
        data = data[:150] + bytes((data[150] ^ 1,)) + data[151:]
    elif harm == "cut":
        data = data[:-5]
    elif harm == "swap":
        data = store.get(other, size_max=1 << 20)
    store.delete([victim])
    if harm != "delete":
        store.put(victim, data)
    lose(tmp_path)
    with pytest.raises(Corrupt, match=victim):
        async with volume(source(tmp_path, store)):
            pass
    assert not (tmp_path / "meta").exists()


async def test_packs_without_a_log_do_not_come_up_as_an_empty_volume(tmp_path: Path) -> None:
    store = new_store()
    async with volume(source(tmp_path, store)) as runtime:
        await write_file(runtime, b"f", content(1, 100_000))
    store.delete([entry.key for entry in store.list("log/")])
    lose(tmp_path)
    with pytest.raises(NotFound, match="packs but no log"):
        async with volume(source(tmp_path, store)):
            pass


class LostReply(MemoryStore):
    """Applies the next PUT of a log segment, answers nothing, and takes no request after that."""

    armed = False
    gone = False

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        self._check()
        super().put(key, data, create_only=create_only)
        if self.armed and key.startswith("log/"):
            self.gone = True
            self._check()

    def _check(self) -> None:
        if self.gone:
            raise FusegwError("no reply")


async def test_a_segment_whose_reply_was_lost_fences_nobody(tmp_path: Path) -> None:
    store = LostReply(clock=SystemClock())
    data = content(5, 100_000)
    async with volume(source(tmp_path, store, unmount_wait_s=0.0)) as runtime:
        await runtime.volume.barrier()
        store.armed = True
        await write_file(runtime, b"f", data)
        with pytest.raises(FusegwError):
            await runtime.volume.barrier()
        head = runtime.log.head.seq
    store.armed = store.gone = False
    assert [entry.key for entry in store.list("log/")][-1].endswith(f"{head + 1}")
    async with volume(source(tmp_path, store)) as runtime:
        assert runtime.log.head.seq == head + 2, "the segment, and the takeover after it"
        assert await read_file(runtime, b"f") == data
        await runtime.volume.barrier()
    lose(tmp_path)
    async with volume(source(tmp_path, store)) as runtime:
        assert await read_file(runtime, b"f") == data
