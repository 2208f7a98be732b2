"""From samples to what is reported: medians, ratios and whether a target is met. No I/O.

A ratio is the median over the rounds of fusegw's figure divided by the peer's figure of the same round: what
else the machine does in a round then bears on both. Figures are bytes, files or entries per second, or bytes
for sizes.
"""

from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

SUBJECT = "fusegw"


class Sample(msgspec.Struct, frozen=True):
    """One figure. `seconds` is 0 for a size; `parts` are the seconds of its parts, where they are known."""

    workload: str
    contender: str
    round: int
    figure: float
    seconds: float = 0.0
    parts: dict[str, float] = {}


class Target(msgspec.Struct, frozen=True):
    """fusegw's figure must be at least (a size: at most) `factor` times the peer's."""

    peer: str
    factor: float


class Workload(msgspec.Struct, frozen=True):
    """What is measured. A figure is divided by `scale` to be shown in `unit`."""

    name: str
    title: str
    unit: str
    scale: float = 1.0
    less_is_better: bool = False
    target: Target | None = None


class Verdict(msgspec.Struct, frozen=True):
    """A target and how near fusegw came; `met` and `ratio` are None when the peer was not measured."""

    target: Target
    ratio: float | None
    met: bool | None


class Row(msgspec.Struct, frozen=True):
    """One workload: median figure by contender, ratio fusegw / peer by peer."""

    workload: Workload
    medians: dict[str, float]
    ratios: dict[str, float]
    verdict: Verdict | None


def rows(workloads: Sequence[Workload], samples: Iterable[Sample]) -> list[Row]:
    """One row per workload, in their order, empty for what has no samples."""
    collected = list(samples)
    return [_row(workload, [s for s in collected if s.workload == workload.name]) for workload in workloads]


def _row(workload: Workload, samples: Sequence[Sample]) -> Row:
    figures: dict[str, dict[int, float]] = {}
    for sample in samples:
        figures.setdefault(sample.contender, {})[sample.round] = sample.figure
    own = figures.get(SUBJECT, {})
    ratios = {}
    for peer, theirs in figures.items():
        both = own.keys() & theirs.keys()
        if peer != SUBJECT and both:
            ratios[peer] = median(own[number] / theirs[number] for number in both)
    medians = {name: median(by_round.values()) for name, by_round in figures.items()}
    return Row(workload, medians, ratios, _verdict(workload, ratios))


def _verdict(workload: Workload, ratios: dict[str, float]) -> Verdict | None:
    target = workload.target
    if target is None:
        return None
    ratio = ratios.get(target.peer)
    if ratio is None:
        return Verdict(target, None, None)
    met = ratio <= target.factor if workload.less_is_better else ratio >= target.factor
    return Verdict(target, ratio, met)
