"""Back-pressure: how much written data the gateway takes on while the store cannot keep up.

Every byte written claims a byte of the cache budget until it is in a pack, and the pack's bytes count until
the pack is stored. Up to the high watermark writes go on freely; from there each one is delayed, the more
the fuller; when the budget is used up a write waits a bounded time and then fails with ENOSPC (the kernel
holds the inode's and the directory's lock meanwhile). The number of waiting writes is bounded too, so that
they never use up the tasks that serve requests. Reads, deletions and truncations never come here.
"""

import errno

import trio

from cache import PackCache

_DELAY_MAX_S = 0.25


class Pressure:
    """The claims of one volume on its cache budget. Loop thread only."""

    def __init__(
        self,
        cache: PackCache,
        *,
        high_watermark: float,
        wait_s: float,
        waiters_max: int,
    ) -> None:
        self._cache = cache
        self._high_watermark = high_watermark
        self._wait_s = wait_s
        self._waiters_max = waiters_max
        self._waiters = 0
        self._room = trio.Event()

    @property
    def wait_s(self) -> float:
        """Longest time one write may be held back, in seconds."""
        return self._wait_s

    def admit_nowait(self, nbytes: int) -> bool:
        """Claim `nbytes` when that needs no waiting, no eviction and no delay."""
        return self._cache.fill_ratio() < self._high_watermark and self._cache.reserve_nowait(nbytes)

    @property
    def calm(self) -> bool:
        """Less than half of what slows writers is used: time for work that could as well be done later."""
        return 2 * self._cache.fill_ratio() < self._high_watermark

    async def admit_spare(self, nbytes: int) -> bool:
        """Claim `nbytes` for such work, evicting if need be; False when that would take waiting for room."""
        return self._cache.reserve_nowait(nbytes) or await trio.to_thread.run_sync(
            self._cache.reserve, nbytes
        )

    async def admit(self, nbytes: int) -> None:
        """Claim `nbytes`, waiting as this module says; OSError ENOSPC when there is no room in time."""
        if self._waiters >= self._waiters_max:
            raise OSError(errno.ENOSPC, "cache is full of data not yet stored, too many writes wait")
        self._waiters += 1
        try:
            with trio.move_on_after(self._wait_s):
                while True:
                    over = (self._cache.fill_ratio() - self._high_watermark) / (1 - self._high_watermark or 1)
                    if over > 0:
                        await trio.sleep(_DELAY_MAX_S * min(over, 1.0) ** 2)
                    room = self._room
                    if self._cache.reserve_nowait(nbytes) or await trio.to_thread.run_sync(
                        self._cache.reserve, nbytes
                    ):
                        return
                    await room.wait()
        finally:
            self._waiters -= 1
        raise OSError(errno.ENOSPC, "cache is full of data not yet stored")

    def release(self, nbytes: int) -> None:
        """Give a claim back: the bytes are in a pack, or dropped."""
        if nbytes:
            self._cache.release(nbytes)
            self.freed()

    def freed(self) -> None:
        """There may be room now."""
        if self._waiters:
            room, self._room = self._room, trio.Event()
            room.set()
