"""File data: writes into memory, from there into the ingest pipeline, and reads over both and the index.

A write is acknowledged from memory (`Runs`); it leaves as a `Job` when a run is long enough to be cut, when
the file is closed, synced or idle, or when memory is short. Until a job is merged its bytes stay readable
here. The inode is *held* (see `inodes`) from the first write until nothing of the file is in memory; the
operation that merges the last job settles its row. Jobs of a file merge in order, so a later write always
wins; a truncation clips jobs on the way.

What a crash leaves: the file as of the last group commit, its size never beyond its extents. `fsync`
returns after the commit that has all bytes written before it.
"""

import errno
from functools import partial

import trio
from msgspec.structs import replace

from fusegw.clock import Clock
from fusegw.errors import FusegwError
from fusegw.ingest.cutter import Cut, Cutter
from fusegw.ingest.pipeline import Job, Pipeline, Placed, Range
from fusegw.meta.chunks import Chunks
from fusegw.meta.committer import Committer
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import HOLE, INODE, Inode
from fusegw.meta.unshipped import Standing
from fusegw.vfs import extents
from fusegw.vfs.fragments import Fragments
from fusegw.vfs.inodes import Inodes
from fusegw.vfs.losses import Losses
from fusegw.vfs.pressure import Pressure
from fusegw.vfs.reading import Reading
from fusegw.vfs.runs import Run, overlay
from fusegw.vfs.streams import FILE_SIZE_MAX, STREAM_BYTES, File, Flight, Streams
from fusegw.vfs.usage import Usage

INLINE_BYTES = 128 << 10
"""A file with no more than this in memory is stored at once when it is closed, without a thread."""
SMALL_BYTES = 1 << 20
"""A file with no more than this in memory is not one of those that fill it."""
IDLE_S = 1.0
AGE_MAX_S = 5.0


