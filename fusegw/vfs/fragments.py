"""Where settled files were written in small pieces: what the recutter has to look at.

Every placement of small pieces is counted per span of a file. A span is *ready* when enough pieces have come
in since it was looked at, and its file *due* when nobody has it open and nothing of it is in memory. Enough
means half the extents the last look left there, but no fewer than `_PIECES_MIN`: so looking costs a
constant per written piece, however a file is written. Kept in memory only and bounded: what is forgotten, or
was written before the mount, comes back with the next writes to the same span.
"""

from collections import OrderedDict

import msgspec
import trio

SPAN_BYTES = 8 << 20
_PIECES_MIN = 8
"""In the middle of a file each piece leaves two extents more."""


class _File(msgspec.Struct):
    pieces: dict[int, int]
    """Span number → small pieces placed since the last look."""
    wanted: dict[int, int]
    """Span number → how many make it ready, where that is more than the least."""
    ready: dict[int, None]
    """Span numbers, oldest first."""


class Fragments:
    """The written spans of one volume's files. Loop thread only.

    `small_bytes` is the average length below which pieces count as small.
    """

    def __init__(self, *, small_bytes: int, spans_max: int = 16_384) -> None:
        self.small_bytes = small_bytes
        self._spans_max = spans_max
        self._spans = 0
        self._files: OrderedDict[int, _File] = OrderedDict()
        self._due: dict[int, None] = {}
        self._work = trio.Event()

    def placed(self, ino: int, offset: int, length: int, pieces: int, size: int) -> None:
        """`length` bytes went to `offset` in that many extents; the file had `size` bytes before."""
        if length >= pieces * self.small_bytes or (not offset and length >= size):
            return
        file = self._files.get(ino)
        if file is None:
            file = self._files[ino] = _File({}, {}, {})
        else:
            self._files.move_to_end(ino)
        span = offset // SPAN_BYTES
        if span not in file.pieces:
            if self._spans >= self._spans_max:
                self.forget(next(iter(self._files)))
                if ino not in self._files:
                    return
            self._spans += 1
        count = file.pieces[span] = file.pieces.get(span, 0) + pieces
        if count >= file.wanted.get(span, _PIECES_MIN):
            file.ready[span] = None

    def settled(self, ino: int) -> None:
        """The file is closed and nothing of it is in memory."""
        file = self._files.get(ino)
        if file is not None and file.ready:
            self._due[ino] = None
            self._work.set()

    async def wait(self) -> None:
        """Return when a file is due."""
        while not self._due:
            self._work = trio.Event()
            await self._work.wait()

    def take(self) -> tuple[int, int] | None:
        """Inode and number of a span to look at now, None when no file is due; the span counts from 0 again.
        Tell with `looked`, `again` or `postpone` what came of it.
        """
        for ino in list(self._due):
            file = self._files.get(ino)
            if file is not None and file.ready:
                span = next(iter(file.ready))
                del file.ready[span]
                file.pieces[span] = 0
                return ino, span
            del self._due[ino]
        return None

    def looked(self, ino: int, span: int, extents: int) -> None:
        """The span is done for now, that many extents are left there."""
        file = self._files.get(ino)
        if file is None or span not in file.pieces:
            return
        if extents // 2 > _PIECES_MIN:
            file.wanted[span] = extents // 2
            return
        file.wanted.pop(span, None)
        if not file.pieces[span]:
            del file.pieces[span]
            self._spans -= 1
            if not file.pieces:
                self.forget(ino)

    def again(self, ino: int, span: int) -> None:
        """The span needs another look as soon as may be."""
        file = self._files.get(ino)
        if file is not None and span in file.pieces:
            file.ready[span] = None
            self.settled(ino)

    def postpone(self, ino: int, span: int) -> None:
        """The file is in use: the span needs another look after `settled`."""
        self.again(ino, span)
        self._due.pop(ino, None)

    def forget(self, ino: int) -> None:
        """Nobody wants to know about the file any more."""
        file = self._files.pop(ino, None)
        if file is not None:
            self._spans -= len(file.pieces)
        self._due.pop(ino, None)
