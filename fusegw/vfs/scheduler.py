"""Makes the snapshots of a volume's schedule, and deletes those that it does not keep.

The schedule is a row of the `gateway` table, so that a recovery and a standby know it; one in the
configuration is written there by whoever writes the volume. When one is due is told from the newest one that
is there: a period missed while nobody wrote the volume is made up for once, at the start.

Promises: only snapshots made by a schedule are ever deleted, and no locked one; at most one is made in a
period, unless the clock goes back. What fails is told in `status` and tried again.
"""

import logging
import math
from typing import Any

import msgspec
import trio

from fusegw.clock import Clock
from fusegw.errors import Corrupt, FusegwError, Invalid, UnknownFormat
from fusegw.meta.committer import Committer
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import GATEWAY, Snapshot
from fusegw.meta.snapshot import MADE_BY_SCHEDULE
from fusegw.meta.unshipped import Standing
from fusegw.schedule import SnapshotSchedule, period, period_start_ns, surplus
from fusegw.vfs.snapshots import Snapshots

SCHEDULE_ROW = b"snapshot-schedule"
FORMAT_VERSION = 1
LOOK_S = 30.0
"""The longest pause: the wall clock may jump, a lock may end."""

_FIELDS = SnapshotSchedule.__struct_fields__
_ROW = msgspec.json.Decoder(dict[str, Any])
log = logging.getLogger(__name__)


class SchedulerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far the schedule is; times in ns since 1970."""

    schedule: SnapshotSchedule | None = None
    """None when what the volume says cannot be used."""
    next_ns: int | None = None
    """When the next one is due; None where it is not run."""
    last: Snapshot | None = None
    """The newest one that counts."""
    waiting: bool = False
    """The newest one does not count yet: it is not in the store."""
    unchanged: bool = False
    """There is none of this period because nothing had changed."""
    error: str | None
    """Why it does not get on."""


class Scheduler:
    """Runs the schedule of one volume. Loop thread only.

    `configured` is what the configuration says, None when it says nothing. Where `run` does not run, the
    schedule is only known.
    """

    def __init__(
        self,
        metadata: Metadata,
        committer: Committer,
        snapshots: Snapshots,
        *,
        configured: SnapshotSchedule | None,
        clock: Clock,
    ) -> None:
        self._metadata = metadata
        self._committer = committer
        self._snapshots = snapshots
        self._configured = configured
        self._clock = clock
        self._scope = trio.CancelScope()
        self._look = trio.Event()
        self._running = False
        self._error: str | None = None
        self._looked: tuple[str, int] | None = None
        """The period (kind, number) for which all was done."""
        self._unchanged = False

    @property
    def schedule(self) -> SnapshotSchedule | None:
        """What the volume says; None when nothing. UnknownFormat, Corrupt."""
        row = self._row()
        if not row:
            return None
        if row.get("format") != FORMAT_VERSION:
            raise UnknownFormat(
                f"the volume's snapshot schedule has format {row.get('format')!r}, this fusegw knows "
                f"{FORMAT_VERSION}: upgrade fusegw"
            )
        try:
            return msgspec.convert({name: row[name] for name in _FIELDS if name in row}, SnapshotSchedule)
        except (msgspec.ValidationError, Invalid) as error:
            raise Corrupt(
                f"the volume's snapshot schedule is not one ({error}): set it anew with fusegw snapshot "
                "schedule set"
            ) from None

    async def set(self, schedule: SnapshotSchedule | None) -> None:
        """From now on this one, or none; durable on return. Invalid when the configuration has one,
        UnknownFormat, Full."""
        if self._configured is not None:
            raise Invalid(
                "the schedule is in the configuration file (snapshots in the volume's table): change it "
                "there and mount again"
            )
        self._put(schedule)
        self._look.set()
        await self._committer.commit()

    def status(self) -> SchedulerStatus | None:
        """How far it is; None without a schedule."""
        try:
            schedule = self.schedule
        except FusegwError as error:
            return SchedulerStatus(error=str(error))
        if schedule is None:
            return None if self._error is None else SchedulerStatus(error=self._error)
        made = self._made()
        counting = [one for one in made if self._counts(schedule, one)]
        return SchedulerStatus(
            schedule=schedule,
            next_ns=self._next_ns(schedule) if self._running else None,
            last=counting[-1] if counting else None,
            waiting=made[-1:] != counting[-1:],
            unchanged=self._unchanged and self._looked == self._period(schedule, self._clock.time_ns()),
            error=self._error,
        )

    def stop(self) -> None:
        """Make and delete nothing more."""
        self._scope.cancel()

    async def run(self) -> None:
        """Keep to the schedule until stopped."""
        with self._scope:
            self._running = True
            while True:
                await trio.lowlevel.checkpoint()
                self._look = trio.Event()
                pause_s = await self.step()
                with trio.move_on_after(pause_s):
                    await self._look.wait()

    async def step(self) -> float:
        """Do what is due; seconds until the next look: without a schedule not before one is set."""
        pause_s = LOOK_S
        problems = []
        try:
            if self._error is not None:
                # What is there already may be what could not be committed.
                await self._committer.commit()
            schedule = await self._adopted()
        except FusegwError as error:
            schedule = None
            problems.append(str(error))
        if schedule is not None:
            # Even where none can be made, deleting others goes on: it may be what makes room.
            for work in (self._make, self._thin):
                try:
                    await work(schedule)
                except (FusegwError, OSError) as error:
                    problems.append(str(error))
            if not problems:
                pause_s = min(LOOK_S, (self._next_ns(schedule) - self._clock.time_ns()) / 1e9)
        elif not problems:
            pause_s = math.inf
        self._tell("; ".join(problems) or None)
        return max(0.0, pause_s)

    async def _adopted(self) -> SnapshotSchedule | None:
        if self._configured is not None and self._schedule_or_none() != self._configured:
            self._put(self._configured)
            await self._committer.commit()
        return self.schedule

    def _schedule_or_none(self) -> SnapshotSchedule | None:
        try:
            return self.schedule
        except Corrupt:
            return None

    async def _make(self, schedule: SnapshotSchedule) -> None:
        now = self._period(schedule, self._clock.time_ns())
        if self._looked == now:
            return
        newest = self._made()[-1:]
        if newest and self._period(schedule, newest[0].created_ns) == now:
            self._done(now)
            return
        if newest and not schedule.even_unchanged and not await self._snapshots.changed_since(newest[0]):
            self._done(now, unchanged=True)
            return
        await self._snapshots.create(self._snapshots.name_by_time(), made_by=MADE_BY_SCHEDULE)
        self._done(now)

    async def _thin(self, schedule: SnapshotSchedule) -> None:
        made = {one.seq: one for one in self._made()}
        if not made or not self._counts(schedule, made[max(made)]):
            return
        now = self._clock.time_ns()
        moments = [(one.created_ns, one.seq) for one in made.values()]
        for seq in surplus(schedule.counts, moments, now):
            if made[seq].locked_until_ns <= now:
                await self._snapshots.delete(made[seq].name)

    def _done(self, number: tuple[str, int], *, unchanged: bool = False) -> None:
        self._looked = number
        self._unchanged = unchanged

    def _made(self) -> list[Snapshot]:
        """Those of schedules, in the order they were made."""
        return [one for one in self._snapshots if one.made_by == MADE_BY_SCHEDULE]

    def _counts(self, schedule: SnapshotSchedule, snapshot: Snapshot) -> bool:
        return not schedule.stored or self._snapshots.standing(snapshot) is Standing.STORED

    def _period(self, schedule: SnapshotSchedule, time_ns: int) -> tuple[str, int]:
        return schedule.kind, period(schedule.kind, time_ns)

    def _next_ns(self, schedule: SnapshotSchedule) -> int:
        now = self._clock.time_ns()
        kind, number = self._period(schedule, now)
        return period_start_ns(kind, number + 1) if self._looked == (kind, number) else now

    def _tell(self, error: str | None) -> None:
        if error is not None and error != self._error:
            log.error("scheduled snapshots, tried again: %s", error)
        elif error is None and self._error is not None:
            log.info("scheduled snapshots are made and deleted again")
        self._error = error

    def _row(self) -> dict[str, Any]:
        data = self._metadata.get(GATEWAY, SCHEDULE_ROW)
        if data is None:
            return {}
        try:
            return _ROW.decode(data)
        except msgspec.DecodeError:
            return {"format": FORMAT_VERSION}

    def _put(self, schedule: SnapshotSchedule | None) -> None:
        before = self._row()
        if before and before.get("format") != FORMAT_VERSION:
            raise UnknownFormat(
                f"the volume's snapshot schedule has format {before.get('format')!r}: upgrade fusegw"
            )
        with self._metadata.change() as change:
            if schedule is None:
                change.delete(GATEWAY, SCHEDULE_ROW)
            else:
                row = {"format": FORMAT_VERSION} | before | msgspec.to_builtins(schedule)
                change.put(GATEWAY, SCHEDULE_ROW, msgspec.json.encode(row, order="sorted"))
