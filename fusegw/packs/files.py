"""Packs read where they lie, for offline tools: nothing is kept, nothing changed.

Stands in the place of the cache below a `PackReader`. Spool files that never got a footer, whole packs and
the sparse files of a cache are all the same here: a range is present when the file has data there.
"""

import os
from collections.abc import Container, Sequence
from pathlib import Path

from fusegw.packs.fetch import Range


class PackFiles:
    """Files `NAME` or `NN/NAME` below `places`, the first that has the bytes wins. Thread-safe.

    `alone` names the packs that are nowhere else: what a file lacks of those is not asked for in the store.
    `only` these packs are looked for here.
    Without places everything comes from the store, each range exactly and again each time.
    """

    def __init__(
        self,
        places: Sequence[Path] = (),
        alone: Container[str] = (),
        only: Container[str] | None = None,
    ) -> None:
        self._places = places
        self._alone = alone
        self._only = only

    def read(self, name: str, offset: int, length: int, *, counted: bool = True) -> bytes | None:
        """Exactly those bytes, not authenticated; None when no file has them all."""
        if self._only is not None and name not in self._only:
            return None
        for place in self._places:
            for path in (place / name, place / name[:2] / name):
                data = _present(path, offset, length)
                if data is not None:
                    return data
        return None

    def read_nowait(self, name: str, offset: int, length: int) -> bytes | None:
        """Nothing: files are not kept open here."""

    def missing(self, name: str, offset: int, length: int, *, size: int | None = None) -> list[Range]:
        """All of it, whatever is here: a range is asked for after it was not found, or found damaged."""
        return [] if name in self._alone else [(offset, length)]

    def fill(self, name: str, offset: int, data: bytes) -> None:
        """Nothing is kept."""

    def invalidate(self, name: str, offset: int, length: int) -> None:
        """Nothing is changed; the reader asks the store next."""


def _present(path: Path, offset: int, length: int) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.lseek(descriptor, offset, os.SEEK_HOLE) < offset + length:
            return None
        data = os.pread(descriptor, length, offset)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return data if len(data) == length else None
