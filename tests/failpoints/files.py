"""Files on a mount that may fail, and what of them has to be there afterwards: the model.

A file's content is right when it is one that an acknowledged call made, or one that a call was about to make
that did not come back. Two views of that are kept: what the gateway has acknowledged by an fsync, and what
the store has to give back alone, since the last barrier that returned.
"""

import os
import random
from collections.abc import Mapping
from pathlib import Path

from fusegw.errors import FusegwError

Choice = tuple[bytes, bytes] | None
"""Begins with the first, and is a beginning of the second; None: there is no file."""


def exactly(data: bytes) -> Choice:
    return data, data


class Files:
    """Files below `root`, written one after the other."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self._dice = random.Random(seed)
        self._numbered = 0
        self.may: dict[str, list[Choice]] = {}
        """What may be found of each name."""
        self._since: dict[str, list[Choice]] = {}
        """What it may have been since the last barrier."""

    def data(self, size: int) -> bytes:
        """Bytes that neither compress nor repeat."""
        return self._dice.randbytes(size)

    def new_name(self) -> str:
        self._numbered += 1
        return f"f{self._numbered}"

    def whole(self) -> dict[str, bytes]:
        """Names and contents of the files of which that is certain."""
        certain = {name: choices[0] for name, choices in self.may.items() if len(choices) == 1}
        return {name: choice[0] for name, choice in certain.items() if choice and choice[0] == choice[1]}

    def save(self, name: str, data: bytes) -> None:
        """Written beside its place, synced and renamed there, which is then synced."""
        fd = os.open(self.root / "beside", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        _write(fd, data)
        self._expect(name, exactly(data))
        os.rename(self.root / "beside", self.root / name)
        self._sync_names()
        self._settle(name, exactly(data))

    def grow(self, name: str, data: bytes) -> None:
        """Appended and synced; a new file is created for it."""
        before = self.whole().get(name)
        old, new = before or b"", (before or b"") + data
        fd = os.open(self.root / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._expect(name, (old, new))
        _write(fd, data)
        if before is None:
            self._sync_names()
        self._settle(name, exactly(new))

    def remove(self, name: str) -> None:
        self._expect(name, None)
        os.unlink(self.root / name)
        self._sync_names()
        self._settle(name, None)

    def barrier_returned(self) -> None:
        """All that was acknowledged is in the store."""
        self._since = {name: list(choices) for name, choices in self.may.items()}

    def copy_for(self, root: Path) -> "Files":
        """What the store has to give back there: nothing after it has happened yet."""
        other = Files(root, 0)
        other._dice, other._numbered = self._dice, self._numbered + 1000
        other.may = {name: list(choices) for name, choices in self._since.items()}
        other._since = {name: list(choices) for name, choices in self._since.items()}
        return other

    def verify(self) -> int:
        """Compare with what is there; what was uncertain is certain afterwards. How many files."""
        found = {path.name: path.read_bytes() for path in self.root.iterdir()}
        _compare(found, self.may)
        for name in self.may:
            self._settle(name, exactly(found[name]) if name in found else None)
        return len(found)

    def verify_stored(self, found: Mapping[str, bytes]) -> None:
        """Compare with what the store alone gives back."""
        _compare(found, self._since)

    def _expect(self, name: str, choice: Choice) -> None:
        for choices in (self.may, self._since):
            choices[name] = [*choices.get(name, [None]), choice]

    def _settle(self, name: str, choice: Choice) -> None:
        self.may[name] = [choice]

    def _sync_names(self) -> None:
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _write(fd: int, data: bytes) -> None:
    """All of it, synced; closes."""
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _compare(found: Mapping[str, bytes], may: Mapping[str, list[Choice]]) -> None:
    for name in found.keys() | may.keys():
        if name != "beside":
            choices = may.get(name, [None])
            assert any(_fits(found.get(name), choice) for choice in choices), (
                f"{name}: {_described(found.get(name))}, expected one of {', '.join(map(_told, choices))}"
            )


def _fits(found: bytes | None, choice: Choice) -> bool:
    if found is None or choice is None:
        return found is None and choice is None
    return found.startswith(choice[0]) and choice[1].startswith(found)


def _described(found: bytes | None) -> str:
    return "no file" if found is None else f"{len(found)} bytes"


def _told(choice: Choice) -> str:
    if choice is None:
        return "no file"
    return " to ".join(dict.fromkeys(f"{len(part)} bytes" for part in choice))


ERRORS = (OSError, FusegwError)
"""What a gateway that fails gives to those that use it."""
