"""Written data that was lost, per file: the error sticks until every lost range has been written again.

A later fsync must never claim success for data that an earlier one failed to save.
"""

from fusegw.errors import FusegwError


class Losses:
    """Lost ranges of one volume's files, since the start. Loop thread only."""

    def __init__(self) -> None:
        self._lost: dict[int, tuple[FusegwError, list[tuple[int, int]]]] = {}

    def __len__(self) -> int:
        """Files with a loss."""
        return len(self._lost)

    def add(self, ino: int, start: int, end: int, error: FusegwError) -> None:
        """The bytes [start, end) of the file are lost because of `error`."""
        _, ranges = self._lost.get(ino, (error, []))
        self._lost[ino] = (error, [*ranges, (start, end)])

    def written(self, ino: int, start: int, end: int) -> None:
        """These bytes were written again."""
        if ino not in self._lost:
            return
        error, ranges = self._lost[ino]
        left = []
        for first, last in ranges:
            left += [(a, b) for a, b in ((first, min(last, start)), (max(first, end), last)) if a < b]
        self._keep(ino, error, left)

    def truncated(self, ino: int, size: int) -> None:
        """The file ends at `size` now; 0 also for a file that is gone."""
        if ino in self._lost:
            error, ranges = self._lost[ino]
            self._keep(ino, error, [(first, min(last, size)) for first, last in ranges if first < size])

    def concern(self, ino: int) -> bool:
        """Whether the file has lost data."""
        return ino in self._lost

    def check(self, ino: int) -> None:
        """Raise the file's error if it has lost data."""
        if ino in self._lost:
            error, _ = self._lost[ino]
            raise type(error)(str(error))

    def _keep(self, ino: int, error: FusegwError, ranges: list[tuple[int, int]]) -> None:
        if ranges:
            self._lost[ino] = (error, ranges)
        else:
            del self._lost[ino]
