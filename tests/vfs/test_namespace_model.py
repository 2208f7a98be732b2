"""Random operations on the namespace and on the reference: same results, same errors, same state; also while
rows move from memory to LMDB and after reopening, and with all invariants of the index."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusegw.meta.schema import INODE, INODE_MAX, REAP
from tests.model.invariants import check_index
from tests.model.reference import Reference
from tests.model.steps import Step, outcome, random_step, resolve, steps
from tests.vfs.trees import START, Tree, new_tree

LIFE = ("freeze", "commit", "reopen", "reap")


class Comparison:
    """The tree and the reference, fed alike. Their clocks agree, so all times must."""

    def __init__(self, tree: Tree, reference: type[Reference] = Reference) -> None:
        self.tree = tree
        self.reference = reference(mode=0o755, now=START)

    def run(self, step: Step) -> None:
        self.reference.now += 1
        self.tree.clock.now = self.reference.now
        arguments = resolve(step, self.reference)
        expected = outcome(self.reference, step.operation, arguments)
        assert outcome(self.tree, step.operation, arguments) == expected, (step, arguments)

    def live(self, event: str) -> None:
        """Something that happens to the index and must not show."""
        if event == "freeze":
            self.tree.metadata.freeze()
        elif event == "commit":
            self.tree.commit()
        elif event == "reopen":
            self.tree.commit()
            self.tree.reopen()
        else:
            for ino in [ino for ino in self.reference.nodes if not self.reference.nlink(ino)]:
                self.reference.release(ino)
                self.tree.reap(ino)
                with self.tree.metadata.change() as change:
                    change.delete(REAP, ino)

    def check(self) -> None:
        tree, reference = self.tree, self.reference
        check_index(tree.metadata)
        inodes = dict(tree.metadata.scan(INODE, 0, INODE_MAX + 1))
        assert list(inodes) == list(reference.nodes)
        for ino, node in reference.nodes.items():
            expected, inode = reference.stat(ino), inodes[ino]
            for field in ("mode", "nlink", "uid", "gid", "rdev", "atime_ns", "mtime_ns", "ctime_ns"):
                assert getattr(inode, field) == getattr(expected, field), (ino, field)
            if node.is_dir:
                assert tree.readdir(ino) == reference.readdir(ino)
            else:
                assert (inode.size, inode.target) == (expected.size, node.target)
            assert {name: tree.getxattr(ino, name) for name in tree.listxattr(ino)} == node.xattrs
        unnamed = [ino for ino in inodes if not reference.nlink(ino)]
        assert [ino for ino, _ in tree.metadata.scan(REAP, 0, INODE_MAX + 1)] == unnamed
        assert set(unnamed) <= set(tree.unlinked)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(steps(), steps(), steps(), steps(), st.sampled_from(LIFE)), max_size=60))
def test_random_steps(steps: list[Step | str]) -> None:
    with new_tree() as tree:
        comparison = Comparison(tree)
        for step in steps:
            if isinstance(step, Step):
                comparison.run(step)
            else:
                comparison.live(step)
            comparison.check()


def _long_run(seed: int, steps: int, reference: type[Reference] = Reference) -> None:
    chance = random.Random(seed)
    choose: Any = chance.choice
    with new_tree() as tree:
        comparison = Comparison(tree, reference)
        for number in range(steps):
            comparison.run(random_step(choose))
            if chance.random() < 0.01:
                comparison.live(choose(LIFE))
            if number % 100 == 0 or number == steps - 1:
                comparison.check()


@pytest.mark.parametrize("seed", range(4))
def test_long_run(seed: int) -> None:
    _long_run(seed, 2000)


@pytest.mark.soak
def test_very_long_run() -> None:
    _long_run(99, 50_000)


class ForgetsTheDirectory(Reference):
    """Wrong: a removed name leaves its directory's times alone."""

    def _drop(self, parent: int, name: bytes) -> None:
        node = self.nodes[parent]
        times = node.mtime_ns, node.ctime_ns
        super()._drop(parent, name)
        node.mtime_ns, node.ctime_ns = times


class ListsReplacedLast(Reference):
    """Wrong: a name taken over by rename loses its place in the listing."""

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        super().rename(parent, name, new_parent, new_name, flags)
        entries = self.nodes[new_parent].entries
        entries[new_name] = entries.pop(new_name)


@pytest.mark.parametrize("wrong", [ForgetsTheDirectory, ListsReplacedLast])
def test_a_difference_is_noticed(wrong: type[Reference]) -> None:
    with pytest.raises(AssertionError):
        _long_run(0, 2000, wrong)
