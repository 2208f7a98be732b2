"""Reads chosen files back from the store and verifies every chunk, several requests at a time.

Chunks are fetched by their exact ranges, neighbours in a pack together, past every cache, and tag and id are
verified as for any read. A chunk that several files share is fetched once, mostly. What is wrong is collected
by object, with the inodes that suffer; a store that does not answer ends it.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
from blake3 import blake3

from fusegw.clock import Clock
from fusegw.drill.sample import Sample
from fusegw.errors import Denied, FusegwError, Unavailable
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.schema import CHUNK, EXTENT, PACK
from fusegw.meta.view import View
from fusegw.packs.files import PackFiles
from fusegw.packs.format import object_key
from fusegw.packs.reader import PackReader
from fusegw.store.base import ObjectStore
from fusegw.vfs.contents import Piece, pieces_of, read_pieces

INDEX = "index"
"""Stands for the recovered metadata where an object is named."""
INODES_MAX = 1000
"""Damaged files that are named for one object."""
_BATCH_BYTES = 4 << 20
_THREADS = 4
_BATCHES_MAX = 2 * _THREADS
_REMEMBERED_MAX = 1 << 18
_WAITING_MAX = 10_000

Job = tuple[int, Piece]
"""An inode, and a piece of it that is to be read."""


class Found:
    """What is wrong with one object: the first reason, and who needs it."""

    __slots__ = ("inodes", "problem", "suffering")

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.inodes: set[int] = set()
        self.suffering = 0
        """Places where it is needed."""

    def needed_by(self, ino: int) -> None:
        self.suffering += 1
        if len(self.inodes) < INODES_MAX:
            self.inodes.add(ino)


class Damages:
    """Everything found to be wrong, by object key."""

    def __init__(self) -> None:
        self.found: dict[str, Found] = {}

    def of(self, key: str, problem: str) -> Found:
        """The entry of an object; of several problems the first is kept."""
        return self.found.setdefault(key, Found(problem))


class Figures(msgspec.Struct):
    """How far the check has come."""

    files: int = 0
    partly: int = 0
    """Of them, those too large to be read whole."""
    chunks: int = 0
    """Fetched and verified, or found damaged."""
    file_bytes: int = 0
    """Bytes of files that were verified, those of chunks already known to be good included."""
    fetched_bytes: int = 0
    first_byte_s: float | None = None
    """When the first chunk was there, by the clock given."""


class Check:
    """One pass over a sample. One thread calls; reads run in `_THREADS` others."""

    def __init__(
        self,
        view: View,
        store: ObjectStore,
        keys: VolumeKeys,
        damages: Damages,
        clock: Clock,
        on_progress: Callable[[Figures], None],
    ) -> None:
        self._view = view
        self._damages = damages
        self._clock = clock
        self._on_progress = on_progress
        self._reader = PackReader(
            PackFiles(),
            store,
            keys,
            chunk_id_of=lambda raw: blake3(raw, key=keys.chunk_id_key).digest(),
            peek=lambda location: None,
        )
        self._good: OrderedDict[int, None] = OrderedDict()
        self._awaited: dict[int, list[tuple[int, int]]] = {}
        """Chunks on their way, and who else waits for each: inode and bytes."""
        self._waiting = 0
        self.figures = Figures()

    def run(self, sample: Sample) -> None:
        """Blocking. Unavailable and Denied as the store raises them."""
        pending: deque[tuple[list[Job], Future[list[FusegwError | None]]]] = deque()
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="drill")
        try:
            for batch in self._batches(sample):
                pending.append((batch, pool.submit(self._verify, batch)))
                if len(pending) >= _BATCHES_MAX:
                    self._take(*pending.popleft())
            while pending:
                self._take(*pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _batches(self, sample: Sample) -> Iterator[list[Job]]:
        batch: list[Job] = []
        size = 0
        for ino, piece in self._jobs(sample):
            assert piece.ref is not None, "only pieces of chunks are read"
            batch.append((ino, piece))
            size += piece.ref.location.raw
            if size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _jobs(self, sample: Sample) -> Iterator[Job]:
        """Walks all extents of the chosen files; gives the pieces that must be read."""
        for inode in sample.inodes():
            whole = True
            for piece in pieces_of(self._view, inode):
                if piece.problem:
                    self._damages.of(INDEX, piece.problem).needed_by(inode.ino)
                elif piece.ref is None:
                    continue
                elif not sample.takes(inode, piece):
                    whole = False
                elif not self._is_known(inode.ino, piece):
                    yield inode.ino, piece
            self.figures.files += 1
            self.figures.partly += not whole
            self._on_progress(self.figures)

    def _is_known(self, ino: int, piece: Piece) -> bool:
        """Whether its chunk was found good before, or is on its way for another piece."""
        if piece.chunk in self._good:
            self._good.move_to_end(piece.chunk)
            self.figures.file_bytes += piece.length
            return True
        if piece.chunk not in self._awaited:
            self._awaited[piece.chunk] = []
            return False
        if self._waiting >= _WAITING_MAX:
            return False
        self._waiting += 1
        self._awaited[piece.chunk].append((ino, piece.length))
        return True

    def _verify(self, batch: list[Job]) -> list[FusegwError | None]:
        """In a thread: what is wrong with each; the bytes are let go of here."""
        results = read_pieces(self._reader, [piece for _, piece in batch])
        return [result if isinstance(result, FusegwError) else None for result in results]

    def _take(self, batch: list[Job], reading: "Future[list[FusegwError | None]]") -> None:
        for (ino, piece), result in zip(batch, reading.result(), strict=True):
            assert piece.ref is not None
            self.figures.chunks += 1
            if isinstance(result, Unavailable | Denied):
                raise result
            others = self._awaited.pop(piece.chunk, [])
            self._waiting -= len(others)
            if result is not None:
                found = self._damages.of(object_key(piece.ref.pack_id), str(result))
                for one in (ino, *[other for other, _ in others]):
                    found.needed_by(one)
                continue
            if self.figures.first_byte_s is None:
                self.figures.first_byte_s = self._clock.monotonic()
            self.figures.file_bytes += piece.length + sum(length for _, length in others)
            self.figures.fetched_bytes += piece.ref.location.stored
            self._good[piece.chunk] = None
            if len(self._good) > _REMEMBERED_MAX:
                self._good.popitem(last=False)
        self._on_progress(self.figures)


def check_packs(view: View, store: ObjectStore, damages: Damages) -> int:
    """Compare the store's list of packs with the index: all that live chunks lie in, with their sizes.

    Returns how many packs are needed. Files that need a damaged one are looked for in the whole index.
    """
    needed = {object_key(pack.pack_id): (number, pack.size) for number, pack in view.rows(PACK) if pack.live}
    count = len(needed)
    broken: dict[int, str] = {}
    for info in store.list("packs/"):
        number, size = needed.pop(info.key, (0, 0))
        if number and info.size != size:
            damages.of(info.key, f"object {info.key} has {info.size} bytes, {size} were written")
            broken[number] = info.key
    for key, (number, _) in needed.items():
        damages.of(key, f"object {key} is missing from {store.url}")
        broken[number] = key
    if broken:
        for ino, number in _needing(view, broken):
            damages.found[broken[number]].needed_by(ino)
    return count


def _needing(view: View, packs: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(inode, pack) of every extent that lies in one of these packs."""
    wanted = set(packs)
    chunks = {number: chunk.pack for number, chunk in view.rows(CHUNK) if chunk.pack in wanted}
    for (ino, _), extent in view.rows(EXTENT):
        if extent.chunk in chunks:
            yield ino, chunks[extent.chunk]
