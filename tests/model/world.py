"""A running volume and the reference, fed with the same operations and compared.

Time stands still but for the reference's `now`, so nothing commits, ships or reaps by timer: what is
durable is what the last `sync` saved, and a crash must bring back exactly that; what is in the store is what
the last `barrier` shipped, and the loss of the host must bring back exactly that, from checkpoints that are
written all the time and a log that is pruned at once.
"""

import errno
import math
import random
import shutil
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

from fusegw.assembly import Runtime, running_volume
from fusegw.check.damages import Damages
from fusegw.check.index import check_index as check_volume_index
from fusegw.clock import SystemEntropy
from fusegw.config import Tuning
from fusegw.index import Source
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.schema import STATE_NEXT_INODE, Inode
from fusegw.store.base import ObjectStore
from fusegw.vfs.snapshots import Tree as SnapshotTree
from fusegw.vfs.volume import Volume
from fusegw.vfs.xattrs import XattrReader
from tests.model.invariants import check_index
from tests.model.reference import Reference
from tests.model.steps import NAMES, outcome, random_step, resolve

FILE_MAX = 1 << 20
SNAPSHOTS_MAX = 5
TUNING = Tuning(
    chunk_size_bytes=16 << 10,
    pack_size_bytes=1 << 20,
    codec_threads=2,
    commit_interval_s=60,
    checkpoint_log_size_bytes=4 << 10,
    checkpoint_retention_s=0,
    gc_interval_s=0,
    gc_grace_s=0,
    gc_orphan_grace_s=0,
)
KEYS = VolumeKeys(b"model volume id!", {1: bytes(32)}, chunk_id_key=b"k" * 32, cutter_seed=0x1234567)


class SteppedClock:
    """Wall time is the reference's; monotonic time stands still."""

    def __init__(self) -> None:
        self.now = 0

    def time_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return 0.0


class Crash(Exception):
    """Ends the volume without an orderly end."""


