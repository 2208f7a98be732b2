"""Writers on a mount that is going to die, and what must be there afterwards.

Each writer has a directory of its own. It keeps, per file, the contents that may be found: exactly the one
its last returned fsync confirmed, or one whose fsync had not returned when the mount died.
"""

import os
import random
import threading
from dataclasses import dataclass, field
from pathlib import Path

FILES_MAX = 40
Part = tuple[int, int]
"""Seed and size of some bytes."""
Parts = tuple[Part, ...]
ABSENT = None


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@dataclass
class Writer:
    """One thread's work. `possible` maps a name to the contents that are right, as lists of (seed, size)
    parts.
    """

    directory: Path
    seed: int
    possible: dict[str, list[Parts | None]] = field(default_factory=dict)
    growing: tuple[str, Parts, Part] | None = None
    """The file being written when the mount died: what it had, and of what it may have any beginning more."""
    synced: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._count = 0
        self._names = 0

    def work(self, stop: threading.Event) -> None:
        """Until told to stop, or the mount fails."""
        try:
            os.makedirs(self.directory, exist_ok=True)
            sync_directory(self.directory.parent)
            while not stop.is_set():
                self._step()
        except OSError:
            return

    def verify(self) -> int:
        """Compare what is there with what may be there; returns the files checked."""
        for name, choices in self.possible.items():
            try:
                found: bytes | None = (self.directory / name).read_bytes()
            except FileNotFoundError:
                found = None
            right = [None if parts is None else _join(parts) for parts in choices]
            if found in right:
                self.possible[name] = [choices[right.index(found)]]
                continue
            assert found is not None and self._is_growing(name, found), (
                f"{self.directory.name}/{name}: {_describe(found)}, expected one of "
                + ", ".join(map(_describe, right))
            )
            os.unlink(self.directory / name)
            self.possible[name] = [ABSENT]
        self.growing = None
        return len(self.possible)

    def _is_growing(self, name: str, found: bytes) -> bool:
        if self.growing is None or self.growing[0] != name:
            return False
        _, parts, part = self.growing
        return found.startswith(_join(parts)) and _join((*parts, part)).startswith(found)

    def _step(self) -> None:
        names = [name for name, choices in self.possible.items() if choices[-1] is not None]
        choice = self._random.random()
        if len(names) < 5 or (choice < 0.45 and len(names) < FILES_MAX):
            self._create(f"f{self._next_name()}")
        elif choice < 0.6:
            self._replace(self._random.choice(names))
        elif choice < 0.8:
            self._append(self._random.choice(names))
        elif choice < 0.9:
            self._unlink(self._random.choice(names))
        else:
            self._noise()

    def _next_name(self) -> int:
        self._names += 1
        return self._names

    def _part(self) -> Part:
        self._count += 1
        size = self._random.choice((0, 10, 3_000, 20_000, 150_000, 400_000, 3_000_000))
        return (self.seed * 1_000_003 + self._count, size)

    def _create(self, name: str) -> None:
        part = self._part()
        self.growing = (name, (), part)
        self._write(name, content(*part), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._may(name, (part,))
        sync_directory(self.directory)
        self._must(name, (part,))

    def _replace(self, name: str) -> None:
        part = self._part()
        self._write("replacement", content(*part), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._may(name, (part,))
        os.rename(self.directory / "replacement", self.directory / name)
        sync_directory(self.directory)
        self._must(name, (part,))

    def _append(self, name: str) -> None:
        before = self.possible[name][-1]
        assert before is not None
        part = self._part()
        self.growing = (name, before, part)
        self._write(name, content(*part), os.O_WRONLY | os.O_APPEND)
        self._must(name, (*before, part))

    def _unlink(self, name: str) -> None:
        self._may(name, ABSENT)
        os.unlink(self.directory / name)
        sync_directory(self.directory)
        self._must(name, ABSENT)

    def _noise(self) -> None:
        """Work that nobody syncs."""
        with open(self.directory / "noise", "wb") as file:
            file.write(content(self._count, 50_000))
        os.rename(self.directory / "noise", self.directory / "noise2")

    def _write(self, name: str, data: bytes, flags: int) -> None:
        fd = os.open(self.directory / name, flags, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)

    def _may(self, name: str, parts: Parts | None) -> None:
        self.possible[name] = [*self.possible.get(name, [ABSENT]), parts]

    def _must(self, name: str, parts: Parts | None) -> None:
        self.possible[name] = [parts]
        self.growing = None
        self.synced += 1


def _join(parts: Parts) -> bytes:
    return b"".join(content(*part) for part in parts)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _describe(found: bytes | None) -> str:
    return "no file" if found is None else f"{len(found)} bytes"
