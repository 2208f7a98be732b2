"""What commands ask of a volume's snapshots: made, listed, counted, locked and deleted."""

from collections.abc import Sequence
from typing import get_args

import trio

from fusegw.assembly import Runtime
from fusegw.clock import Clock
from fusegw.control.snapshots import (
    CreateSnapshot,
    DeleteSnapshots,
    LockSnapshot,
    RollBack,
    ScheduleStatus,
    SnapshotChange,
    SnapshotItem,
    SnapshotReply,
    SnapshotsReply,
)
from fusegw.errors import Invalid
from fusegw.meta.holdings import Holdings, holdings_of
from fusegw.meta.schema import Snapshot
from fusegw.meta.unshipped import Standing
from fusegw.restoring import Restoring

_NS = 10**9
_TIME_MAX_S = (1 << 63) // _NS
_MADE_BY = get_args(SnapshotItem.__annotations__["made_by"])


class SnapshotControl:
    """The snapshots of one volume, for its commands. Loop thread only."""

    def __init__(self, runtime: Runtime, restoring: Restoring, clock: Clock) -> None:
        self._runtime = runtime
        self._restoring = restoring
        self._clock = clock

    def listing(self) -> SnapshotsReply:
        """All of them."""
        return self._reply(list(self._runtime.volume.snapshots))

    async def shown(self, name: str) -> SnapshotReply:
        """One of them, with what it holds, counted in a thread; NotFound."""
        snapshot = self._runtime.volume.snapshots.get(name)
        held = await trio.to_thread.run_sync(self._holdings, snapshot)
        return SnapshotReply(
            snapshot=self._item(snapshot),
            held_logical_bytes=held.logical_bytes,
            held_stored_bytes=held.stored_bytes,
            unique_logical_bytes=held.unique_logical_bytes,
            unique_stored_bytes=held.unique_stored_bytes,
        )

    def schedule(self) -> ScheduleStatus | None:
        """Those that are made by themselves; None without a schedule."""
        status = self._runtime.scheduler.status()
        if status is None:
            return None
        return ScheduleStatus(
            schedule=status.schedule,
            next_unix_s=None if status.next_ns is None else status.next_ns / _NS,
            last=None if status.last is None else status.last.name,
            last_unix_s=None if status.last is None else status.last.created_ns / _NS,
            waiting=status.waiting,
            unchanged=status.unchanged,
            error=status.error,
        )

    async def change(self, change: SnapshotChange) -> SnapshotsReply:
        """Make it so, durably, at the volume's writer. Raises as `Snapshots` does."""
        if isinstance(change, CreateSnapshot):
            return self._reply([await self._create(change)])
        if isinstance(change, DeleteSnapshots):
            return self._reply(await self._delete(change))
        if isinstance(change, RollBack):
            return self._reply([await self._restoring.roll_back(change.name)])
        return self._reply([await self._lock(change)])

    async def _create(self, wish: CreateSnapshot) -> Snapshot:
        volume = self._runtime.volume
        until = self._until(wish.locked_until_unix_s) if wish.locked_until_unix_s else 0
        snapshot = await volume.snapshots.create(
            wish.name or volume.snapshots.name_by_time(), locked_until_ns=until
        )
        if wish.wait:
            await volume.barrier()
        return snapshot

    async def _delete(self, wish: DeleteSnapshots) -> list[Snapshot]:
        snapshots = self._runtime.volume.snapshots
        names = dict.fromkeys(wish.names)
        found = [snapshots.deletable(name) for name in names]
        for name in names:
            await snapshots.delete(name)
        return found

    async def _lock(self, wish: LockSnapshot) -> Snapshot:
        return await self._runtime.volume.snapshots.lock(wish.name, self._until(wish.locked_until_unix_s))

    def _until(self, unix_s: float) -> int:
        now = self._clock.time_ns()
        if not now < unix_s * _NS < _TIME_MAX_S * _NS:
            raise Invalid("a snapshot can be locked until a time in the future only")
        return int(unix_s * _NS)

    def _holdings(self, snapshot: Snapshot) -> Holdings:
        with self._runtime.metadata.view() as view:
            return holdings_of(view, snapshot, trio.from_thread.check_cancelled)

    def _reply(self, snapshots: Sequence[Snapshot]) -> SnapshotsReply:
        return SnapshotsReply(snapshots=tuple(map(self._item, snapshots)))

    def _item(self, snapshot: Snapshot) -> SnapshotItem:
        until = snapshot.locked_until_ns
        return SnapshotItem(
            name=snapshot.name,
            created_unix_s=snapshot.created_ns / _NS,
            made_by=_MADE_BY[snapshot.made_by],
            files=snapshot.files,
            logical_bytes=snapshot.nbytes,
            locked_until_unix_s=until / _NS if until > self._clock.time_ns() else None,
            stored=self._runtime.volume.snapshots.standing(snapshot) is Standing.STORED,
        )
