"""Reads chosen files back from the store and verifies every chunk, each once.

Chunks are fetched by their exact ranges, neighbours in a pack together, past every cache, and tag and id are
verified as for any read. A chunk that several files share is fetched once, mostly. What is wrong is collected
by object, with the inodes that suffer; a store that does not answer ends it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

import msgspec

from fusegw.check.damages import INDEX, Damages
from fusegw.check.reading import Verdict, store_reader, verify
from fusegw.clock import Clock
from fusegw.drill.sample import Sample
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.view import View
from fusegw.packs.format import object_key
from fusegw.store.base import ObjectStore
from fusegw.vfs.contents import Piece, pieces_of

_REMEMBERED_MAX = 1 << 18
_WAITING_MAX = 10_000

Job = tuple[int, Piece]
"""An inode, and a piece of it that is to be read."""


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
        self._reader = store_reader(store, keys)
        self._good: OrderedDict[int, None] = OrderedDict()
        self._awaited: dict[int, list[tuple[int, int]]] = {}
        """Chunks on their way, and who else waits for each: inode and bytes."""
        self._waiting = 0
        self.figures = Figures()

    def run(self, sample: Sample) -> None:
        """Blocking. Unavailable and Denied as the store raises them."""
        for verified in verify(self._reader, self._jobs(sample)):
            self._take(verified)

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

    def _take(self, verified: list[tuple[int, Piece, Verdict]]) -> None:
        for ino, piece, verdict in verified:
            assert piece.ref is not None
            self.figures.chunks += 1
            others = self._awaited.pop(piece.chunk, [])
            self._waiting -= len(others)
            if verdict is not None:
                found = self._damages.of(object_key(piece.ref.pack_id), str(verdict))
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
