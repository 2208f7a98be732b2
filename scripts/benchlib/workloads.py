"""What is measured, in which order, and what fusegw is held to.

An act is one piece of work a contender does; it yields the figures of one or two workloads. Acts build on
each other (what is read must have been stored), so choosing a workload chooses the acts before it.
"""

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec

from scripts.benchlib import machine
from scripts.benchlib.contender import Contender, Timed
from scripts.benchlib.corpus import Corpus
from scripts.benchlib.results import Target, Workload

_MB = 1e6
_MIB = 1 << 20
_Figures = dict[str, Timed | int | None]
"""By workload: work done in a time, a size in bytes, or None where a contender has nothing like it."""

WORKLOADS = (
    Workload("new", "new data until in the store", "MB/s", _MB, target=Target("borg", 1.0)),
    Workload("day2", "day 2 until in the store", "MB/s", _MB, target=Target("borg", 1.3)),
    Workload(
        "stored", "stored after both days", "MiB", _MIB, less_is_better=True, target=Target("restic", 1.0)
    ),
    Workload("cached", "cached read", "MB/s", _MB, target=Target("rclone mount", 2.0)),
    Workload("cold", "cold read into a file", "MB/s", _MB, target=Target("restic", 0.8)),
    Workload("files", "rsync of small files", "files/s", target=Target("rclone mount", 2.5)),
    Workload("files-stored", "small files until in the store", "files/s"),
    Workload("find", "find over them, cold", "entries/s"),
    Workload("rm", "rm -rf of them", "files/s"),
)


class Act(msgspec.Struct, frozen=True):
    """Yields the figures of `workloads`; needs what the act that yields `after` left."""

    workloads: tuple[str, ...]
    perform: Callable[[Any, Corpus], _Figures]
    after: str | None = None


def chosen_acts(names: Collection[str], known: "Sequence[Act] | None" = None) -> list[Act]:
    """The acts that yield the workloads `names`, and those they build on, in order; of `known`, or `ACTS`."""
    needed = set(names)
    acts = []
    for act in reversed(ACTS if known is None else known):
        if needed.intersection(act.workloads):
            acts.append(act)
            needed.update([act.after] if act.after else [])
    return acts[::-1]


def _new(contender: Contender, corpus: Corpus) -> _Figures:
    return {"new": _stored(contender, corpus.day1)}


def _day2(contender: Contender, corpus: Corpus) -> _Figures:
    return {"day2": _stored(contender, corpus.day2), "stored": contender.store.stored_bytes()}


def _cached(contender: Contender, corpus: Corpus) -> _Figures:
    return {"cached": contender.read_cached(corpus.day1)}


def _cold(contender: Contender, corpus: Corpus) -> _Figures:
    target = contender.directory / "restored"
    timed = contender.restore(corpus.day1, target)
    machine.expect_same(corpus.day1, target)
    os.unlink(target)
    return {"cold": timed}


def _tree(contender: Contender, corpus: Corpus) -> _Figures:
    machine.tree_bytes(corpus.tree)
    machine.settle()
    done = contender.store_tree(corpus)
    return {"files": done.copied, "files-stored": done.stored}


def _find(contender: Contender, corpus: Corpus) -> _Figures:
    return {"find": contender.find(corpus)}


def _remove(contender: Contender, corpus: Corpus) -> _Figures:
    machine.settle()
    return {"rm": contender.remove_tree(corpus)}


def _stored(contender: Contender, file: Path) -> Timed:
    machine.warm(file)
    machine.settle()
    return contender.store_file(file)


ACTS = (
    Act(("new",), _new),
    Act(("day2", "stored"), _day2, after="new"),
    Act(("cached",), _cached, after="new"),
    Act(("cold",), _cold, after="new"),
    Act(("files", "files-stored"), _tree),
    Act(("find",), _find, after="files"),
    Act(("rm",), _remove, after="files"),
)
