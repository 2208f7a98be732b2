"""When snapshots are made by themselves, and which of them stay. Sans I/O.

A schedule says how many to keep for each kind of period, such as "hourly 24, daily 14". One is made in each
of its shortest periods; it stays while it is the newest of its hour, day, week, month or year, and that is
one of the newest so many in which there are any. So a snapshot may stand for its hour and its day at once,
and time alone takes none away.

Periods are those of UTC, weeks begin on Monday: the same on every host, and no hour comes twice or never.

Promises: the newest stays; what stays does not depend on how often one looks; keeping more never drops one.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from fusegw.errors import Invalid

COUNT_MAX = 5000
EXAMPLE = "hourly 24, daily 14, weekly 8, monthly 12"

_HOUR_S, _DAY_S, _WEEK_S = 3600, 86_400, 7 * 86_400
_MONDAY_S = 4 * _DAY_S
"""The first Monday after 1970 began."""
_LENGTHS_S = {"hourly": _HOUR_S, "daily": _DAY_S, "weekly": _WEEK_S}
_MONTHS = {"monthly": 1, "yearly": 12}
KINDS = (*_LENGTHS_S, *_MONTHS)
"""From the shortest period to the longest."""
_ITEM = re.compile(r"([a-z]+) +([0-9]{1,9})")
_NS = 10**9


def parse_keep(text: str) -> dict[str, int]:
    """How many to keep by kind of period, from "hourly 24, daily 14", in the order of `KINDS`; Invalid."""
    counts: dict[str, int] = {}
    for item in text.strip().lower().removeprefix("keep ").split(","):
        match = _ITEM.fullmatch(item.strip())
        if match is None or match[1] not in KINDS:
            raise Invalid(
                f"{text!r} does not say which snapshots to keep: expected such as {EXAMPLE!r}, of "
                f"{', '.join(KINDS)}"
            )
        kind, count = match[1], int(match[2])
        if kind in counts:
            raise Invalid(f"{text!r} says twice how many {kind} snapshots to keep")
        if not 1 <= count <= COUNT_MAX:
            raise Invalid(
                f"{text!r}: {kind} {count} is not between 1 and {COUNT_MAX}; leave out what is not kept"
            )
        counts[kind] = count
    return {kind: counts[kind] for kind in KINDS if kind in counts}


class SnapshotSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """What a volume says of the snapshots that are made by themselves; Invalid when `keep` is not clear."""

    keep: str
    """As "hourly 24, daily 14"."""
    even_unchanged: bool = False
    """Make one, too, when nothing has changed since the last."""
    stored: bool = False
    """One counts, and takes the place of older ones, only when it is in the store with all that is in it."""

    def __post_init__(self) -> None:
        parse_keep(self.keep)

    @property
    def counts(self) -> dict[str, int]:
        """How many to keep by kind of period, the shortest first."""
        return parse_keep(self.keep)

    @property
    def kind(self) -> str:
        """Of the periods in each of which one is made."""
        return next(iter(self.counts))


def period(kind: str, time_ns: int) -> int:
    """The number of the period in which that time (since 1970) is; they count up."""
    seconds = time_ns // _NS
    if kind == "weekly":
        seconds -= _MONDAY_S
    if kind in _LENGTHS_S:
        return seconds // _LENGTHS_S[kind]
    moment = datetime.fromtimestamp(seconds, UTC)
    return (moment.year * 12 + moment.month - 1) // _MONTHS[kind]


def period_start_ns(kind: str, number: int) -> int:
    """When a period begins, since 1970."""
    if kind in _LENGTHS_S:
        return (number * _LENGTHS_S[kind] + (_MONDAY_S if kind == "weekly" else 0)) * _NS
    year, month = divmod(number * _MONTHS[kind], 12)
    return int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp()) * _NS


def surplus(counts: Mapping[str, int], made: Iterable[tuple[int, int]], now_ns: int) -> list[int]:
    """Which of the snapshots `made`, each as (ns since 1970, sequence), need not stay: their sequences, the
    oldest first.

    Those from the future, of a clock that went wrong, neither go nor count until then.
    """
    past = sorted((one for one in made if one[0] <= now_ns), reverse=True)
    kept: set[int] = set()
    for kind, count in counts.items():
        newest: dict[int, int] = {}
        for time_ns, seq in past:
            number = period(kind, time_ns)
            if number not in newest:
                if len(newest) == count:
                    break
                newest[number] = seq
        kept.update(newest.values())
    return [seq for _, seq in reversed(past) if seq not in kept]
