"""Counting small pieces: what makes a span due, how often it is looked at, and the bound on memory."""

from fusegw.vfs.fragments import SPAN_BYTES, Fragments

SMALL = 1000
INO = 5
SIZE = 1 << 40


def new_fragments(*, spans_max: int = 100) -> Fragments:
    return Fragments(small_bytes=SMALL, spans_max=spans_max)


def place(fragments: Fragments, count: int, *, ino: int = INO, span: int = 0) -> None:
    for number in range(count):
        fragments.placed(ino, span * SPAN_BYTES + 100 * number + 1, 100, 1, SIZE)


def test_enough_small_pieces_make_a_span_due_once_the_file_is_settled() -> None:
    fragments = new_fragments()
    place(fragments, 7, span=3)
    fragments.settled(INO)
    assert fragments.take() is None
    place(fragments, 1, span=3)
    assert fragments.take() is None
    fragments.settled(INO)
    assert fragments.take() == (INO, 3)
    assert fragments.take() is None


def test_long_pieces_and_whole_files_do_not_count() -> None:
    fragments = new_fragments()
    for number in range(100):
        fragments.placed(INO, number * SMALL, SMALL, 1, SIZE)
        fragments.placed(INO, 0, 20 * SMALL, 20, SIZE)
        fragments.placed(INO, 0, 100, 1, 100)
        fragments.placed(INO, 0, 100, 1, 0)
    fragments.settled(INO)
    assert fragments.take() is None


def test_looks_are_paid_for_by_pieces() -> None:
    """Nothing can be done about this span: each look finds all pieces so far. Their sum stays linear."""
    fragments = new_fragments()
    seen = 0
    for number in range(1, 10_001):
        place(fragments, 1)
        fragments.settled(INO)
        if fragments.take() is not None:
            seen += number
            fragments.looked(INO, 0, number)
    assert 10_000 <= seen < 5 * 10_000


def test_postponed_comes_back_when_settled_and_again_at_once() -> None:
    fragments = new_fragments()
    place(fragments, 8)
    fragments.settled(INO)
    assert fragments.take() == (INO, 0)
    fragments.postpone(INO, 0)
    assert fragments.take() is None
    fragments.settled(INO)
    assert fragments.take() == (INO, 0)
    fragments.again(INO, 0)
    assert fragments.take() == (INO, 0)
    fragments.looked(INO, 0, 3)
    fragments.settled(INO)
    assert fragments.take() is None


def test_pieces_that_come_during_a_look_count() -> None:
    fragments = new_fragments()
    place(fragments, 8)
    fragments.settled(INO)
    assert fragments.take() == (INO, 0)
    place(fragments, 5)
    fragments.looked(INO, 0, 2)
    place(fragments, 3)
    fragments.settled(INO)
    assert fragments.take() == (INO, 0)


def test_memory_is_bounded_and_the_oldest_file_goes_first() -> None:
    fragments = new_fragments(spans_max=10)
    place(fragments, 8, ino=1)
    place(fragments, 8, ino=2)
    fragments.settled(1)
    fragments.settled(2)
    for number in range(3, 12):
        place(fragments, 1, ino=number)
    assert fragments.take() == (2, 0)
    fragments.looked(2, 0, 0)
    place(fragments, 1, ino=12)
    for span in range(100):
        place(fragments, 8, ino=13, span=span)
    fragments.settled(13)
    spans = 0
    while (taken := fragments.take()) is not None:
        assert taken[0] == 13
        fragments.looked(*taken, 0)
        spans += 1
    assert 1 <= spans <= 10


def test_a_forgotten_file_is_not_due() -> None:
    fragments = new_fragments()
    place(fragments, 8)
    fragments.settled(INO)
    assert fragments.take() == (INO, 0)
    fragments.forget(INO)
    fragments.again(INO, 0)
    fragments.looked(INO, 0, 50)
    fragments.settled(INO)
    assert fragments.take() is None
