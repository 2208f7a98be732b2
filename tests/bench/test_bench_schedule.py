"""Rounds: who does what when, and that everything is ended, whatever happens."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from fusegw.errors import Corrupt, Unavailable
from scripts.benchlib import machine
from scripts.benchlib.contender import (
    Contender,
    Figures,
    Measured,
    Participant,
    Reference,
    Timed,
    TreeStored,
)
from scripts.benchlib.corpus import Corpus, Planted
from scripts.benchlib.results import Sample
from scripts.benchlib.schedule import run_rounds
from scripts.benchlib.stores import Directories, Store
from scripts.benchlib.workloads import ACTS, WORKLOADS, chosen_acts

Journal = list[tuple[str, str]]


def contender(title: str, journal: Journal, *, fails: bool = False) -> type[Contender]:
    """One that keeps a journal, needs a second for everything, and restores well unless it `fails`."""

    class Recorder(Contender):
        name = title
        room = 1.0

        def __init__(self, directory: Path, store: Store) -> None:
            super().__init__(directory, store)
            journal.append((title, "made"))

        @classmethod
        def version(cls) -> str:
            return "1"

        def end(self) -> None:
            super().end()
            journal.append((title, "ended"))

        def store_file(self, file: Path) -> Timed:
            journal.append((title, file.name))
            return Timed(100, 2.0)

        def store_tree(self, corpus: Corpus) -> TreeStored:
            journal.append((title, "tree"))
            return TreeStored(None, Timed(corpus.planted.files, 1.0))

        def restore(self, file: Path, target: Path) -> Timed:
            journal.append((title, "restore"))
            target.write_bytes(b"wrong" if fails else file.read_bytes())
            return Timed(100, 1.0)

    return Recorder


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    found = Corpus(tmp_path / "data", Planted(3, 4, 5))
    found.tree.mkdir(parents=True)
    found.day1.write_bytes(b"day 1")
    found.day2.write_bytes(b"day 2")
    return found


@pytest.fixture
def measure(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Sample]]:
    """Runs rounds of some contenders; the host's caches are left alone."""
    monkeypatch.setattr(machine.os, "sync", lambda: None)

    def run(*kinds: type[Contender], only: list[str], rounds: int = 1) -> list[Sample]:
        taken: list[Sample] = []
        stores = Directories(tmp_path / "stores")
        work = tmp_path / "work"
        run_rounds(
            kinds,
            chosen_acts(only),
            corpus,
            rounds=rounds,
            directory=work,
            stores=stores,
            report=taken.append,
        )
        return taken

    return run


def test_contenders_take_turns_and_every_second_round_goes_the_other_way(
    measure: Callable[..., list[Sample]],
) -> None:
    journal: Journal = []
    kinds = [contender("a", journal), contender("b", journal)]
    measure(*kinds, only=["new", "day2"], rounds=2)
    stored = [entry for entry in journal if entry[1].startswith("day")]
    assert stored == [
        *(("a", "day1"), ("b", "day1"), ("a", "day2"), ("b", "day2")),
        *(("b", "day1"), ("a", "day1"), ("b", "day2"), ("a", "day2")),
    ]


