"""The only place that reads clocks and draws random bytes.

Everything else gets a `Clock` and an `Entropy` passed in, so a test can own time and chance.
"""

import os
import random
import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for stamps, monotonic time for intervals."""

    def time_ns(self) -> int:
        """Nanoseconds since 1970 (UTC); may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...


class Entropy(Protocol):
    """Random bytes for keys, salts, nonces and ids, and jitter for retries."""

    def token(self, size: int) -> bytes:
        """`size` bytes nobody can predict."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high) for jitter; not for secrets."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


class SystemEntropy:
    """The kernel's random source."""

    def token(self, size: int) -> bytes:
        return os.urandom(size)

    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)


def utc(time_ns: int) -> str:
    """A wall time (ns since 1970) for people, in seconds."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_ns // 1_000_000_000))
