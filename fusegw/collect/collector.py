"""Collection of one volume: when there is a pass, who asked for it, and what came of it.

Passes run in the task `run`, one at a time: by themselves once in an interval, slowly and within what a day
allows, and when `collect` asks for one, at once and as fast as it goes. Somebody who asks while one runs is
refused. A pass whose asker has left ends after the step it is at.
"""

import logging
import math

import msgspec
import trio

from fusegw.collect import orphans
from fusegw.collect.passes import Outcome, Parts, Pass, Rules
from fusegw.errors import Busy, Fenced, FusegwError

log = logging.getLogger(__name__)
_DAY_S = 86400.0
_FIRST_S = 600.0
"""From the start to the first pass, at most: a gateway may be mounted for a short time only."""


class CollectStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where collection stands."""

    running: bool
    last_pass_ns: int | None
    """When the last pass ended (ns since 1970); None: none since the start."""
    last: Outcome | None
    """What that found and did."""
    deleted_packs: int
    """Since the start, orphans included."""
    deleted_bytes: int
    written_bytes: int
    error: str | None
    """Why the last pass ended before its end; None when it did not."""


class _Request:
    """A pass that somebody waits for."""

    def __init__(self, *, budget: int | None, preview: bool, look_for_orphans: bool) -> None:
        self.budget = budget
        self.preview = preview
        self.look_for_orphans = look_for_orphans
        self.done = trio.Event()
        self.abandoned = False
        self.outcome: Outcome | None = None
        self.error: Exception | None = None


class Collector:
    """The passes over one volume in one reign. Loop thread only; `run` must be running."""

    def __init__(self, parts: Parts, rules: Rules) -> None:
        self._parts = parts
        self._rules = rules
        self._wanted = trio.Event()
        self._request: _Request | None = None
        self._pass: Pass | None = None
        self._passed_over: dict[int, int] = {}
        self._stopped = False
        self._last_pass_ns: int | None = None
        self._last: Outcome | None = None
        self._deleted_packs = self._deleted_bytes = self._written_bytes = 0
        self._error: str | None = None

    async def collect(
        self, *, budget: int | None = None, preview: bool = False, look_for_orphans: bool = False
    ) -> Outcome:
        """A pass now, that rewrites at most `budget` living bytes (None: all that is worth it); with
        `preview` only what it would do. Busy while another one runs, Fenced, and what the store raises."""
        if self._parts.log.fenced is not None:
            raise Fenced(str(self._parts.log.fenced))
        if self._pass is not None or self._request is not None:
            raise Busy("a collection is running already; it is refused to run two at once")
        if self._stopped:
            raise Busy("the volume is about to be closed")
        request = _Request(budget=budget, preview=preview, look_for_orphans=look_for_orphans)
        self._request = request
        self._wanted.set()
        try:
            await request.done.wait()
        except trio.Cancelled:
            request.abandoned = True
            raise
        if request.error is not None:
            raise type(request.error)(str(request.error))
        assert request.outcome is not None, "a pass has an outcome or an error"
        return request.outcome

    def stop(self) -> None:
        """Begin nothing any more: the volume is about to be closed."""
        self._stopped = True

    @property
    def progress(self) -> tuple[int, int]:
        """Living bytes rewritten by the pass that runs, and how many it will be as far as known."""
        return (0, 0) if self._pass is None else (self._pass.outcome.written_bytes, self._pass.total_bytes)

    def status(self) -> CollectStatus:
        """A picture of now."""
        return CollectStatus(
            running=self._pass is not None,
            last_pass_ns=self._last_pass_ns,
            last=self._last,
            deleted_packs=self._deleted_packs,
            deleted_bytes=self._deleted_bytes,
            written_bytes=self._written_bytes,
            error=self._error,
        )

    async def run(self) -> None:
        """Passes, for ever, until cancelled or fenced."""
        try:
            pause_s = min(self._rules.interval_s, _FIRST_S)
            while True:
                with trio.move_on_after(pause_s or math.inf):
                    await self._wanted.wait()
                pause_s = self._rules.interval_s
                self._wanted = trio.Event()
                request = self._request
                try:
                    await self._once(request)
                except Fenced as error:
                    log.info("nothing is collected any more: %s", error)
                    self._finish(request, error)
                    return
                except (FusegwError, OSError) as error:
                    log.error("a collection ended before its end: %s", error)
                    self._error = str(error)
                    self._finish(request, error)
                else:
                    self._finish(request, None)
        finally:
            self._stopped = True
            fenced = self._parts.log.fenced
            self._finish(self._request, fenced or Busy("the volume is being closed"))

    async def _once(self, request: _Request | None) -> None:
        rules = self._rules
        if self._stopped or (request is not None and request.abandoned):
            return
        if request is None:
            budget = int(rules.daily_bytes * min(1.0, rules.interval_s / _DAY_S))
        else:
            budget = 1 << 62 if request.budget is None else request.budget
        self._pass = current = Pass(
            self._parts,
            rules,
            budget=budget,
            gently=request is None,
            passed_over=self._passed_over,
            stopped=lambda: self._stopped or (request is not None and request.abandoned),
        )
        try:
            if request is not None and request.preview:
                request.outcome = await current.preview()
                return
            wanted = (request is not None and request.look_for_orphans) or self._looks_are_due()
            outcome = await current.run(look_for_orphans=wanted)
            self._last, self._last_pass_ns, self._error = outcome, self._parts.clock.time_ns(), None
            if request is not None:
                request.outcome = outcome
        finally:
            self._pass = None
            if request is None or not request.preview:
                done = current.outcome
                self._deleted_packs += done.deleted_packs + done.deleted_orphans
                self._deleted_bytes += done.deleted_bytes + done.deleted_orphan_bytes
                self._written_bytes += done.written_bytes

    def _looks_are_due(self) -> bool:
        looked_ns = orphans.looked_ns(self._parts.metadata)
        interval_ns = self._rules.orphan_interval_s * 1e9
        return looked_ns is None or self._parts.clock.time_ns() - looked_ns >= interval_ns

    def _finish(self, request: _Request | None, error: Exception | None) -> None:
        if request is not None and request is self._request:
            self._request = None
            request.error = error
            if error is None and request.outcome is None:
                request.error = Busy("the collection was given up before it began")
            request.done.set()