def test_memory_is_touched_before_each_turn_as_much_as_it_fills(
    measure: Callable[..., list[Sample]], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal: Journal = []
    monkeypatch.setattr(machine, "touch_memory", lambda nbytes: journal.append(("touched", str(nbytes))))
    measure(contender("a", journal), only=["day2"])
    length = corpus.day1.stat().st_size
    stored = [(who, what) for who, what in journal if what.startswith("day") or who == "touched"]
    assert stored == [
        *(("touched", str(3 * length)), ("a", "day1")),
        *(("touched", str(3 * length)), ("a", "day2")),
    ]


def test_a_rate_is_work_by_time_and_what_a_contender_cannot_do_gives_no_sample(
    measure: Callable[..., list[Sample]],
) -> None:
    taken = measure(contender("a", []), only=[workload.name for workload in WORKLOADS])
    assert {sample.workload: sample.figure for sample in taken} == {
        "new": 50.0,
        "puts": 0.0,
        "day2": 50.0,
        "stored": 0.0,
        "cold": 100.0,
        "files-stored": 3.0,
        "puts-files": 0.0,
    }


def test_a_figure_that_is_no_rate_keeps_the_times_it_was_made_from(
    measure: Callable[..., list[Sample]],
) -> None:
    class Distant(contender("a", [])):  # type: ignore[misc]
        def round_trips(self, file: Path) -> Measured:
            return Measured(2, {"first byte": 0.5})

    taken = measure(Distant, only=["first-byte"])
    assert Sample("first-byte", "a", 1, 2, parts={"first byte": 0.5}) in taken


def test_objects_are_counted_around_what_makes_them_and_extrapolated(
    measure: Callable[..., list[Sample]],
) -> None:
    class Puts(contender("a", [])):  # type: ignore[misc]
        def begin(self) -> None:
            super().begin()
            (self.store.path / "repository").touch()

        def store_file(self, file: Path) -> Timed:
            for name in ("a", "b"):
                (self.store.path / name).touch()
            return Timed(1 << 30, 1.0)

        def store_tree(self, corpus: Corpus) -> TreeStored:
            (self.store.path / "c").touch()
            return TreeStored(None, Timed(corpus.planted.files, 1.0))

    figures = {sample.workload: sample.figure for sample in measure(Puts, only=["new", "files"])}
    assert figures["puts"] == 2 * 1024
    assert figures["puts-files"] == pytest.approx(1e6 / 3)


def test_a_reference_meets_the_others_and_is_asked_for_what_an_act_yields(
    measure: Callable[..., list[Sample]],
) -> None:
    asked: list[tuple[str, ...]] = []
    met: list[Participant] = []

    class Rail(Reference):
        name = "rail"
        room = 0.0
        workloads = ("day2",)

        @classmethod
        def version(cls) -> str:
            return "1"

        def meet(self, others: "Iterable[Participant]") -> None:
            met.extend(others)

        def measure(self, workloads: tuple[str, ...], corpus: Corpus) -> Figures:
            asked.append(workloads)
            return {"day2": Timed(100, 1.0)} if "day2" in workloads else {}

    taken = measure(contender("a", []), Rail, only=["day2"])
    assert [one.name for one in met] == ["a", "rail"]
    assert asked == [("new", "puts"), ("day2", "stored")]
    assert [sample.figure for sample in taken if sample.contender == "rail"] == [100.0]


def test_everything_ends_when_one_returns_wrong_bytes(
    measure: Callable[..., list[Sample]], tmp_path: Path
) -> None:
    journal: Journal = []
    kinds = [contender("a", journal), contender("b", journal, fails=True)]
    with pytest.raises(Corrupt, match="lost data"):
        measure(*kinds, only=["cold"])
    assert [entry for entry in journal if entry[1] == "ended"] == [("b", "ended"), ("a", "ended")]
    assert list((tmp_path / "work").iterdir()) == []
    assert list((tmp_path / "stores").iterdir()) == []


def test_an_interrupt_ends_everything(measure: Callable[..., list[Sample]], tmp_path: Path) -> None:
    journal: Journal = []

    class Interrupted(contender("a", journal)):  # type: ignore[misc]
        def store_file(self, file: Path) -> Timed:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(Interrupted, only=["new"])
    assert journal == [("a", "made"), ("a", "ended")]


@pytest.mark.parametrize(
    ("only", "acts"),
    [
        (["new"], ["new"]),
        (["stored"], ["new", "day2"]),
        (["rm"], ["files", "rm"]),
        (["cold", "find"], ["new", "cold", "files", "find"]),
    ],
)
def test_a_workload_brings_the_acts_it_builds_on(only: list[str], acts: list[str]) -> None:
    assert [act.workloads[0] for act in chosen_acts(only)] == acts


def test_every_workload_has_an_act() -> None:
    assert sorted(name for act in ACTS for name in act.workloads) == sorted(w.name for w in WORKLOADS)


def test_a_command_that_fails_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"status 3: no room"):
        machine.run(["sh", "-c", "echo no room >&2; exit 3"])
    assert machine.run(["pwd"], directory=tmp_path) == f"{tmp_path}\n"


def test_commands_see_no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESTIC_PASSWORD", "BORG_REPO", "AWS_PROFILE", "FUSEGW_CONFIG", "RCLONE_TRANSFERS"):
        monkeypatch.setenv(name, "operator")
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    said = machine.run(["env"])
    assert "operator" not in said and "kept" in said
