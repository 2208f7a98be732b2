"""What is done about chunks that a check found damaged in the store: marked, or stored anew from the cache.

A chunk that has moved since it was looked at, or has gone, is no damage any more. Of the others those whose
bytes the cache still has, verified, are sealed anew into the open pack and keep their number (`Reseal`), if
that is asked for; the rest leave the dedup index and are marked, so that the next write of the same data
stores them. Nothing is deleted. What was done is durable here when `mend` returns, and in the store after the
next barrier.
"""

from collections.abc import Sequence

import msgspec
import trio

from fusegw.errors import FusegwError
from fusegw.ingest.pipeline import Pipeline, Reseal
from fusegw.meta.chunks import Chunks
from fusegw.meta.committer import Committer
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import CHUNK
from fusegw.packs.reader import ChunkRef, PackReader
from fusegw.vfs.loads import reference
from fusegw.vfs.pressure import Pressure

_BATCH_BYTES = 4 << 20
_ROWS_PER_TURN = 256


class Suspect(msgspec.Struct, frozen=True):
    """A chunk, and the pack it lay in when it was looked at."""

    number: int
    pack: int
    good: bool = False
    """The store has its bytes as they were sealed."""


class Mended(msgspec.Struct):
    """What became of them."""

    whole: list[int]
    """Numbers of those that are whole now, or that nobody needs any more."""
    marked: int = 0
    """The others."""


class Mender:
    """Of one volume, which this gateway writes. Loop thread only."""

    def __init__(
        self,
        metadata: Metadata,
        chunks: Chunks,
        pipeline: Pipeline,
        committer: Committer,
        reader: PackReader,
        pressure: Pressure,
    ) -> None:
        self._metadata = metadata
        self._chunks = chunks
        self._pipeline = pipeline
        self._committer = committer
        self._reader = reader
        self._pressure = pressure

    async def mend(self, suspects: Sequence[Suspect], *, repair: bool) -> Mended:
        """Full and others when what was done cannot be made durable."""
        mended = Mended([])
        for first in range(0, len(suspects), _ROWS_PER_TURN):
            damaged = self._mark(suspects[first : first + _ROWS_PER_TURN], mended)
            await trio.lowlevel.checkpoint()
            if repair:
                for batch in _batches(damaged):
                    await self._store_anew(batch)
            for suspect, _ in damaged:
                if self._where(suspect.number) == suspect.pack:
                    mended.marked += 1
                else:
                    mended.whole.append(suspect.number)
        await self._committer.commit()
        return mended

    def _mark(self, suspects: Sequence[Suspect], mended: Mended) -> list[tuple[Suspect, ChunkRef]]:
        """Mark those that are damaged where they still lie; they are given back."""
        damaged = []
        with self._metadata.change() as change:
            for suspect in suspects:
                if self._where(suspect.number) != suspect.pack:
                    mended.whole.append(suspect.number)
                elif suspect.good:
                    self._chunks.trust(change, suspect.number)
                    mended.whole.append(suspect.number)
                else:
                    self._chunks.distrust(change, suspect.number)
                    damaged.append((suspect, reference(change, self._chunks, suspect.number)))
        return damaged

    def _where(self, number: int) -> int | None:
        chunk = self._metadata.get(CHUNK, number)
        return None if chunk is None else chunk.pack

    async def _store_anew(self, batch: list[tuple[Suspect, ChunkRef]]) -> None:
        """What the cache has of them, verified; the marks go with the move."""
        nbytes = sum(ref.location.raw for _, ref in batch)
        if not await self._pressure.admit_spare(nbytes):
            return
        try:
            raws = await trio.to_thread.run_sync(self._reader.read_local, [ref for _, ref in batch])
        except BaseException:
            self._pressure.release(nbytes)
            raise
        job = Reseal(
            [
                (suspect.number, suspect.pack, ref.chunk_id, raw)
                for (suspect, ref), raw in zip(batch, raws, strict=True)
                if raw is not None
            ]
        )
        self._pressure.release(nbytes - job.nbytes)
        if not job.chunks:
            return
        number = self._pipeline.submit(job)
        while self._pipeline.merged_number < number:
            try:
                await self._pipeline.merged(number)
            except FusegwError:
                pass  # The pipeline keeps the job and tries again.
        self._pressure.release(job.nbytes - job.claimed)


def _batches(damaged: list[tuple[Suspect, ChunkRef]]) -> list[list[tuple[Suspect, ChunkRef]]]:
    batches: list[list[tuple[Suspect, ChunkRef]]] = []
    size = _BATCH_BYTES
    for one in damaged:
        if size >= _BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(one)
        size += one[1].location.raw
    return batches
