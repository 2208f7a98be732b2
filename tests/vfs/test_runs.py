"""Runs against a plain byte map."""

import tracemalloc
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fusegw.vfs.runs import Runs, overlay

SPACE = 200
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, SPACE - 40), st.integers(1, 40)),
        st.tuples(st.just("truncate"), st.integers(0, SPACE), st.just(0)),
        st.tuples(st.just("split"), st.integers(0, 10), st.integers(1, 30)),
    ),
    max_size=30,
)


def contents(runs: Runs) -> dict[int, int]:
    return {run.start + i: value for run in runs.within(0, SPACE + 100) for i, value in enumerate(run.data)}


@given(OPERATIONS)
def test_runs_hold_what_was_written_last(operations: list[tuple[str, int, int]]) -> None:
    runs = Runs()
    expected: dict[int, int] = {}
    for step, (name, first, second) in enumerate(operations):
        if name == "write":
            data = bytes((step * 7 + i) % 256 for i in range(second))
            run = runs.write(first, data)
            assert run.start <= first and run.end >= first + second
            expected.update({first + i: value for i, value in enumerate(data)})
        elif name == "truncate":
            runs.truncate(first)
            expected = {at: value for at, value in expected.items() if at < first}
        else:
            present = runs.within(0, SPACE + 100)
            if present:
                run = present[first % len(present)]
                runs.remove(run)
                for i, value in enumerate(run.data):
                    assert expected.pop(run.start + i) == value
        assert contents(runs) == expected
        assert runs.nbytes == len(expected)
        ordered = runs.within(0, SPACE + 100)
        assert all(a.end <= b.start for a, b in pairwise(ordered))


def test_sequential_writes_become_one_run() -> None:
    runs = Runs()
    for position in range(0, 4096, 512):
        runs.write(position, b"x" * 512)
    assert [(run.start, len(run.data)) for run in runs.take()] == [(0, 4096)]
    assert not runs and runs.nbytes == 0


def test_pieces_of_any_length_are_joined_in_order() -> None:
    """Tiny ones, of which some are put together at once, and others, which are kept as they came."""
    runs, expected = Runs(), b""
    for number, length in enumerate([1, 5000, 1, 1, 4096, 4095, 1 << 20, 3, 1 << 20, 7] * 3):
        data = bytes([number]) * length
        runs.write(len(expected), data)
        expected += data
    (run,) = runs.within(0, len(expected))
    assert (run.start, run.end, bytes(run.data)) == (0, len(expected), expected)
    runs.write(0, b"new")
    assert bytes(run.buffer()) == b"new" + expected[3:]


def test_tiny_pieces_do_not_cost_more_than_they_hold() -> None:
    runs = Runs()
    for offset in range(200_000):
        runs.write(offset, b"x")
    tracemalloc.start()
    try:
        for offset in range(200_000, 400_000):
            runs.write(offset, bytes([offset % 256]))
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()


def test_within_finds_only_what_overlaps() -> None:
    runs = Runs()
    for start in (0, 100, 200):
        runs.write(start, b"x" * 10)
    assert [run.start for run in runs.within(10, 100)] == []
    assert [run.start for run in runs.within(9, 101)] == [0, 100]
    assert [run.start for run in runs.within(205, 206)] == [200]


@given(st.integers(0, 50), st.integers(0, 50), st.binary(max_size=60))
def test_overlay_copies_the_common_part(offset: int, start: int, data: bytes) -> None:
    target = bytearray(b"." * 40)
    overlay(target, offset, start, data)
    for i, value in enumerate(target):
        at = offset + i - start
        assert value == (data[at] if 0 <= at < len(data) else ord("."))
