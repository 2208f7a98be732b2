"""One process's work on a tree, in order, such that any crash must leave the tree as it was after some step.

Every step that writes data syncs it, and no step begins before the one before has returned. So what comes
back is the tree after a whole number of steps, but for the file that the next step was writing: of that it
may have any part. How many steps at least depends on what was lost: the gateway's memory only (all that an
fsync covered are there), or its disks as well (all that a barrier covered).
"""

import errno
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.crash.load import content, sync_directory
from tests.crash.rebuilt import Entry, Tree

PATHS_MAX = 60
SHARED = 12
"""Contents that all journals know."""
SIZES = (0, 10, 3_000, 20_000, 150_000, 400_000, 2_000_000)
_FILE, _DIRECTORY, _LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
KINDS = (
    *("create",) * 6, *("append",) * 3, *("overwrite",) * 2, *("rename",) * 3, *("unlink",) * 3,
    "truncate", "mkdir", "symlink", "link", "chmod", "setxattr", "rmdir",
)  # fmt: skip
"""Of steps, each as often as it is drawn; "fsyncdir" is one more, for those who ask for it."""
_WRITES = ("create", "append", "overwrite")
SYNCED = (*_WRITES, "fsyncdir")
"""Steps that have made all before them durable when they return."""
_REFUSABLE = (*_WRITES, "mkdir", "symlink", "link", "chmod", "setxattr", "rename")
"""What may fail for want of room; `unlink`, `rmdir` and `truncate` never do."""


@dataclass(frozen=True)
class Step:
    """What was done to which path."""

    kind: str
    path: str
    other: str = ""
    """Where it went, what it points at."""
    number: int = 0
    """Offset, length, mode or value."""
    data: bytes = b""


@dataclass
class Node:
    """A file, a directory or a symlink; hard links share it."""

    mode: int
    content: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Model:
    """The tree after some steps."""

    def __init__(self, nodes: dict[str, Node] | None = None) -> None:
        self.nodes = nodes or {}

    def copy(self) -> "Model":
        copies = {id(node): replace(node, xattrs=dict(node.xattrs)) for node in self.nodes.values()}
        return Model({path: copies[id(node)] for path, node in self.nodes.items()})

    def tree(self) -> Tree:
        links: dict[int, int] = {}
        for path, node in self.nodes.items():
            links[id(node)] = links.get(id(node), 1 if _is_directory(node) else 0) + 1
            if _is_directory(node) and (above := path.rpartition("/")[0]):
                links[id(self.nodes[above])] += 1
        return {
            path: Entry(node.mode, links[id(node)], node.content, frozenset(node.xattrs.items()))
            for path, node in self.nodes.items()
        }

    def apply(self, step: Step) -> None:
        nodes, path = self.nodes, step.path
        if step.kind in _WRITES:
            node = nodes.setdefault(path, Node(_FILE))
            node.content = (
                node.content[: step.number] + step.data + node.content[step.number + len(step.data) :]
            )
        elif step.kind == "truncate":
            nodes[path].content = nodes[path].content[: step.number].ljust(step.number, b"\0")
        elif step.kind == "mkdir":
            nodes[path] = Node(_DIRECTORY)
        elif step.kind == "symlink":
            nodes[path] = Node(_LINK, step.other.encode())
        elif step.kind == "link":
            nodes[step.other] = nodes[path]
        elif step.kind == "chmod":
            nodes[path].mode = stat.S_IFMT(nodes[path].mode) | step.number
        elif step.kind == "setxattr":
            nodes[path].xattrs[b"user.number"] = b"%d" % step.number
        elif step.kind == "fsyncdir":
            pass
        elif step.kind == "rename":
            moved = [name for name in nodes if name == path or name.startswith(path + "/")]
            for name in sorted(moved):
                nodes[step.other + name[len(path) :]] = nodes.pop(name)
        else:
            del nodes[path]

    def names(self, *kinds: int) -> list[str]:
        return [path for path, node in self.nodes.items() if stat.S_IFMT(node.mode) in kinds]


