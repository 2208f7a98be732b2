"""Compression of single chunks: zstd, or none where it does not pay.

Promises: `decompress` returns exactly as many bytes as it was told to expect, or raises Corrupt, and never
uses memory beyond that whatever the payload claims. Everything is thread-safe.

There is no test of a sample beforehand: at the levels used here zstd notices incompressible data by itself
and runs through it more than ten times as fast as through text, so a sample would only lose what the
rest of the chunk would have saved.
"""

from pyzstd import CParameter, DParameter, EndlessZstdDecompressor, ZstdCompressor, ZstdError

from fusegw.errors import Corrupt, Invalid
from fusegw.packs.format import RAW, RAW_SIZE_MAX, ZSTD

LEVEL_DEFAULT = 3
LEVEL_MAX = 19

_PAYS_SHIFT = 6
"""Compression pays when it saves at least 1/2**6 of the chunk."""
_LARGE = 128 << 10
_TABLES: dict[int, dict[int, int]] = {
    2: {CParameter.hashLog: 15, CParameter.minMatch: 5},
    3: {CParameter.hashLog: 16, CParameter.chainLog: 16},
}
"""Chunks above `_LARGE` bytes get smaller match tables at these levels, which stay in a core's own cache: a
quarter faster than with zstd's choice, for 1.6 % (level 2) or 0.2 % (level 3) more bytes. At level 2, which
finds short matches only in small tables, they may be a byte shorter than zstd's."""
_WINDOW: dict[int, int] = {DParameter.windowLogMax: RAW_SIZE_MAX.bit_length() - 1}
_idle_decompressors: list[EndlessZstdDecompressor] = []
"""Contexts that wait for their next chunk, as many as were ever in use at once. Each holds buffers as long as
its chunks, whose pages the kernel would otherwise find and clear for every chunk."""


class Compressor:
    """Compresses chunks. Keeps as many zstd contexts as were ever in use at once at a level."""

    def __init__(self) -> None:
        self._idle: dict[tuple[int, bool], list[ZstdCompressor]] = {}

    def compress(self, raw: bytes | memoryview, level: int = LEVEL_DEFAULT) -> tuple[int, bytes | memoryview]:
        """(codec, payload) of a chunk; the payload of codec RAW is `raw` itself.

        `level` 1 to 19: higher is smaller and slower.
        """
        size = len(raw)
        kind = level, size > _LARGE
        idle = self._idle.setdefault(kind, [])
        try:
            context = idle.pop()
        except IndexError:
            context = ZstdCompressor(_options(*kind))
        payload: bytes = context.compress(raw, ZstdCompressor.FLUSH_FRAME)
        idle.append(context)
        if len(payload) > size - (size >> _PAYS_SHIFT):
            return RAW, raw
        return ZSTD, payload


def _options(level: int, large: bool) -> dict[int, int]:
    """Invalid unless zstd has such a level."""
    if not 1 <= level <= LEVEL_MAX:
        raise Invalid(f"compression level {level} is not allowed: expected 1 to {LEVEL_MAX}")
    options: dict[int, int] = {CParameter.compressionLevel: level}
    return options | _TABLES.get(level, {}) if large else options


def decompress(codec: int, payload: bytes, raw_size: int) -> bytes:
    """The chunk of `raw_size` bytes that `compress` made `payload` of; Corrupt if it is not one."""
    if codec == RAW and len(payload) == raw_size:
        return payload
    if codec == ZSTD and raw_size <= RAW_SIZE_MAX:
        try:
            context = _idle_decompressors.pop()
        except IndexError:
            context = EndlessZstdDecompressor(option=_WINDOW)
        try:
            raw: bytes = context.decompress(payload, raw_size + 1)
        except ZstdError:
            pass
        else:
            if len(raw) == raw_size and context.at_frame_edge:
                _idle_decompressors.append(context)
                return raw
    raise Corrupt(f"a chunk of {raw_size} bytes does not decompress: restore it from another copy")
