"""Re-cuts fragmented files: many small neighbouring extents become few chunks of the usual length.

A file written here and there, or in tiny pieces, is left with an extent and a chunk for each piece. When it
is closed and settled, and nothing else is going on (no ingest, little in the cache that is not stored yet),
the spans that `Fragments` counted pieces in are looked at one by one. What is found worth it there, a
*window* of neighbouring extents, is read, cut anew and sent through the pipeline like any written data.

The job's merge replaces a window only if its extents are exactly those that were read: chunk numbers are
never used twice, so equal extents are equal bytes, and whatever changed the range meanwhile wins. A file that
is gone, unlinked or held (written to again) is left alone. Size, times and held state never change; a crash
leaves the old extents or the new ones, as with any change set.

No work without end: a window has at least `_EXTENTS_MIN` extents, shorter than an eighth of a chunk on
average, and becomes a quarter of that number or nothing happens. None of them is longer than all others
together, so a file that grows by tiny pieces is rewritten a logarithmic number of times, as in a binary
counter.
"""

import logging
from collections.abc import Iterator
from functools import partial
from itertools import islice

import msgspec
import trio

from fusegw.errors import FusegwError
from fusegw.ingest.cutter import Cutter
from fusegw.ingest.pipeline import Job, Pipeline, Placed, Range
from fusegw.meta.chunks import Chunks
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import EXTENT, HOLE, INODE, Extent
from fusegw.vfs import extents
from fusegw.vfs.fragments import SPAN_BYTES, Fragments
from fusegw.vfs.inodes import Inodes
from fusegw.vfs.pressure import Pressure
from fusegw.vfs.reading import Reading
from fusegw.vfs.usage import Usage

log = logging.getLogger(__name__)
_EXTENTS_MIN = 16
_FACTOR = 4
"""The number of extents of a window falls by it at least."""
_LOOK_EXTENTS = 1024
"""Extents looked at in one go; a longer span takes several."""
_LOAD_BYTES = 32 << 20
"""Chunks a window's extents lie in, in memory at one time."""
_QUIET_S = 0.25
"""Nothing came in for so long: nobody is in the way."""
_LOOKS_PER_TURN = 32

Extents = list[tuple[int, Extent]]
"""Neighbouring extents with their file offsets, ascending."""


class RecutStatistics(msgspec.Struct, frozen=True):
    """What was done since the start."""

    windows: int = 0
    nbytes: int = 0
    extents_before: int = 0
    extents_after: int = 0


class _Window(msgspec.Struct):
    """A range that is worth it, as it was read."""

    found: Extents
    done: bool = False

    @property
    def start(self) -> int:
        return self.found[0][0]

    @property
    def end(self) -> int:
        offset, extent = self.found[-1]
        return offset + extent.length


