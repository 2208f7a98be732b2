"""What is printed: a table for people, one JSON document for programs, a line per figure while it goes on."""

import os
import platform
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from fusegw.cli import output
from scripts.benchlib.results import SUBJECT, Row, Sample, Target, Verdict, Workload

NOT_INSTALLED = "not installed"
_NOTHING = "–"
_WHOLE = 20
"""From here on a figure is shown without a decimal."""


def host() -> dict[str, Any]:
    """What the figures depend on besides the programs."""
    return {
        "processors": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def print_progress(sample: Sample, workload: Workload, rounds: int) -> None:
    """One line on standard error."""
    parts = ", ".join(f"{name} {span(seconds)}" for name, seconds in sample.parts.items())
    line = f"round {sample.round}/{rounds}  {workload.title}: {sample.contender} "
    line += f"{_figure(workload, sample.figure)} {workload.unit}" + (f" ({parts})" if parts else "")
    print(line, file=sys.stderr, flush=True)


def print_table(
    rows: Sequence[Row], versions: Mapping[str, str | None], references: Collection[str] = ()
) -> None:
    """Medians, ratios fusegw / peer in brackets, targets; `versions` is None for what is not installed.

    A program has a column; `references`, each measured for a few workloads only, share one.
    """
    programs = {name: version for name, version in versions.items() if name not in references}
    titles = [f"{name} {version or NOT_INSTALLED}" for name, version in programs.items()]
    aside = ["reference"] if references else []
    body = [
        [
            f"{row.workload.title}, {row.workload.unit}",
            *(_cell(row, name) for name in programs),
            *(
                "\n".join(f"{name} {_cell(row, name)}" for name in references if name in row.medians)
                for _ in aside
            ),
            "\n".join(verdict_text(row.workload, verdict) for verdict in row.verdicts),
        ]
        for row in rows
    ]
    output.print_table(["", *titles, *aside, "target"], body)


def print_workloads(workloads: Sequence[Workload]) -> None:
    """What there is to choose from."""
    body = [
        [one.name, f"{one.title}, {one.unit}", "\n".join(_wanted(one, target) for target in one.targets)]
        for one in workloads
    ]
    output.print_table(["name", "what is measured", "target"], body)


def document(
    rows: Sequence[Row],
    samples: Sequence[Sample],
    versions: Mapping[str, str | None],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """What the table says, every sample, and what the run was like; figures are those of `Sample`."""
    return {
        "parameters": parameters,
        "host": host(),
        "versions": versions,
        "workloads": msgspec.to_builtins(rows),
        "samples": msgspec.to_builtins(samples),
    }


def verdict_text(workload: Workload, verdict: Verdict) -> str:
    """ "≥ 1.3 × borg: PASS (1.42)", "≥ 1.3 × borg: short (0.91)", "≥ 1,000 files/s: not measured"."""
    wanted = _wanted(workload, verdict.target)
    if verdict.reached is None:
        return f"{wanted}: not measured"
    reached = f"{verdict.reached:.2f}" if verdict.target.peer else number(verdict.reached)
    return f"{wanted}: {'PASS' if verdict.met else 'short'} ({reached})"


def number(value: float) -> str:
    """ "12,345", "20", "19.9"."""
    return f"{value:,.0f}" if value >= _WHOLE else f"{value:.1f}"


def span(seconds: float) -> str:
    """ "1.2 s", "3.4 ms"."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _wanted(workload: Workload, target: Target) -> str:
    sign = "≤" if workload.less_is_better else "≥"
    if target.peer is None:
        return f"{sign} {target.limit:,.0f} {workload.unit}"
    return f"{sign} {target.limit:.1f} × {target.peer}"


def _cell(row: Row, contender: str) -> str:
    figure = row.medians.get(contender)
    if figure is None:
        return _NOTHING
    text = _figure(row.workload, figure)
    ratio = row.ratios.get(contender)
    return text if contender == SUBJECT or ratio is None else f"{text} (×{ratio:.2f})"


def _figure(workload: Workload, figure: float) -> str:
    return number(figure / workload.scale)
