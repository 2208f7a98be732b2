"""What is measured, in which order, and what fusegw is held to.

An act is one piece of work a contender does; it yields the figures of one or more workloads. Acts build on
each other (what is read must have been stored), so choosing a workload chooses the acts before it.
"""

import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from scripts.benchlib import fio, machine
from scripts.benchlib.contender import Contender, Figures, Timed
from scripts.benchlib.corpus import Corpus
from scripts.benchlib.gateway import buffers_bytes
from scripts.benchlib.results import Target, Workload

_MB = 1e6
_MIB = 1 << 20
_TIB = 1 << 40
_MILLION = 10**6
_RESIDENT_MIB = 300
"""What a gateway may take besides its buffers."""


def _fio_workloads(case: fio.Case) -> tuple[Workload, ...]:
    title = f"4 KiB random {case.direction}, {case.jobs} job" + ("s" if case.jobs > 1 else "")
    iops, p50, p99 = case.workloads
    return (
        Workload(iops, title, "IOPS"),
        Workload(p50, f"{title}, p50", "µs", 1e-6, less_is_better=True),
        Workload(p99, f"{title}, p99", "µs", 1e-6, less_is_better=True),
    )


WORKLOADS = (
    Workload(
        "new",
        "new data until in the store",
        "MB/s",
        _MB,
        targets=(Target(1.8, "borg"), Target(1.8, "restic")),
    ),
    Workload("puts", "objects for new data", "per TiB", less_is_better=True, targets=(Target(40_000),)),
    Workload("day2", "day 2 until in the store", "MB/s", _MB, targets=(Target(2.2, "borg"),)),
    Workload(
        "stored", "stored after both days", "MiB", _MIB, less_is_better=True, targets=(Target(1.0, "restic"),)
    ),
    Workload(
        "cached",
        "cached read",
        "MB/s",
        _MB,
        targets=(Target(3.0, "rclone mount"), Target(0.6, "two threads")),
    ),
    Workload("reread", "read again, kernel warm", "MB/s", _MB, targets=(Target(0.9, "ext4"),)),
    Workload(
        "cold",
        "cold read into a file",
        "MB/s",
        _MB,
        targets=(Target(1.2, "restic", ("directory",)), Target(0.9, "boto3", ("s3",))),
    ),
    Workload(
        "first-byte", "first byte of it, cold", "round trips", less_is_better=True, targets=(Target(2),)
    ),
    Workload("files", "rsync of small files", "files/s", targets=(Target(5.0, "rclone mount"), Target(1000))),
    Workload("files-stored", "small files until in the store", "files/s"),
    Workload(
        "puts-files", "objects for small files", "per million", less_is_better=True, targets=(Target(1500),)
    ),
    Workload("rsync-again", "rsync again, no changes", "files/s", targets=(Target(8000),)),
    Workload("find", "find over them, cold", "entries/s", targets=(Target(20_000),)),
    Workload("tar-out", "tar of them, kernel cold", "files/s", targets=(Target(3000),)),
    Workload("rm", "rm -rf of them", "files/s", targets=(Target(2500),)),
    Workload(
        "create-busy",
        "create beside a stream, p99 of idle",
        "times",
        less_is_better=True,
        targets=(Target(10),),
    ),
    *(workload for case in fio.CASES for workload in _fio_workloads(case)),
    Workload(
        "rss",
        "most memory of its process",
        "MiB",
        _MIB,
        less_is_better=True,
        targets=(Target(_RESIDENT_MIB + buffers_bytes() / _MIB),),
    ),
)
COSTLY = ("first-byte", "create-busy", *(name for case in fio.CASES for name in case.workloads))
"""Those that are measured only when they are asked for."""


class Act(msgspec.Struct, frozen=True):
    """Yields the figures of `workloads`; needs what the act that yields `after` left."""

    workloads: tuple[str, ...]
    perform: Callable[[Any, Corpus], Figures]
    after: str | None = None
    pages: float = 1.0
    """Memory in which the kernel or a contender keeps what goes by, in multiples of the large file."""


