"""The level of compression follows who waits for whom."""

import pytest

from fusegw.ingest.effort import BEHIND_BYTES, LEVEL_FAST, LEVEL_THOROUGH, WAITING_BYTES, Effort
from fusegw.packs.compress import LEVEL_DEFAULT


@pytest.mark.parametrize(
    ("in_flight", "unstored", "expected"),
    [
        (0, 0, LEVEL_DEFAULT),
        (BEHIND_BYTES, WAITING_BYTES, LEVEL_DEFAULT),
        (BEHIND_BYTES + 1, 0, LEVEL_FAST),
        (BEHIND_BYTES + 1, WAITING_BYTES + 1, LEVEL_FAST),
        (BEHIND_BYTES, WAITING_BYTES + 1, LEVEL_THOROUGH),
    ],
)
def test_a_writer_comes_before_the_store(in_flight: int, unstored: int, expected: int) -> None:
    effort = Effort(unstored_bytes=lambda: unstored)
    assert effort.beside(in_flight) == expected
    assert effort.at_once() == LEVEL_DEFAULT, "the event loop never waits for a thorough level"


def test_a_level_that_was_chosen_holds() -> None:
    effort = Effort(9, unstored_bytes=lambda: WAITING_BYTES + 1)
    assert {effort.beside(0), effort.beside(BEHIND_BYTES + 1), effort.at_once()} == {9}
