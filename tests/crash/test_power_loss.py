"""The power fails, and unsynced bytes and names are lost: below spool, cache, registry, index and store.

A real gateway is recorded, and every moment of the record is tried (see `power_replay`). FUSEGW_CRASH_SEED
and FUSEGW_POWER_ROUNDS choose which and how many; the controls take single syncs away.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.power_replay import Findings, Plan, Record, fast_directory, replay
from tests.crash.power_victim import PowerVictim
from tests.crash.recording import Kind, Note, build_recorder

pytestmark = [pytest.mark.mount, pytest.mark.slow]
SEED = int(os.environ.get("FUSEGW_CRASH_SEED", "1"))
ROUNDS = int(os.environ.get("FUSEGW_POWER_ROUNDS", "22"))
STEPS = 25


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_recorder(tmp_path_factory.mktemp("recorder"))


@pytest.fixture(scope="module")
def record(library: Path) -> Iterator[Record]:
    """Of a volume from its beginning."""
    with fast_directory() as base:
        victim = PowerVictim(base, library, SEED)
        try:
            made = victim.round(STEPS)
            assert victim.is_told_by(made)
            yield made
        finally:
            victim.close()


@pytest.fixture
def base() -> Iterator[Path]:
    with fast_directory() as directory:
        yield directory


def rounds(base: Path, library: Path, count: int, steps: int, share: float) -> None:
    """A volume goes on from power cut to power cut, and most moments between are tried."""
    victim = PowerVictim(base, library, SEED)
    found, done, syncs, changes = Findings(), 0, 0, 0
    try:
        for number in range(count):
            made = victim.round(steps, rebuilt=number % 4 == 2)
            assert victim.is_told_by(made)
            found.add(replay(made, Plan(SEED * 1000 + number, share)))
            assert not found.failures, f"round {number}: " + "\n".join(found.failures)
            done += sum(journal.done for journal in victim.journals)
            syncs += sum(note.kind is Kind.SYNCED or bool(note.b) for note in made.notes)
            changes += made.changes()
            begun_with = victim.lose_power(made)
            print(f"round {number}: {found.tried} tried; the next begins {begun_with}", flush=True)
        victim.check()
    finally:
        victim.close()
    print(
        f"{done} steps of {count} mounts recorded: {changes} changes of files and names, {syncs} syncs; "
        f"{found.tried} power cuts tried, of which {found.refused} before the volume existed were refused; "
        f"{count} more met by a real mount; nothing acknowledged was lost, every check clean"
    )
    assert found.tried > found.refused


@pytest.mark.timeout(300)
def test_a_volume_that_loses_its_power(base: Path, library: Path) -> None:
    rounds(base, library, 3, 12, share=0.08)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_moment_of_many_steps(base: Path, library: Path) -> None:
    rounds(base, library, ROUNDS, STEPS, share=1.0)


def is_at(note: Note, pattern: str) -> bool:
    return note.kind is Kind.SYNC and Path(note.path).match(pattern)


CONTROLS = {
    "pack": lambda note: not note.other and is_at(note, "cache/*/packs/*/*"),
    "name of a pack": lambda note: note.other == "/" and is_at(note, "cache/*/packs/*"),
    "index": lambda note: is_at(note, "meta/data.mdb"),
    "root of the index": lambda note: note.kind is Kind.WRITE,
    "name of the index": lambda note: is_at(note, "tank/meta"),
    "names above the index": lambda note: is_at(note, "disk/state/volumes"),
    "registry": lambda note: is_at(note, "state/registry.json.new"),
    "names of state and cache": lambda note: is_at(note, "fusegw-power-*/disk"),
    "object": lambda note: is_at(note, "store/.staging/*"),
    "name of a segment": lambda note: is_at(note, "store/log"),
}
"""Syncs that are taken away, one kind at a time."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", CONTROLS)
def test_without_one_of_its_syncs_the_volume_loses(kind: str, record: Record) -> None:
    """The controls: the same moments notice that a sync is missing, whichever."""
    taken = CONTROLS[kind]
    assert any(taken(note) for note in record.notes if note.kind is not Kind.WRITE or note.b)
    findings = replay(record, Plan(SEED, failures_max=1, ignored=taken))
    print(findings.tried, findings.failures[:1])
    assert findings.failures
