"""Deleting condemned packs: the four conditions of it, each asked where it can no longer change.

A pack without chunks is *condemned* by a row that travels with the log. Its object goes when

(a) the segment that condemned it is in the store, so that whoever takes over knows of it too;
(b) no checkpoint or position that can still be recovered needs it (`fusegw.ship.horizon`);
(c) it has been so for a while, in which readers that were behind (standbys, mounts of an older position that
    is given up now) go on;
(d) no chunk lies in it, counted in the rows themselves right before the request; whatever cannot be read
    means that nothing is deleted.

And only by the volume's writer: the log is asked once more before each request. The rows go after the object;
a crash in between, or a lost reply, means one DELETE more. A pack that is found to be needed is reprieved.
"""

import logging
from collections.abc import Callable, Sequence

import msgspec

from fusegw.errors import Corrupt
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.derived import pack_of
from fusegw.meta.schema import CHUNK, CONDEMNED, PACK, Condemned, Head, Pack
from fusegw.meta.view import View
from fusegw.ship.horizon import oldest_kept
from fusegw.ship.retention import refuse_once_fenced
from fusegw.store.base import ObjectStore

log = logging.getLogger(__name__)


class Doomed(msgspec.Struct, frozen=True):
    """A condemned pack with its row."""

    number: int
    pack: Pack
    row: Condemned


class Deletion:
    """One volume's condemned packs in one reign. Blocking; one thread at a time."""

    def __init__(
        self, store: ObjectStore, keys: VolumeKeys, *, grace_s: float, head: Callable[[], Head]
    ) -> None:
        """`head` gives what this gateway has shipped."""
        self._store = store
        self._keys = keys
        self._grace_ns = int(grace_s * 1e9)
        self._head = head

    def due(self, view: View, now_ns: int) -> list[Doomed]:
        """The condemned packs that conditions (a) to (c) let go."""
        waiting = condemned(view)
        if not waiting:
            return []
        horizon = self.horizon()
        return [
            one
            for one in waiting
            if self.is_shipped(one.row)
            and self.is_past(one.row, horizon)
            and self.is_over(one.row.since_ns, now_ns)
        ]

    def horizon(self) -> int:
        """See `oldest_kept`."""
        return oldest_kept(self._store, self._keys)

    def is_shipped(self, row: Condemned) -> bool:
        """(a)"""
        return 0 < row.seq <= self._head().seq

    def is_past(self, row: Condemned, horizon: int) -> bool:
        """(b)"""
        return row.seq <= horizon

    def is_over(self, since_ns: int, now_ns: int) -> bool:
        """(c)"""
        return now_ns - since_ns >= self._grace_ns

    def needed(self, view: View, batch: Sequence[Doomed]) -> set[int]:
        """(d) Those of `batch` in which chunks lie. Corrupt when a row cannot be read."""
        numbers = {one.number for one in batch}
        counted = {one.number for one in batch if one.pack.live}
        return counted | {pack for _, row in view.checked(CHUNK) if (pack := pack_of(row)) in numbers}

    def delete(self, keys: Sequence[str]) -> None:
        """The objects, at most a request's worth; Fenced when another gateway writes the volume."""
        refuse_once_fenced(self._store, self._keys, self._head())
        self._store.delete(keys)


def condemned(view: View) -> list[Doomed]:
    """All condemned packs. Corrupt when the tables do not fit together."""
    found = []
    for number, row in view.rows(CONDEMNED):
        pack = view.get(PACK, number)
        if pack is None:
            raise Corrupt(f"metadata has no row of pack {number:#x}, which is condemned; run a check")
        found.append(Doomed(number, pack, row))
    return found
