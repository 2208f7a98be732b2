"""Ships the volume's log: cuts, seals, sends, and knows how far the store has followed.

A *cut* is a commit at which every pack it refers to is closed. Its way, and what a crash leaves at each step:
cut (start: the tail has its records, they are cut again) → all packs of the cut are in the store (the same) →
a segment sealed and durable in the log tail (start: the same bytes are sent again) → PUT (start: found
there, byte for byte) → head and tail moved on in one commit. So a segment never reaches the store before
what it refers to, and never with two contents.

Every PUT of a segment is create-only and is the fencing check: when the slot holds other bytes, somebody
else has taken the volume over, and this gateway must not write any more. Without changes the next slot is
looked at once in an interval, so an idle gateway learns of it as well.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import msgspec
import trio

from fusegw.clock import Clock, Entropy
from fusegw.errors import Corrupt, Exists, Fenced, FusegwError, NotFound, Unavailable
from fusegw.keys.hierarchy import SALT_SIZE, VolumeKeys
from fusegw.meta.committer import Committer
from fusegw.meta.metadata import Metadata, Row
from fusegw.meta.records import decode_records, encode_delete, encode_put
from fusegw.meta.schema import (
    LOCAL,
    LOCAL_HEAD,
    LOG_SEALED,
    LOG_TAIL,
    PACK_LOCAL,
    Head,
    Sealed,
    encode_head,
)
from fusegw.meta.view import View
from fusegw.packs.format import NONCE_SIZE
from fusegw.ship import segment
from fusegw.ship.health import Health
from fusegw.ship.segment import CHANGES, SEGMENT_BYTES_MAX, Segment
from fusegw.ship.shipper import Shipper
from fusegw.store.base import ObjectStore

log = logging.getLogger(__name__)
PART_BYTES = 8 << 20
"""Records at which a segment is full and the rest goes into the next one."""
_PERIOD = 0.9
"""Of an interval, from one round to the next: the rest is for the answer of the store, so that a takeover is
known within the interval even where nothing was to be shipped."""
_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 30.0
_SETTLE_MAX_S = 1.0
"""Longest time a cut is put off for data in memory."""


class _Cut(msgspec.Struct, frozen=True):
    """A commit with all its packs closed, held still."""

    view: View
    packs: frozenset[int]
    """Those that were not in the store at that time."""


class LogShipper:
    """The log of one volume in one reign. Loop thread only; `run` must be running.

    `settle` gets data that is in memory into the index, so that its age counts from the write; `held` keeps
    new data from being merged while a cut is made. `offer` gets, at the end of each round, the state that the
    log has then, its head and the bytes shipped so far; if it returns True it keeps the view.
    """

    def __init__(
        self,
        metadata: Metadata,
        committer: Committer,
        packs: Shipper,
        store: ObjectStore,
        keys: VolumeKeys,
        health: Health,
        *,
        settle: Callable[[], Awaitable[None]],
        held: Callable[[], AbstractContextManager[None]],
        offer: Callable[[View, Head, int], bool],
        clock: Clock,
        entropy: Entropy,
        ship_interval_s: float,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._metadata = metadata
        self._committer = committer
        self._packs = packs
        self._store = store
        self._keys = keys
        self._health = health
        self._settle = settle
        self._held = held
        self._offer = offer
        self._clock = clock
        self._entropy = entropy
        self._ship_interval_s = ship_interval_s
        self._part_bytes = part_bytes
        self._wanted = trio.Event()
        self._progress = trio.Event()
        self._begun = 0
        self._done = 0
        self._error: FusegwError | OSError | None = None
        self.head = metadata.head
        """What the store has."""
        metadata.unshipped.shipped(self.head.commit)
        self._sealed: Sealed | None = None
        """May be in the store while the index does not say so: its slot gets these bytes and no others."""
        self.shipped_bytes = 0
        """Of segments, since the start."""
        self.fenced: Fenced | None = None
        """Set for good once another gateway has taken over."""

    @property
    def oldest_unshipped_s(self) -> float | None:
        """Age in seconds of the oldest change that is not in the store; None when all are."""
        since = self._metadata.unshipped_since_ns
        return None if since is None else max(0.0, (self._clock.time_ns() - since) / 1e9)

    async def barrier(self) -> None:
        """Return once everything merged before this call is in the store; raises why it cannot be."""
        number = self._begun + 1
        failures = self._health.failures
        self._wanted.set()
        while self._done < number:
            if self.fenced is not None:
                raise Fenced(str(self.fenced))
            if number <= self._begun and self._error is not None:
                raise type(self._error)(str(self._error))
            if self._health.failures > failures and self._health.error is not None:
                raise type(self._health.error)(str(self._health.error))
            await self._wait()

    async def until_fenced(self) -> None:
        """Return once another gateway has taken over."""
        while self.fenced is None:
            await self.advanced()

    async def advanced(self) -> None:
        """Wait until something was shipped, or could not be."""
        await self._progress.wait()

    @property
    def complete(self) -> bool:
        """Whether all that was ever merged is in the store; data still in memory is not merged."""
        metadata = self._metadata
        return metadata.unsaved_since_ns is None and metadata.commit_number == self.head.commit

    async def run(self) -> None:
        """Ship for ever, until cancelled or fenced."""
        due = trio.current_time()
        while self.fenced is None:
            due = max(due + _PERIOD * self._ship_interval_s, trio.current_time())
            with trio.move_on_at(due):
                await self._wanted.wait()
            due = trio.current_time()
            self._wanted = trio.Event()
            self._begun += 1
            number, self._error = self._begun, None
            try:
                await self._ship()
                self._done = number
            except Fenced as error:
                log.critical("this gateway is fenced, it writes nothing any more: %s", error)
                self.fenced = error
            except (FusegwError, OSError) as error:
                log.error("the log does not get into the store, trying again: %s", error)
                self._error = error
                self._signal()
                await trio.sleep(_BACKOFF_FIRST_S)
            self._signal()

    async def _ship(self) -> None:
        """One round: everything that was merged before is in the store on return."""
        if self._sealed is not None:
            await self._bring(self._sealed)
        while True:
            cut = await self._cut()
            kept = False
            try:
                if cut.view.commit == self.head.commit:
                    await self._patiently(self._look, 0)
                elif await self._packs.stored(cut.packs):
                    await self._send(cut.view)
                else:
                    continue
                kept = self._offer(cut.view, self.head, self.shipped_bytes)
                return
            finally:
                if not kept:
                    cut.view.close()

    async def _cut(self) -> _Cut:
        with trio.move_on_after(_SETTLE_MAX_S):
            try:
                await self._settle()
            except (FusegwError, OSError):
                pass  # Whoever wrote it is told. The cut is made without it, which may even help.
        with self._held():
            await self._packs.close()
            await self._committer.commit()
            view = self._metadata.view()
            self._metadata.unshipped.cut()
        return _Cut(view, frozenset(number for number, _ in view.rows(PACK_LOCAL)))

    async def _send(self, view: View) -> None:
        """Everything of the view that the log does not have, in segments of bounded size."""
        covered, commit = self.head.commit, view.commit
        parts = _parts(view, covered, self._part_bytes)
        while (part := await trio.to_thread.run_sync(next, parts, None)) is not None:
            records, final = part
            seal = partial(self._seal, records, final, commit if final else covered)
            self._sealed = await trio.to_thread.run_sync(seal)
            await self._bring(self._sealed)

    async def _bring(self, sealed: Sealed) -> None:
        """The segment is in the store, and the index says so."""
        await self._patiently(self._put, len(sealed.data), sealed)
        gone = range(self.head.commit + 1, sealed.head.commit + 1)
        await trio.to_thread.run_sync(self._metadata.write, list(moved_on(sealed, gone)))
        self.head, self._sealed = sealed.head, None
        self.shipped_bytes += len(sealed.data)
        self._metadata.renew()
        self._metadata.unshipped.shipped(self.head.commit)

    def _seal(self, records: bytes, final: bool, commit: int) -> Sealed:
        """Blocking: the next segment, its bytes durable here."""
        head = self.head
        what = Segment(head.seq + 1, head.epoch, CHANGES, final, self._clock.time_ns(), records)
        return seal_durably(self._metadata, what, head, commit, self._keys, self._entropy)

    def _put(self, sealed: Sealed) -> None:
        put_segment(self._store, sealed, self.head, self._keys)

    def _look(self) -> None:
        """Is the next slot still free?"""
        key = segment.object_key(self.head.seq + 1)
        try:
            self._store.head(key)
        except NotFound:
            return
        raise Fenced(fenced_by(self._store, self.head, self._keys))

    async def _patiently(self, request: Callable[..., None], nbytes: int, *arguments: object) -> None:
        """Do it in a thread, again and again while the store does not answer."""
        backoff_s = _BACKOFF_FIRST_S
        while True:
            try:
                await trio.to_thread.run_sync(request, *arguments)
            except Fenced:
                raise
            except FusegwError as error:
                if self._health.error is None:
                    log.warning("the log is not in the store yet, trying again: %s", error)
                self._health.failed(error)
                self._signal()
                await trio.sleep(self._entropy.uniform(backoff_s / 2, backoff_s))
                backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)
            else:
                self._health.succeeded(nbytes)
                return

    async def _wait(self) -> None:
        """For progress of the log, or news from the packs."""
        async with trio.open_nursery() as nursery:

            async def wait(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, self._progress)
            nursery.start_soon(wait, self._packs.progress)

    def _signal(self) -> None:
        progress, self._progress = self._progress, trio.Event()
        progress.set()


def seal_durably(
    metadata: Metadata, what: Segment, after: Head, commit: int, keys: VolumeKeys, entropy: Entropy
) -> Sealed:
    """Blocking: the object of segment `what` after `after`; its bytes are in the index before anybody sees
    them."""
    data = segment.seal(
        what, after.hash, keys, salt=entropy.token(SALT_SIZE), nonce=entropy.token(NONCE_SIZE)
    )
    sealed = Sealed(Head(what.seq, segment.digest(data), what.epoch, commit), data)
    metadata.write([(LOG_SEALED, what.seq, sealed)])
    return sealed


def put_segment(store: ObjectStore, sealed: Sealed, after: Head, keys: VolumeKeys) -> None:
    """Blocking: the segment into its slot; Fenced when that holds another one."""
    key = segment.object_key(sealed.head.seq)
    try:
        store.put(key, sealed.data, create_only=True)
    except Exists:
        try:
            found = store.get(key, size_max=SEGMENT_BYTES_MAX)
        except NotFound:
            raise Unavailable(f"object {key} was there a moment ago and is gone: trying again") from None
        except Corrupt as error:
            raise Fenced(f"slot {key} of the log is taken, by what is no segment: {error}") from None
        if found != sealed.data:
            raise Fenced(_taken_by(found, after, keys)) from None


def moved_on(sealed: Sealed, gone: range) -> Iterator[Row]:
    """The rows that say that `sealed` is in the store, and the commits `gone` from the tail with it."""
    yield LOG_SEALED, sealed.head.seq, None
    yield LOCAL, LOCAL_HEAD, encode_head(sealed.head)
    for number in gone:
        yield LOG_TAIL, number, None


def fenced_by(store: ObjectStore, after: Head, keys: VolumeKeys) -> str:
    """Says who has the slot after `after`, which is known to be taken."""
    key = segment.object_key(after.seq + 1)
    try:
        return _taken_by(store.get(key, size_max=SEGMENT_BYTES_MAX), after, keys)
    except FusegwError as error:
        return f"slot {key} of the log is taken, by whom is not known: {error}"


def _taken_by(data: bytes, after: Head, keys: VolumeKeys) -> str:
    key = segment.object_key(after.seq + 1)
    try:
        other = segment.unseal(data, after, keys)
    except FusegwError as error:
        return f"slot {key} of the log is taken, by something that cannot be read: {error}"
    if other.kind == segment.TAKEOVER:
        return (
            f"{other.writer} took the volume over (epoch {other.epoch}, {key}); what is not in the store yet "
            "is kept on this host, for fusegw salvage"
        )
    return f"slot {key} of the log is taken by another writer of epoch {other.epoch}; use one gateway only"


def _parts(view: View, after_commit: int, part_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """(records, whether they are the last) of all commits after `after_commit`; within a part the last record
    of a row stands for all of them."""
    rows: dict[tuple[int, bytes], bytes | None] = {}
    size = 0
    for number, commit in view.rows(LOG_TAIL, after_commit + 1):
        for code, key, value in decode_records(commit.records, f"commit {number} in the log tail"):
            if size >= part_bytes:
                yield _encoded(rows), False
                rows, size = {}, 0
            rows[code, key] = value
            size += len(key) + len(value or b"") + 8
    yield _encoded(rows), True


def _encoded(rows: dict[tuple[int, bytes], bytes | None]) -> bytes:
    return b"".join(
        [
            encode_delete(code, key) if value is None else encode_put(code, key, value)
            for (code, key), value in rows.items()
        ]
    )
