"""How long a small file takes to be made, alone and while a large one is being copied beside it."""

import os
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path

from fusegw.errors import Unavailable
from scripts.benchlib import machine
from scripts.benchlib.contender import Measured
from scripts.benchlib.machine import Stopwatch

SMALL_BYTES = 2 << 10
_ALONE = 1000
"""Files made while nothing else is written."""
_PERCENT = 99
_STEPS = ("open", "write", "close")
_Seconds = tuple[float, float, float]
"""Of each step with one file."""


def compare(directory: Path, stream: Path) -> Measured:
    """How many times as long as alone it takes while `stream` is copied into `directory`: the time within
    which `_PERCENT` of 100 files are made, one after the other: opened, written and closed.
    """
    folder = directory / "created"
    folder.mkdir()
    machine.warm(stream)
    machine.settle()
    alone = _make(folder / "alone", lambda made: made < _ALONE)
    copy = subprocess.Popen(["cp", stream, directory / "stream"], stdin=subprocess.DEVNULL)
    try:
        beside = _make(folder / "beside", lambda made: copy.poll() is None or not made)
    finally:
        copy.kill()
        copy.wait()
    if copy.returncode:
        raise Unavailable(f"cp of {stream} into {directory} ended with status {copy.returncode}")
    parts = {"alone": _whole(alone), "beside": _whole(beside)}
    for number, step in enumerate(_STEPS):
        parts[f"beside: {step}"] = percentile([taken[number] for taken in beside], _PERCENT)
    return Measured(parts["beside"] / parts["alone"], parts)


def percentile(values: list[float], percent: int) -> float:
    """The smallest of `values` that so many of 100 are not above."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def _whole(files: list[_Seconds]) -> float:
    return percentile([sum(taken) for taken in files], _PERCENT)


def _make(folder: Path, goes_on: Callable[[int], bool]) -> list[_Seconds]:
    """For each file made in a new `folder` while `goes_on`, which gets how many there are."""
    folder.mkdir()
    files: list[_Seconds] = []
    for number in count():
        if not goes_on(number):
            return files
        content = os.urandom(SMALL_BYTES)
        with Stopwatch() as opening:
            descriptor = os.open(folder / f"{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with Stopwatch() as writing:
            os.write(descriptor, content)
        with Stopwatch() as closing:
            os.close(descriptor)
        files.append((opening.seconds, writing.seconds, closing.seconds))
    raise AssertionError("count has no end")
