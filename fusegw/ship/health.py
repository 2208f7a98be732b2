"""What the gateway knows of the store's health and its own upload rate."""

from collections import deque
from typing import Literal

import msgspec

from fusegw.clock import Clock
from fusegw.errors import Denied, FusegwError

_RATE_WINDOW_S = 30.0


class StoreHealth(msgspec.Struct, frozen=True):
    """`state` is ok, degraded (the newest upload failed and is being tried again) or down (for a minute or
    more)."""

    state: Literal["ok", "degraded", "down"]
    last_error: str = ""
    since_s: float = 0.0


class Health:
    """Counts successes and failures of uploads. Loop thread only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failing_since: float | None = None
        self._error: FusegwError | None = None
        self._stored: deque[tuple[float, int]] = deque()
        self.failures = 0
        """Failed uploads since the start."""

    def succeeded(self, nbytes: int) -> None:
        """`nbytes` reached the store."""
        self._failing_since = None
        self._stored.append((self._clock.monotonic(), nbytes))
        self._trim()

    def failed(self, error: FusegwError) -> None:
        """An upload failed."""
        self.failures += 1
        self._error = error
        if self._failing_since is None:
            self._failing_since = self._clock.monotonic()

    @property
    def error(self) -> FusegwError | None:
        """The newest failure while uploads fail, None while they succeed."""
        return self._error if self._failing_since is not None else None

    def report(self) -> StoreHealth:
        """The present state, for people."""
        if self._failing_since is None:
            return StoreHealth("ok", "" if self._error is None else str(self._error))
        since = self._clock.monotonic() - self._failing_since
        down = since >= 60 or isinstance(self._error, Denied)
        return StoreHealth("down" if down else "degraded", str(self._error), since)

    @property
    def upload_rate_bytes_s(self) -> float:
        """Bytes stored per second over the last half minute."""
        self._trim()
        return sum(nbytes for _, nbytes in self._stored) / _RATE_WINDOW_S

    def _trim(self) -> None:
        horizon = self._clock.monotonic() - _RATE_WINDOW_S
        while self._stored and self._stored[0][0] < horizon:
            self._stored.popleft()
