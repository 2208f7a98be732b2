"""Any object of log and checkpoints damaged anywhere: a state that was, or a refusal that names it."""

import random
from collections import Counter
from pathlib import Path

import pytest

from fusegw.errors import FusegwError, Invalid
from fusegw.meta.schema import Head
from fusegw.ship.chain import LogReader
from fusegw.ship.recover import Until
from fusegw.store.memory import MemoryStore
from tests.faults.support import KEYS
from tests.ship.test_checkpoint import Past, past
from tests.ship.test_recover import Dump, recovered

__all__ = ["past"]
HARMS = ("cut", "flip", "delete", "swap")
KINDS = {"segment": ("log/", ""), "part": ("checkpoints/", "0"), "manifest": ("checkpoints/", "manifest")}


def objects(store: MemoryStore, kind: str) -> list[str]:
    prefix, last = KINDS[kind]
    keys = [entry.key for entry in store.list(prefix)]
    return [key for key in keys if key.rsplit("/", 1)[1].startswith(last)]


def copy_of(store: MemoryStore) -> MemoryStore:
    copy = MemoryStore(clock=store._clock)
    for entry in store.list():
        copy.put(entry.key, store.get(entry.key, size_max=1 << 26))
    return copy


def harm(store: MemoryStore, how: str, victim: str, other: str, chance: random.Random) -> None:
    data, place = store.get(victim, size_max=1 << 26), 0
    store.delete([victim])
    if how == "delete":
        return
    if how == "swap":
        there = store.get(other, size_max=1 << 26)
        store.delete([other])
        store.put(other, data)
        data = there
    elif how == "cut":
        data = data[: chance.randrange(len(data))]
    else:
        place = chance.randrange(len(data) * 8)
        data = bytearray(data)
        data[place // 8] ^= 1 << place % 8
    store.put(victim, bytes(data))


class Truth:
    """What each position is, and the head, before anything was damaged."""

    def __init__(self, directory: Path, store: MemoryStore) -> None:
        self.states: dict[int, Dump] = {}
        reader = LogReader(store, KEYS, Head())
        while (found := reader.next()) is not None:
            if found.final:
                self.states[found.seq] = recovered(directory, store, until=Until(seq=found.seq))[1]
        self.head = reader.at


def outcome(directory: Path, store: MemoryStore, truth: Truth, touched: set[str]) -> str:
    """AssertionError unless a state that was is recovered, or the refusal names what was damaged."""
    try:
        done, state = recovered(directory, store)
    except FusegwError as error:
        assert any(key in str(error) for key in touched), f"{touched}: {error}"
        return "refused"
    assert state == truth.states[done.head.seq], "a state that never was"
    assert all(any(key in said for key in touched) for said in done.skipped), (touched, done.skipped)
    if done.head == truth.head:
        return "newest state, something not used" if done.skipped else "newest state"
    # The end of the log is missing, which only an anchor can tell.
    with pytest.raises(Invalid, match="before the anchor"):
        recovered(directory, store, anchor=truth.head)
    return "older state, refused with an anchor"


def damage(directory: Path, store: MemoryStore, truth: Truth, rounds: int) -> None:
    for kind in KINDS:
        keys = objects(store, kind)
        for how in HARMS:
            chance, seen = random.Random(f"{kind} {how}"), Counter[str]()
            for _ in range(rounds):
                harmed = copy_of(store)
                victim, other = chance.sample(keys, 2)
                harm(harmed, how, victim, other, chance)
                touched = {victim, other} if how == "swap" else {victim}
                seen[outcome(directory, harmed, truth, touched)] += 1
            print(f"{kind}, {how}: " + ", ".join(f"{count} {what}" for what, count in seen.most_common()))


async def test_damage_is_named(tmp_path: Path, past: Past) -> None:
    truth = Truth(tmp_path, past.store)
    past.prune()
    damage(tmp_path, past.store, truth, 3)


@pytest.mark.soak
async def test_damage_is_named_fifty_times_each(tmp_path: Path, past: Past) -> None:
    truth = Truth(tmp_path, past.store)
    for pruned in (False, True):
        print("the log from the first checkpoint on:" if pruned else "\nthe log from the beginning:")
        if pruned:
            past.prune()
        damage(tmp_path, past.store, truth, 50)
