"""Which scheduled snapshots stay, against a reference that goes by the calendar of the standard library."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusegw.errors import Invalid
from fusegw.schedule import COUNT_MAX, KINDS, SnapshotSchedule, parse_keep, period, period_start_ns, surplus

HOUR_NS = 3600 * 10**9
START_NS = 1_790_000_000 * 10**9
Surplus = Callable[[Mapping[str, int], Iterable[tuple[int, int]], int], list[int]]

counts_of = st.dictionaries(st.sampled_from(KINDS), st.integers(1, 6), min_size=1)
moments = st.lists(
    st.one_of(st.integers(0, 60), st.integers(0, 24 * 900)).map(
        lambda hours: START_NS + hours * HOUR_NS // 2
    ),
    max_size=60,
).map(lambda times: [(time_ns, seq) for seq, time_ns in enumerate(times)])


def label(kind: str, time_ns: int) -> str:
    """Of the period, by the calendar."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1000)
    form = {
        "hourly": "%Y-%m-%d %H",
        "daily": "%Y-%m-%d",
        "weekly": "%G-%V",
        "monthly": "%Y-%m",
        "yearly": "%Y",
    }
    return moment.strftime(form[kind])


def kept_by_reference(counts: Mapping[str, int], made: list[tuple[int, int]], now_ns: int) -> set[int]:
    kept = {seq for time_ns, seq in made if time_ns > now_ns}
    for kind, count in counts.items():
        newest = {label(kind, time_ns): seq for time_ns, seq in sorted(made) if time_ns <= now_ns}
        kept |= {newest[name] for name in sorted(newest)[-count:]}
    return kept


def check(gone_of: Surplus, counts: Mapping[str, int], made: list[tuple[int, int]], now_ns: int) -> None:
    """All that retention promises, for these snapshots."""
    gone = gone_of(counts, made, now_ns)
    kept = {seq for _, seq in made} - set(gone)
    assert kept == kept_by_reference(counts, made, now_ns)
    assert len(gone) == len(set(gone)) and set(gone) <= {seq for _, seq in made}
    left = [one for one in made if one[1] in kept]
    assert gone_of(counts, left, now_ns) == [], "not done at once"
    past = [one for one in made if one[0] <= now_ns]
    if past:
        assert max(past)[1] in kept, "the newest is gone"
    for kind in KINDS:
        more = dict(counts) | {kind: counts.get(kind, 0) + 1}
        assert set(gone_of(more, made, now_ns)) <= set(gone), "keeping more keeps less"


@settings(deadline=None)
@given(counts_of, moments, st.integers(0, 24 * 900))
def test_what_stays_is_as_promised(counts: dict[str, int], made: list[tuple[int, int]], now: int) -> None:
    check(surplus, counts, made, START_NS + now * HOUR_NS)


@settings(deadline=None)
@given(counts_of, moments, st.sets(st.integers(0, 60)))
def test_looking_often_or_once_is_the_same(
    counts: dict[str, int], made: list[tuple[int, int]], looks: set[int]
) -> None:
    left: list[tuple[int, int]] = []
    for number, one in enumerate(sorted(made)):
        left.append(one)
        if number in looks:
            gone = surplus(counts, left, one[0])
            left = [other for other in left if other[1] not in gone]
    now_ns = max(made, default=(0, 0))[0]
    gone = surplus(counts, left, now_ns)
    assert {seq for _, seq in left} - set(gone) == kept_by_reference(counts, made, now_ns)


def oldest_of_each(counts: Mapping[str, int], made: Iterable[tuple[int, int]], now_ns: int) -> list[int]:
    return surplus(counts, [(2 * START_NS - time_ns, seq) for time_ns, seq in made], now_ns)


def future_too(counts: Mapping[str, int], made: Iterable[tuple[int, int]], now_ns: int) -> list[int]:
    return surplus(counts, made, 1 << 62)


def one_kind_only(counts: Mapping[str, int], made: Iterable[tuple[int, int]], now_ns: int) -> list[int]:
    return surplus(dict([next(iter(counts.items()))]), made, now_ns)


@pytest.mark.parametrize("broken", [oldest_of_each, future_too, one_kind_only])
def test_the_check_finds_what_is_broken(broken: Surplus) -> None:
    made = [(START_NS + hours * HOUR_NS // 4, hours) for hours in range(1000)]
    check(surplus, {"hourly": 3, "daily": 4}, made, START_NS + 200 * HOUR_NS)
    with pytest.raises(AssertionError):
        check(broken, {"hourly": 3, "daily": 4}, made, START_NS + 200 * HOUR_NS)


@given(st.sampled_from(KINDS), st.integers(0, 6_000_000_000 * 10**9))
def test_periods_follow_one_another(kind: str, time_ns: int) -> None:
    number = period(kind, time_ns)
    begin, end = period_start_ns(kind, number), period_start_ns(kind, number + 1)
    assert begin <= time_ns < end
    assert label(kind, begin) == label(kind, time_ns) == label(kind, end - 1) != label(kind, end)


def test_what_to_keep_is_read_as_people_write_it() -> None:
    expected = {"hourly": 24, "daily": 14, "monthly": 12}
    for text in ("keep hourly 24, daily 14, monthly 12", " Monthly 12,daily  14 ,HOURLY 24"):
        assert parse_keep(text) == expected
        assert list(parse_keep(text)) == list(expected)
    assert SnapshotSchedule(keep="weekly 2, yearly 1").kind == "weekly"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not say"),
        ("hourly", "does not say"),
        ("hourly 24 daily 14", "does not say"),
        ("minutely 3", "does not say"),
        ("hourly -1", "does not say"),
        ("daily 1, daily 2", "twice"),
        ("daily 0", "not between"),
        (f"daily {COUNT_MAX + 1}", "not between"),
    ],
)
def test_what_is_not_clear_is_refused(text: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        SnapshotSchedule(keep=text)
