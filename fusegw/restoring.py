"""What puts a mounted volume, or parts of it, back: rollback, restore, clone, and what changed.

None of it goes through the kernel, so the kernel is told afterwards what it must not believe any more; only
then it is acknowledged. During a rollback requests wait. It goes on when who asked for it leaves.
"""

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from fusegw.assembly import Runtime
from fusegw.control.snapshots import CloneReply, CloneWish, DiffItem, DiffReply, DiffWish
from fusegw.errors import Exists, FusegwError, Invalid, NotFound
from fusegw.fuse.operations import Operations
from fusegw.meta.past import Readable
from fusegw.meta.rebuild import Changed
from fusegw.meta.schema import DIRENT, INODE, Inode, Snapshot
from fusegw.meta.snapshot import MADE_BY_ROLLBACK, MADE_FOR_CLONE
from fusegw.vfs.differ import differences
from fusegw.vfs.paths import find_path, path_parts

Settle = Callable[[Changed], Awaitable[None]]


class Restoring:
    """Of one volume at its writer. `settle` tells the kernel of changes; rollbacks run in `nursery`."""

    def __init__(
        self, runtime: Runtime, operations: Operations, settle: Settle, nursery: trio.Nursery
    ) -> None:
        self._runtime = runtime
        self._operations = operations
        self._settle = settle
        self._nursery = nursery

    async def roll_back(self, name: str) -> Snapshot:
        """The snapshot of the state before; NotFound, Busy, Full."""
        self._runtime.volume.snapshots.get(name)
        send, receive = trio.open_memory_channel[Snapshot | FusegwError](1)
        self._nursery.start_soon(self._roll_back, name, send)
        result = await receive.receive()
        if isinstance(result, FusegwError):
            raise result
        return result

    async def _roll_back(self, name: str, send: trio.MemorySendChannel[Snapshot | FusegwError]) -> None:
        rollback = self._runtime.volume.rollback
        with send:
            try:
                async with self._operations.held(is_over=lambda: not rollback.is_pending):
                    safety, changed = await rollback.to(name)
                    self._operations.outdate_handles()
                await self._settle(changed)
            except FusegwError as error:
                send.send_nowait(error)
            else:
                send.send_nowait(safety)

    async def clone(self, wish: CloneWish) -> CloneReply:
        """Copy a file or tree of a snapshot, or of now, to another place; NotFound, Exists, Invalid, Full.

        What is replaced is in a snapshot that is made before.
        """
        volume = self._runtime.volume
        parent, name, there = _place(self._runtime.metadata, wish.target)
        if there is not None and not wish.replace:
            raise Exists(f"{wish.target} is there already; say --replace to have it replaced")
        safety = ""
        if there is not None:
            safety = await self._named(f"before-replacing-{name.decode(errors='replace')}", MADE_BY_ROLLBACK)
        passing = "" if wish.snapshot else await self._named("cloning", MADE_FOR_CLONE)
        try:
            snapshot = volume.snapshots.get(wish.snapshot or passing)
            tree = volume.snapshots.tree(snapshot)
            source = _found(tree.past, path_parts(wish.source))
            if source is None:
                where = f"snapshot {snapshot.name!r}" if wish.snapshot else "the volume"
                raise NotFound(f"{where} has no {wish.source}")
            try:
                done = await volume.cloner.clone(
                    tree.past, source.ino, parent.ino, name, over=there is not None
                )
            except OSError as error:
                raise Invalid(f"{wish.source} cannot be copied to {wish.target}: {error}") from None
        finally:
            if passing:
                with trio.CancelScope(shield=True):
                    await volume.snapshots.delete(passing)
        await self._runtime.committer.commit()
        changed = Changed()
        changed.note(INODE.code, INODE.encode_key(parent.ino))
        changed.note(DIRENT.code, DIRENT.encode_key((parent.ino, name)))
        if there is not None:
            changed.note(INODE.code, INODE.encode_key(there.ino))
        await self._settle(changed)
        return CloneReply(files=done.files, logical_bytes=done.nbytes, replaced_in=safety)

    async def _named(self, base: str, made_by: int) -> str:
        snapshots = self._runtime.volume.snapshots
        snapshot = await snapshots.create(snapshots.free_name(base), made_by=made_by)
        return snapshot.name

    async def diff(self, wish: DiffWish) -> DiffReply:
        """What changed between two snapshots, or a snapshot and now; NotFound, Invalid."""
        snapshots = self._runtime.volume.snapshots
        older = snapshots.get(wish.older)
        newer = snapshots.get(wish.newer) if wish.newer else None
        if newer is not None and newer.seq < older.seq:
            raise Invalid(f"snapshot {wish.newer!r} is older than {wish.older!r}; name the older one first")
        if newer is None:
            await self._runtime.volume.sync()
        return await trio.to_thread.run_sync(partial(self._differ, older, newer, wish.items_max))

    def _differ(self, older: Snapshot, newer: Snapshot | None, items_max: int) -> DiffReply:
        with self._runtime.metadata.view() as view:
            found = differences(view, older, newer)
        items = tuple(
            DiffItem(
                path=one.path,
                difference=one.difference.value,
                is_directory=one.is_directory,
                before=one.before,
            )
            for one in found[:items_max]
        )
        return DiffReply(items=items, total=len(found))


def _found(rows: Readable, parts: list[bytes]) -> Inode | None:
    ino = find_path(rows, parts)
    return None if ino is None else rows.get(INODE, ino)


def _place(rows: Readable, path: str) -> tuple[Inode, bytes, Inode | None]:
    """The directory, the name in it, and what is there now; NotFound, Invalid."""
    parts = path_parts(path)
    if not parts:
        raise Invalid("the root cannot be replaced; fusegw snapshot rollback puts the whole volume back")
    parent = _found(rows, parts[:-1])
    if parent is None or not parent.is_dir:
        raise NotFound(f"the directory that {path} is to be in does not exist")
    return parent, parts[-1], _found(rows, parts)
