"""The invariants of names: entries and their positions, links, parents, reachability, the reap queue.

Three passes: `Names.inode` is told of every inode, then entries and positions are read, then what was counted
is compared. Memory: 17 bytes an inode, some 60 a directory.
"""

import stat

from fusegw.check.numbers import Numbers
from fusegw.check.quotas import Quotas
from fusegw.check.rows import Rows
from fusegw.meta.schema import (
    DIRENT,
    FIRST_COOKIE,
    INODE_MAX,
    POSITION,
    REAP,
    ROOT_INODE,
    XATTR,
    Dirent,
    Inode,
)

_DIRECTORY = stat.S_IFDIR >> 12
_UNKNOWN, _BELOW, _REACHED, _LOST = range(4)


class Names:
    """What a check knows of the tree. Call in this order: `inode` for all, `entries`, `compare`."""

    def __init__(self, rows: Rows, quotas: Quotas) -> None:
        self._rows = rows
        self._quotas = quotas
        self.inodes = Numbers(kind="B", nlink="I", links="I")
        self._directories = Numbers(
            parent="Q", next_cookie="Q", entries="Q", counted="Q", subdirectories="Q", state="B", quota="I"
        )
        self._reap = Numbers()
        for ino, _ in rows.of(REAP):
            self._reap.add(ino)

    @property
    def files(self) -> int:
        """Inodes that have a name, as the state counts them."""
        return len(self.inodes) - sum(1 for ino in self._reap.keys if ino in self.inodes)

    def inode(self, inode: Inode) -> None:
        """One inode, in the order of their numbers."""
        kind = stat.S_IFMT(inode.mode) >> 12
        if not ROOT_INODE <= inode.ino <= INODE_MAX:
            self._rows.problem(f"inode {inode.ino} has a number that is never given out")
        self.inodes.add(inode.ino, kind=kind, nlink=min(inode.nlink, (1 << 32) - 1))
        if kind == _DIRECTORY:
            self._directories.add(
                inode.ino,
                parent=inode.parent,
                next_cookie=inode.next_cookie,
                entries=inode.entries,
                quota=inode.quota,
            )

    def entries(self) -> None:
        """Read entries, positions and extended attributes."""
        links = self.inodes.column("links")
        kinds = self.inodes.column("kind")
        counted = self._directories.column("counted")
        for (parent, name), entry in self._rows.of(DIRENT):
            at = self.inodes.find(entry.ino)
            above = self._directories.find(parent)
            if at < 0 or above < 0:
                what = f"names inode {entry.ino}, which does not exist" if at < 0 else "is in no directory"
                self._rows.problem(f"an entry of inode {parent} {what}").needed_by(parent)
                continue
            links[at] += 1
            counted[above] += 1
            self._entry(parent, above, name, entry, kinds[at])
        self._positions()
        for (ino, _), _ in self._rows.of(XATTR):
            if ino not in self.inodes:
                self._rows.problem(f"an extended attribute belongs to inode {ino}, which does not exist")

    def _entry(self, parent: int, above: int, name: bytes, entry: Dirent, kind: int) -> None:
        if entry.kind != kind:
            self._rows.problem(f"an entry says another type than inode {entry.ino} has").needed_by(entry.ino)
        if not FIRST_COOKIE <= entry.cookie < self._directories.column("next_cookie")[above]:
            self._rows.problem(f"an entry of inode {entry.ino} has a place never given out").needed_by(
                entry.ino
            )
        if self._rows.get(POSITION, (parent, entry.cookie)) != name:
            self._rows.problem(f"an entry of directory {parent} is not at its place").needed_by(entry.ino)
        if kind == _DIRECTORY:
            self._directories.column("subdirectories")[above] += 1
            below = self._directories.find(entry.ino)
            if below < 0:
                return
            if self._directories.column("parent")[below] != parent:
                self._rows.problem(f"directory {entry.ino} lies elsewhere than it says").needed_by(entry.ino)
            quotas = self._directories.column("quota")
            self._quotas.directory(entry.ino, quotas[below], quotas[above])

    def _positions(self) -> None:
        """Every entry has its position: then there are as many, directory by directory."""
        positions = Numbers(count="Q")
        for (directory, _), _ in self._rows.of(POSITION):
            if not len(positions) or positions.keys[-1] != directory:
                positions.add(directory)
            positions.column("count")[-1] += 1
        counted = self._directories.column("counted")
        for directory, count in zip(positions.keys, positions.column("count"), strict=True):
            at = self._directories.find(directory)
            if at < 0 or counted[at] != count:
                self._rows.problem(f"directory {directory} has positions without an entry").needed_by(
                    directory
                )

    def compare(self) -> None:
        """What was counted against what inodes and directories say."""
        self._reach()
        columns = (self.inodes.column(name) for name in ("kind", "nlink", "links"))
        for ino, kind, nlink, links in zip(self.inodes.keys, *columns, strict=True):
            dead = ino in self._reap
            if kind == _DIRECTORY:
                self._compare_directory(ino, nlink, links, dead=dead)
            elif nlink != links:
                self._rows.problem(f"inode {ino} has {links} names, {nlink} links").needed_by(ino)
            elif dead is not (nlink == 0):
                what = (
                    "is to be freed, though it has a name" if dead else "has no name, and is not to be freed"
                )
                self._rows.problem(f"inode {ino} {what}").needed_by(ino)
        for ino in self._reap.keys:
            if ino not in self.inodes:
                self._rows.problem(f"inode {ino} is to be freed, and does not exist")

    def _compare_directory(self, ino: int, nlink: int, links: int, *, dead: bool) -> None:
        directories = self._directories
        at = directories.find(ino)
        entries, counted = directories.column("entries")[at], directories.column("counted")[at]
        if entries != counted:
            self._rows.problem(f"directory {ino} has {counted} entries, says {entries}").needed_by(ino)
        expected = 0 if dead else 2 + directories.column("subdirectories")[at]
        if nlink != expected:
            self._rows.problem(f"directory {ino} has {nlink} links, expected {expected}").needed_by(ino)
        if links != (0 if dead or ino == ROOT_INODE else 1):
            self._rows.problem(f"directory {ino} has {links} names").needed_by(ino)
        elif not dead and directories.column("state")[at] != _REACHED:
            self._rows.problem(f"directory {ino} cannot be reached from the root").needed_by(ino)

    def _reach(self) -> None:
        """Which directories lead up to the root; each is visited once."""
        if self._directories.find(ROOT_INODE) < 0:
            self._rows.problem("the root directory is missing")
        parents, states = self._directories.column("parent"), self._directories.column("state")
        for start in range(len(self._directories)):
            at, climbed, outcome = start, [], states[start]
            while outcome == _UNKNOWN:
                if self._directories.keys[at] == ROOT_INODE:
                    outcome = _REACHED
                    states[at] = _REACHED
                    break
                states[at] = _BELOW
                climbed.append(at)
                at = self._directories.find(parents[at])
                outcome = _LOST if at < 0 else states[at]
            if outcome == _BELOW:
                outcome = _LOST  # A circle.
            for one in climbed:
                states[one] = outcome
