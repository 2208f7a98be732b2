"""Where a piece of file data is cut into chunks, and which parts of it are holes.

Content-defined cutting by FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for Data
Deduplication Based Storage Systems", 2020) with the volume's own seed; runs of zeros become holes before
anything is cut.
"""

import threading
from collections.abc import Iterator

from pyfastcdc import FastCDC

PAGE = 4096
HOLE_MIN = 32 << 10
"""Shorter runs of zeros stay data: an extent costs more than they do."""
_PROBE = HOLE_MIN // 2
_ZERO_PAGE = bytes(PAGE)
_ZERO_BLOCK = bytes(1 << 20)

Cut = tuple[int, bool]
"""Length in bytes, and whether it is a hole."""


class Cutter:
    """Cuts buffers; thread-safe.

    `average_bytes` is the target chunk length; chunks are between a quarter and four times that, but for
    the last of a buffer, which may be shorter.
    """

    def __init__(self, *, seed: int, average_bytes: int) -> None:
        self._seed = seed
        self._average_bytes = average_bytes
        self._min_bytes = average_bytes // 4
        self._local = threading.local()

    @property
    def max_bytes(self) -> int:
        """No chunk is longer."""
        return self._average_bytes * 4

    def cut(self, data: bytes | bytearray) -> list[Cut]:
        """The cuts of the whole of `data`, in order; their lengths add up to its own."""
        cuts: list[Cut] = []
        position = 0
        for start, end in _zero_runs(data):
            if start > position:
                cuts += self._chunks(memoryview(data)[position:start])
            cuts.append((end - start, True))
            position = end
        if position < len(data):
            cuts += self._chunks(memoryview(data)[position:] if position else data)
        return cuts

    def cut_stream(self, data: bytes | bytearray) -> list[Cut]:
        """The cuts that more data behind `data` could not move; they may end before it does."""
        cuts = self.cut(data)
        if cuts and not cuts[-1][1]:
            cuts.pop()
        return cuts

    def _chunks(self, data: bytes | bytearray | memoryview) -> list[Cut]:
        if len(data) <= self._min_bytes:
            return [(len(data), False)]
        fastcdc = getattr(self._local, "fastcdc", None)
        if fastcdc is None:
            fastcdc = self._local.fastcdc = FastCDC(
                self._average_bytes,
                min_size=self._min_bytes,
                max_size=self.max_bytes,
                seed=self._seed,
            )
        return [(chunk.length, False) for chunk in fastcdc.cut_buf(data)]


def _zero_runs(data: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Runs of at least HOLE_MIN zero bytes, in whole pages from the start of `data`."""
    end = len(data)
    position = floor = 0
    while position + PAGE <= end:
        if not data.startswith(_ZERO_PAGE, position):
            position += _PROBE
            continue
        start = position
        while start - PAGE >= floor and data.startswith(_ZERO_PAGE, start - PAGE):
            start -= PAGE
        position += PAGE
        while position + len(_ZERO_BLOCK) <= end and data.startswith(_ZERO_BLOCK, position):
            position += len(_ZERO_BLOCK)
        while position + PAGE <= end and data.startswith(_ZERO_PAGE, position):
            position += PAGE
        if position - start >= HOLE_MIN:
            yield start, position
            floor = position
        position = (position + _PROBE - 1) // _PROBE * _PROBE
