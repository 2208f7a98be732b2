"""What the benchmark stores: one large file on two days, and a tree of many small files.

Day 1 is the beginning of a tar of /usr, so it holds what a real system holds; day 2 is day 1 with pieces
removed and inserted at scattered places, always the same ones. The tree is copied from the documentation and
the libraries of the host: regular files and directories only, because not every contender keeps more.
"""

import itertools
import os
import random
import shutil
import stat
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from fusegw.errors import Invalid

SEED = 42
EDITS = 40
EDIT_BYTES_MAX = 64 << 10
SMALL_BYTES_MAX = 256 << 10
"""Larger files are left out of the tree."""
_STEP_BYTES = 1 << 20
_OTHER = bytes(number ^ 0xA5 for number in range(256))
_LAYOUT = 1
"""Raised when data made by an older version must not be used again."""


class Recipe(msgspec.Struct, frozen=True):
    """What decides how the data looks on this host."""

    size_bytes: int
    files: int
    seed: int = SEED
    layout: int = _LAYOUT


class Planted(msgspec.Struct, frozen=True):
    """A tree: `entries` counts its files and directories, the top one included."""

    files: int
    entries: int
    bytes: int


class Corpus(msgspec.Struct, frozen=True):
    """Data in a directory."""

    directory: Path
    planted: Planted

    @property
    def day1(self) -> Path:
        return self.directory / "day1"

    @property
    def day2(self) -> Path:
        return self.directory / "day2"

    @property
    def tree(self) -> Path:
        return self.directory / "tree"

    def other(self) -> Path:
        """As long as day 1 and as compressible, but nothing of it is in there; made when it is needed."""
        other = self.directory / "day1-other"
        if not other.exists():
            new = other.with_suffix(".new")
            with self.day1.open("rb") as source, new.open("wb") as out:
                while piece := source.read(_STEP_BYTES):
                    out.write(piece.translate(_OTHER))
            new.rename(other)
        return other


class Edit(msgspec.Struct, frozen=True):
    """At `offset` of day 1, `removed` bytes are left out and `inserted` put in; one of the two is empty."""

    offset: int
    removed: int
    inserted: bytes


class _Stamp(msgspec.Struct, frozen=True):
    """Written last, so that data which was not finished is made again."""

    recipe: Recipe
    planted: Planted


def provide(directory: Path, recipe: Recipe) -> Corpus:
    """The data in `directory`: what an earlier run made there by the same recipe, or new.

    Invalid when the host has too few small files, or no /usr to speak of.
    """
    stamp_file = directory / "corpus.json"
    known = _known(stamp_file)
    if known is not None and known.recipe == recipe:
        return Corpus(directory, known.planted)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    day1, day2, tree = (directory / name for name in ("day1", "day2", "tree"))
    archive(Path("/usr"), day1, recipe.size_bytes)
    rewrite(day1, day2, edits(day1.stat().st_size, seed=recipe.seed))
    planted = plant(tree, small_files(_tree_sources()), recipe.files)
    stamp_file.write_bytes(msgspec.json.encode(_Stamp(recipe, planted)))
    return Corpus(directory, planted)


def archive(source: Path, target: Path, size_bytes: int) -> None:
    """The first `size_bytes` of a tar of `source`, or all of it when it is smaller; Invalid without any."""
    command = ["tar", "--sort=name", "-cf", "-", "-C", str(source.parent), source.name]
    left = size_bytes
    with (
        target.open("wb") as out,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tar,
    ):
        assert tar.stdout is not None
        while left and (piece := tar.stdout.read(min(left, _STEP_BYTES))):
            out.write(piece)
            left -= len(piece)
        tar.kill()
    if left == size_bytes:
        raise Invalid(f"tar of {source} gave nothing; the benchmark needs data to store")


def edits(size_bytes: int, *, seed: int, count: int = EDITS) -> list[Edit]:
    """Removals and insertions in turns, scattered over `size_bytes`, ascending, the same for a seed."""
    chance = random.Random(seed)
    offsets = sorted(chance.randrange(size_bytes) for _ in range(count))
    found = []
    for number, offset in enumerate(offsets):
        length = chance.randrange(1, EDIT_BYTES_MAX)
        insert = number % 2 == 1
        found.append(Edit(offset, 0 if insert else length, chance.randbytes(length) if insert else b""))
    return found


def rewrite(source: Path, target: Path, changes: Iterable[Edit]) -> None:
    """`target` becomes `source` with `changes` made; one that begins in what was removed moves to its end."""
    with source.open("rb") as old, target.open("wb") as new:
        for change in changes:
            _copy(old, new, change.offset - old.tell())
            new.write(change.inserted)
            old.seek(max(old.tell(), change.offset) + change.removed)
        shutil.copyfileobj(old, new, _STEP_BYTES)


def small_files(roots: Iterable[Path]) -> Iterator[Path]:
    """Regular files up to `SMALL_BYTES_MAX` below `roots`, in an order of their names, each once."""
    seen: set[str] = set()
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            if folder in seen:
                continue
            seen.add(folder)
            for name in sorted(names):
                file = Path(folder, name)
                status = file.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_size <= SMALL_BYTES_MAX:
                    yield file


def plant(tree: Path, sources: Iterable[Path], files: int) -> Planted:
    """Copies the first `files` of `sources` below `tree`, under the paths they have on the host.

    Invalid when there are fewer.
    """
    tree.mkdir()
    count = total_bytes = 0
    for source in itertools.islice(sources, files):
        target = tree / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
        total_bytes += target.stat().st_size
        count += 1
    if count < files:
        raise Invalid(f"this host has {count} small files to copy, {files} were asked for; give --files")
    entries = 1 + sum(len(folders) + len(names) for _, folders, names in os.walk(tree))
    return Planted(count, entries, total_bytes)


def _copy(old: BinaryIO, new: BinaryIO, length: int) -> None:
    while length > 0:
        piece = old.read(min(length, _STEP_BYTES))
        if not piece:
            return
        new.write(piece)
        length -= len(piece)


def _tree_sources() -> list[Path]:
    libraries = Path(sysconfig.get_path("stdlib"))
    return [Path("/usr/share/doc"), libraries, Path("/usr/share"), Path("/usr/lib")]


def _known(stamp_file: Path) -> _Stamp | None:
    try:
        return msgspec.json.decode(stamp_file.read_bytes(), type=_Stamp)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
