"""Objects in RAM: the fake that tests of other layers use, held to the same contract as the real stores."""

import threading
from collections.abc import Iterable, Iterator
from itertools import islice

from sortedcontainers import SortedDict

from fusegw.clock import Clock
from fusegw.errors import Corrupt, Exists, Invalid, NotFound
from fusegw.store.base import ObjectInfo, beyond_end, check_key, check_prefix, check_range, too_large

_PAGE = 1000


class MemoryStore:
    """`ObjectStore` that forgets all when it is dropped. Thread-safe."""

    def __init__(self, *, clock: Clock, name: str = "memory") -> None:
        self.url = f"memory:{name}"
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: SortedDict[str, tuple[bytes, int]] = SortedDict()  # key -> bytes, time of put in ns

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        check_key(key)
        entry = bytes(data), self._clock.time_ns()
        with self._lock:
            if create_only and key in self._objects:
                raise Exists(f"object {key} is already in {self.url}, expected a free name")
            self._objects[key] = entry

    def get(self, key: str, *, size_max: int) -> bytes:
        data, _ = self._entry(key)
        if len(data) > size_max:
            raise Corrupt(too_large(self.url, key, len(data), size_max))
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        check_range(key, offset, length)
        data, _ = self._entry(key)
        if offset + length > len(data):
            raise Invalid(beyond_end(self.url, key, offset, length, len(data)))
        return data[offset : offset + length]

    def head(self, key: str) -> ObjectInfo:
        data, modified_ns = self._entry(key)
        return ObjectInfo(key, len(data), modified_ns)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        return self._pages(prefix, start_after)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            check_key(key)
            with self._lock:
                self._objects.pop(key, None)

    def close(self) -> None:
        """Nothing is held open."""

    def _entry(self, key: str) -> tuple[bytes, int]:
        check_key(key)
        with self._lock:
            entry: tuple[bytes, int] | None = self._objects.get(key)
        if entry is None:
            raise NotFound(f"object {key} is not in {self.url}")
        return entry

    def _pages(self, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
        inclusive = prefix > start_after
        first = prefix if inclusive else start_after
        while True:
            with self._lock:
                keys = islice(self._objects.irange(minimum=first, inclusive=(inclusive, True)), _PAGE)
                page = [(key, *self._objects[key]) for key in keys]
            for key, data, modified_ns in page:
                if not key.startswith(prefix):
                    return
                yield ObjectInfo(key, len(data), modified_ns)
            if len(page) < _PAGE:
                return
            first, inclusive = page[-1][0], False
