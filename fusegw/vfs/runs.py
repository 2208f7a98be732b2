"""Written bytes of one file that are not on their way yet: disjoint runs, sequential writes merged."""

from bisect import bisect_right

import msgspec


class Run(msgspec.Struct, gc=False):
    """Bytes from file offset `start`."""

    start: int
    data: bytearray

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class Runs:
    """Runs in ascending order that neither overlap nor touch."""

    __slots__ = ("_runs", "nbytes")

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self.nbytes = 0

    def __bool__(self) -> bool:
        return bool(self._runs)

    def write(self, offset: int, data: bytes | bytearray) -> Run:
        """Put `data` at `offset` over what was there; returns the run that now holds it."""
        runs = self._runs
        if runs and runs[-1].end == offset:
            run = runs[-1]
            run.data += data
            self.nbytes += len(data)
            return run
        end = offset + len(data)
        first = bisect_right(runs, offset, key=_start)
        if first and runs[first - 1].end >= offset:
            first -= 1
        last = bisect_right(runs, end, key=_start)
        touched = runs[first:last]
        if not touched:
            run = Run(offset, bytearray(data))
            runs.insert(first, run)
            self.nbytes += len(data)
            return run
        before = sum(len(run.data) for run in touched)
        run = touched[0]
        if offset < run.start:
            run = Run(offset, bytearray(data))
            rest = touched
        else:
            position = offset - run.start
            run.data[position : position + len(data)] = data
            rest = touched[1:]
        for other in rest:
            if other.end > run.end:
                run.data += memoryview(other.data)[run.end - other.start :]
        runs[first:last] = [run]
        self.nbytes += len(run.data) - before
        return run

    def within(self, start: int, end: int) -> list[Run]:
        """The runs that have bytes of [start, end)."""
        runs = self._runs
        first = bisect_right(runs, start, key=_start)
        if first and runs[first - 1].end > start:
            first -= 1
        return runs[first : bisect_right(runs, end - 1, key=_start)]

    def truncate(self, size: int) -> None:
        """Drop everything from `size` on."""
        runs = self._runs
        while runs and runs[-1].end > size:
            run = runs[-1]
            if run.start < size:
                self.nbytes -= run.end - size
                del run.data[size - run.start :]
                return
            self.nbytes -= len(run.data)
            runs.pop()

    def remove(self, run: Run) -> None:
        """Take one of the runs out."""
        self._runs.remove(run)
        self.nbytes -= len(run.data)

    def take(self) -> list[Run]:
        """All runs; none is left."""
        runs, self._runs, self.nbytes = self._runs, [], 0
        return runs


def _start(run: Run) -> int:
    return run.start


def overlay(target: bytearray, offset: int, start: int, data: bytes | bytearray | memoryview) -> None:
    """Copy what `data` (at file offset `start`) has of the range `target` stands for (from file offset
    `offset`)."""
    begin = max(offset, start)
    end = min(offset + len(target), start + len(data))
    if begin < end:
        target[begin - offset : end - offset] = memoryview(data)[begin - start : end - start]
