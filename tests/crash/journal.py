"""One process's work on a tree, in order, such that any crash must leave the tree as it was after some step.

Every step that writes data syncs it, and no step begins before the one before has returned. So what comes
back is the tree after a whole number of steps, but for the file that the next step was writing: of that it
may have any part.
"""

import os
import random
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.crash.load import content
from tests.crash.rebuilt import Entry, Tree

PATHS_MAX = 60
SIZES = (0, 10, 3_000, 20_000, 150_000, 400_000, 2_000_000)
_FILE, _DIRECTORY, _LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
_KINDS = (
    *("create",) * 6, *("append",) * 3, *("overwrite",) * 2, *("rename",) * 3, *("unlink",) * 3,
    "truncate", "mkdir", "symlink", "link", "chmod", "setxattr", "rmdir",
)  # fmt: skip
_WRITES = ("create", "append", "overwrite")


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
        elif step.kind == "rename":
            moved = [name for name in nodes if name == path or name.startswith(path + "/")]
            for name in sorted(moved):
                nodes[step.other + name[len(path) :]] = nodes.pop(name)
        else:
            del nodes[path]

    def names(self, *kinds: int) -> list[str]:
        return [path for path, node in self.nodes.items() if stat.S_IFMT(node.mode) in kinds]


class Journal:
    """Works on `root` and notes each step before it is made."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._count = 0
        self._base = Model()
        self._model = Model()
        self._steps: list[Step] = []
        self.done = 0
        """Steps that have returned."""
        self.confirmed = 0
        """Steps that a returned barrier covers."""
        self.ever_confirmed = 0

    def work(self, root: Path, stop: threading.Event) -> None:
        """Until told to stop, or the mount fails."""
        try:
            while not stop.is_set():
                step = self._next()
                self._steps.append(step)
                self._model.apply(step)
                _perform(root, step)
                self.done += 1
        except OSError:
            return

    def confirm(self, steps: int) -> None:
        """A barrier that was called after so many steps had returned has returned."""
        self.ever_confirmed += steps - self.confirmed
        self.confirmed = steps

    def verify(self, found: Tree) -> int:
        """How many steps after the last confirmed one are in `found`, and go on from there; AssertionError
        unless it is the tree after some step at or behind it."""
        for number, model in self._possible():
            later = self._steps[number] if number < len(self._steps) else None
            if later is not None and later.kind in _WRITES and _is_within(found, model, later):
                model.nodes.setdefault(later.path, Node(_FILE)).content = found[later.path].content
            if model.tree() == found:
                more = number - self.confirmed
                self._base, self._model, self._steps = model.copy(), model, []
                self.done = self.confirmed = 0
                return more
        raise AssertionError(self._difference(found))

    def _possible(self) -> Iterator[tuple[int, Model]]:
        model = self._base.copy()
        for step in self._steps[: self.confirmed]:
            model.apply(step)
        yield self.confirmed, model.copy()
        for number, step in enumerate(self._steps[self.confirmed :], self.confirmed + 1):
            model.apply(step)
            yield number, model.copy()

    def _difference(self, found: Tree) -> str:
        """From the state that is nearest by name."""
        best = ""
        for number, model in self._possible():
            right = model.tree()
            wrong = [path for path in right.keys() | found.keys() if right.get(path) != found.get(path)]
            what = ", ".join(f"{path}: {_said(found, path)}, expected {_said(right, path)}" for path in wrong)
            if not best or len(what) < len(best):
                step = f", next {self._steps[number]!r:.120}" if number < len(self._steps) else ""
                best = f"nearest is step {number}{step}: {what}"
        return f"the tree after no step from {self.confirmed} to {len(self._steps)}; {best}"

    def _next(self) -> Step:
        chance, model = self._chance, self._model
        while True:
            kind = chance.choice(_KINDS)
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
        return content(self._count, self._chance.choice(SIZES))


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