class Recutter:
    """The background re-cutting of one volume. Loop thread only; `run` must be running."""

    def __init__(
        self,
        metadata: Metadata,
        inodes: Inodes,
        chunks: Chunks,
        usage: Usage,
        pipeline: Pipeline,
        cutter: Cutter,
        reading: Reading,
        pressure: Pressure,
        fragments: Fragments,
    ) -> None:
        self._metadata = metadata
        self._inodes = inodes
        self._chunks = chunks
        self._usage = usage
        self._pipeline = pipeline
        self._cutter = cutter
        self._reading = reading
        self._pressure = pressure
        self._fragments = fragments
        self._stopped = False
        self.turn = trio.Lock()
        """Held during a step, and by whoever wants none to happen."""
        self._statistics = RecutStatistics()

    def statistics(self) -> RecutStatistics:
        """A picture of now."""
        return self._statistics

    def stop(self) -> None:
        """Submit nothing any more: the volume is about to be closed."""
        self._stopped = True

    async def run(self) -> None:
        """Re-cut whenever all is quiet, until cancelled."""
        while True:
            await self._fragments.wait()
            taken_in = self._pipeline.raw_bytes
            await trio.sleep(_QUIET_S)
            if self._pipeline.raw_bytes == taken_in:
                for _ in range(_LOOKS_PER_TURN):
                    if await self.step():
                        break

    async def step(self) -> int:
        """Look at one span that is due and re-cut what is worth it; returns the bytes replaced.

        Does nothing while data is on its way into packs or the cache is filling up. Returns when the new
        extents are in the index; to be cancelled only with the whole volume.
        """
        async with self.turn:
            return await self._step()

    async def _step(self) -> int:
        taken = self._fragments.take() if self._all_quiet else None
        if taken is None:
            return 0
        ino, span = taken
        inode = self._inodes.get(ino)
        if inode is None or not inode.nlink:
            self._fragments.forget(ino)
            return 0
        if self._inodes.is_held(ino):
            self._fragments.postpone(ino, span)
            return 0
        try:
            return await self._recut_span(ino, span)
        except (FusegwError, OSError) as error:
            log.info("inode %d stays fragmented at offset %d: %s", ino, span * SPAN_BYTES, error)
            self._fragments.looked(ino, span, 0)
            return 0

    @property
    def _all_quiet(self) -> bool:
        pipeline = self._pipeline
        return (
            not self._stopped
            and pipeline.submitted == pipeline.merged_number
            and pipeline.error is None
            and self._pressure.calm
        )

    async def _recut_span(self, ino: int, span: int) -> int:
        before = self._statistics
        found = self._look(ino, span)
        try:
            complete = await self._recut(ino, [_Window(part) for part in self._worth(found)])
        except (FusegwError, OSError):
            if self._look(ino, span) == found:
                raise
            complete = False  # Overwritten while its old chunks were being read.
        after = self._statistics
        replaced = after.extents_before - before.extents_before
        if not complete or (replaced and len(found) == _LOOK_EXTENTS):
            self._fragments.again(ino, span)
        else:
            self._fragments.looked(ino, span, len(found) - replaced)
        return after.nbytes - before.nbytes

    def _look(self, ino: int, span: int) -> Extents:
        """The extents that begin in the span, the first of them when they are too many."""
        start = span * SPAN_BYTES
        rows = self._metadata.scan(EXTENT, (ino, start), (ino, start + SPAN_BYTES))
        return [(offset, extent) for (_, offset), extent in islice(rows, _LOOK_EXTENTS)]

    def _worth(self, found: Extents) -> Iterator[Extents]:
        """The parts of `found` to re-cut, ascending: see the module's rules."""
        small = self._fragments.small_bytes
        # Not what may be a chunk as the cutter left it: others may share it.
        parts = list(_neighbours(found, length_max=2 * small))[::-1]
        while parts:
            part = parts.pop()
            if len(part) < _EXTENTS_MIN:
                continue
            lengths = [extent.length for _, extent in part]
            total, longest = sum(lengths), max(lengths)
            if total >= len(part) * small or 2 * longest > total:
                middle = lengths.index(longest)
                parts += (part[middle + 1 :], part[:middle])
            elif self._load(part) > _LOAD_BYTES:
                middle = len(part) // 2
                parts += (part[middle:], part[:middle])
            else:
                yield part

    def _load(self, part: Extents) -> int:
        """Bytes of the chunks the extents lie in."""
        change = self._metadata.change()
        return sum(self._chunks.row(change, number).raw for number in {extent.chunk for _, extent in part})

    async def _recut(self, ino: int, windows: list[_Window]) -> bool:
        """Replace the windows; False when the rest of it must be tried again."""
        nbytes = sum(window.end - window.start for window in windows)
        if not nbytes:
            return True
        if not await self._pressure.admit_spare(nbytes):
            return False
        submitted: list[_Window] = []
        job = Job([], partial(self._merge, ino, submitted), _lost)
        try:
            for window in windows:
                part = await self._read(ino, window)
                assert part.cuts is not None
                if len(part.cuts) * _FACTOR <= len(window.found):
                    submitted.append(window)
                    job.ranges.append(part)
        except BaseException:
            self._pressure.release(nbytes)
            raise
        if self._stopped:
            job.ranges.clear()
        self._pressure.release(nbytes - job.nbytes)
        if job.ranges:
            await self._merged(self._pipeline.submit(job))
            self._pressure.release(job.nbytes - job.claimed)
            self._count(submitted, job)
        return all(window.done for window in submitted)

    async def _read(self, ino: int, window: _Window) -> Range:
        data = await self._reading.assemble(ino, window.found, window.start, window.end)
        return Range(window.start, data, await trio.to_thread.run_sync(self._cutter.cut, data))

    async def _merged(self, number: int) -> None:
        while self._pipeline.merged_number < number:
            try:
                await self._pipeline.merged(number)
            except FusegwError:
                pass  # The pipeline keeps the job and tries again.

    def _merge(self, ino: int, windows: list[_Window], change: Change, placed: Placed) -> None:
        before = change.get(INODE, ino)
        if before is None or not before.nlink or self._inodes.is_held(ino):
            return
        row = before
        for window, (offset, pieces) in zip(windows, placed, strict=True):
            window.done = self._unchanged(change, ino, window)
            if window.done:
                row = extents.place(change, self._chunks, row, offset, pieces, window.end - offset)
        if any(window.done for window in windows):
            change.put(INODE, ino, row)
            self._usage.moved(change, before, row)

    def _unchanged(self, change: Change, ino: int, window: _Window) -> bool:
        return extents.covering(change, ino, window.start, window.end) == window.found

    def _count(self, windows: list[_Window], job: Job) -> None:
        then = self._statistics
        for window, part in zip(windows, job.ranges, strict=True):
            if window.done:
                then = RecutStatistics(
                    windows=then.windows + 1,
                    nbytes=then.nbytes + len(part.data),
                    extents_before=then.extents_before + len(window.found),
                    extents_after=then.extents_after + len(part.cuts or ()),
                )
        self._statistics = then


def _neighbours(found: Extents, *, length_max: int) -> Iterator[Extents]:
    """Extents one behind the other, without holes and those of `length_max` and longer."""
    part: Extents = []
    for offset, extent in found:
        if extent.chunk != HOLE and extent.length < length_max:
            part.append((offset, extent))
        elif part:
            yield part
            part = []
    if part:
        yield part


def _lost(error: FusegwError) -> None:
    """The metadata is damaged there; the file keeps what it has."""
