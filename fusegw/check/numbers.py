"""Ascending numbers with columns beside them: what a pass over a million rows remembers, in a few bytes each.

Rows are mostly asked for in the order they were added, so the neighbour is looked at before the rest.
"""

from array import array
from bisect import bisect_left


class Numbers:
    """Keys of a table, ascending, and what is known of each by its index. 8 bytes a key, and its columns."""

    def __init__(self, **columns: str) -> None:
        """`columns`: names and type codes of `array`; a new row has 0 in each that it does not name."""
        self.keys = array("Q")
        self._columns = {name: array(code) for name, code in columns.items()}
        self._guess = 0

    def add(self, key: int, **values: int) -> int:
        """A row above all others; its index."""
        self.keys.append(key)
        for name, column in self._columns.items():
            column.append(values.get(name, 0))
        return len(self.keys) - 1

    def column(self, name: str) -> "array[int]":
        """The values of all rows."""
        return self._columns[name]

    def find(self, key: int) -> int:
        """The index of a row, -1 when there is none."""
        keys, guess = self.keys, self._guess
        if guess < len(keys) and keys[guess] == key:
            return guess
        guess += 1
        if guess >= len(keys) or keys[guess] != key:
            guess = bisect_left(keys, key)
            if guess == len(keys) or keys[guess] != key:
                return -1
        self._guess = guess
        return guess

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: int) -> bool:
        return self.find(key) >= 0