class Files:
    """The data of one volume's files. Loop thread only; `run` must be running."""

    def __init__(
        self,
        metadata: Metadata,
        inodes: Inodes,
        chunks: Chunks,
        usage: Usage,
        pipeline: Pipeline,
        cutter: Cutter,
        reading: Reading,
        committer: Committer,
        pressure: Pressure,
        fragments: Fragments,
        *,
        clock: Clock,
        memory_max_bytes: int = 64 << 20,
    ) -> None:
        self._metadata = metadata
        self._inodes = inodes
        self._chunks = chunks
        self._usage = usage
        self._pipeline = pipeline
        self._streams = Streams(cutter, self._submit_cut)
        self._reading = reading
        self._committer = committer
        self._pressure = pressure
        self._fragments = fragments
        self._clock = clock
        self._memory_max_bytes = memory_max_bytes
        self._files: dict[int, File] = {}
        self._dirty: dict[int, File] = {}
        self._losses = Losses()
        self._buffered = 0

    # opening and closing

    def opened(self, ino: int) -> None:
        """One more handle on the file."""
        self._file(ino).handles += 1

    def closed(self, ino: int) -> None:
        """One handle less; data still in memory starts on its way."""
        file = self._files[ino]
        file.handles -= 1
        self._send_or_store(file)
        self._let_go(file)

    def adopt(self, other: "Files") -> None:
        """The handles that were opened through `other`, which has no data of its own, are closed here."""
        for ino, file in other._files.items():
            self._file(ino).handles += file.handles

    def is_open(self, ino: int) -> bool:
        file = self._files.get(ino)
        return file is not None and file.handles > 0

    @property
    def open_count(self) -> int:
        """Files with a handle, or with data in memory."""
        return len(self._files)

    @property
    def oldest_dirty_s(self) -> float | None:
        """Age in seconds of the oldest byte that is only in memory, None when there is none."""
        since = [file.first_dirty for file in self._dirty.values()]
        since += [file.flights[0].since for file in self._files.values() if file.flights]
        return self._clock.monotonic() - min(since) if since else None

    def unsettled_bytes(self, ino: int) -> int:
        """Written bytes of the file that the index does not have yet."""
        file = self._files.get(ino)
        return 0 if file is None else file.unsettled_bytes

    def standing(self, ino: int) -> Standing:
        """How safe all that was acknowledged of an inode is; lost data keeps its file from being so."""
        if self._inodes.is_held(ino) or self._losses.concern(ino):
            return Standing.LOCAL
        return self._metadata.standing(ino)

    # data

    async def write(self, ino: int, offset: int, data: bytes) -> int:
        """Write at `offset`; returns the bytes written, all of them. EFBIG, ENOSPC, EDQUOT."""
        length = len(data)
        if offset + length > FILE_SIZE_MAX:
            raise OSError(errno.EFBIG, "file would be larger than 8 EiB")
        self._regular(ino)
        if self._in_memory > self._memory_max_bytes and not self._may_pass(ino, length):
            await self._relieve()
        if not self._pressure.admit_nowait(length):
            self.send_all()
            await self._pressure.admit(length)
        try:
            new = await self._within_quotas(ino, offset, length)
        except BaseException:
            self._pressure.release(length)
            raise
        inode = self._inodes.get(ino)
        if inode is None:
            self._pressure.release(length)
            raise OSError(errno.ESTALE, "file was deleted")
        file = self._file(ino)
        file.last_write = self._clock.monotonic()
        if ino not in self._dirty:
            self._dirty[ino] = file
            file.first_dirty = file.last_write
        before = file.runs.nbytes
        run = file.runs.write(offset, data)
        grown = file.runs.nbytes - before
        self._buffered += grown
        self._usage.wrote(ino, min(grown, new))
        self._pressure.release(length - grown)
        self._losses.written(ino, offset, offset + length)
        now = self._clock.time_ns()
        self._inodes.hold(replace(inode, size=max(inode.size, offset + length), mtime_ns=now, ctime_ns=now))
        if run.nbytes >= self._streams.threshold_bytes and not file.cutting:
            self._cut(file, run)
        return length

    async def read(self, ino: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; short only at the end of the file."""
        inode = self._regular(ino)
        end = min(offset + size, inode.size)
        if end <= offset:
            return b""
        file = self._files.get(ino)
        if file is None or not (file.runs or file.flights):
            return await self._reading.read(inode, offset, end)
        runs = file.runs.within(offset, end)
        if len(runs) == 1 and runs[0].start <= offset and runs[0].end >= end:
            start = runs[0].start
            return bytes(memoryview(runs[0].data)[offset - start : end - start])
        # Bytes may settle while the index is read, but then they are both here and there.
        layers: list[tuple[int, bytes | bytearray | memoryview]] = []
        for flight in file.flights:
            for part in flight.job.ranges:
                if part.offset < flight.clip:
                    layers.append((part.offset, memoryview(part.data)[: flight.clip - part.offset]))
        layers += [(run.start, bytes(run.data)) for run in runs]
        row = self._metadata.get(INODE, ino)
        assert row is not None
        settled = await self._reading.read(row, offset, min(end, row.size)) if row.size > offset else b""
        target = bytearray(settled)
        target += bytes(end - offset - len(target))
        for start, content in layers:
            overlay(target, offset, start, content)
        return bytes(target)

    def truncate(self, ino: int, size: int) -> Inode:
        """Set the file's size, both ways; what is added is a hole. EFBIG."""
        inode = self._regular(ino)
        if size > FILE_SIZE_MAX:
            raise OSError(errno.EFBIG, "file would be larger than 8 EiB")
        now = self._clock.time_ns()
        inode = replace(inode, size=size, mtime_ns=now, ctime_ns=now)
        self._losses.truncated(ino, size)
        file = self._files.get(ino)
        if file is not None:
            before = file.runs.nbytes
            file.runs.truncate(size)
            self._forget_buffered(file, before - file.runs.nbytes)
            for flight in file.flights:
                flight.clip = min(flight.clip, size)
        with self._metadata.change() as change:
            before_row = change.get(INODE, ino)
            assert before_row is not None
            row = extents.cut(change, self._chunks, before_row, size)
            if self._inodes.is_held(ino):
                change.put(INODE, ino, row)
                self._inodes.hold(inode)
                if file is not None and not file.runs and not file.flights:
                    row = self._settle(change, file, row)
            else:
                row = extents.extend(change, row, size)
                change.put(INODE, ino, replace(inode, allocated=row.allocated))
            self._usage.moved(change, before_row, row)
        if file is not None:
            self._let_go(file)
        return inode

    def flush(self, ino: int) -> None:
        """close(2) of one descriptor: data in memory starts on its way; raises the error of lost data."""
        file = self._files.get(ino)
        if file is not None:
            self._send_or_store(file)
        self._losses.check(ino)

    async def fsync(self, ino: int) -> None:
        """Return once all that was written before is durable; raises what keeps it from being so."""
        await self.settle(ino)
        await self._committer.commit()
        self._losses.check(ino)

    async def settle(self, ino: int) -> None:
        """Return once all data written before is in the index (not yet durable)."""
        file = self._files.get(ino)
        if file is None:
            return
        self._send(file)
        await self._streams.landed(file)
        await self._pipeline.merged(file.submitted)

    async def settle_all(self) -> None:
        """`settle` for every file."""
        self.send_all()
        await self._streams.landed()
        await self._pipeline.merged(self._pipeline.submitted)

    @property
    def is_settled(self) -> bool:
        """Whether the index has all that was written."""
        return not self._dirty and not any(file.flights for file in self._files.values())

    def send_all(self) -> None:
        """Everything in memory starts on its way."""
        for file in list(self._files.values()):
            self._send(file)

    def drop(self, ino: int) -> None:
        """The file is dying: its data in memory is not wanted any more."""
        self._losses.truncated(ino, 0)
        file = self._files.get(ino)
        if file is not None:
            before = file.runs.nbytes
            file.runs.truncate(0)
            self._forget_buffered(file, before)
            for flight in file.flights:
                flight.clip = 0
            self._let_go(file)

    async def run(self) -> None:
        """Cut streams, and send what has been idle or in memory for long, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._streams.run)
            await self._send_old()

    async def _send_old(self) -> None:
        while True:
            await trio.sleep(IDLE_S / 2)
            now = self._clock.monotonic()
            for file in list(self._dirty.values()):
                if now - file.last_write >= IDLE_S or now - file.first_dirty >= AGE_MAX_S:
                    self._send(file)

    # inside

    @property
    def _in_memory(self) -> int:
        return self._buffered + self._streams.nbytes + self._pipeline.bytes_in_flight

    def _regular(self, ino: int) -> Inode:
        inode = self._inodes.get(ino)
        if inode is None:
            raise OSError(errno.ESTALE, "no such inode")
        if not inode.is_file:
            raise OSError(errno.EISDIR if inode.is_dir else errno.EINVAL, "not a regular file")
        return inode

    def _file(self, ino: int) -> File:
        file = self._files.get(ino)
        if file is None:
            file = self._files[ino] = File(ino)
        return file

    def _let_go(self, file: File) -> None:
        if not file.handles and not file.runs and not file.flights:
            self._files.pop(file.ino, None)
            self._fragments.settled(file.ino)

    async def _within_quotas(self, ino: int, offset: int, length: int) -> int:
        """Return, without anything else having run since, when a write of that many bytes may go on; gives
        how many of them may count. OSError EDQUOT.

        What is in memory counts as if all of it were new. So where that leaves no room it is settled first:
        it may have been zeros, or have replaced what was there.
        """
        inode = self._inodes.get(ino)
        if inode is None:
            return length
        try:
            self._usage.refuse_bytes(inode.quota, length)
            return length
        except OSError:
            new = length - self._allocated(ino, offset, length)
        with trio.move_on_after(self._pressure.wait_s):
            while waiting := self._usage.unsettled_beside(inode.quota):
                try:
                    self._usage.refuse_bytes(inode.quota, new)
                    return new
                except OSError:
                    pass
                for other in waiting:
                    await self.settle(other)
                new = length - self._allocated(ino, offset, length)
        self._usage.refuse_bytes(inode.quota, new)
        return new

    def _allocated(self, ino: int, offset: int, length: int) -> int:
        """How many of these bytes the index has data for."""
        end = offset + length
        found = extents.covering(self._metadata.change(), ino, offset, end)
        return sum(
            min(end, start + extent.length) - max(offset, start)
            for start, extent in found
            if extent.chunk != HOLE
        )

    def _forget_buffered(self, file: File, nbytes: int) -> None:
        self._buffered -= nbytes
        self._pressure.release(nbytes)
        self._usage.settled(file.ino, self.unsettled_bytes(file.ino))
        if not file.runs:
            self._dirty.pop(file.ino, None)

    def _may_pass(self, ino: int, length: int) -> bool:
        """Small files do not wait for the memory that streams fill: a quarter more of it is theirs."""
        if self.unsettled_bytes(ino) + length > SMALL_BYTES:
            return False
        return self._in_memory + length <= self._memory_max_bytes * 5 // 4

    async def _relieve(self) -> None:
        """Memory is short: send the oldest data, wait a bounded time for some of it to be gone."""
        for file in list(self._dirty.values()):
            if self._buffered <= self._memory_max_bytes // 2:
                break
            self._send(file)
        with trio.move_on_after(self._pressure.wait_s):
            await self._streams.landed()
            try:
                await self._pipeline.room(self._memory_max_bytes - self._buffered)
                return
            except FusegwError as error:
                raise OSError(errno.ENOSPC, str(error)) from None
        raise OSError(errno.ENOSPC, "written data does not get into packs fast enough")

    def _cut(self, file: File, run: Run) -> None:
        """A long run starts on its way."""
        file.runs.remove(run)
        self._launch(file, [Range(run.start, run.buffer())])
        self._streams.cut(file)

    def _submit_cut(self, file: File, flight: Flight, cuts: list[Cut]) -> None:
        """It is known where the flight may be cut: the rest goes back to the runs, unless something else
        became of that part since."""
        [part] = flight.job.ranges
        assert isinstance(part.data, bytearray), "a run's own buffer"
        length, end = sum(piece for piece, _ in cuts), part.offset + len(part.data)
        rest, start = part.data[length:], part.offset + length
        if rest and flight.clip >= end and not file.runs.within(start, end):
            try:
                del part.data[length:]
            except BufferError:
                pass  # it is being read
            else:
                part.cuts = cuts
                file.runs.write(start, rest)
                self._buffered += len(rest)
                self._dirty[file.ino] = file
                file.first_dirty = flight.since
        self._pipeline.submit(flight.job)
        if file.to_send:
            self._send(file)

    def _send(self, file: File) -> None:
        """All runs start on their way, in jobs of bounded size; behind a flight that is being cut."""
        file.to_send = file.cutting
        if file.cutting:
            return
        batch: list[Range] = []
        nbytes = 0
        for run in file.runs.take():
            batch.append(Range(run.start, run.data))
            nbytes += run.nbytes
            if nbytes >= STREAM_BYTES:
                self._submit(file, batch)
                batch, nbytes = [], 0
        if batch:
            self._submit(file, batch)

    def _submit(self, file: File, ranges: list[Range]) -> None:
        self._pipeline.submit(self._launch(file, ranges))

    def _launch(self, file: File, ranges: list[Range]) -> Job:
        """Ranges taken out of the file's runs become a job."""
        job = Job(ranges, partial(self._merge, file), partial(self._lost, file))
        self._buffered -= job.nbytes
        if not file.runs:
            self._dirty.pop(file.ino, None)
        file.flights.append(Flight(job, file.first_dirty))
        return job

    def _send_or_store(self, file: File) -> None:
        """A closed file's data: a little is stored at once, more starts on its way."""
        if not file.runs and not file.cutting:
            return
        if file.flights or file.runs.nbytes > INLINE_BYTES or self._pipeline.error is not None:
            self._send(file)
            return
        job = self._launch(file, [Range(run.start, run.data) for run in file.runs.take()])
        try:
            self._pipeline.store(job)
        except (FusegwError, OSError):
            self._pipeline.submit(job)

    def _merge(self, file: File, change: Change, placed: Placed) -> None:
        """The oldest flight has arrived."""
        flight = file.flights.pop(0)
        try:
            self._enter(file, flight.job.ranges, flight.clip, flight.since, change, placed)
        except BaseException:
            file.flights.insert(0, flight)
            raise
        self._landed(file, flight.job)

    def _lost(self, file: File, error: FusegwError) -> None:
        """The oldest flight will never arrive."""
        flight = file.flights.pop(0)
        for part in flight.job.ranges:
            self._losses.add(file.ino, part.offset, part.offset + len(part.data), error)
        self._landed(file, flight.job)

    def _landed(self, file: File, job: Job) -> None:
        self._pressure.release(job.nbytes - job.claimed)
        self._usage.settled(file.ino, self.unsettled_bytes(file.ino))
        self._let_go(file)

    def _enter(
        self, file: File, ranges: list[Range], clip: int, since: float, change: Change, placed: Placed
    ) -> None:
        before = change.get(INODE, file.ino)
        if before is None:
            return
        # The change is as old as the data, not as its arrival in the index.
        change.since_ns = self._clock.time_ns() - int((self._clock.monotonic() - since) * 1e9)
        row = before
        for part, (offset, pieces) in zip(ranges, placed, strict=True):
            length = min(len(part.data), clip - offset)
            row = extents.place(change, self._chunks, row, offset, pieces, length)
            self._fragments.placed(file.ino, offset, length, len(pieces), before.size)
        # Read once, for snapshots too.
        change.put(INODE, file.ino, row, was=before)
        if not file.runs and not file.flights:
            row = self._settle(change, file, row)
        self._usage.moved(change, before, row)

    def _settle(self, change: Change, file: File, row: Inode) -> Inode:
        inode = self._inodes.get(file.ino)
        assert inode is not None
        row = extents.extend(change, row, inode.size)
        change.put(INODE, file.ino, row)
        self._inodes.settle(change, file.ino)
        return row
