"""Figures become medians, ratios, verdicts, a table and a document."""

import json
import re

import pytest

from scripts.benchlib import report
from scripts.benchlib.results import Sample, Target, Verdict, Workload, rows

SPEED = Workload("new", "new data", "MB/s", 1e6, target=Target("borg", 1.3))
SIZE = Workload("stored", "stored", "MiB", 1 << 20, less_is_better=True, target=Target("borg", 1.0))


def samples(workload: Workload, contender: str, *figures: float) -> list[Sample]:
    return [Sample(workload.name, contender, number, figure) for number, figure in enumerate(figures, 1)]


def verdict(workload: Workload, own: float, theirs: float) -> Verdict | None:
    (row,) = rows([workload], samples(workload, "fusegw", own) + samples(workload, "borg", theirs))
    return row.verdict


def _cells(line: str) -> list[str]:
    """Columns stand at least two spaces apart."""
    return re.split(r" {2,}", line.strip())


def test_the_ratio_is_taken_within_each_round() -> None:
    taken = samples(SPEED, "fusegw", 10e6, 100e6, 60e6) + samples(SPEED, "borg", 5e6, 50e6, 60e6)
    (row,) = rows([SPEED], taken)
    assert row.medians == {"fusegw": 60e6, "borg": 50e6}
    assert row.ratios == {"borg": 2.0}


def test_a_round_that_only_one_finished_does_not_count_for_the_ratio() -> None:
    (row,) = rows([SPEED], samples(SPEED, "fusegw", 10.0, 90.0) + samples(SPEED, "borg", 5.0))
    assert row.ratios == {"borg": 2.0}


@pytest.mark.parametrize(
    ("workload", "own", "met"),
    [(SPEED, 13.0, True), (SPEED, 12.9, False), (SIZE, 10.0, True), (SIZE, 10.1, False)],
)
def test_targets_are_bounds_from_the_right_side(workload: Workload, own: float, met: bool) -> None:
    found = verdict(workload, own, 10.0)
    assert found is not None and found.met is met


def test_a_target_without_its_peer_is_neither_met_nor_missed() -> None:
    (row,) = rows([SPEED], samples(SPEED, "fusegw", 1.0))
    assert row.verdict == Verdict(Target("borg", 1.3), None, None)
    assert report.verdict_text(row.verdict, less_is_better=False) == "≥ 1.3 × borg: not measured"


def test_the_table_shows_figures_ratios_targets_and_who_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken = [
        *(samples(SPEED, "fusegw", 120e6) + samples(SPEED, "borg", 100e6)),
        *(samples(SIZE, "fusegw", 90 << 20) + samples(SIZE, "borg", 100 << 20)),
    ]
    report.print_table(rows([SPEED, SIZE], taken), {"fusegw": "1", "borg": "2", "restic": None})
    heading, *lines = (_cells(line) for line in capsys.readouterr().out.splitlines() if line.strip())
    assert heading == ["fusegw 1", "borg 2", "restic not installed", "target"]
    assert lines == [
        ["new data, MB/s", "120", "100 (×1.20)", "–", "≥ 1.3 × borg: short (1.20)"],
        ["stored, MiB", "90", "100 (×0.90)", "–", "≤ 1.0 × borg: PASS (0.90)"],
    ]


def test_the_document_holds_every_sample_and_can_be_read_as_json() -> None:
    taken = samples(SPEED, "fusegw", 1.0, 2.0) + samples(SPEED, "borg", 1.0)
    document = json.loads(
        json.dumps(report.document(rows([SPEED], taken), taken, {"borg": "1"}, {"rounds": 2}))
    )
    assert len(document["samples"]) == 3
    assert document["workloads"][0]["ratios"] == {"borg": 1.0}
    assert document["workloads"][0]["verdict"]["met"] is False
    assert document["parameters"] == {"rounds": 2}
    assert document["host"]["processors"] >= 1
