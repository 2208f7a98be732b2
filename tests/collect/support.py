"""A volume that lets go of everything old at once, and what its store tells of it."""

from pathlib import Path

import msgspec

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.index import Source
from fusegw.meta.schema import ROOT_INODE
from fusegw.ship.checkpoints import folders
from fusegw.ship.horizon import oldest_kept
from fusegw.ship.recover import Until, recover
from fusegw.store.base import ObjectStore
from fusegw.store.memory import MemoryStore
from tests.faults.support import KEYS, TUNING, read_file, source, until, volume, write_file
from tests.ship.test_checkpoint import checkpointed

EAGER = msgspec.structs.replace(
    TUNING,
    gc_interval_s=0.0,
    gc_grace_s=0.0,
    gc_orphan_grace_s=0.0,
    checkpoint_log_size_bytes=1 << 30,
    checkpoint_retention_s=0.0,
)


def new_store() -> MemoryStore:
    return MemoryStore(clock=SystemClock())


def collecting(directory: Path, store: ObjectStore, **settings: float) -> Source:
    tuning = msgspec.structs.replace(EAGER, **settings)
    return source(directory, store, tuning=tuning, cache_size_bytes=64 << 20)


def packs(store: ObjectStore) -> dict[str, int]:
    """Sizes of the packs in the store."""
    return {entry.key: entry.size for entry in store.list("packs/")}


class Life:
    """A volume's files, and what they were at each position of its log."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.files: dict[bytes, bytes] = {}
        self.history: dict[int, dict[bytes, bytes]] = {}

    async def write(self, runtime: Runtime, name: bytes, data: bytes) -> None:
        await write_file(runtime, name, data)
        self.files[name] = data

    async def remove(self, runtime: Runtime, *names: bytes) -> None:
        """Gone, with all their chunks."""
        for name in names:
            runtime.volume.namespace.unlink(ROOT_INODE, name)
            del self.files[name]
        await until(lambda: runtime.volume.reap_backlog == 0)

    async def barrier(self, runtime: Runtime) -> int:
        """A position whose files are known."""
        await runtime.volume.barrier()
        self.history[runtime.log.head.seq] = dict(self.files)
        return runtime.log.head.seq

    async def checkpoint(self, runtime: Runtime) -> None:
        """One of the present state; what is not kept any more is taken away."""
        await self.barrier(runtime)
        while runtime.metadata.commit_number != runtime.log.head.commit:
            # A background task has committed meanwhile.
            await self.barrier(runtime)
        written = checkpointed(runtime, self.store, part_bytes=1 << 20)
        runtime.checkpointer._sweep(written)

    async def age(self, runtime: Runtime) -> None:
        """Nothing of the past is kept."""
        for _ in range(2):
            await self.checkpoint(runtime)

    async def check(self, runtime: Runtime) -> None:
        """All that lives reads right."""
        for name, data in self.files.items():
            assert await read_file(runtime, name) == data, name

    async def check_positions(self, directory: Path) -> int:
        """Every kept position whose files are known can be recovered, and reads right from the store; how
        many these are."""
        if folders(self.store):
            oldest = oldest_kept(self.store, KEYS)
        else:
            oldest = 0
        kept = [seq for seq in self.history if seq >= oldest]
        for seq in kept:
            await check_position(directory, self.store, seq, self.history[seq])
        return len(kept)


async def check_position(
    directory: Path, store: ObjectStore, seq: int | None, files: dict[bytes, bytes]
) -> None:
    """The volume as of `seq` (None: the newest), recovered from the store alone, has these files."""
    place = directory / f"at-{seq}-{len(list(directory.iterdir()))}"
    found = recover(
        place / "meta",
        store,
        KEYS,
        metadata_limit_bytes=1 << 30,
        clock=SystemClock(),
        until=Until(seq=seq),
    )
    assert seq is None or found.head.seq == seq
    given = msgspec.structs.replace(source(place, store), read_only=True, fixed_at=found.head.seq)
    async with volume(given) as runtime:
        listed = {name for name, _, _ in runtime.volume.namespace.readdir(ROOT_INODE, 0)}
        assert listed - {b".", b".."} == set(files)
        for name, data in files.items():
            assert await read_file(runtime, name) == data, (seq, name)
