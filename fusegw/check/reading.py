"""Chunks read back from the store and verified, several requests at a time, past every cache."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from blake3 import blake3

from fusegw.errors import Denied, FusegwError, Unavailable
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.packs.fetch import PackRanges
from fusegw.packs.files import PackFiles
from fusegw.packs.reader import PackReader
from fusegw.store.base import ObjectStore
from fusegw.vfs.contents import Piece, read_pieces

BATCH_BYTES = 4 << 20
THREADS = 4
_BATCHES_MAX = 2 * THREADS
_BATCH_CHUNKS = 2048

Owner = TypeVar("Owner")
Verdict = FusegwError | None
"""Why a chunk cannot be had; None: it is as it was stored."""


def store_reader(store: ObjectStore, keys: VolumeKeys, files: PackRanges | None = None) -> PackReader:
    """Reads from the store alone, or from `files` first."""
    return PackReader(
        PackFiles() if files is None else files,
        store,
        keys,
        chunk_id_of=lambda raw: blake3(raw, key=keys.chunk_id_key).digest(),
        peek=lambda location: None,
    )


def in_batches(jobs: Iterable[tuple[Owner, Piece]]) -> Iterator[list[tuple[Owner, Piece]]]:
    """Jobs, all with a chunk, in groups of about `BATCH_BYTES` of whole chunks, or many small ones."""
    batch: list[tuple[Owner, Piece]] = []
    size = 0
    for owner, piece in jobs:
        assert piece.ref is not None, "only pieces of chunks are read"
        batch.append((owner, piece))
        size += piece.ref.location.raw
        if size >= BATCH_BYTES or len(batch) >= _BATCH_CHUNKS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def verify(
    reader: PackReader, jobs: Iterable[tuple[Owner, Piece]]
) -> Iterator[list[tuple[Owner, Piece, Verdict]]]:
    """Blocking: what became of each, batch by batch in that order; reads run in `THREADS` threads.

    Unavailable and Denied as the store raises them: they say nothing about the chunks.
    """
    pending: deque[tuple[list[tuple[Owner, Piece]], Future[list[Verdict]]]] = deque()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="verify")
    try:
        for batch in in_batches(jobs):
            pending.append((batch, pool.submit(_verdicts, reader, [piece for _, piece in batch])))
            if len(pending) >= _BATCHES_MAX:
                yield _taken(*pending.popleft())
        while pending:
            yield _taken(*pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _verdicts(reader: PackReader, pieces: list[Piece]) -> list[Verdict]:
    """In a thread; the bytes are let go of here."""
    results = read_pieces(reader, pieces)
    return [result if isinstance(result, FusegwError) else None for result in results]


def _taken(
    batch: list[tuple[Owner, Piece]], reading: "Future[list[Verdict]]"
) -> list[tuple[Owner, Piece, Verdict]]:
    taken = []
    for (owner, piece), verdict in zip(batch, reading.result(), strict=True):
        if isinstance(verdict, Unavailable | Denied):
            raise verdict
        taken.append((owner, piece, verdict))
    return taken
