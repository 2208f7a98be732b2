"""Every step that makes something durable fails, in each way it can: nothing acknowledged is lost, and the
gateway goes on, or starts again.

All points by all outcomes take about half an hour (`scripts/acceptance faults`); each point is a test of its
own, which repeats it (`-m soak -k spool-sync`). Otherwise a seed chooses a few: FUSEGW_FAIL_SEED, and
FUSEGW_FAIL_CASES how many.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusegw.errors import FusegwError
from tests.failpoints.injection import Outcome
from tests.failpoints.points import BY_NAME, POINTS, Point
from tests.failpoints.scenes import SCENE_OF, Victim, begin, play, tour

pytestmark = [pytest.mark.mount, pytest.mark.timeout(600)]
SEED = int(os.environ.get("FUSEGW_FAIL_SEED", "1"))
CASES = int(os.environ.get("FUSEGW_FAIL_CASES", "3"))


@contextmanager
def victim(seed: int = SEED, **environment: str) -> Iterator[Victim]:
    base = Path(tempfile.mkdtemp(prefix="fusegw-failpoints-"))
    base.chmod(0o755)
    one = Victim(base, seed, **environment)
    try:
        yield one
    finally:
        one.end()
        shutil.rmtree(base)


def chosen() -> list[tuple[str, Outcome]]:
    """Some of all cases, another outcome each."""
    dice = random.Random(SEED)
    outcomes = list(Outcome)
    return [(dice.choice(POINTS).name, outcomes[number % len(outcomes)]) for number in range(CASES)]


def test_the_points_have_names_of_their_own_and_scenes() -> None:
    assert len(BY_NAME) == len(POINTS)
    assert {point.scene for point in POINTS} == set(SCENE_OF)


@pytest.mark.slow
def test_every_point_is_reached() -> None:
    with victim() as one:
        tour(one)
        assert one.seen == set(BY_NAME)


@pytest.mark.slow
def test_some_points_fail() -> None:
    with victim() as one:
        begin(one)
        for name, outcome in chosen():
            print(f"{name}: {outcome}")
            play(one, BY_NAME[name], outcome)


@pytest.mark.soak
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_every_outcome_of(point: Point) -> None:
    with victim() as one:
        begin(one)
        for outcome in Outcome:
            print(f"{point.name}: {outcome}")
            play(one, point, outcome)


@pytest.mark.slow
def test_without_the_sync_of_packs_a_point_fails() -> None:
    """The control: a commit comes before the bytes it refers to are durable."""
    with victim(FUSEGW_TEST_NO_SYNC="1") as one:
        begin(one)
        with pytest.raises(AssertionError):
            play(one, BY_NAME["pack-close"], Outcome.ABORT_BEFORE)


@pytest.mark.slow
def test_with_the_log_before_the_packs_a_point_fails() -> None:
    """The control: a segment is in the store before the packs it refers to."""
    with victim(FUSEGW_TEST_LOG_FIRST="1") as one:
        begin(one)
        with pytest.raises((AssertionError, FusegwError, BaseExceptionGroup)):
            play(one, BY_NAME["segment-put"], Outcome.ABORT_AFTER)


def test_the_documents_name_every_point() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "reliability.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| `")]
    assert [f"| `{one.name}` | {one.step} | {one.scene} |" for one in POINTS] == [
        line for line in table if line.split("`")[1] in BY_NAME
    ]
