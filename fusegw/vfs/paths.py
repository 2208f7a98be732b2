"""Paths from the root of a volume: what is there, and, for tools, the names of inodes in an index held still.

For the names one pass over the directory entries is made. Directories are remembered all, other inodes only
as far as they are asked for, so memory grows with the number of directories and not with that of the files.
"""

import stat
from collections.abc import Container, Iterable

from fusegw.errors import Invalid
from fusegw.meta.past import Readable
from fusegw.meta.schema import DIRENT, ROOT_INODE, Dirent
from fusegw.vfs.directories import NAME_MAX

Place = tuple[int, bytes]
"""A directory and a name in it."""

_DIRECTORY = stat.S_IFDIR >> 12


class Paths:
    """Where directories, and the inodes in `wanted`, are named, according to `entries`: all there are."""

    def __init__(self, entries: Iterable[tuple[Place, Dirent]], wanted: Container[int]) -> None:
        self._directories: dict[int, Place] = {}
        self._others: dict[int, list[Place]] = {}
        for place, entry in entries:
            if entry.kind == _DIRECTORY:
                self._directories[entry.ino] = place
            elif entry.ino in wanted:
                self._others.setdefault(entry.ino, []).append(place)

    def names(self, ino: int) -> list[Place]:
        """All its names, none when it is unlinked."""
        if ino in self._directories:
            return [self._directories[ino]]
        return self._others.get(ino, [])

    def above(self, directory: int) -> list[Place] | None:
        """(inode, name) from below the root down to `directory`; None when it is not in the tree."""
        chain: list[Place] = []
        seen = set()
        while directory != ROOT_INODE:
            if directory in seen or directory not in self._directories:
                return None
            seen.add(directory)
            parent, name = self._directories[directory]
            chain.append((directory, name))
            directory = parent
        return chain[::-1]

    def parts(self, place: Place) -> tuple[bytes, ...] | None:
        """The components of its path from the root; None when its directory is not in the tree."""
        above = self.above(place[0])
        return None if above is None else (*[name for _, name in above], place[1])

    def texts(self, ino: int) -> list[str]:
        """All its paths, for people."""
        if ino == ROOT_INODE:
            return ["/"]
        found = [self.parts(place) for place in self.names(ino)]
        return [path_text(parts) for parts in found if parts is not None]


def path_text(parts: tuple[bytes, ...]) -> str:
    """A path for people and JSON: what is not UTF-8 appears as `\\xNN`."""
    return "/" + "/".join(part.decode("utf-8", "backslashreplace") for part in parts)


def path_parts(path: str) -> list[bytes]:
    """The names in a path that somebody gave, none for the root; Invalid."""
    if not path.startswith("/"):
        raise Invalid(f"{path!r} is no path from the volume's root on: it begins with /")
    parts = [part for part in path.encode(errors="surrogateescape").split(b"/") if part]
    if b"." in parts or b".." in parts:
        raise Invalid(f"{path!r} must not have . or .. in it")
    return parts


def find_path(rows: Readable, parts: list[bytes]) -> int | None:
    """The inode that is there in an index or a snapshot, links not followed; None when there is none."""
    ino = ROOT_INODE
    for name in parts:
        entry = rows.get(DIRENT, (ino, name)) if len(name) <= NAME_MAX else None
        if entry is None:
            return None
        ino = entry.ino
    return ino
