"""Writes checkpoints while the log goes on, and lets go of what is no longer kept.

The log shipper offers what it has at the end of each round: a view of exactly the state that the store's log
has. When a checkpoint is due the view is taken and written from a worker thread, object by object; the log is
shipped meanwhile. LMDB cannot use pages again that were freed while the view is open, so the index grows for
that time. Then the store is swept (`fusegw.ship.retention`).

Due is a checkpoint when the log has grown by `log_size_bytes` since the last one and by half of that one's
size (so that writing checkpoints costs at most about twice what the log costs, and reading the log at most
about half a checkpoint more), or when there are changes and the last one is `interval_s` old. A failure is
logged, and tried again after a while; it stops nothing else.
"""

import logging
from contextlib import closing

import msgspec
import trio

from fusegw.clock import Clock, Entropy
from fusegw.errors import Corrupt, Fenced, FusegwError, UnknownFormat
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.schema import Head
from fusegw.meta.view import View
from fusegw.ship import segment
from fusegw.ship.checkpoints import Written, examine, folders, write
from fusegw.ship.kept import KeptRecord
from fusegw.ship.retention import Retention, refuse_once_fenced
from fusegw.store.base import ObjectStore

log = logging.getLogger(__name__)
_RETRY_S = 60.0


class Schedule(msgspec.Struct, frozen=True):
    """When to write, and how long to keep."""

    interval_s: float
    """A checkpoint this old is followed by another when there were changes. Also the least time between those
    that are kept, but for the newest."""
    log_size_bytes: int
    """Growth of the log, as stored, at which the next one is written."""
    retention_s: float
    """Positions of this long can be recovered."""


class _Offer(msgspec.Struct, frozen=True):
    view: View
    head: Head
    log_bytes: int
    """Since the start, up to the head."""


class Checkpointer:
    """The checkpoints of one volume in one reign. Loop thread only; `run` must be running.

    `began` is the takeover of this reign; `record` is told what the store must have from then on.
    """

    def __init__(
        self,
        store: ObjectStore,
        keys: VolumeKeys,
        record: KeptRecord,
        *,
        began: Head,
        schedule: Schedule,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._store = store
        self._keys = keys
        self._schedule = schedule
        self._clock = clock
        self._entropy = entropy
        self._record = record
        self._retention = Retention(
            store,
            keys,
            record,
            began=began.seq,
            retention_s=schedule.retention_s,
            spacing_s=schedule.interval_s,
        )
        self._began = began
        self._head = began
        self._taken: _Offer | None = None
        self._offered = trio.Event()
        self._ready = False
        """Whether it is known what the store has; looked up when the log first gets on."""
        self._ended = False
        self._not_before_s = 0.0
        self._since_ns = clock.time_ns()
        self._log_bytes = 0
        """Of the log that the newest checkpoint does not cover, less what was shipped since the start."""
        self.newest: Written | None = None
        """The newest checkpoint that counts, as far as this gateway knows."""

    @property
    def age_s(self) -> float | None:
        """Age in seconds of the state in the newest checkpoint; None without one."""
        if self.newest is None:
            return None
        return max(0.0, (self._clock.time_ns() - self.newest.manifest.time_ns) / 1e9)

    def offer(self, view: View, head: Head, log_bytes: int) -> bool:
        """What the store's log has, at `head`, after `log_bytes` were shipped since the start. True when the
        view is taken: it is closed here then."""
        self._head = head
        if self._ended:
            return False
        if not self._ready:
            self._offered.set()
            return False
        if self._taken is not None or not self._due(head, log_bytes):
            return False
        self._taken = _Offer(view, head, log_bytes)
        self._offered.set()
        return True

    async def run(self) -> None:
        """Write what is due, for ever, until cancelled or fenced."""
        try:
            while True:
                await self._offered.wait()
                self._offered = trio.Event()
                if self._taken is None:
                    await self._look_up()
                else:
                    await self._write()
                    self._let_go()
        except Fenced as error:
            log.info("no checkpoint is written any more: %s", error)
        finally:
            self._ended = True
            self._let_go()

    def _due(self, head: Head, log_bytes: int) -> bool:
        if self._clock.monotonic() < self._not_before_s:
            return False
        newest, now_ns = self.newest, self._clock.time_ns()
        if newest is not None and head.seq <= newest.name.seq:
            return False
        since_ns = self._since_ns if newest is None else newest.manifest.time_ns
        size = 0 if newest is None else newest.manifest.stored_bytes
        grown = self._log_bytes + log_bytes
        return (
            grown >= max(self._schedule.log_size_bytes, size // 2)
            or now_ns - since_ns >= self._schedule.interval_s * 1e9
        )

    async def _look_up(self) -> None:
        """What the store has of checkpoints, and of the log after the newest."""
        while True:
            try:
                self.newest, self._log_bytes = await trio.to_thread.run_sync(self._found)
            except FusegwError as error:
                log.warning("the checkpoints cannot be listed, trying again: %s", error)
                await trio.sleep(_RETRY_S)
            else:
                self._ready, self._offered = True, trio.Event()
                return

    def _found(self) -> tuple[Written | None, int]:
        """Blocking: the newest that counts, and the size of the log after it up to this reign; those that
        are finished are remembered."""
        newest = None
        there = folders(self._store)
        self._record.begin(folder.name for folder in there if folder.finished)
        for folder in there:
            try:
                newest = examine(self._store, self._keys, folder)
                break
            except (Corrupt, UnknownFormat) as error:
                log.warning("a checkpoint does not count: %s", error)
        after = segment.object_key(0 if newest is None else newest.name.seq)
        began = segment.object_key(self._began.seq)
        entries = self._store.list("log/", start_after=after)
        return newest, sum(entry.size for entry in entries if entry.key <= began)

    def _let_go(self) -> None:
        if self._taken is not None:
            self._taken.view.close()
            self._taken = None

    async def _write(self) -> None:
        offer = self._taken
        assert offer is not None, "an offer is taken before it is announced"
        try:
            written = await self._put(offer)
            self.newest, self._log_bytes = written, -offer.log_bytes
            log.info("checkpoint %s: %d bytes", written.name, written.manifest.stored_bytes)
            await trio.to_thread.run_sync(self._sweep, written)
        except Fenced:
            raise
        except (FusegwError, OSError) as error:
            log.error("no checkpoint was written, trying again in %.0f s: %s", _RETRY_S, error)
            self._not_before_s = self._clock.monotonic() + _RETRY_S

    async def _put(self, offer: _Offer) -> Written:
        steps = write(
            offer.view,
            offer.head,
            self._store,
            self._keys,
            self._entropy,
            still_ours=self._still_ours,
        )
        with closing(steps):
            while True:
                written = await trio.to_thread.run_sync(next, steps)
                if written is not None:
                    return written

    def _sweep(self, written: Written) -> None:
        self._record.finished(written.name)
        self._retention.sweep(written, self._clock.time_ns(), self._still_ours)

    def _still_ours(self) -> None:
        refuse_once_fenced(self._store, self._keys, self._head)
