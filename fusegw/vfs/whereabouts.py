"""Paths of directories in a volume that may be changing: up by parents, and in each one the name.

An inode does not know its name, so the first question reads the entries of the directories above, some at a
time. Answers are kept as hints, and looked at before they are believed.
"""

import trio

from fusegw.errors import NotFound
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import DIRENT, INODE, ROOT_INODE
from fusegw.vfs.paths import find_path, path_parts, path_text

_ENTRIES_PER_TURN = 1000
_HINTS_MAX = 4096
_DEPTH_MAX = 4096


class Whereabouts:
    """Of one volume. Loop thread only."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._hints: dict[int, tuple[int, bytes]] = {}

    def find(self, path: str) -> int:
        """The inode of what has this path from the root on, links not followed. Invalid, NotFound."""
        ino = find_path(self._metadata, path_parts(path))
        if ino is None:
            raise NotFound(f"the volume has no directory {path!r}")
        return ino

    async def path(self, ino: int) -> str | None:
        """For people, from the root on; None when the directory is not in the tree."""
        names: list[bytes] = []
        while ino != ROOT_INODE:
            name = await self._name(ino)
            inode = self._metadata.get(INODE, ino)
            if name is None or inode is None or len(names) == _DEPTH_MAX:
                return None
            names.append(name)
            ino = inode.parent
        return path_text(tuple(reversed(names)))

    async def _name(self, ino: int) -> bytes | None:
        inode = self._metadata.get(INODE, ino)
        if inode is None or not inode.parent:
            return None
        hint = self._hints.get(ino)
        if hint is not None and hint[0] == inode.parent:
            entry = self._metadata.get(DIRENT, hint)
            if entry is not None and entry.ino == ino:
                return hint[1]
        start, count = (inode.parent, b""), _ENTRIES_PER_TURN
        while count == _ENTRIES_PER_TURN:
            count = 0
            for key, entry in self._metadata.scan(DIRENT, start, (inode.parent + 1, b"")):
                if entry.ino == ino:
                    self._keep(ino, key)
                    return key[1]
                start, count = (key[0], key[1] + b"\0"), count + 1
                if count == _ENTRIES_PER_TURN:
                    break
            await trio.lowlevel.checkpoint()
        return None

    def _keep(self, ino: int, place: tuple[int, bytes]) -> None:
        if len(self._hints) >= _HINTS_MAX:
            self._hints.clear()
        self._hints[ino] = place
