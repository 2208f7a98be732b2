"""A store that is read and never changed, whatever the caller tries."""

from collections.abc import Iterable, Iterator

from fusegw.errors import Denied
from fusegw.store.base import ObjectInfo, ObjectStore


class ReadOnlyStore:
    """`ObjectStore` over `inner` that lets reads through; every other request is Denied before it is made."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        raise Denied(f"object {key} is not written: {self.url} was opened for reading only")

    def get(self, key: str, *, size_max: int) -> bytes:
        return self._inner.get(key, size_max=size_max)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._inner.get_range(key, offset, length)

    def head(self, key: str) -> ObjectInfo:
        return self._inner.head(key)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list(prefix, start_after=start_after)

    def delete(self, keys: Iterable[str]) -> None:
        raise Denied(f"nothing is deleted: {self.url} was opened for reading only")

    def close(self) -> None:
        self._inner.close()
