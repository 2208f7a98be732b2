"""What a store is asked: requests by kind and bytes each way, as a bill of S3 counts them.

Counted are requests, not calls, so this stands right around the store, below throttle and retries: each try
is one. A put is one request (the S3 store sends each object in one piece), a delete one for each
`DELETE_BATCH_MAX` keys, a list one for each `LIST_PAGE` entries that are taken from it, which is what S3
gives in one answer; a server that gives less is asked more often than counted. A directory is counted as if
it were S3. Bytes are those of objects; headers and answers to lists are left out.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final

import msgspec

from fusegw.errors import FusegwError, Unavailable
from fusegw.store.base import DELETE_BATCH_MAX, ObjectInfo, ObjectStore

LIST_PAGE: Final = 1000


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What went to a store and came from it in some time."""

    put_requests: int = 0
    list_requests: int = 0
    get_requests: int = 0
    """Of whole objects and of ranges."""
    head_requests: int = 0
    delete_requests: int = 0
    failed_requests: int = 0
    """Of all of these, those without an answer, or with one that says to try again."""
    sent_bytes: int = 0
    """Of the puts that succeeded."""
    received_bytes: int = 0
    """Of the gets that succeeded."""

    @property
    def requests(self) -> int:
        """Of all kinds."""
        kinds = (self.put_requests, self.list_requests, self.get_requests, self.head_requests)
        return sum(kinds) + self.delete_requests

    def plus(self, other: "Traffic") -> "Traffic":
        """Of both times together."""
        return Traffic(**{name: getattr(self, name) + getattr(other, name) for name in _FIGURES})


_FIGURES = Traffic.__struct_fields__


class TrafficCounter:
    """Adds up. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._figures = dict.fromkeys(_FIGURES, 0)

    def add(self, figure: str, number: int = 1) -> None:
        """`figure` is a field of `Traffic`."""
        with self._lock:
            self._figures[figure] += number

    def traffic(self) -> Traffic:
        """All since the start."""
        with self._lock:
            return Traffic(**self._figures)


class CountingStore:
    """`ObjectStore` over `inner` that tells `counter` of each request. Thread-safe."""

    def __init__(self, inner: ObjectStore, counter: TrafficCounter) -> None:
        self._inner = inner
        self._counter = counter

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        with self._request("put_requests"):
            self._inner.put(key, data, create_only=create_only)
        self._counter.add("sent_bytes", memoryview(data).nbytes)

    def get(self, key: str, *, size_max: int) -> bytes:
        with self._request("get_requests"):
            data = self._inner.get(key, size_max=size_max)
        self._counter.add("received_bytes", len(data))
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        with self._request("get_requests"):
            data = self._inner.get_range(key, offset, length)
        self._counter.add("received_bytes", len(data))
        return data

    def head(self, key: str) -> ObjectInfo:
        with self._request("head_requests"):
            return self._inner.head(key)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return self._counted(self._inner.list(prefix, start_after=start_after))

    def delete(self, keys: Iterable[str]) -> None:
        remaining = iter(keys)
        while batch := tuple(islice(remaining, DELETE_BATCH_MAX)):
            with self._request("delete_requests"):
                self._inner.delete(batch)

    def close(self) -> None:
        self._inner.close()

    def _counted(self, entries: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        """A page is asked for with its first entry; so is the first one, though it be empty."""
        given = 0
        while True:
            try:
                info = next(entries, None)
            except FusegwError as error:
                self._asked("list_requests", error)
                raise
            if given % LIST_PAGE == 0 and (info is not None or not given):
                self._asked("list_requests", None)
            if info is None:
                return
            given += 1
            yield info

    @contextmanager
    def _request(self, figure: str) -> Iterator[None]:
        try:
            yield
        except FusegwError as error:
            self._asked(figure, error)
            raise
        self._asked(figure, None)

    def _asked(self, figure: str, error: FusegwError | None) -> None:
        self._counter.add(figure)
        if isinstance(error, Unavailable):
            self._counter.add("failed_requests")