class Tree:
    """The volume with the reference's method names and results."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in ("lookup", "mknod", "mkdir", "symlink", "link"):
            return lambda **a: _number(getattr(self._volume.namespace, name)(**_caller(a)))
        return getattr(self._volume.namespace, name)

    def setattr(self, **arguments: Any) -> None:
        self._volume.attributes.setattr(**_caller(arguments))

    def getxattr(self, ino: int, name: bytes) -> bytes:
        return self._volume.xattrs.get(ino, name)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, who: Any) -> None:
        self._volume.xattrs.set(ino, name, value, flags, who)

    def removexattr(self, ino: int, name: bytes) -> None:
        self._volume.xattrs.remove(ino, name)


def _caller(arguments: dict[str, Any]) -> dict[str, Any]:
    if "who" in arguments:
        arguments = dict(arguments)
        arguments["caller"] = arguments.pop("who")
    return arguments


def _number(inode: Inode | None) -> int | None:
    return None if inode is None else inode.ino


class World:
    """Both sides, and the operations on data and on life itself."""

    def __init__(self, directory: Path, store: ObjectStore, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = SteppedClock()
        self.reference = Reference(mode=0o755)
        self.durable = self.reference.copy()
        self.stored: Reference | None = None
        """What the last barrier shipped."""
        self.snapshots: dict[str, Reference] = {}
        self.stored_snapshots: dict[str, Reference] = {}
        self.crashes = True
        """Whether rollbacks may be cut off."""
        self.snapshots_made = 0
        self.snapshots_deleted = 0
        self.rollbacks = 0
        self.clones = 0
        self.interrupted = 0
        """Rollbacks that a crash cut off."""
        self.opened: set[int] = set()
        self.operations = 0
        self.log: list[str] = []
        self.recut_spans = 0
        self.collected_packs = 0
        """Deleted from the store."""
        self.checkpoints = 0
        """Lives that had one in the end."""
        self._pool = [self.random.randbytes(size) for size in (1, 100, 5000, 20_000, 70_000, 200_000)]
        self._source = Source(
            store=store,
            keys=KEYS,
            meta_dir=directory / "meta",
            cache_dir=directory / "cache",
            cache_size_bytes=64 << 20,
            tuning=TUNING,
            clock=self.clock,
            entropy=SystemEntropy(),
            free_bytes=lambda: 1 << 40,
            unmount_wait_s=math.inf,
        )

    def run(self, operations: int, life: list[str]) -> None:
        """That many operations, in lives that end as `life` says in turn: "remount", "crash" or "loss" of
        all that is on the host."""
        turn = 0
        while self.operations < operations:
            end = life[turn % len(life)]
            turn += 1
            budget = min(operations, self.operations + self.random.randrange(500, 4000))
            trio.run(self._live, budget, end, clock=MockClock())

    async def _live(self, budget: int, end: str) -> None:
        try:
            async with running_volume(self._source) as runtime, trio.open_nursery() as nursery:
                self.clock.now = self.reference.now
                if self.reference.next_ino is None:
                    self.reference.next_ino = runtime.metadata.number(STATE_NEXT_INODE)
                for ino in list(self.reference.nodes):
                    self.reference.release(ino)
                await self._settle_reaper(runtime)
                await self.compare(runtime)
                await runtime.volume.sync()
                check_index(runtime.metadata)
                self._check(runtime)
                self.durable = self.reference.copy()
                while self.operations < budget:
                    self.operations += 1
                    await self._step(runtime, nursery)
                await self.compare(runtime)
                self.checkpoints += runtime.checkpointer.newest is not None
                if end != "remount":
                    raise Crash
                self._shipped()
        except* Crash:
            pass
        self.log.append(end)
        if end == "loss" and self.stored is not None:
            shutil.rmtree(self._source.meta_dir)
            shutil.rmtree(self._source.cache_dir)
            self.durable = self.stored
            self.snapshots = dict(self.stored_snapshots)
        self.reference = self.durable.copy()
        self.opened.clear()

    def _check(self, runtime: Runtime) -> None:
        """What users are told is what holds."""
        damages = Damages()
        with runtime.metadata.view() as view:
            check_volume_index(view, damages)
            assert [found.problem for found in damages.found()] == []

    async def _step(self, runtime: Runtime, background: trio.Nursery) -> None:
        self.reference.now += self.random.randrange(1, 10**9)
        self.clock.now = self.reference.now
        choice = self.random.random()
        if choice < 0.5:
            self._name_step(runtime.volume)
        elif choice < 0.975:
            await self._data_step(runtime.volume)
        elif choice < 0.983:
            await self._recut_step(runtime, background)
        elif choice < 0.985:
            await self._collect_step(runtime)
        elif choice < 0.99:
            await self._snapshot_step(runtime)
        else:
            await self._life_step(runtime)
        if self.random.random() < 0.02:
            await trio.lowlevel.checkpoint()

    def _name_step(self, volume: Volume) -> None:
        step = random_step(self.random.choice)
        arguments = resolve(step, self.reference)
        if step.operation == "rename" and len(self.reference.nodes) < 3:
            return
        ours = outcome(Tree(volume), step.operation, arguments)
        expected = outcome(self.reference, step.operation, arguments)
        assert ours == expected, f"{step.operation} {arguments}: {ours}, expected {expected}"
        self._release(*self.reference.nodes)
        if len(self.reference.nodes) > 60:
            self._prune(volume)

    def _prune(self, volume: Volume) -> None:
        """Keep the tree small: unlink files of a directory."""
        parent = self.random.choice([i for i, node in self.reference.nodes.items() if node.is_dir])
        for name, ino in list(self.reference.nodes[parent].entries.items()):
            if not self.reference.nodes[ino].is_dir:
                volume.namespace.unlink(parent, name)
                self.reference.unlink(parent, name)
                self._release(ino)

    def _release(self, *inodes: int) -> None:
        for ino in inodes:
            if ino not in self.opened:
                self.reference.release(ino)

    async def _data_step(self, volume: Volume) -> None:
        files = [i for i, node in self.reference.nodes.items() if node.mode >> 12 == 8]
        if not files:
            return
        ino = self.random.choice(files)
        node = self.reference.nodes[ino]
        choice = self.random.random()
        if choice < 0.05:
            await self._scatter(volume, ino)
        elif choice < 0.45:
            await self._write(volume, ino)
        elif choice < 0.75:
            offset = self.random.randrange(0, len(node.data) + 100)
            size = self.random.choice((1, 4096, 100_000, FILE_MAX))
            found = await volume.files.read(ino, offset, size)
            assert found == bytes(node.data[offset : offset + size]), f"inode {ino} at {offset}"
        elif choice < 0.85:
            size = self.random.choice((0, self.random.randrange(len(node.data) + 1), len(node.data) + 50_000))
            if size <= FILE_MAX:
                volume.files.truncate(ino, size)
                del node.data[size:]
                node.data.extend(bytes(size - len(node.data)))
                node.mtime_ns = node.ctime_ns = self.reference.now
        elif choice < 0.93:
            volume.files.flush(ino)
        elif ino in self.opened:
            self.opened.discard(ino)
            volume.closed(ino)
            self._release(ino)
        else:
            self.opened.add(ino)
            volume.files.opened(ino)

    async def _write(self, volume: Volume, ino: int) -> None:
        data = self.random.choice(self._pool)
        kind = self.random.random()
        if kind < 0.2:
            data = bytes(len(data))
        elif kind < 0.4:
            data = self.random.randbytes(min(len(data), 20_000))
        node = self.reference.nodes[ino]
        if self.random.random() < 0.5 and len(node.data) + len(data) <= FILE_MAX:
            offset = len(node.data)
        else:
            offset = self.random.randrange(0, max(1, min(len(node.data) + 60_000, FILE_MAX - len(data))))
        await self._write_at(volume, ino, offset, data)

    async def _scatter(self, volume: Volume, ino: int) -> None:
        """Small neighbouring pieces, each on its own way: what re-cutting is for."""
        size = len(self.reference.nodes[ino].data)
        piece_max = self.random.choice((4, 200, 2000))
        offset = self.random.choice((size, self.random.randrange(size + 1)))
        for _ in range(self.random.randrange(20, 60)):
            data = self.random.randbytes(self.random.randrange(1, piece_max))
            if offset + len(data) > FILE_MAX:
                return
            await self._write_at(volume, ino, offset, data)
            volume.files.flush(ino)
            offset += len(data)

    async def _write_at(self, volume: Volume, ino: int, offset: int, data: bytes) -> None:
        node = self.reference.nodes[ino]
        assert await volume.files.write(ino, offset, data) == len(data)
        node.data.extend(bytes(max(0, offset - len(node.data))))
        node.data[offset : offset + len(data)] = data
        node.mtime_ns = node.ctime_ns = self.reference.now

    async def _life_step(self, runtime: Runtime) -> None:
        choice = self.random.random()
        if choice < 0.4:
            await runtime.volume.sync()
            self.durable = self.reference.copy()
        elif choice < 0.6:
            await runtime.volume.barrier()
            self._shipped()
        elif choice < 0.8:
            await runtime.volume.files.settle_all()
        else:
            runtime.reading.forget()
            await trio.to_thread.run_sync(runtime.cache.drop)

    def _shipped(self) -> None:
        self.durable = self.stored = self.reference.copy()
        self.stored_snapshots = dict(self.snapshots)

    async def _snapshot_step(self, runtime: Runtime) -> None:
        """A new one, one less, or a look at one."""
        snapshots = runtime.volume.snapshots
        choice = self.random.random()
        if not self.snapshots or (choice < 0.4 and len(self.snapshots) < SNAPSHOTS_MAX):
            self.snapshots_made += 1
            name = f"snapshot-{self.snapshots_made}"
            await snapshots.create(name)
            self.snapshots[name] = self.reference.copy()
            self.durable = self.reference.copy()
            return
        name = self.random.choice(list(self.snapshots))
        if choice < 0.6:
            # As many as are made, by rollbacks too.
            await runtime.volume.sync()
            await snapshots.delete(name)
            del self.snapshots[name]
            self.snapshots_deleted += 1
            self.durable = self.reference.copy()
        elif choice < 0.75:
            await self._roll_back(runtime, name)
        elif choice < 0.85:
            await self._clone(runtime, name)
        else:
            await self._compare_snapshot(runtime, name)

    async def _roll_back(self, runtime: Runtime, name: str) -> None:
        volume = runtime.volume
        before = self.reference.copy()
        volume.rollback.rows_per_step = self.random.choice((3, 256))
        steps = self.random.choice((None, 1, 2, 5, 10))
        if steps is not None and self.crashes:
            self._crash_after(volume, steps)
        try:
            safety, _ = await volume.rollback.to(name)
        except Crash:
            # Whoever opens the volume next has to finish it.
            made = [snapshot.name for snapshot in volume.snapshots][-1]
            self.snapshots[made] = before
            self.reference.become(self.snapshots[name])
            self.durable = self.reference.copy()
            self.interrupted += 1
            raise
        self.snapshots[safety.name] = before
        self.reference.become(self.snapshots[name])
        for ino in self.opened:
            volume.closed(ino)
        self.opened.clear()
        self._release(*self.reference.nodes)
        self.durable = self.reference.copy()
        self.rollbacks += 1

    async def _clone(self, runtime: Runtime, name: str) -> None:
        volume, past = runtime.volume, self.snapshots[name]
        tree = volume.snapshots.tree(volume.snapshots.get(name))
        source = self.random.choice([ino for ino in past.nodes if past.nlink(ino)])
        parents = [i for i, node in self.reference.nodes.items() if node.is_dir and self.reference.nlink(i)]
        parent = self.random.choice(parents)
        where: dict[str, Any] = {
            "name": self.random.choice(NAMES[:5]),
            "over": self.random.random() < 0.5,
        }
        if len(self.reference.nodes) + len(past.nodes) > 120:
            return
        if past.nodes[source].is_dir and self.random.random() < 0.2:
            await self._clone_half(volume, tree, source, parent, where)
        expected: str | None = None
        try:
            self.reference.clone(past, source, parent, **where)
        except OSError as error:
            expected = errno.errorcode[error.errno or 0]
        try:
            await volume.cloner.clone(tree.past, source, parent, **where)
        except OSError as error:
            assert errno.errorcode[error.errno or 0] == expected
        else:
            assert expected is None
            self.clones += 1
        self._release(*self.reference.nodes)
        await self._settle_reaper(runtime)

    async def _clone_half(
        self, volume: Volume, tree: SnapshotTree, source: int, parent: int, where: dict[str, Any]
    ) -> None:
        """A crash on the way, after a commit: nothing of the copy must be left."""
        await volume.sync()
        durable = self.reference.copy()

        def crash(_: Any) -> None:
            raise Crash

        try:
            await volume.cloner.clone(tree.past, source, parent, **where, progress=crash)
        except OSError:
            return
        except Crash:
            await volume.sync()
            self.durable = durable
            self.durable.next_ino = None
            raise

    def _crash_after(self, volume: Volume, steps: int) -> None:
        """Some way into a rollback, durable up to there or not."""
        rollback, breathe, left = volume.rollback, volume.rollback._breathe, steps

        async def crash() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                if self.random.random() < 0.5:
                    await volume.sync()
                raise Crash
            await breathe()

        rollback._breathe = crash  # type: ignore[method-assign]

    async def _compare_snapshot(self, runtime: Runtime, name: str) -> None:
        snapshots = runtime.volume.snapshots
        tree, reference = snapshots.tree(snapshots.get(name)), self.snapshots[name]
        await _compare(reference, tree.inodes.get, tree.names.readdir, tree.xattrs, tree.read)

    async def _recut_step(self, runtime: Runtime, background: trio.Nursery) -> None:
        """Re-cut what is due, now or while the next operations run."""
        await runtime.volume.files.settle_all()
        if self.random.random() < 0.5:
            await self._recut(runtime)
        else:
            background.start_soon(self._recut, runtime)

    async def _collect_step(self, runtime: Runtime) -> None:
        """Two passes: what the first condemns, the second may delete."""
        await runtime.volume.barrier()
        self._shipped()
        for _ in range(2):
            done = await runtime.collector.collect(look_for_orphans=True)
            self.collected_packs += done.deleted_packs

    async def _recut(self, runtime: Runtime) -> None:
        for _ in range(10):
            self.recut_spans += bool(await runtime.recutter.step())

    async def _settle_reaper(self, runtime: Runtime) -> None:
        while runtime.volume.reap_backlog > sum(
            1 for ino in self.opened if ino in self.reference.nodes and not self.reference.nlink(ino)
        ):
            await trio.lowlevel.checkpoint()

    async def compare(self, runtime: Runtime) -> None:
        """Every inode, entry, attribute and byte, in the present and in all snapshots."""
        volume = runtime.volume
        await _compare(
            self.reference, volume.inodes.get, volume.namespace.readdir, volume.xattrs, volume.files.read
        )
        assert [snapshot.name for snapshot in volume.snapshots] == list(self.snapshots)
        for name in self.snapshots:
            await self._compare_snapshot(runtime, name)


async def _compare(
    reference: Reference,
    get: Callable[[int], Inode | None],
    readdir: Callable[[int, int], Iterable[tuple[bytes, int, Inode]]],
    xattrs: XattrReader,
    read: Callable[[int, int, int], Awaitable[bytes]],
) -> None:
    for ino, node in reference.nodes.items():
        inode = get(ino)
        expected = reference.stat(ino)
        if not expected.nlink:
            continue
        assert inode is not None, f"inode {ino} is missing"
        for field in ("mode", "nlink", "uid", "gid", "atime_ns", "mtime_ns"):
            ours = getattr(inode, field)
            assert ours == getattr(expected, field), f"inode {ino} {field}: {ours}, expected {expected}"
        assert sorted(xattrs.list(ino)) == sorted(node.xattrs)
        for name, value in node.xattrs.items():
            assert xattrs.get(ino, name) == value
        if node.is_dir:
            listed = [(name, child.ino) for name, _, child in readdir(ino, 0)]
            assert listed == reference.readdir(ino), f"directory {ino}"
        elif node.mode >> 12 == 8:
            assert inode.size == len(node.data), f"inode {ino} size {inode.size}"
            assert await read(ino, 0, FILE_MAX * 2) == bytes(node.data), f"inode {ino} data"


Restart = Callable[[], Awaitable[None]]
