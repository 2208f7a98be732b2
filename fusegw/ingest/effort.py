"""How hard new chunks are compressed: as hard as costs nobody time.

Whoever writes a stream faster than it can be encoded waits for compression, so it is fast then. A writer that
is slower leaves time, and where packs wait for the store at the same time, every byte less gets them there
sooner: then it is thorough. Only speed and size depend on the level; any chunk opens in the same way.
"""

from collections.abc import Callable

from fusegw.packs.compress import LEVEL_DEFAULT

LEVEL_FAST = 2
LEVEL_THOROUGH = 6

BEHIND_BYTES = 24 << 20
"""Written bytes in flight above which encoding holds up who writes. Up to that, what was written lately is in
flight in any case."""
WAITING_BYTES = 256 << 20
"""Bytes that wait for the store above which the store is what holds up the backup."""


class Effort:
    """Gives levels of zstd, from any thread."""

    def __init__(self, fixed_level: int = 0, *, unstored_bytes: Callable[[], int] = lambda: 0) -> None:
        """`fixed_level` is the answer in any case, unless it is 0; `unstored_bytes` wait for the store."""
        self._fixed = fixed_level
        self._unstored_bytes = unstored_bytes

    def at_once(self) -> int:
        """For a small chunk that everybody waits for."""
        return self._fixed or LEVEL_DEFAULT

    def beside(self, in_flight_bytes: int) -> int:
        """For a chunk in a worker thread, while so many written bytes are not encoded."""
        if self._fixed:
            return self._fixed
        if in_flight_bytes > BEHIND_BYTES:
            return LEVEL_FAST
        return LEVEL_THOROUGH if self._unstored_bytes() > WAITING_BYTES else LEVEL_DEFAULT
