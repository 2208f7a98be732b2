"""Answers that the kernel waits for: has somebody on the mount been kept waiting for long?

Whoever reads or writes here is silent while we are slow. A daemon of shares must not be taken for dead then.
"""

import math

import trio

LATE_S = 2.0
"""An answer that is owed for longer is late."""


class Owed:
    """All requests of one mount that may wait. Loop thread only."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        """By request, the oldest first."""
        self._requests = 0
        self._late_at = -math.inf
        """When the last late answer was given."""

    def begin(self) -> int:
        """A request has come; its number."""
        self._requests += 1
        self._since[self._requests] = trio.current_time()
        return self._requests

    def end(self, request: int) -> None:
        """It is answered."""
        now = trio.current_time()
        if now - self._since.pop(request) > LATE_S:
            self._late_at = now

    def kept_waiting(self, within_s: float) -> bool:
        """Whether an answer was late at any time within the last `within_s`."""
        now = trio.current_time()
        if any(now - since > LATE_S for since in self._since.values()):
            return True
        return now - self._late_at <= within_s
