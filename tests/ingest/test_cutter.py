"""Cutting: deterministic, seeded, bounded, zeros become holes."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from fusegw.ingest.cutter import HOLE_MIN, PAGE, Cutter

AVERAGE = 16 << 10


def data(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def cutter(seed: int = 77) -> Cutter:
    return Cutter(seed=seed, average_bytes=AVERAGE)


def lengths(cuts: list[tuple[int, bool]]) -> list[int]:
    return [length for length, _ in cuts]


def test_lengths_are_bounded_and_add_up() -> None:
    content = data(1 << 20)
    cuts = cutter().cut(content)
    assert sum(lengths(cuts)) == len(content)
    assert not any(hole for _, hole in cuts)
    assert all(AVERAGE // 4 <= length <= 4 * AVERAGE for length, _ in cuts[:-1])
    assert len(cuts) > 20


def test_an_insertion_moves_only_the_cuts_around_it() -> None:
    content = data(1 << 20)
    changed = content[:300_000] + b"inserted" + content[300_000:]

    def chunks(of: bytes) -> set[bytes]:
        position, found = 0, set()
        for length in lengths(cutter().cut(of)):
            found.add(of[position : position + length])
            position += length
        return found

    assert len(chunks(content) - chunks(changed)) <= 4


def test_the_seed_decides_where_cuts_are() -> None:
    content = data(1 << 20)
    assert lengths(cutter(1).cut(content)) == lengths(cutter(1).cut(content))
    assert lengths(cutter(1).cut(content)) != lengths(cutter(2).cut(content))


def test_a_stream_cut_in_portions_is_cut_like_the_whole() -> None:
    content = data(1 << 20)
    found: list[int] = []
    rest = b""
    for start in range(0, len(content), 200_000):
        rest += content[start : start + 200_000]
        cuts = lengths(cutter().cut_stream(rest))
        found += cuts
        rest = rest[sum(cuts) :]
    found += lengths(cutter().cut(rest))
    assert found == lengths(cutter().cut(content))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 30 * PAGE)), min_size=1, max_size=6))
def test_holes_are_zeros_and_long_runs_are_holes(parts: list[tuple[bool, int]]) -> None:
    content = b"".join(bytes(size) if zero else data(size, size) for zero, size in parts)
    cuts = cutter().cut(content)
    assert sum(lengths(cuts)) == len(content)
    position = in_holes = 0
    for length, hole in cuts:
        if hole:
            assert length >= HOLE_MIN and not any(content[position : position + length])
            in_holes += length
        position += length
    zeros = sum(size - HOLE_MIN - 2 * PAGE for zero, size in parts if zero and size >= HOLE_MIN + 2 * PAGE)
    assert in_holes >= zeros


def test_empty_data_has_no_cuts() -> None:
    assert cutter().cut(b"") == []
