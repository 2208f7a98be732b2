"""A disk in memory that follows a record of writes and syncs, and can tell what a power cut may leave of it.

What is durable: bytes whose fsync or fdatasync began after they were written and has returned, and with them
the size of the file; bytes written through O_DSYNC; names whose directory was synced likewise (a rename
with one of its two). A file's own fsync does not save its name. Everything else may be there or not: each
name, each write, each sector of a write, each size. Only two things are promised of what is not synced, as
every disk and file system promises them: a sector holds what it held at one moment, and a change of a name
is whole or absent.
"""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.recording import Kind, Note

SECTOR_BYTES = 512
_BLOCK_BYTES = 4096
_KEPT = ("none", "all", "writes", "sectors")
_NAMES = ("none", "all", "prefix", "subset")


@dataclass(slots=True)
class Content:
    """Bytes of a file; what lies behind `data` up to `size` is zeros."""

    data: bytearray = field(default_factory=bytearray)
    size: int = 0

    def copy(self) -> "Content":
        return Content(bytearray(self.data), self.size)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self.data.extend(bytes(max(0, offset - len(self.data))))
        self.data[offset : offset + len(data)] = data
        self.size = max(self.size, offset + len(data))

    def cut(self, size: int) -> None:
        del self.data[size:]
        self.size = size

    def punch(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.data))
        self.data[offset:end] = bytes(max(0, end - offset))