class Journal:
    """Works on `root` and notes each step before it is made.

    repeats: share of the writes whose data is one of a few that all journals know. `note` gets "begun" and
    "done" of each step, with how many steps there are by then.
    """

    def __init__(
        self,
        seed: int,
        *,
        repeats: float = 0.0,
        kinds: Sequence[str] = KINDS,
        sizes: Sequence[int] = SIZES,
        note: Callable[[str, int, Step], None] = lambda event, number, step: None,
    ) -> None:
        self._chance = random.Random(seed)
        self._seed = seed
        self._repeats = repeats
        self._kinds = kinds
        self._sizes = sizes
        self._note = note
        self._count = 0
        self._base = Model()
        self._model = Model()
        self._steps: list[Step] = []
        self.done = 0
        """Steps that have returned."""
        self.confirmed = 0
        """Steps that a returned barrier covers."""
        self.ever_confirmed = 0
        self.synced = 0
        """Steps that a returned fsync covers."""
        self.ever_synced = 0
        """Fsyncs that have returned."""
        self.ever_done = 0
        self.ever_written = 0
        """Bytes."""
        self.refused = 0
        """Steps that failed for want of room."""
        self.failure: OSError | None = None
        """What ended the work, if not the order to stop."""

    def work(self, root: Path, stop: threading.Event, *, may_be_full: bool = False) -> None:
        """Until told to stop, or the mount fails.

        may_be_full: a step may fail for want of room; the file it wrote is then removed. The mount must not
        die meanwhile.
        """
        self.failure = None
        try:
            while not stop.is_set():
                self._work(root, self._next(), may_be_full=may_be_full)
        except OSError as error:
            self.failure = error

    def confirm(self, steps: int) -> None:
        """A barrier that was called after so many steps had returned has returned."""
        self.ever_confirmed += steps - self.confirmed
        self.confirmed = steps
        self.synced = max(self.synced, steps)

    def verify(self, found: Tree) -> int:
        """The disks were lost. How many steps after the last confirmed one are in `found`, and go on from
        there; AssertionError unless it is the tree after some step at or behind it."""
        number, model, _ = self._search(found, self.confirmed)
        more = number - self.confirmed
        self._base, self._model, self._steps = model.copy(), model, []
        self.done = self.confirmed = self.synced = 0
        return more

    def verify_local(self, found: Tree) -> int:
        """The memory was lost. How many steps after the last synced one are in `found`, and go on from there;
        AssertionError unless it is the tree after some step at or behind it."""
        number, model, torn = self._search(found, self.synced)
        more = number - self.synced
        self._model, self._steps = model, self._steps[:number] + ([torn] if torn else [])
        self.done = self.synced = len(self._steps)
        return more

    def find(self, found: Tree, first: int, last: int) -> int:
        """The step after which the tree is `found`; AssertionError when it is none from `first` to `last`."""
        return self._search(found, first, last)[0]

    def verify_all(self, found: Tree) -> None:
        """Nothing was lost, and nobody is at work; AssertionError unless it is the tree after all steps."""
        right = self._model.tree()
        assert found == right, self._wrong(found, right)
        for step in self._steps[: self.confirmed]:
            self._base.apply(step)
        self._steps = self._steps[self.confirmed :]
        self.done -= self.confirmed
        self.synced -= self.confirmed
        self.confirmed = 0

    def summary(self) -> list[str]:
        """What a person wants to see of the steps that are not confirmed, one a line."""
        last = [
            f"{self.confirmed} confirmed, {self.synced} synced, {self.done} done of {len(self._steps)} steps"
        ]
        return last + [
            f"{number} {step.kind} {step.path} {step.other} {step.number} {len(step.data)} bytes"
            for number, step in enumerate(self._steps)
        ]

    def _work(self, root: Path, step: Step, *, may_be_full: bool) -> None:
        self._steps.append(step)
        self._note("begun", len(self._steps), step)
        try:
            _perform(root, step)
        except OSError as error:
            if error.errno != errno.ENOSPC or not may_be_full or step.kind not in _REFUSABLE:
                raise
            self._withdraw(root, self._steps.pop())
            return
        self._made(step)
        if step.kind in SYNCED:
            self.synced = self.done
            self.ever_synced += 1
            self.ever_written += len(step.data)

    def _withdraw(self, root: Path, step: Step) -> None:
        """There was no room for it: what it wrote to goes, under all its names."""
        self.refused += 1
        if step.kind not in _WRITES:
            return
        node = self._model.nodes.get(step.path)
        if node is None and (root / step.path).exists():
            os.unlink(root / step.path)
        for path in [path for path, other in self._model.nodes.items() if other is node]:
            gone = Step("unlink", path)
            self._steps.append(gone)
            _perform(root, gone)
            self._made(gone)

    def _made(self, step: Step) -> None:
        self._model.apply(step)
        self.done += 1
        self.ever_done += 1
        self._note("done", self.done, step)

    def _search(self, found: Tree, first: int, last: int | None = None) -> tuple[int, Model, Step | None]:
        """After which step at or behind the one with the number `first` it is the tree, the model of it, and
        the next step as far as it is there."""
        begun = self._steps[:last]
        for number, model in self._possible(first, begun):
            later, torn = begun[number] if number < len(begun) else None, None
            if later is not None and later.kind in _WRITES and _is_within(found, model, later):
                torn = replace(later, number=0, data=found[later.path].content)
                model.apply(torn)
            if model.tree() == found:
                return number, model, torn
        raise AssertionError(self._difference(found, first, begun))

    def _possible(self, first: int, begun: list[Step]) -> Iterator[tuple[int, Model]]:
        model = self._base.copy()
        for step in begun[:first]:
            model.apply(step)
        yield first, model.copy()
        for number, step in enumerate(begun[first:], first + 1):
            model.apply(step)
            yield number, model.copy()

    def _difference(self, found: Tree, first: int, begun: list[Step]) -> str:
        """From the state that is nearest by name."""
        best = ""
        for number, model in self._possible(first, begun):
            what = self._wrong(found, model.tree())
            if not best or len(what) < len(best):
                step = f", next {begun[number]!r:.120}" if number < len(begun) else ""
                best = f"nearest is step {number}{step}: {what}"
        return f"the tree after no step from {first} to {len(begun)}; {best}"

    def _wrong(self, found: Tree, right: Tree) -> str:
        wrong = [path for path in right.keys() | found.keys() if right.get(path) != found.get(path)]
        return ", ".join(f"{path}: {_said(found, path)}, expected {_said(right, path)}" for path in wrong)

    def _next(self) -> Step:
        chance, model = self._chance, self._model
        while True:
            kind = chance.choice(self._kinds)
            files = model.names(stat.S_IFREG)
            others = model.names(stat.S_IFREG, stat.S_IFLNK)
            directories = model.names(stat.S_IFDIR)
            self._count += 1
            place = chance.choice(["", *(path + "/" for path in directories if path.count("/") < 3)])
            new = f"{place}{kind[0]}{self._count}"
            if kind in ("create", "mkdir", "symlink", "link") and len(model.nodes) >= PATHS_MAX:
                continue
            if kind == "create":
                return Step(kind, new, data=self._data())
            if kind == "mkdir":
                return Step(kind, new)
            if kind == "fsyncdir":
                return Step(kind, place)
            if kind == "symlink":
                return Step(kind, new, f"to {self._count}")
            if kind == "rmdir":
                empty = [
                    path for path in directories if not any(p.startswith(path + "/") for p in model.nodes)
                ]
                if empty:
                    return Step(kind, chance.choice(empty))
            if not files:
                continue
            path = chance.choice(files)
            size = len(model.nodes[path].content)
            if kind == "append":
                return Step(kind, path, number=size, data=self._data())
            if kind == "overwrite":
                return Step(kind, path, number=chance.randint(0, size), data=self._data()[:200_000])
            if kind == "truncate":
                return Step(kind, path, number=chance.choice((0, size // 2, size + 5_000)))
            if kind == "chmod":
                return Step(kind, path, number=chance.choice((0o600, 0o640, 0o755)))
            if kind == "setxattr":
                return Step(kind, path, number=self._count)
            if kind == "unlink":
                return Step(kind, chance.choice(others))
            if kind == "link":
                return Step(kind, path, new)
            if kind == "rename":
                return self._rename(chance.choice(others), new, others)

    def _rename(self, path: str, new: str, others: list[str]) -> Step:
        """Onto a new name, or over another file."""
        over = self._chance.choice(others)
        if self._chance.random() < 0.5 or self._model.nodes[over] is self._model.nodes[path]:
            return Step("rename", path, new)
        return Step("rename", path, over)

    def _data(self) -> bytes:
        size = self._chance.choice(self._sizes)
        if self._chance.random() < self._repeats:
            return content(-self._chance.randint(1, SHARED), size)
        return content(self._seed * 1_000_003 + self._count, size)


def _perform(root: Path, step: Step) -> None:
    path = root / step.path
    if step.kind in _WRITES:
        fd = os.open(path, os.O_WRONLY | (os.O_CREAT | os.O_EXCL if step.kind == "create" else 0), 0o644)
        try:
            at, view = step.number, memoryview(step.data)
            while view:
                written = os.pwrite(fd, view, at)
                at, view = at + written, view[written:]
            os.fsync(fd)
        finally:
            os.close(fd)
    elif step.kind == "setxattr":
        os.setxattr(path, b"user.number", b"%d" % step.number)
    elif step.kind == "symlink":
        os.symlink(step.other, path)
    elif step.kind in ("link", "rename"):
        getattr(os, step.kind)(path, root / step.other)
    elif step.kind in ("truncate", "chmod"):
        getattr(os, step.kind)(path, step.number)
    elif step.kind == "mkdir":
        os.mkdir(path, 0o755)
    elif step.kind == "fsyncdir":
        sync_directory(path)
    else:
        getattr(os, step.kind)(path)


def _is_within(found: Tree, before: Model, step: Step) -> bool:
    """Whether the file that `step` writes may be what is found: every byte old or new, none skipped."""
    entry = found.get(step.path)
    if entry is None:
        return False
    old = before.nodes[step.path].content if step.path in before.nodes else b""
    new, have = _written(old, step), entry.content
    if not len(old) <= len(have) <= len(new):
        return False
    fresh = have[len(old) :] == new[len(old) : len(have)]
    return fresh and all(byte in pair for byte, *pair in zip(have, old, new, strict=False))


def _written(old: bytes, step: Step) -> bytes:
    return old[: step.number] + step.data + old[step.number + len(step.data) :]


def _is_directory(node: Node) -> bool:
    return stat.S_ISDIR(node.mode)


def _said(tree: Tree, path: str) -> str:
    entry = tree.get(path)
    if entry is None:
        return "nothing"
    return f"{entry.mode:o} links {entry.nlink} {len(entry.content)} bytes {sorted(entry.xattrs)}"
