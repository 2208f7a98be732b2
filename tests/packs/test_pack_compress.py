"""Compression of chunks: exact, bounded, raw where it does not pay, safe in several threads."""

import hashlib
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
import pyzstd

from fusegw.errors import Corrupt, Invalid
from fusegw.packs.compress import Compressor, decompress
from fusegw.packs.format import RAW, RAW_SIZE_MAX, ZSTD


def noise(size: int) -> bytes:
    return hashlib.shake_128(b"noise").digest(size)


@pytest.mark.parametrize("level", [1, 2, 3, 9])
@pytest.mark.parametrize("size", [1, 100, 4096, (128 << 10) + 1, 1 << 20])
def test_what_was_compressed_comes_back(level: int, size: int) -> None:
    compressor = Compressor()
    for raw in (noise(size), bytes(size), (b"words " * size)[:size]):
        for given in (raw, memoryview(raw)):
            codec, payload = compressor.compress(given, level)
            assert len(payload) <= size
            assert decompress(codec, bytes(payload), size) == raw


def test_raw_where_it_does_not_pay() -> None:
    compressor = Compressor()
    raw = noise(65536)
    assert compressor.compress(raw) == (RAW, raw)
    assert compressor.compress(raw[:64000] + bytes(1536))[0] == ZSTD
    assert compressor.compress(raw[:65000] + bytes(536))[0] == RAW, "less than one part in 64 was saved"


def test_sizes_are_never_trusted() -> None:
    frame = pyzstd.compress(b"x" * 1000, 1)
    assert decompress(ZSTD, frame, 1000) == b"x" * 1000
    for size in (0, 999, 1001, RAW_SIZE_MAX, RAW_SIZE_MAX + 1):
        with pytest.raises(Corrupt):
            decompress(ZSTD, frame, size)
    for damaged in (frame[:-1], frame + b"\0", frame + frame, frame[1:], b"", b"\0" * 20):
        with pytest.raises(Corrupt):
            decompress(ZSTD, damaged, 1000)
    for codec, payload in ((RAW, b"12"), (RAW, b"1234"), (2, b"123"), (255, b"123")):
        with pytest.raises(Corrupt):
            decompress(codec, payload, 3)


def test_a_bomb_is_not_unpacked() -> None:
    """256 MiB in a few KiB: only as much as was announced is ever produced."""
    stream = pyzstd.ZstdCompressor({pyzstd.CParameter.compressionLevel: 1, pyzstd.CParameter.windowLog: 20})
    bomb = b"".join([stream.compress(bytes(1 << 20)) for _ in range(256)]) + stream.flush()
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            decompress(ZSTD, bomb, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_window_larger_than_any_chunk_is_refused() -> None:
    stream = pyzstd.ZstdCompressor({pyzstd.CParameter.windowLog: 26})
    frame = stream.compress(b"x" * 1000) + stream.flush()
    assert pyzstd.decompress(frame) == b"x" * 1000
    with pytest.raises(Corrupt):
        decompress(ZSTD, frame, 1000)


@pytest.mark.parametrize("level", [0, -1, 20])
def test_levels_have_bounds(level: int) -> None:
    with pytest.raises(Invalid, match="level"):
        Compressor().compress(b"data", level)


def test_threads_do_not_share_a_context() -> None:
    compressor = Compressor()
    chunks = [noise(size)[: size // 2] + bytes(size // 2) for size in range(1000, 300_000, 3000)]

    def work(start: int) -> None:
        for raw in chunks[start:] + chunks[:start]:
            codec, payload = compressor.compress(raw)
            assert decompress(codec, bytes(payload), len(raw)) == raw

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, [0, 25, 50, 75]))
