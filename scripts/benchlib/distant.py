"""`fusegw` with its store far away: each request takes `ROUND_TRIP_S` longer, however many are under way.

The time that something takes then tells how many requests were waited for one after the other.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from fusegw.cli.main import main
from fusegw.store import opening
from fusegw.store.base import ObjectInfo, ObjectStore
from fusegw.store.throttle import ThrottledStore

ROUND_TRIP_S = 0.25
"""Long beside what everything else on the way to a first byte takes."""


class DistantStore:
    """`ObjectStore` at the other end of a long way to `inner`."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        time.sleep(ROUND_TRIP_S)
        self._inner.put(key, data, create_only=create_only)

    def get(self, key: str, *, size_max: int) -> bytes:
        time.sleep(ROUND_TRIP_S)
        return self._inner.get(key, size_max=size_max)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        time.sleep(ROUND_TRIP_S)
        return self._inner.get_range(key, offset, length)

    def head(self, key: str) -> ObjectInfo:
        time.sleep(ROUND_TRIP_S)
        return self._inner.head(key)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        time.sleep(ROUND_TRIP_S)
        return self._inner.list(prefix, start_after=start_after)

    def delete(self, keys: Iterable[str]) -> None:
        time.sleep(ROUND_TRIP_S)
        self._inner.delete(keys)

    def close(self) -> None:
        self._inner.close()


def _throttled(inner: ObjectStore, **bounds: Any) -> ThrottledStore:
    """Below the bound on requests, so that who waits there is one of them."""
    return ThrottledStore(DistantStore(inner), **bounds)


if __name__ == "__main__":
    vars(opening)["ThrottledStore"] = _throttled
    sys.exit(main())