@dataclass(slots=True)
class Change:
    """A change of a file's bytes that no sync has covered yet."""

    number: int
    note: Note
    forced: bool
    """It survives all the same: it was written through O_DSYNC after others that need not."""

    def apply(self, content: Content) -> None:
        note = self.note
        if note.kind is Kind.WRITE:
            content.write(note.a, note.data)
        elif note.kind is Kind.TRUNCATE:
            content.cut(note.a)
        elif note.path == "punch":
            content.punch(note.a, note.b)
        elif note.path == "grow":
            content.size = max(content.size, note.a + note.b)

    def sectors(self) -> range:
        return range(self.note.a // SECTOR_BYTES, -(-(self.note.a + len(self.note.data)) // SECTOR_BYTES))


@dataclass(eq=False, slots=True)
class File:
    """What is durable of a file, and what happened to it since."""

    durable: Content = field(default_factory=Content)
    pending: list[Change] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(eq=False, slots=True)
class Directory:
    """Names now, and the durable ones with the number of the change that made each what it is."""

    now: "dict[str, Node]" = field(default_factory=dict)
    durable: "dict[str, tuple[int, Node | None]]" = field(default_factory=dict)


Node = File | Link | Directory
Naming = tuple[Directory, str, Node | None]
Remains = dict[str, Content | str | None]
"""What is left, by path from the root: a file, a link's target, or a directory."""


class PowerDisk:
    """The files below `root`; those below `outside` (paths from the root) are nobody's concern. `ignored`
    tells which syncs did not happen."""

    def __init__(
        self,
        root: Path,
        *,
        outside: tuple[str, ...] = (),
    ) -> None:
        self._root = os.path.normpath(root)
        self._outside = outside
        self.ignored: Callable[[Note], bool] = lambda note: False
        self._top = Directory()
        self._inodes: dict[int, File | None] = {}
        self._paths: dict[int, str] = {}
        self._names: list[tuple[int, tuple[Naming, ...]]] = []
        self._syncs: dict[int, tuple[int, File | Directory | None]] = {}
        self._last: Change | None = None
        self._count = 0

    def adopt(self, *names: str) -> None:
        """Take over what is there on the real disk below these names of the root, as durable."""
        for name in names:
            place = os.path.join(self._root, name)
            if os.path.lexists(place):
                self._top.now[name] = self._adopted(place)
        self._settle(self._top)

    def add_directory(self, name: str) -> None:
        """An empty durable directory of the root."""
        self._top.now[name] = Directory()
        self._settle(self._top)

    def follow(self, note: Note) -> bool:
        """Whether the note was a change, not a sync."""
        self._count += 1
        if note.kind is Kind.MARK:
            return False
        if note.kind in (Kind.SYNC, Kind.SYNC_ALL):
            if not self.ignored(note):
                self._begin(note)
            return False
        if note.kind is Kind.SYNCED:
            if note.a in self._syncs:
                self._end(*self._syncs.pop(note.a))
            return False
        if note.kind in (Kind.WRITE, Kind.TRUNCATE, Kind.ALLOCATE):
            return self._change(note)
        return self._name(note)

    def saves(self, note: Note) -> bool:
        """Whether this note, the next one to follow, makes something durable."""
        if note.kind is Kind.WRITE:
            return bool(note.b) and self._inodes[note.inode] is not None and not self.ignored(note)
        if note.kind is not Kind.SYNCED or note.a not in self._syncs:
            return False
        begun, node = self._syncs[note.a]
        if isinstance(node, File):
            return any(change.number < begun for change in node.pending)
        return node is None or any(
            number < begun and any(name[0] is node for name in names) for number, names in self._names
        )

    def named(self, note: Note) -> str:
        """The path from the root that means something else after this note; empty when none does."""
        if note.kind in (Kind.LINK, Kind.RENAME):
            return os.path.relpath(os.path.normpath(note.other), self._root)
        if note.kind in (Kind.CREATE, Kind.MKDIR, Kind.REMOVE, Kind.SYMLINK):
            return os.path.relpath(note.path, self._root)
        return ""

    def now(self) -> Remains:
        """Everything, as programs see it."""
        return self._listed(lambda directory: directory.now, _volatile)

    def lost(self, chance: random.Random, kept: str, names: str) -> Remains:
        """What a power cut leaves, when `kept` of the bytes and `names` of the names come to be there.

        kept: none, all, torn (all, but of the last write only whole sectors from its beginning), writes or
        sectors (each or not). names: none, all, prefix (those of one moment), subset (each or not).
        """
        survivors = self._survivors(chance, names)
        entries: dict[Directory, dict[str, tuple[int, Node | None]]] = {}
        for number, changes in survivors:
            for directory, name, node in changes:
                known = entries.setdefault(directory, dict(directory.durable))
                if number > known.get(name, (0, None))[0]:
                    known[name] = (number, node)

        def listed(directory: Directory) -> "dict[str, Node]":
            found = entries.get(directory, directory.durable)
            return {name: node for name, (_, node) in found.items() if node is not None}

        return self._listed(listed, lambda file: self._content(file, chance, kept))

    def choice(self, chance: random.Random) -> tuple[str, str]:
        """Some `kept` and `names` for `lost`; never a torn write."""
        return chance.choice(_KEPT), chance.choice(_NAMES)

    def _begin(self, note: Note) -> None:
        node: File | Directory | None = None
        if note.kind is Kind.SYNC:
            if note.other:
                place = self._at(note.path)
                assert isinstance(place, Directory), note
                node = place
            else:
                node = self._inodes[note.inode]
                if node is None:
                    return
        self._syncs[note.a] = (self._count, node)

    def _end(self, begun: int, node: File | Directory | None) -> None:
        files = [node] if isinstance(node, File) else []
        if node is None:
            files = [file for file in self._inodes.values() if file is not None]
        for file in files:
            covered = [change for change in file.pending if change.number < begun]
            for change in covered:
                change.apply(file.durable)
            del file.pending[: len(covered)]
        if isinstance(node, File):
            return
        rest = []
        for number, names in self._names:
            if number < begun and (node is None or any(name[0] is node for name in names)):
                for directory, name, named in names:
                    if number > directory.durable.get(name, (0, None))[0]:
                        directory.durable[name] = (number, named)
            else:
                rest.append((number, names))
        self._names = rest

    def _change(self, note: Note) -> bool:
        file = self._inodes[note.inode]
        if file is None:
            return False
        forced = note.kind is Kind.WRITE and bool(note.b) and not self.ignored(note)
        change = Change(self._count, note, forced)
        self._last = change if note.kind is Kind.WRITE else None
        if forced and not file.pending:
            change.apply(file.durable)
        else:
            file.pending.append(change)
        return True

    def _name(self, note: Note) -> bool:
        path, other = note.path, note.other
        if self._is_outside(path) and note.kind is not Kind.MKDIR:
            if note.kind is Kind.CREATE:
                self._inodes[note.inode] = None
            return False
        directory, name = self._above(path)
        if note.kind is Kind.CREATE:
            node: Node | None = File()
            self._inodes[note.inode] = node
            self._paths[note.inode] = path
        elif note.kind is Kind.MKDIR:
            node = Directory()
        elif note.kind is Kind.SYMLINK:
            node = Link(other)
        elif note.kind is Kind.REMOVE:
            node = None
        else:
            node = directory.now[name]
            changes: tuple[Naming, ...] = ((*self._above(other), node),)
            if note.kind is Kind.RENAME:
                changes = ((directory, name, None), *changes)
            self._rename(changes)
            return True
        self._rename(((directory, name, node),))
        return True

    def _rename(self, changes: tuple[Naming, ...]) -> None:
        for directory, name, node in changes:
            if node is None:
                del directory.now[name]
            else:
                directory.now[name] = node
        self._names.append((self._count, changes))
        self._last = None

    def path_of(self, inode: int) -> str:
        """Where a file that was created in the record was created."""
        return self._paths.get(inode, "")

    def _survivors(self, chance: random.Random, names: str) -> list[tuple[int, tuple[Naming, ...]]]:
        if names == "none":
            return []
        if names == "prefix":
            return self._names[: chance.randint(0, len(self._names))]
        if names == "subset":
            return [one for one in self._names if chance.random() < 0.5]
        return self._names

    def _content(self, file: File, chance: random.Random, kept: str) -> Content:
        if not file.pending:
            return file.durable
        content = file.durable.copy()
        whole = {change.number: change.sectors() for change in file.pending if change.note.kind is Kind.WRITE}
        last: dict[int, int] = {}
        there: set[int] = set()
        for change in file.pending:
            sectors = whole.get(change.number)
            if change.forced or kept == "all" or (kept == "torn" and change is not self._last):
                chosen = sectors
            elif kept == "torn":
                assert sectors is not None
                chosen = sectors[: chance.randrange(len(sectors))]
            elif kept == "none" or (kept == "writes" and chance.random() < 0.5):
                continue
            elif kept == "writes" or sectors is None:
                chosen = sectors
            else:
                chosen = [sector for sector in sectors if chance.random() < 0.5]
            there.add(change.number)
            for sector in chosen or ():
                last[sector] = change.number
        for change in file.pending:
            if change.number not in whole:
                if change.number in there:
                    change.apply(content)
                continue
            note, view = change.note, memoryview(change.note.data)
            for sector in whole[change.number]:
                if last.get(sector, 0) >= change.number:
                    begin = max(note.a, sector * SECTOR_BYTES)
                    end = min(note.a + len(view), (sector + 1) * SECTOR_BYTES)
                    content.write(begin, view[begin - note.a : end - note.a])
        if kept in ("writes", "sectors") and chance.random() < 0.5:
            content.size = max(content.size, _volatile(file).size)
        return content

    def _listed(
        self, names: Callable[[Directory], "dict[str, Node]"], content: Callable[[File], Content]
    ) -> Remains:
        found: Remains = {}
        contents: dict[File, Content] = {}

        def walk(directory: Directory, above: str) -> None:
            for name, node in sorted(names(directory).items()):
                path = above + name
                if isinstance(node, File):
                    if node not in contents:
                        contents[node] = content(node)
                    found[path] = contents[node]
                elif isinstance(node, Link):
                    found[path] = node.target
                else:
                    found[path] = None
                    walk(node, path + "/")

        walk(self._top, "")
        return found

    def _adopted(self, place: str) -> Node:
        if os.path.islink(place):
            return Link(os.readlink(place))
        if not os.path.isdir(place):
            data = bytearray(Path(place).read_bytes())
            file = File(Content(data.rstrip(b"\0"), len(data)))
            self._inodes[os.stat(place).st_ino] = file
            self._paths[os.stat(place).st_ino] = place
            return file
        directory = Directory()
        for name in os.listdir(place):
            path = os.path.join(place, name)
            if not self._is_outside(path):
                directory.now[name] = self._adopted(path)
            elif os.path.isfile(path):
                self._inodes[os.stat(path).st_ino] = None
        return directory

    def _settle(self, directory: Directory) -> None:
        for name, node in directory.now.items():
            directory.durable[name] = (0, node)
            if isinstance(node, Directory):
                self._settle(node)

    def _is_outside(self, path: str) -> bool:
        return os.path.relpath(os.path.dirname(path), self._root).startswith(self._outside or ("\0",))

    def _above(self, path: str) -> tuple[Directory, str]:
        directory = self._at(os.path.dirname(path))
        assert isinstance(directory, Directory), path
        return directory, os.path.basename(path)

    def _at(self, path: str) -> Node:
        node: Node = self._top
        for name in self._parts(path):
            assert isinstance(node, Directory), path
            node = node.now[name]
        return node

    def _parts(self, path: str) -> Iterator[str]:
        below = os.path.relpath(path, self._root)
        return iter(()) if below == "." else iter(below.split("/"))


def write_out(remains: Remains, place: Path) -> None:
    """Put them on the real disk, below the existing directory `place`; blocks of zeros become holes."""
    done: dict[int, str] = {}
    for name, what in remains.items():
        path = os.path.join(place, name)
        if what is None:
            os.mkdir(path, 0o700)
        elif isinstance(what, str):
            os.symlink(what, path)
        elif id(what) in done:
            os.link(done[id(what)], path)
        else:
            done[id(what)] = path
            _write_file(path, what)


def _write_file(path: str, content: Content) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        data = memoryview(content.data)
        if content.data.find(bytes(_BLOCK_BYTES)) < 0:
            os.pwrite(fd, data, 0)
        else:
            zeros = bytes(_BLOCK_BYTES)
            for at in range(0, len(data), _BLOCK_BYTES):
                if data[at : at + _BLOCK_BYTES] != zeros:
                    os.pwrite(fd, data[at : at + _BLOCK_BYTES], at)
        os.ftruncate(fd, content.size)
    finally:
        os.close(fd)


def _volatile(file: File) -> Content:
    if not file.pending:
        return file.durable
    content = file.durable.copy()
    for change in file.pending:
        change.apply(content)
    return content
