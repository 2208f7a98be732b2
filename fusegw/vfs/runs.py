"""Written bytes of one file that are not on their way yet: disjoint runs, sequential writes merged.

What a stream brings is kept in the pieces it came in and joined once, when somebody wants the whole: growing
one buffer by each of them would copy it again and again. Pieces belong to the run; nobody else changes them.
"""

from bisect import bisect_right

Piece = bytes | bytearray

_TINY_BYTES = 4 << 10
"""Pieces shorter than this are put together at once: a list of them would cost more than they do."""
_TOGETHER_BYTES = 1 << 20


class Run:
    """`nbytes` bytes from file offset `start`."""

    __slots__ = ("_pieces", "nbytes", "start")

    def __init__(self, start: int, data: Piece) -> None:
        self.start = start
        self.nbytes = len(data)
        self._pieces: list[Piece] = [data]

    @property
    def end(self) -> int:
        return self.start + self.nbytes

    @property
    def data(self) -> Piece:
        """All bytes, to be read."""
        return self._pieces[0] if len(self._pieces) == 1 else self.buffer()

    def buffer(self) -> bytearray:
        """All bytes, to be changed; who changes how many there are takes the run out of its `Runs` first."""
        first = self._pieces[0]
        if len(self._pieces) == 1 and isinstance(first, bytearray):
            return first
        joined = bytearray().join(self._pieces)
        self._pieces = [joined]
        return joined

    def append(self, data: Piece) -> None:
        """More bytes at the end."""
        self.nbytes += len(data)
        last = self._pieces[-1]
        if len(data) >= _TINY_BYTES:
            self._pieces.append(data)
        elif isinstance(last, bytearray) and len(last) < _TOGETHER_BYTES:
            last += data
        else:
            self._pieces.append(bytearray(data))

    def prepend(self, data: Piece) -> None:
        """More bytes before the start, which moves."""
        self._pieces.insert(0, data)
        self.nbytes += len(data)
        self.start -= len(data)

    def overwrite(self, offset: int, data: Piece) -> None:
        """Put `data` at this file offset, which lies in the run or at its end; it may reach beyond that."""
        buffer = self.buffer()
        position = offset - self.start
        buffer[position : position + len(data)] = data
        self.nbytes = len(buffer)

    def truncate(self, size: int) -> None:
        """Keep what lies before this file offset, which is in the run."""
        del self.buffer()[size - self.start :]
        self.nbytes = size - self.start


class Runs:
    """Runs in ascending order that neither overlap nor touch."""

    __slots__ = ("_runs", "nbytes")

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self.nbytes = 0

    def __bool__(self) -> bool:
        return bool(self._runs)

    def write(self, offset: int, data: Piece) -> Run:
        """Put `data` at `offset` over what was there; returns the run that now holds it."""
        runs = self._runs
        if runs and runs[-1].end == offset:
            run = runs[-1]
            run.append(data)
            self.nbytes += len(data)
            return run
        end = offset + len(data)
        first = bisect_right(runs, offset, key=_start)
        if first and runs[first - 1].end >= offset:
            first -= 1
        last = bisect_right(runs, end, key=_start)
        touched = runs[first:last]
        before = sum(run.nbytes for run in touched)
        run = _merged(offset, data, touched)
        self.nbytes += run.nbytes - before
        runs[first:last] = [run]
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
                run.truncate(size)
                return
            self.nbytes -= run.nbytes
            runs.pop()

    def remove(self, run: Run) -> None:
        """Take one of the runs out."""
        self._runs.remove(run)
        self.nbytes -= run.nbytes

    def take(self) -> list[Run]:
        """All runs; none is left."""
        runs, self._runs, self.nbytes = self._runs, [], 0
        return runs


def _merged(offset: int, data: Piece, touched: list[Run]) -> Run:
    """One run of `data` and of what the runs that it overlaps or touches have around it."""
    if not touched:
        return Run(offset, data)
    run, rest = touched[0], touched[1:]
    if offset + len(data) == run.start:
        run.prepend(data)
    elif offset < run.start:
        run, rest = Run(offset, data), touched
    else:
        run.overwrite(offset, data)
    for other in rest:
        if other.end > run.end:
            run.append(bytes(memoryview(other.data)[run.end - other.start :]))
    return run


def _start(run: Run) -> int:
    return run.start


def overlay(target: bytearray, offset: int, start: int, data: bytes | bytearray | memoryview) -> None:
    """Copy what `data` (at file offset `start`) has of the range `target` stands for (from file offset
    `offset`)."""
    begin = max(offset, start)
    end = min(offset + len(target), start + len(data))
    if begin < end:
        target[begin - offset : end - offset] = memoryview(data)[begin - start : end - start]
