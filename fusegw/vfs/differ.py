"""What changed between two snapshots, or a snapshot and the present, from metadata alone.

The history says which rows changed; names of what they belong to are found in one pass over the entries at
each side. For tools: blocking, over a view, with memory for what changed and for the directories.
"""

import enum
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import msgspec

from fusegw.meta.history import SEQ_END, decode_row, split_key
from fusegw.meta.past import Past, Readable
from fusegw.meta.schema import (
    DIRENT,
    EXTENT,
    HISTORY,
    INODE,
    INODE_MAX,
    POSITION,
    TABLES,
    XATTR,
    Inode,
    Snapshot,
)
from fusegw.meta.view import View
from fusegw.vfs.paths import Paths, Place, path_text


class Difference(enum.Enum):
    """What became of a path."""

    ADDED = "added"
    REMOVED = "removed"
    RENAMED = "renamed"
    """What had another path before has this one."""
    CONTENT = "content"
    """Data, size or target."""
    ATTRIBUTES = "attributes"
    """Mode, owner or extended attributes only."""


class Changed(msgspec.Struct, frozen=True):
    """One path that is not as it was."""

    path: str
    difference: Difference
    is_directory: bool
    before: str = ""
    """The path of what was renamed."""


class _Rows:
    """A view as the readers of the file system need it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.get = view.get

    def scan(self, table: Any, low: Any, high: Any, *, reverse: bool = False) -> Iterator[tuple[Any, Any]]:
        assert not reverse, "tools read forwards"
        for key, value in self._view.rows(table, low):
            if key >= high:
                return
            yield key, value


class _Side:
    """The volume at one of the two moments."""

    def __init__(self, rows: Readable, wanted: set[int]) -> None:
        self.rows = rows
        self.paths = Paths(rows.scan(DIRENT, (0, b""), (INODE_MAX + 1, b"")), wanted)

    def inode(self, ino: int) -> Inode | None:
        return self.rows.get(INODE, ino)

    def xattrs(self, ino: int) -> list[tuple[Any, bytes]]:
        return list(self.rows.scan(XATTR, (ino, b""), (ino + 1, b"")))

    def extents(self, ino: int) -> Iterator[tuple[Any, Any]]:
        return self.rows.scan(EXTENT, (ino, 0), (ino + 1, 0))

    def text(self, place: Place) -> str:
        parts = self.paths.parts(place)
        return "" if parts is None else path_text(parts)


def differences(view: View, older: Snapshot, newer: Snapshot | None) -> list[Changed]:
    """What is not at `newer` (None: now) as it was at `older`, by path. Corrupt."""
    present = _Rows(view)
    until = SEQ_END if newer is None else newer.seq
    touched, contents = _touched(view, older, until)
    touched |= _born(present, older, INODE_MAX + 1 if newer is None else newer.next_inode)
    before = _Side(Past(present, older), touched)
    after = _Side(present if newer is None else Past(present, newer), touched)
    found: list[Changed] = []
    for ino in sorted(touched):
        found += _compare(ino, before, after, ino in contents)
    return sorted(found, key=lambda one: (one.path, one.difference.value))


def _touched(view: View, older: Snapshot, until: int) -> tuple[set[int], set[int]]:
    """Inodes of which anything was changed between, their names included; and those of which data was."""
    tables = {table.code: table for table in TABLES if table.kept and table is not POSITION}
    touched: set[int] = set()
    contents: set[int] = set()
    for raw_key, row in view.rows(HISTORY):
        prefix, seq = split_key(raw_key)
        table = tables.get(prefix[0])
        if table is None or not older.seq <= seq < until:
            continue
        key, past = decode_row(table, prefix, row)
        if table is INODE:
            touched.add(key)
        elif table is DIRENT:
            now = view.get(DIRENT, key)
            touched.update(entry.ino for entry in (past, now) if entry is not None)
        else:
            touched.add(key[0])
            if table is EXTENT:
                contents.add(key[0])
    return touched, contents


def _born(present: _Rows, older: Snapshot, next_inode: int) -> set[int]:
    """What was made since has no history; what is gone again is found on neither side."""
    return {ino for ino, _ in present.scan(INODE, older.next_inode, next_inode)}


def _compare(ino: int, before: _Side, after: _Side, content: bool) -> Iterator[Changed]:
    old, new = before.inode(ino), after.inode(ino)
    old_names = set(before.paths.names(ino)) if old is not None else set()
    new_names = set(after.paths.names(ino)) if new is not None else set()
    kind = new or old
    if kind is None:
        return
    removed, added = sorted(old_names - new_names), sorted(new_names - old_names)
    for place in added:
        if removed:
            yield Changed(after.text(place), Difference.RENAMED, kind.is_dir, before.text(removed.pop(0)))
        else:
            yield Changed(after.text(place), Difference.ADDED, kind.is_dir)
    for place in removed:
        yield Changed(before.text(place), Difference.REMOVED, kind.is_dir)
    if old is None or new is None or not old_names or not new_names:
        return
    if (old.size, old.target) != (new.size, new.target) or (content and not _same_data(ino, before, after)):
        difference = Difference.CONTENT
    elif (old.mode, old.uid, old.gid) != (new.mode, new.uid, new.gid) or before.xattrs(ino) != after.xattrs(
        ino
    ):
        difference = Difference.ATTRIBUTES
    else:
        return
    for place in sorted(new_names):
        yield Changed(after.text(place), difference, kind.is_dir)


def _same_data(ino: int, before: _Side, after: _Side) -> bool:
    return all(old == new for old, new in zip_longest(before.extents(ino), after.extents(ino)))
