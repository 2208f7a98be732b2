"""Figures become medians, ratios, verdicts, a table and a document."""

import json
import re

import pytest

from scripts.benchlib import report
from scripts.benchlib.results import Sample, Target, Verdict, Workload, rows

SPEED = Workload("new", "new data", "MB/s", 1e6, targets=(Target(1.3, "borg"),))
SIZE = Workload("stored", "stored", "MiB", 1 << 20, less_is_better=True, targets=(Target(1.0, "borg"),))
FAST = Workload("files", "files", "files/s", targets=(Target(2.0, "borg"), Target(1000)))
SMALL = Workload("rss", "memory", "MiB", 1 << 20, less_is_better=True, targets=(Target(300),))


def samples(workload: Workload, contender: str, *figures: float) -> list[Sample]:
    return [Sample(workload.name, contender, number, figure) for number, figure in enumerate(figures, 1)]


def verdict(workload: Workload, own: float, theirs: float) -> Verdict:
    (row,) = rows([workload], samples(workload, "fusegw", own) + samples(workload, "borg", theirs))
    (found,) = row.verdicts
    return found


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
    assert verdict(workload, own, 10.0).met is met


def test_a_target_without_its_peer_is_neither_met_nor_missed() -> None:
    (row,) = rows([SPEED], samples(SPEED, "fusegw", 1.0))
    assert row.verdicts == (Verdict(Target(1.3, "borg"), None, None),)
    assert report.verdict_text(SPEED, row.verdicts[0]) == "≥ 1.3 × borg: not measured"


@pytest.mark.parametrize(("own_mib", "met"), [(299.0, True), (300.0, True), (300.5, False)])
def test_a_target_without_a_peer_is_in_the_unit_that_is_shown(own_mib: float, met: bool) -> None:
    (row,) = rows([SMALL], samples(SMALL, "fusegw", own_mib * (1 << 20)))
    assert row.verdicts == (Verdict(Target(300), own_mib, met),)


def test_an_absolute_target_is_not_measured_by_what_others_do() -> None:
    (row,) = rows([SMALL], samples(SMALL, "borg", 1.0))
    assert row.verdicts == (Verdict(Target(300), None, None),)


def test_each_of_several_targets_has_a_verdict() -> None:
    (row,) = rows([FAST], samples(FAST, "fusegw", 1200.0) + samples(FAST, "borg", 800.0))
    assert [report.verdict_text(FAST, found) for found in row.verdicts] == [
        "≥ 2.0 × borg: short (1.50)",
        "≥ 1,000 files/s: PASS (1,200)",
    ]


def test_a_target_for_another_kind_of_store_does_not_count() -> None:
    cold = Workload(
        "cold", "cold", "MB/s", targets=(Target(1, "borg", ("directory",)), Target(2, None, ("s3",)))
    )
    taken = samples(cold, "fusegw", 3.0)
    assert [found.target.limit for found in rows([cold], taken, "directory")[0].verdicts] == [1]
    assert [found.target.limit for found in rows([cold], taken, "s3")[0].verdicts] == [2]


def test_a_figure_of_nothing_gives_no_ratio() -> None:
    (row,) = rows([SPEED], samples(SPEED, "fusegw", 1.0) + samples(SPEED, "borg", 0.0))
    assert row.ratios == {}


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


def test_references_share_a_column_that_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    taken = [
        *(samples(FAST, "fusegw", 1200.0) + samples(FAST, "borg", 800.0) + samples(FAST, "memory", 4800.0)),
        *samples(SPEED, "fusegw", 5e6),
    ]
    versions = {"fusegw": "1", "borg": "2", "memory": "3", "ext4": "4"}
    report.print_table(rows([FAST, SPEED], taken), versions, ["memory", "ext4"])
    heading, *lines = (_cells(line) for line in capsys.readouterr().out.splitlines() if line.strip())
    assert heading == ["fusegw 1", "borg 2", "reference", "target"]
    assert lines == [
        ["files, files/s", "1,200", "800 (×1.50)", "memory 4,800 (×0.25)", "≥ 2.0 × borg: short (1.50)"],
        ["≥ 1,000 files/s: PASS (1,200)"],
        ["new data, MB/s", "5.0", "–", "≥ 1.3 × borg: not measured"],
    ]


def test_times_and_numbers_are_as_exact_as_they_are_small() -> None:
    assert [report.span(seconds) for seconds in (12.34, 0.0123)] == ["12.3 s", "12.3 ms"]
    assert [report.number(value) for value in (12345.6, 20.4, 1.26)] == ["12,346", "20", "1.3"]


def test_the_list_names_each_workload_with_its_targets(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_workloads([FAST, SMALL])
    _, *lines = (_cells(line) for line in capsys.readouterr().out.splitlines() if line.strip())
    assert lines == [
        ["files", "files, files/s", "≥ 2.0 × borg"],
        ["≥ 1,000 files/s"],
        ["rss", "memory, MiB", "≤ 300 MiB"],
    ]


def test_the_document_holds_every_sample_and_can_be_read_as_json() -> None:
    taken = samples(SPEED, "fusegw", 1.0, 2.0) + samples(SPEED, "borg", 1.0)
    document = json.loads(
        json.dumps(report.document(rows([SPEED], taken), taken, {"borg": "1"}, {"rounds": 2}))
    )
    assert len(document["samples"]) == 3
    assert document["workloads"][0]["ratios"] == {"borg": 1.0}
    assert document["workloads"][0]["verdicts"][0]["met"] is False
    assert document["parameters"] == {"rounds": 2}
    assert document["host"]["processors"] >= 1