def chosen_acts(names: Collection[str], known: "Sequence[Act] | None" = None) -> list[Act]:
    """The acts that yield the workloads `names`, and those they build on, in order; of `known`, or `ACTS`."""
    needed = set(names)
    acts = []
    for act in reversed(ACTS if known is None else known):
        if needed.intersection(act.workloads):
            acts.append(act)
            needed.update([act.after] if act.after else [])
    return acts[::-1]


def _new(contender: Contender, corpus: Corpus) -> Figures:
    before = contender.store.objects()
    timed = _stored(contender, corpus.day1)
    made = contender.store.objects() - before
    return {"new": timed, "puts": made * _TIB / timed.amount}


def _day2(contender: Contender, corpus: Corpus) -> Figures:
    return {"day2": _stored(contender, corpus.day2), "stored": contender.store.stored_bytes()}


def _cached(contender: Contender, corpus: Corpus) -> Figures:
    return {"cached": contender.read_cached(corpus.day1)}


def _reread(contender: Contender, corpus: Corpus) -> Figures:
    return {"reread": contender.read_again(corpus.day1)}


def _cold(contender: Contender, corpus: Corpus) -> Figures:
    target = contender.directory / "restored"
    timed = contender.restore(corpus.day1, target)
    machine.expect_same(corpus.day1, target)
    os.unlink(target)
    return {"cold": timed}


def _first_byte(contender: Contender, corpus: Corpus) -> Figures:
    return {"first-byte": contender.round_trips(corpus.day1)}


def _tree(contender: Contender, corpus: Corpus) -> Figures:
    machine.tree_bytes(corpus.tree)
    machine.settle()
    before = contender.store.objects()
    done = contender.store_tree(corpus)
    made = contender.store.objects() - before
    return {
        "files": done.copied,
        "files-stored": done.stored,
        "puts-files": made * _MILLION / corpus.planted.files,
    }


def _rsync_again(contender: Contender, corpus: Corpus) -> Figures:
    return {"rsync-again": contender.copy_tree_again(corpus)}


def _find(contender: Contender, corpus: Corpus) -> Figures:
    return {"find": contender.find(corpus)}


def _tar_out(contender: Contender, corpus: Corpus) -> Figures:
    return {"tar-out": contender.read_tree(corpus)}


def _remove(contender: Contender, corpus: Corpus) -> Figures:
    machine.settle()
    return {"rm": contender.remove_tree(corpus)}


def _create_busy(contender: Contender, corpus: Corpus) -> Figures:
    return {"create-busy": contender.create_beside(corpus.other())}


def _fio(case: fio.Case, contender: Contender, corpus: Corpus) -> Figures:
    return contender.random_access(case, fio.Plan.of(corpus.day1.stat().st_size))


def _memory(contender: Contender, corpus: Corpus) -> Figures:
    return {"rss": contender.memory_bytes()}


def _stored(contender: Contender, file: Path) -> Timed:
    machine.warm(file)
    machine.settle()
    return contender.store_file(file)


ACTS = (
    Act(("new", "puts"), _new, pages=3),
    Act(("day2", "stored"), _day2, after="new", pages=3),
    Act(("cached",), _cached, after="new", pages=3),
    Act(("reread",), _reread, after="new", pages=3),
    Act(("cold",), _cold, after="new", pages=3),
    Act(("first-byte",), _first_byte, after="new", pages=0),
    Act(("files", "files-stored", "puts-files"), _tree),
    Act(("rsync-again",), _rsync_again, after="files", pages=0),
    Act(("find",), _find, after="files", pages=0),
    Act(("tar-out",), _tar_out, after="files"),
    Act(("rm",), _remove, after="files", pages=0),
    Act(("create-busy",), _create_busy, pages=3),
    *(Act(case.workloads, partial(_fio, case)) for case in fio.CASES),
    Act(("rss",), _memory, after="new", pages=0),
)
