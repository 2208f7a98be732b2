"""Tells a command and a web address of the operator's when everything is in the store, or never will be.

`stored`: a `sync --wait` returned; or something was not in the store and now everything is, if only for a
moment. `fenced`: another gateway has taken the volume over.

What comes while one is being told, or within `GAP_S` after that began, becomes one event, which names the
head of the log at its own time: a busy volume starts no storm of commands.
Telling goes on beside the shipping and never holds it up. A failure is logged, shown in the status, and
not tried again: the next event says more than the last.
"""

import logging
from datetime import UTC, datetime
from typing import Literal

import msgspec
import trio

from fusegw.assembly import Runtime
from fusegw.clock import Clock
from fusegw.config import HookSettings, VolumeSettings
from fusegw.daemon.delivery import post, run_command

GAP_S = 10.0
LAST_S = 10.0
"""Time for the one that is told after the volume was closed."""

EventKind = Literal["stored", "fenced"]
log = logging.getLogger(__name__)


class Event(msgspec.Struct, frozen=True):
    """What is told: as JSON, and as FUSEGW_EVENT, FUSEGW_VOLUME, … in the environment."""

    event: EventKind
    volume: str
    mountpoint: str
    seq: int
    """Newest segment of the log in the store."""
    epoch: int
    hash: str
    """BLAKE3-256 of that segment, in hex."""
    time: str
    """When this was found, in UTC (RFC 3339)."""

    def environment(self) -> dict[str, str]:
        return {f"FUSEGW_{name.upper()}": str(value) for name, value in msgspec.structs.asdict(self).items()}


class Hooks:
    """The hooks of one volume. Loop thread only; `run` must be running, and `finish` be called at the end."""

    def __init__(
        self, settings: VolumeSettings, runtime: Runtime, clock: Clock, *, gap_s: float = GAP_S
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._clock = clock
        self._gap_s = gap_s
        self._commit = runtime.log.head.commit
        self._due: set[EventKind] = set()
        self._wake = trio.Event()
        self.last_error: str | None = None
        """Why the newest event could not be told to all; None when it was."""

    @property
    def _hooks(self) -> HookSettings:
        return self._settings.hooks

    def barrier_passed(self) -> None:
        """Somebody waited for everything to be in the store, and it is."""
        self._want("stored")

    async def run(self) -> None:
        """Watch and tell, until cancelled."""
        if not self._hooks.any:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self._watch_for_fencing)
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                begun = trio.current_time()
                await self._tell_due()
                await trio.sleep_until(begun + self._gap_s)

    async def finish(self) -> None:
        """After the volume was closed in good order: tell what came since, in bounded time."""
        if self._hooks.any:
            self._look()
            with trio.move_on_after(LAST_S):
                await self._tell_due()

    async def _watch(self) -> None:
        while True:
            self._look()
            await self._runtime.log.advanced()

    def _look(self) -> None:
        """Has the log grown, to the end of what there is?"""
        log_shipper = self._runtime.log
        if log_shipper.head.commit == self._commit:
            return
        if log_shipper.complete and self._runtime.volume.files.oldest_dirty_s is None:
            self._commit = log_shipper.head.commit
            self._want("stored")

    async def _watch_for_fencing(self) -> None:
        await self._runtime.log.until_fenced()
        self._want("fenced")

    def _want(self, event: EventKind) -> None:
        self._due.add(event)
        self._wake.set()

    async def _tell_due(self) -> None:
        due, self._due = sorted(self._due, reverse=True), set()
        for kind in due:
            await self._tell(self._event(kind))

    def _event(self, kind: EventKind) -> Event:
        head = self._runtime.log.head
        time = datetime.fromtimestamp(self._clock.time_ns() // 1_000_000_000, UTC)
        return Event(
            kind,
            self._settings.volume,
            str(self._settings.mountpoint),
            head.seq,
            head.epoch,
            head.hash.hex(),
            time.isoformat().replace("+00:00", "Z"),
        )

    async def _tell(self, event: Event) -> None:
        failures: list[str] = []

        async def command() -> None:
            if self._hooks.command and (
                failure := await run_command(self._hooks.command, event.environment())
            ):
                failures.append(f"command {failure}")

        async def address() -> None:
            if self._hooks.url and (failure := await post(self._hooks.url, msgspec.json.encode(event))):
                failures.append(f"web hook {failure}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(command)
            nursery.start_soon(address)
        self.last_error = f"{event.time} {event.event}: {'; '.join(sorted(failures))}" if failures else None
        if failures:
            log.warning("not all were told of %r: %s", event.event, "; ".join(sorted(failures)))
