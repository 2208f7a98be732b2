"""Ranged reads of packs from the store into the cache: few and large, and none twice at the same time.

A range that another thread is fetching already is waited for instead. Fetched bytes are not authenticated
here; the cache may keep them or not, so the callers get them in memory too.
"""

import threading
from typing import Protocol

from fusegw.errors import Corrupt, Invalid
from fusegw.packs.format import object_key
from fusegw.store.base import ObjectStore

Range = tuple[int, int]
"""First byte and end."""


class PackRanges(Protocol):
    """What is here of packs: `cache.PackCache`, or `fusegw.packs.files.PackFiles`; their methods say more."""

    def read(self, name: str, offset: int, length: int, *, counted: bool = True) -> bytes | None:
        """Exactly those bytes, not authenticated; None when any of them is not here."""
        ...

    def read_nowait(self, name: str, offset: int, length: int) -> bytes | None:
        """The same bytes, if that takes no waiting for a device; else None."""
        ...

    def missing(self, name: str, offset: int, length: int, *, size: int | None = None) -> list[Range]:
        """(offset, length) of what must be fetched before those bytes can be read, ascending."""
        ...

    def fill(self, name: str, offset: int, data: bytes) -> None:
        """Keep fetched bytes, or not."""
        ...

    def invalidate(self, name: str, offset: int, length: int) -> None:
        """These bytes are bad."""
        ...


class Fetched:
    """One ranged read: `data` is None until it is `done`, and stays so if it failed."""

    __slots__ = ("data", "done", "end", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.data: memoryview | None = None
        self.done = threading.Event()

    def cut(self, offset: int, length: int) -> memoryview | None:
        """Those bytes, None if this read did not bring them all."""
        if self.data is None or offset < self.start or offset + length > self.end:
            return None
        return self.data[offset - self.start : offset - self.start + length]


class Fetcher:
    """Fills a cache from a store. Thread-safe, blocking."""

    def __init__(self, cache: PackRanges, store: ObjectStore, *, request_max_bytes: int = 8 << 20) -> None:
        """`request_max_bytes` must be a multiple of the cache's blocks."""
        self._cache = cache
        self._store = store
        self._request_max = request_max_bytes
        self._lock = threading.Lock()
        self._under_way: dict[bytes, list[Fetched]] = {}

    def exact(self, pack_id: bytes, start: int, length: int) -> bytes:
        """These bytes from the store, past the cache, as `get_range`; Corrupt when the pack is cut off."""
        key = object_key(pack_id)
        try:
            return self._store.get_range(key, start, length)
        except Invalid as error:
            raise Corrupt(f"{error}: the pack is cut off; restore it from another copy") from error

    def blocks(self, pack_id: bytes, ranges: list[Range]) -> list[Fetched]:
        """Bring the ranges (ascending, block-aligned) into the cache; returns the reads that cover them.

        Raises as `exact` when one of this call's own requests fails. One that another thread made and that
        failed is among the results without data.
        """
        others: list[Fetched] = []
        with self._lock:
            under_way = self._under_way.setdefault(pack_id, [])
            for fetched in under_way:
                if any(start < fetched.end and fetched.start < end for start, end in ranges):
                    others.append(fetched)
                    ranges = subtract(ranges, fetched.start, fetched.end)
            own = [
                Fetched(at, min(at + self._request_max, end))
                for start, end in ranges
                for at in range(start, end, self._request_max)
            ]
            under_way.extend(own)
        try:
            for fetched in own:
                self._fetch(pack_id, fetched)
        finally:
            with self._lock:
                for fetched in own:
                    under_way.remove(fetched)
                    fetched.done.set()
                if not under_way and self._under_way.get(pack_id) is under_way:
                    del self._under_way[pack_id]
        for fetched in others:
            fetched.done.wait()
        return own + others

    def _fetch(self, pack_id: bytes, fetched: Fetched) -> None:
        data = self.exact(pack_id, fetched.start, fetched.end - fetched.start)
        fetched.data = memoryview(data)
        fetched.done.set()
        self._cache.fill(pack_id.hex(), fetched.start, data)


def subtract(ranges: list[Range], start: int, end: int) -> list[Range]:
    """What of `ranges` lies outside [start, end)."""
    left = []
    for low, high in ranges:
        if low < min(high, start):
            left.append((low, min(high, start)))
        if max(low, end) < high:
            left.append((max(low, end), high))
    return left


def merge(ranges: list[Range]) -> list[Range]:
    """`ranges` in ascending order, those that touch or overlap joined."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
