"""Long runs of written data are cut in a thread, while more of the file arrives.

A run that is long enough leaves its file's `Runs` as a `Flight`: readable, in order, but not a job of the
pipeline yet. One thread finds its cuts; then the piece behind the last one, which more data could still make
longer, goes back in front of what has arrived meanwhile, and the rest is submitted. So where a stream is cut
depends on its bytes alone, however long cutting takes.

    run ─▶ being cut (`cut`) ─▶ submitted, its end back in the runs (`landed`) ─▶ merged

Who closes or syncs the file meanwhile has its end sent as soon as that is back.
"""

from collections import deque
from collections.abc import Callable

import msgspec
import trio

from fusegw.ingest.cutter import Cut, Cutter
from fusegw.ingest.pipeline import Job
from fusegw.vfs.runs import Runs

FILE_SIZE_MAX = (1 << 63) - 1
STREAM_BYTES = 8 << 20
"""A run this long is cut and sent on its way."""


class Flight(msgspec.Struct, gc=False):
    """A job on its way, when the oldest byte in it was written (monotonic), and the size the file was
    truncated to since."""

    job: Job
    since: float
    clip: int = FILE_SIZE_MAX


class File:
    """What memory knows of a file that is open or has unsettled data."""

    __slots__ = ("cutting", "first_dirty", "flights", "handles", "ino", "last_write", "runs", "to_send")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.handles = 0
        self.runs = Runs()
        self.flights: list[Flight] = []
        self.cutting = False
        """Whether the newest flight is being cut."""
        self.to_send = False
        """Whether all runs are wanted on their way once that is done."""
        self.first_dirty = 0.0
        self.last_write = 0.0

    @property
    def unsettled_bytes(self) -> int:
        """Written bytes that the index does not have yet."""
        return self.runs.nbytes + sum(flight.job.nbytes for flight in self.flights)

    @property
    def submitted(self) -> int:
        """Number of the newest job in the pipeline, 0 without any."""
        return max((flight.job.number for flight in self.flights), default=0)


Landed = Callable[[File, Flight, list[Cut]], None]
"""Called on the loop with a flight of the file and where it may be cut."""


class Streams:
    """Cuts flights one after the other. Loop thread only; `run` must be running."""

    def __init__(self, cutter: Cutter, landed: Landed) -> None:
        self._cutter = cutter
        self._landed = landed
        self._queue: deque[tuple[File, Flight]] = deque()
        self._idle = trio.lowlevel.ParkingLot()
        self._waiting = trio.lowlevel.ParkingLot()
        self._limiter = trio.CapacityLimiter(1)
        self._done = 0
        self.nbytes = 0
        """Of the flights that are being cut, or wait for that."""
        self.threshold_bytes = max(STREAM_BYTES, cutter.max_bytes + 1)
        """Runs from this length on have a cut that more data cannot move."""

    def cut(self, file: File) -> None:
        """Have the file's newest flight cut, which is one range that nobody else writes to."""
        file.cutting = True
        self.nbytes += file.flights[-1].job.nbytes
        self._queue.append((file, file.flights[-1]))
        self._idle.unpark()

    async def landed(self, file: File | None = None) -> None:
        """Wait until what is being cut by now has landed, of this file or of all, whatever comes later."""
        places = [place for place, (one, _) in enumerate(self._queue, 1) if file is None or one is file]
        last = self._done + places[-1] if places else 0
        while self._done < last:
            await self._waiting.park()

    async def run(self) -> None:
        """Cut until cancelled."""
        while True:
            while not self._queue:
                await self._idle.park()
            file, flight = self._queue[0]
            [part] = flight.job.ranges
            cuts = await trio.to_thread.run_sync(self._cutter.cut_stream, part.data, limiter=self._limiter)
            self._queue.popleft()
            self._done += 1
            self.nbytes -= flight.job.nbytes
            file.cutting = False
            self._landed(file, flight, cuts)
            self._waiting.unpark_all()
