"""What was found to be wrong, object by object, with the files that suffer; bounded, whatever is found."""

import msgspec

from fusegw.meta.schema import DIRENT
from fusegw.meta.view import View
from fusegw.vfs.paths import Paths

INDEX = "index"
"""Stands for the metadata where an object is named."""
LOG = "log"
"""Stands for an object that the problem names."""
PROBLEMS_MAX = 1000
"""Problems of the index that are told apart."""
FILES_MAX = 20
"""Files that are named for one object, unless said otherwise."""


class Damage(msgspec.Struct, frozen=True):
    """One object that is not as it must be."""

    object: str
    """Its key; a checkpoint's folder; "index" for what the metadata itself says; "log" where the problem
    names the object."""
    problem: str
    files: list[str]
    """Paths that need it, as far as they are listed."""
    places: int
    """Extents that need it, of the files looked at."""


class Found:
    """What is wrong with one object: the first reason, and who needs it."""

    __slots__ = ("_inodes_max", "inodes", "object", "problem", "suffering")

    def __init__(self, key: str, problem: str, inodes_max: int) -> None:
        self._inodes_max = inodes_max
        self.object = key
        self.problem = problem
        self.inodes: set[int] = set()
        self.suffering = 0
        """Places where it is needed."""

    def needed_by(self, ino: int) -> None:
        self.suffering += 1
        if len(self.inodes) < self._inodes_max:
            self.inodes.add(ino)


class Damages:
    """Everything found to be wrong. Of several problems of an object the first is kept; the index may have
    many. `files_max` files are named for each."""

    def __init__(self, *, files_max: int = FILES_MAX) -> None:
        self._files_max = files_max
        self._objects: dict[str, Found] = {}
        self._index: dict[str, Found] = {}

    def of(self, key: str, problem: str) -> Found:
        """The entry of an object."""
        if key != INDEX:
            return self._objects.setdefault(key, Found(key, problem, self._files_max))
        if len(self._index) >= PROBLEMS_MAX and problem not in self._index:
            problem = f"more than {PROBLEMS_MAX} problems"
        return self._index.setdefault(problem, Found(INDEX, problem, self._files_max))

    def forget(self, key: str) -> None:
        """Nothing is wrong with this object any more."""
        self._objects.pop(key, None)

    def found(self) -> list[Found]:
        """All of it: the index first, then the objects in the order of their keys."""
        return [*self._index.values(), *[self._objects[key] for key in sorted(self._objects)]]

    def unnamed(self) -> list[Damage]:
        """All of it, where no index can say the names of files."""
        return [Damage(one.object, one.problem, [], one.suffering) for one in self.found()]

    def named(self, view: View) -> list[Damage]:
        """All of it, with paths in the place of inodes."""
        everything = self.found()
        inodes = {ino for one in everything for ino in one.inodes}
        paths = Paths(view.sound(DIRENT), inodes) if inodes else None
        damage = []
        for one in everything:
            names: list[str] = []
            for ino in sorted(one.inodes):
                if paths is not None and len(names) < self._files_max:
                    names += paths.texts(ino) or [f"inode {ino}, which has no name but perhaps in snapshots"]
            damage.append(Damage(one.object, one.problem, names[: self._files_max], one.suffering))
        return damage
