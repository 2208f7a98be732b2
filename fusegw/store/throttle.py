"""Bounded parallelism: at most so many requests in flight at one store, whoever asks.

Lists are not counted: their caller may hold one open while it makes other requests, and would wait for
itself.
"""

import threading
from collections.abc import Iterable, Iterator

from fusegw.store.base import ObjectInfo, ObjectStore


class ThrottledStore:
    """`ObjectStore` that lets `requests_max` calls through at once; the others wait their turn."""

    def __init__(self, inner: ObjectStore, *, requests_max: int) -> None:
        self._inner = inner
        self._slots = threading.BoundedSemaphore(requests_max)

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        with self._slots:
            self._inner.put(key, data, create_only=create_only)

    def get(self, key: str, *, size_max: int) -> bytes:
        with self._slots:
            return self._inner.get(key, size_max=size_max)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        with self._slots:
            return self._inner.get_range(key, offset, length)

    def head(self, key: str) -> ObjectInfo:
        with self._slots:
            return self._inner.head(key)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list(prefix, start_after=start_after)

    def delete(self, keys: Iterable[str]) -> None:
        with self._slots:
            self._inner.delete(keys)

    def close(self) -> None:
        self._inner.close()
