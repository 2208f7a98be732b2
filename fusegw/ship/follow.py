"""Following a log that another gateway writes: the index of a standby, always at one shipped position.

`Tail` does what blocks, `Follower` the rest on the event loop: it looks for news once in an interval, lets
the loop see the new rows, and counts them as shown only when everybody who keeps copies of old ones has
dropped them. Nothing is written to the store.

What keeps it from following is told (`error`, `lag_s`) and tried again; what is there goes on being shown.
A damaged or missing segment ends the following at the last whole position until it is mended; one that was
given up before it was read here, until the next mount begins with a checkpoint.

A reader that finds a pack gone calls `refresh`: what the store has is applied, so that it sees where the
chunk lies now. It does not wait until others have dropped their copies: they may be waiting for the reader.

`take_over` turns a standby into the writer: it catches up, then begins a new epoch as every writer does. What
fails leaves a standby that follows.
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from msgspec.structs import replace

from fusegw.clock import Clock, Entropy
from fusegw.errors import Corrupt, Denied, FusegwError, Unavailable, UnknownFormat
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.metadata import Metadata
from fusegw.meta.rebuild import Changed
from fusegw.meta.schema import Head
from fusegw.ship.accession import catch_up_and_take_over
from fusegw.ship.chain import Pruned
from fusegw.ship.health import Health
from fusegw.ship.tail import Tail
from fusegw.ship.takeover import Superseded, admit, take_over
from fusegw.store.base import ObjectStore

log = logging.getLogger(__name__)
GAP_LOOKS_S = 60.0
"""Time between two looks whether the log really ends here."""
DAMAGED_S = 30.0
"""Pause before a segment that does not open is read again."""


class Follower:
    """A volume's index as it follows the log. Loop thread only; `run` must be running.

    `reload` makes the loop's own figures those of the index, without waiting. `settle` is awaited with what
    changed before that counts as shown; it may be set until `run` begins.
    """

    def __init__(
        self,
        metadata: Metadata,
        store: ObjectStore,
        keys: VolumeKeys,
        health: Health,
        *,
        clock: Clock,
        entropy: Entropy,
        interval_s: float,
        reload: Callable[[], None],
    ) -> None:
        self._metadata = metadata
        self._store = store
        self._keys = keys
        self._health = health
        self._clock = clock
        self._entropy = entropy
        self._interval_s = interval_s
        self._reload = reload
        self._tail = Tail(metadata, store, keys, metadata.head)
        self._turn = trio.Lock()
        self._applying = trio.Lock()
        """Held by who uses the tail."""
        self._applied = metadata.head
        """Where the index is."""
        self._unshown: list[Changed] = []
        self._current_at = clock.monotonic()
        self._gap_looked_at = self._current_at - GAP_LOOKS_S
        self._settle: Callable[[Changed], Awaitable[None]] | None = None
        self.shown = metadata.head
        """The position that everybody sees."""
        self.behind_segments: int | None = None
        """Segments in the store that are not shown, as far as known; None before the first look."""
        self.error: FusegwError | None = None
        """What keeps it from following at present."""
        self.promoted = trio.Event()
        """Set once this gateway is the writer."""

    @property
    def lag_s(self) -> float:
        """Seconds since all that the store had was shown (or since the start): nothing shown is older than
        that."""
        return max(0.0, self._clock.monotonic() - self._current_at)

    def settle_with(self, settle: Callable[[Changed], Awaitable[None]]) -> None:
        """From now on `settle` is awaited before a position counts as shown; it drops copies of old rows."""
        self._settle = settle

    async def run(self) -> None:
        """Follow until cancelled or promoted."""
        while not self.promoted.is_set():
            pause_s = self._interval_s
            async with self._turn:
                if not self.promoted.is_set():
                    pause_s = await self._round()
            with trio.move_on_after(pause_s):
                await self.promoted.wait()

    async def catch_up(self) -> None:
        """Show all that the store has; raises what keeps it from that."""
        async with self._turn:
            await self._catch_up()

    async def refresh(self) -> None:
        """Let the loop see all that the store has; it is shown later. Raises what keeps it from that."""
        while not self.promoted.is_set() and await self._apply(look_for_gap=False):
            pass

    async def take_over(self, writer: str, reign: Callable[[], None]) -> Head:
        """Become the writer, as `writer`: catch up, begin a new epoch, and call `reign` before anybody else
        runs. The head of the new epoch.

        Whatever it raises (Busy: others keep taking over; what the store raises; what keeps it from catching
        up), it still follows. An outage in the midst may have ended the old writer's reign nevertheless.
        """
        async with self._turn:
            await self._catch_up()
            # From here on it must not end half done because the one who asked has left.
            with trio.CancelScope(shield=True):
                async with self._applying:
                    head = await trio.to_thread.run_sync(self._begin, writer)
                    self._applied = self._tail.position
                try:
                    await self._show()
                except FusegwError as error:
                    log.error("the kernel may believe old attributes of what changed last: %s", error)
                self._metadata.renew()
                self.shown = head
                self.promoted.set()
                reign()
            log.info("promoted: this gateway writes the volume from epoch %d on", head.epoch)
            return head

    def _begin(self, writer: str) -> Head:
        """Blocking. What the old writer ships meanwhile is applied, to be shown afterwards; parts of a step
        that it never finished are followed all the same."""
        metadata, store, keys = self._metadata, self._store, self._keys
        reign = partial(
            take_over, metadata, store, keys, writer=writer, clock=self._clock, entropy=self._entropy
        )
        tip = replace(self._tail.tip, commit=metadata.commit_number)
        try:
            return reign(admit(metadata, store, keys, tip))
        except Superseded as error:
            log.info("the log went on, catching up: %s", error)
        try:
            return catch_up_and_take_over(
                metadata,
                store,
                keys,
                tail=self._tail,
                on_applied=self._unshown.append,
                writer=writer,
                clock=self._clock,
                entropy=self._entropy,
            )
        except Superseded as error:
            raise Corrupt(f"the log cannot be followed to its end: {error}") from None

    async def _round(self) -> float:
        """One look for news, whatever comes of it; the pause until the next."""
        try:
            await self._catch_up()
        except (Unavailable, Denied) as error:
            if self.error is None:
                log.warning("the store does not answer, showing segment %d: %s", self.shown.seq, error)
            self.error = error
            self._health.failed(error)
        except FusegwError as error:
            self.error = self._told(error)
            await self._count()
            return DAMAGED_S if isinstance(error, Corrupt | UnknownFormat) else self._interval_s
        return self._interval_s

    async def _count(self) -> None:
        try:
            self.behind_segments = await trio.to_thread.run_sync(self._tail.behind)
        except FusegwError as error:
            log.debug("the log cannot be listed: %s", error)

    def _told(self, error: FusegwError) -> FusegwError:
        """The error as people are told; in the log once."""
        what = f"{error}. Segment {self.shown.seq} is the newest state that is whole, and goes on being shown"
        if isinstance(error, Pruned):
            what += "; unmount and mount again, which rebuilds the index from the store"
        if self.error is None or str(self.error) != what:
            log.error("the log cannot be followed: %s", what)
        return type(error)(what)

    async def _catch_up(self) -> None:
        """Position by position, to the end of the log."""
        await self._show()
        counted_at = self._clock.monotonic()
        while True:
            begun = self._clock.monotonic()
            look_for_gap = begun - self._gap_looked_at >= GAP_LOOKS_S
            if not await self._apply(look_for_gap=look_for_gap):
                break
            await self._show()
            if begun - counted_at > self._interval_s:
                await self._count()
                counted_at = self._clock.monotonic()
        if look_for_gap:
            self._gap_looked_at = begun
        if self.error is not None:
            log.info("following again, at segment %d", self.shown.seq)
        self.error, self.behind_segments, self._current_at = None, 0, begun
        self._health.succeeded(0)

    async def _apply(self, *, look_for_gap: bool) -> bool:
        """The next position in the index, for the loop to see; False when the store has none yet."""
        async with self._applying:
            if self.promoted.is_set():
                return False
            changed = await trio.to_thread.run_sync(partial(self._tail.advance, look_for_gap=look_for_gap))
            if changed is None:
                return False
            self._unshown.append(changed)
            self._applied = self._tail.position
            self._metadata.renew()
            self._reload()
        return True

    async def _show(self) -> None:
        """Everybody sees where the index is, then what they kept of older positions is dropped."""
        if self._unshown:
            self._metadata.renew()
            self._reload()
        while self._unshown:
            if self._settle is not None:
                await self._settle(self._unshown[0])
            del self._unshown[0]
        self.shown = self._applied
