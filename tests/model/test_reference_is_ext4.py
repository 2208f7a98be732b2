"""The reference does what the kernel's ext4 does, step by step: results, errors, attributes, and which
times move.
"""

import os
import random
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.ext4 import Incomparable, RealTree, is_ext4
from tests.model.reference import Reference
from tests.model.steps import Step, outcome, random_step, resolve, steps

_TIMES = ("mtime_ns", "ctime_ns")
_START = 10**18
"""Not one of the times steps set."""


@pytest.fixture(scope="module")
def ext4() -> Iterator[Path]:
    """A directory of an ext4 file system, cleared of nothing: every run makes its own below."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if os.geteuid() or not is_ext4(directory):
            pytest.skip("needs root and a temporary directory on ext4")
        yield directory


class Comparison:
    """Runs steps on both and compares everything after each."""

    def __init__(self, directory: Path, reference: type[Reference]) -> None:
        os.chmod(directory, 0o777)
        self.real = RealTree(directory)
        self.reference = reference(mode=0o777, now=_START)
        self.precise = _stamps_are_precise(directory)
        self.before = self._times()

    def run(self, step: Step) -> None:
        reference = self.reference
        reference.now += 1
        arguments = resolve(step, reference)
        try:
            done = outcome(self.real, step.operation, arguments)
        except Incomparable:
            return
        expected = outcome(reference, step.operation, arguments)
        assert done == expected, (step, arguments)
        self._compare(step)

    def _compare(self, step: Step) -> None:
        for ino in self.reference.nodes:
            expected, found = self.reference.stat(ino), self.real.stat(ino)
            assert (found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_rdev) == (
                expected.mode,
                expected.nlink,
                expected.uid,
                expected.gid,
                expected.rdev,
            ), (step, ino)
            if not stat.S_ISDIR(expected.mode):
                assert found.st_size == expected.size
            elif expected.nlink:
                assert self.real.readdir(ino) == sorted(self.reference.readdir(ino))
            assert self.real.listxattr(ino) == self.reference.listxattr(ino), (step, ino)
            for name in self.reference.listxattr(ino):
                assert self.real.getxattr(ino, name) == self.reference.getxattr(ino, name)
        times = self._times()
        if self.precise:
            for ino in self.before:
                for which in (0, 1):
                    (real, expected), (was_real, was_expected) = times[ino][which], self.before[ino][which]
                    moved = expected != was_expected
                    assert (real != was_real) == moved, (step, ino, _TIMES[which], moved)
        self.before = times

    def _times(self) -> dict[int, list[tuple[int, int]]]:
        """(real, reference) of each time of each inode."""
        return {
            ino: [
                (getattr(self.real.stat(ino), "st_" + name), getattr(self.reference.stat(ino), name))
                for name in _TIMES
            ]
            for ino in self.reference.nodes
        }


def _stamps_are_precise(directory: Path) -> bool:
    """Whether two changes in a row always show as two times (kernels since 6.13)."""
    seen = set()
    for _ in range(20):
        os.chmod(directory, 0o777)
        seen.add(os.stat(directory).st_ctime_ns)
    return len(seen) == 20


def _compare_all(ext4: Path, steps: list[Step], reference: type[Reference] = Reference) -> None:
    with tempfile.TemporaryDirectory(dir=ext4) as name:
        mask = os.umask(0)
        comparison = Comparison(Path(name), reference)
        try:
            for step in steps:
                comparison.run(step)
        finally:
            comparison.real.close()
            os.umask(mask)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps(), max_size=50))
def test_random_steps(ext4: Path, steps: list[Step]) -> None:
    _compare_all(ext4, steps)


@pytest.mark.parametrize("seed", range(4))
def test_long_run(ext4: Path, seed: int) -> None:
    choose: Any = random.Random(seed).choice
    _compare_all(ext4, [random_step(choose) for _ in range(400)])


class KeepsPrivileges(Reference):
    """Wrong: chown leaves set-user-id where it was."""

    def setattr(self, ino: int, **changes: Any) -> None:
        mode = self.node(ino).mode
        super().setattr(ino, **changes)
        if "mode" not in changes:
            self.node(ino).mode = mode


class ForgetsTheDirectory(Reference):
    """Wrong: a removed name leaves its directory's times alone."""

    def _drop(self, parent: int, name: bytes) -> None:
        node = self.nodes[parent]
        times = node.mtime_ns, node.ctime_ns
        super()._drop(parent, name)
        node.mtime_ns, node.ctime_ns = times


@pytest.mark.parametrize("wrong", [KeepsPrivileges, ForgetsTheDirectory])
def test_a_wrong_reference_is_noticed(ext4: Path, wrong: type[Reference]) -> None:
    choose: Any = random.Random(1).choice
    if wrong is ForgetsTheDirectory and not _stamps_are_precise(ext4):
        pytest.skip("this kernel's time stamps are too coarse to tell")
    with pytest.raises(AssertionError):
        _compare_all(ext4, [random_step(choose) for _ in range(400)], wrong)
