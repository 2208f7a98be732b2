"""From samples to what is reported: medians, ratios and whether a target is met. No I/O.

A ratio is the median over the rounds of fusegw's figure divided by the peer's figure of the same round: what
else the machine does in a round then bears on both. Figures are bytes, files or entries per second for what
takes time; else bytes, seconds or numbers.
"""

from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

SUBJECT = "fusegw"
STORES = ("directory", "s3")
"""The kinds of store that a run can put its data into."""


class Sample(msgspec.Struct, frozen=True):
    """One figure. `seconds` is 0 for what is no rate; `parts` are the seconds it was made from, if known."""

    workload: str
    contender: str
    round: int
    figure: float
    seconds: float = 0.0
    parts: dict[str, float] = {}


class Target(msgspec.Struct, frozen=True):
    """fusegw's figure must be at least (where less is better: at most) `limit` times the figure of `peer`, or
    without a peer `limit` itself, in the workload's unit. It counts on `stores` of these kinds."""

    limit: float
    peer: str | None = None
    stores: tuple[str, ...] = STORES


class Workload(msgspec.Struct, frozen=True):
    """What is measured. A figure is divided by `scale` to be shown in `unit`."""

    name: str
    title: str
    unit: str
    scale: float = 1.0
    less_is_better: bool = False
    targets: tuple[Target, ...] = ()


class Verdict(msgspec.Struct, frozen=True):
    """A target and what fusegw reached: a ratio, or without a peer a figure in the workload's unit.

    `reached` and `met` are None when it, or the peer, was not measured.
    """

    target: Target
    reached: float | None
    met: bool | None


class Row(msgspec.Struct, frozen=True):
    """One workload: median figure by contender, ratio fusegw / peer by peer, a verdict for each target."""

    workload: Workload
    medians: dict[str, float]
    ratios: dict[str, float]
    verdicts: tuple[Verdict, ...]


def rows(workloads: Sequence[Workload], samples: Iterable[Sample], store: str = STORES[0]) -> list[Row]:
    """One row per workload, in their order, empty for what has no samples; with the targets for `store`."""
    collected = list(samples)
    return [
        _row(workload, [s for s in collected if s.workload == workload.name], store) for workload in workloads
    ]


def _row(workload: Workload, samples: Sequence[Sample], store: str) -> Row:
    figures: dict[str, dict[int, float]] = {}
    for sample in samples:
        figures.setdefault(sample.contender, {})[sample.round] = sample.figure
    own = figures.get(SUBJECT, {})
    ratios = {}
    for peer, theirs in figures.items():
        both = own.keys() & theirs.keys()
        if peer != SUBJECT and both and all(theirs[number] for number in both):
            ratios[peer] = median(own[number] / theirs[number] for number in both)
    medians = {name: median(by_round.values()) for name, by_round in figures.items()}
    verdicts = (
        _verdict(workload, target, medians, ratios) for target in workload.targets if store in target.stores
    )
    return Row(workload, medians, ratios, tuple(verdicts))


def _verdict(
    workload: Workload, target: Target, medians: dict[str, float], ratios: dict[str, float]
) -> Verdict:
    if target.peer is not None:
        reached = ratios.get(target.peer)
    else:
        reached = medians[SUBJECT] / workload.scale if SUBJECT in medians else None
    if reached is None:
        return Verdict(target, None, None)
    met = reached <= target.limit if workload.less_is_better else reached >= target.limit
    return Verdict(target, reached, met)
