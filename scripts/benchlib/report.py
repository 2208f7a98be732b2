"""What is printed: a table for people, one JSON document for programs, a line per figure while it goes on."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fusegw.cli import output
from scripts.benchlib.results import SUBJECT, Row, Sample, Verdict, Workload

NOT_INSTALLED = "not installed"
_NOTHING = "–"


def host() -> dict[str, Any]:
    """What the figures depend on besides the programs."""
    return {
        "processors": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def print_progress(sample: Sample, workload: Workload, rounds: int) -> None:
    """One line on standard error."""
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sample.parts.items())
    line = f"round {sample.round}/{rounds}  {workload.title}: {sample.contender} "
    line += f"{_number(workload, sample.figure)} {workload.unit}" + (f" ({parts})" if parts else "")
    print(line, file=sys.stderr, flush=True)


def print_table(rows: Sequence[Row], versions: Mapping[str, str | None]) -> None:
    """Medians, ratios fusegw / peer in brackets, targets; `versions` is None for what is not installed."""
    titles = [f"{name} {version or NOT_INSTALLED}" for name, version in versions.items()]
    body = [
        [
            f"{row.workload.title}, {row.workload.unit}",
            *(_cell(row, name) for name in versions),
            verdict_text(row.verdict, less_is_better=row.workload.less_is_better),
        ]
        for row in rows
    ]
    output.print_table(["", *titles, "target"], body)


def document(
    rows: Sequence[Row],
    samples: Sequence[Sample],
    versions: Mapping[str, str | None],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """What the table says, every sample, and what the run was like; figures in bytes, or units per second."""
    return {
        "parameters": parameters,
        "host": host(),
        "versions": versions,
        "workloads": msgspec.to_builtins(rows),
        "samples": msgspec.to_builtins(samples),
    }


def verdict_text(verdict: Verdict | None, *, less_is_better: bool) -> str:
    """ "≥ 1.3 × borg: PASS (1.42)" or "≥ 1.3 × borg: short (0.91)"."""
    if verdict is None:
        return ""
    target = verdict.target
    wanted = f"{'≤' if less_is_better else '≥'} {target.factor:.1f} × {target.peer}"
    if verdict.ratio is None:
        return f"{wanted}: not measured"
    return f"{wanted}: {'PASS' if verdict.met else 'short'} ({verdict.ratio:.2f})"


def _cell(row: Row, contender: str) -> str:
    figure = row.medians.get(contender)
    if figure is None:
        return _NOTHING
    text = _number(row.workload, figure)
    ratio = row.ratios.get(contender)
    return text if contender == SUBJECT or ratio is None else f"{text} (×{ratio:.2f})"


def _number(workload: Workload, figure: float) -> str:
    return f"{figure / workload.scale:,.0f}"
