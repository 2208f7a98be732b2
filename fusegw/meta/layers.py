"""Layers: rows that are not in LMDB yet, one set per table, and how a scan sees them over what lies below.

Writes are far more frequent than scans, so a layer is a plain dict and its keys are put in order only when
somebody scans. That is cheap because keys are never taken out (a deleted row is None): those not in order yet
are the dict's youngest.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

from sortedcontainers import SortedList

from fusegw.meta.schema import TABLES

K = TypeVar("K")
V = TypeVar("V")

Layer = dict[str, "Rows"]
"""Table name → rows."""


class Rows(dict[Any, Any]):
    """Key → value, None for deleted; keys may be added and overwritten, never removed."""

    __slots__ = ("_order",)
    _order: Any

    def __init__(self) -> None:
        super().__init__()
        self._order = None

    def between(self, low: Any, high: Any, *, reverse: bool) -> Iterator[Any]:
        """The keys with low <= key < high in order; add none while it runs."""
        order = self._order
        if order is None:
            order = self._order = SortedList(self)
        elif len(order) < len(self):
            order.update(islice(reversed(self), len(self) - len(order)))
        keys: Iterator[Any] = order.irange(low, high, (True, False), reverse)
        return keys


def new_layer() -> Layer:
    """A layer without rows."""
    return {table.name: Rows() for table in TABLES}


def overlay(
    below: Iterator[tuple[K, V | None]], rows: Rows, low: K, high: K, *, reverse: bool
) -> Iterator[tuple[K, V | None]]:
    """The rows `below`, with those of `rows` in their place; both in the same order."""
    keys = rows.between(low, high, reverse=reverse)
    own = next(keys, None)
    if own is None:
        yield from below
        return
    for key, value in below:
        while own is not None and own != key and (own < key) is not reverse:
            yield own, rows[own]
            own = next(keys, None)
        if own == key:
            yield key, rows[key]
            own = next(keys, None)
        else:
            yield key, value
    while own is not None:
        yield own, rows[own]
        own = next(keys, None)
