"""The budget in numbers: what is pinned, clean and reserved, and how much more fits.

    pinned    bytes on disk of pack files under construction or not yet in the store; never evicted
    clean     bytes on disk of evictable blocks (blocks being freed count until they are gone)
    reserved  claims for data accepted in memory that will become pinned

`used` = pinned + clean. Whatever asks for room gets it only while

    pinned + clean + reserved  ≤  limit − margin

and each call moves the sums so:

    reserve(n)                      n bytes of raw data are accepted     reserved += n
    account(name, size, claimed=n)  before they are written to a pack    reserved −= n, pinned += growth
    release(n)                      they were a duplicate, or dropped    reserved −= n
    seal(name, size)                the file is complete                 pinned += growth
    unpin(name)                     it is in the store                   pinned −= size, clean += size
    discard(name)                   it died before it was stored         pinned −= size
    fill, eviction                  blocks come and go                   clean ± their bytes

Growth that was not claimed evicts clean blocks, and only when there are none may it exceed the budget, by at
most one pack. The limit is the budget, or less when the file system below is nearly full: then it is what
is used now plus what is free beyond `disk_reserve` (so a disk that others fill shrinks the cache).
The margin absorbs what a claim for raw bytes cannot foresee: record overhead, footers, rounding.

No lock of its own; the cache's lock guards it.
"""

from collections.abc import Callable

LOOK_INTERVAL_S = 1.0
LOOK_BYTES = 64 << 20


class Ledger:
    """Sums in bytes; `free_bytes` is called at most once a second or once per 64 MiB of growth."""

    def __init__(
        self,
        budget_bytes: int,
        *,
        margin_bytes: int,
        disk_reserve_bytes: int,
        free_bytes: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self.budget = budget_bytes
        self.pinned = 0
        self.clean = 0
        self.reserved = 0
        self.disk_free = 0
        self._margin = margin_bytes
        self._disk_reserve = disk_reserve_bytes
        self._free_bytes = free_bytes
        self._monotonic = monotonic
        self._limit = 0
        self._look_again_at = float("-inf")
        self._look_again_above = 0

    @property
    def used(self) -> int:
        return self.pinned + self.clean

    @property
    def limit(self) -> int:
        """The budget, or what the disk allows of it."""
        return self._limit

    def stale(self) -> bool:
        """True when the free space should be looked up again."""
        return self.used > self._look_again_above or self._monotonic() >= self._look_again_at

    def look(self) -> None:
        """Look the free space up again. A disk that cannot answer keeps the last limit."""
        try:
            self.disk_free = self._free_bytes()
            self._limit = max(0, min(self.budget, self.used + self.disk_free - self._disk_reserve))
        except OSError:
            pass
        self._look_again_at = self._monotonic() + LOOK_INTERVAL_S
        self._look_again_above = self.used + LOOK_BYTES

    def excess(self, more: int) -> int:
        """Bytes to evict before `more` fit; 0 or less when they fit now."""
        return self.pinned + self.clean + self.reserved + more - (self._limit - self._margin)

    def hopeless(self, more: int) -> bool:
        """True when `more` would not fit even with nothing clean left."""
        return self.pinned + self.reserved + more > self._limit - self._margin

    def overrun(self) -> int:
        """Bytes by which the sums exceed the limit (the margin may be used up)."""
        return self.pinned + self.clean + self.reserved - self._limit

    def dirty_ratio(self) -> float:
        """(pinned + reserved) as a share of what claims may fill at all; 1.0 and more is full."""
        room = self._limit - self._margin
        return (self.pinned + self.reserved) / room if room > 0 else 1.0
