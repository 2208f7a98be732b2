"""Group commits: one task that makes the pending set durable, a few times a second and whenever somebody
waits.

Order of one commit: freeze (on the loop) → `prepare` (the packs the rows refer to reach the disk) → save
(worker thread) → saved. A crash between any two leaves the state of the commit before and pack bytes nobody
refers to. A commit that fails keeps its rows and is tried again; who waited for it gets the error.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from fusegw.errors import Full, FusegwError
from fusegw.meta.metadata import Metadata

log = logging.getLogger(__name__)
_RETRY_S = 1.0


class Committer:
    """Owns the commits of one index. `run` must be running for a `commit` of anything to return.

    `prepare` makes the pack bytes of all rows frozen so far durable; it returns True when that changed rows
    (a failed pack was written anew elsewhere), which are then frozen too and prepared in their turn.
    """

    def __init__(
        self,
        metadata: Metadata,
        prepare: Callable[[], Awaitable[bool]],
        *,
        interval_s: float,
        pending_rows_max: int = 50_000,
    ) -> None:
        self._metadata = metadata
        self._prepare = prepare
        self._interval_s = interval_s
        self._pending_rows_max = pending_rows_max
        self._wanted = trio.Event()
        self._limiter = trio.CapacityLimiter(1)
        self._begun = 0
        self._done = 0
        self._attempt = trio.Event()
        self.error: FusegwError | None = None
        """Why the newest commit failed; None when it did not."""

    @property
    def crowded(self) -> bool:
        """Whether what is not durable is at its bound: wait for `room` before merging more."""
        return self._metadata.pending_rows >= self._pending_rows_max

    async def room(self) -> None:
        """Wait until what is not durable is below its bound; Full when commits fail."""
        while self.crowded:
            await self.commit()

    async def commit(self) -> None:
        """Return once everything merged before this call is durable; raises what kept it from being so."""
        if not self._metadata.pending_rows:
            return
        target = self._begun + 1
        while self._done < target:
            self._wanted.set()
            await self._attempt.wait()
            if self._done < target <= self._begun and self.error is not None:
                raise type(self.error)(str(self.error))

    async def run(self) -> None:
        """Commit for ever, until cancelled; `finish` makes the last one."""
        while True:
            with trio.move_on_after(self._interval_s):
                await self._wanted.wait()
            self._wanted = trio.Event()
            await self._once()
            if self.error is not None:
                with trio.move_on_after(_RETRY_S):
                    await self._wanted.wait()

    async def finish(self) -> None:
        """The last commit of an orderly end, after `run` was cancelled."""
        await self._once()
        if self.error is not None:
            raise self.error

    async def _once(self) -> None:
        self._begun += 1
        number = self._begun
        try:
            if self._metadata.freeze():
                while await self._prepare():
                    self._metadata.freeze()
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._metadata.save, limiter=self._limiter)
                    self._metadata.saved()
            self._done = number
            self.error = None
        except FusegwError as error:
            if self.error is None:
                log.error("commit failed, keeping its changes and trying again: %s", error)
            self.error = error
        except OSError as error:
            if self.error is None:
                log.error("commit failed, keeping its changes and trying again: %s", error)
            self.error = Full(f"pending changes cannot be made durable: {error}")
        finally:
            attempt, self._attempt = self._attempt, trio.Event()
            attempt.set()
