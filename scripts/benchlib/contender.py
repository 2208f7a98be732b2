"""What is compared: programs that put data into a store of their own and bring it back.

`Contender` says what each can be asked to do; what one cannot do it answers with None. `MountContender` does
it all through a mounted file system, with the same cp, rsync, find and rm for everyone. `Reference` is no
such program: it shows what the machine can do in the place of one.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import msgspec

from fusegw.errors import Corrupt
from scripts.benchlib import fio, machine
from scripts.benchlib.corpus import Corpus
from scripts.benchlib.machine import Stopwatch
from scripts.benchlib.results import STORES
from scripts.benchlib.stores import Store

_AGAIN = 3
"""Times that a file is read again: once would be over too soon."""


class Timed(msgspec.Struct, frozen=True):
    """Work done: bytes, files or entries in seconds. `parts` says where the time went, when that is known."""

    amount: float
    seconds: float
    parts: dict[str, float] = {}


class Measured(msgspec.Struct, frozen=True):
    """A figure that is no rate, and the seconds it was made from."""

    figure: float
    parts: dict[str, float] = {}


Figures = Mapping[str, Timed | Measured | float | None]
"""By workload: work done in a time, another figure, or None where somebody has nothing like it."""


class TreeStored(msgspec.Struct, frozen=True):
    """A tree of files: until the command returned, where that means something, and until it was stored."""

    copied: Timed | None
    stored: Timed


class Participant(ABC):
    """Somebody with an empty store, for one round. `directory` is its own, made and removed here."""

    name: ClassVar[str]
    stores: ClassVar[tuple[str, ...]] = STORES
    """The kinds of store it can use."""
    room: ClassVar[float]
    """Disk it needs at most, in multiples of the large file."""

    def __init__(self, directory: Path, store: Store) -> None:
        self.directory = directory
        self.store = store

    @classmethod
    @abstractmethod
    def version(cls) -> str | None:
        """Which one would run; None when it is not installed."""

    def begin(self) -> None:
        """Make the repository, mount what is to be mounted."""
        self.directory.mkdir(parents=True)

    def meet(self, others: "Iterable[Participant]") -> None:  # noqa: B027 (most need nobody)
        """All who take part in this round have begun."""

    def end(self) -> None:
        """No process, mount or file is left."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.store.remove()


class Contender(Participant):
    """One program that brings data into a store and back."""

    @abstractmethod
    def store_file(self, file: Path) -> Timed:
        """Until `file` is in the store, in bytes."""

    @abstractmethod
    def store_tree(self, corpus: Corpus) -> TreeStored:
        """Until the tree is in the store, in files."""

    @abstractmethod
    def restore(self, file: Path, target: Path) -> Timed:
        """What was stored of `file` becomes `target`, nothing of it being cached, in bytes."""

    def read_cached(self, file: Path) -> Timed | None:
        """`file` read once, from the contender's own cache, in bytes."""
        return None

    def read_again(self, file: Path) -> Timed | None:
        """`file` read once more, by a reader who has just read it, in bytes."""
        return None

    def round_trips(self, file: Path) -> Measured | None:
        """How often the store is waited for, one time after the other, until the first byte of `file` is
        there, nothing of it being cached."""
        return None

    def find(self, corpus: Corpus) -> Timed | None:
        """All entries of the tree with their attributes, nothing being known to the kernel, in entries."""
        return None

    def copy_tree_again(self, corpus: Corpus) -> Timed | None:
        """The tree copied where it is already, in files."""
        return None

    def read_tree(self, corpus: Corpus) -> Timed | None:
        """The whole tree read by tar, from the contender's own cache, nothing being known to the kernel, in
        files."""
        return None

    def remove_tree(self, corpus: Corpus) -> Timed | None:
        """The tree is gone, in files."""
        return None

    def create_beside(self, stream: Path) -> Measured | None:
        """How many times as long as alone a small file takes to be made while `stream` is being copied."""
        return None

    def random_access(self, case: fio.Case, plan: fio.Plan) -> Figures:
        """The figures of fio, nothing having been written that is not stored."""
        return {}

    def memory_bytes(self) -> int | None:
        """The most that its process had in memory in this round so far."""
        return None


class MountContender(Contender):
    """A contender that is a file system."""

    _memory_bytes = 0

    @property
    def root(self) -> Path:
        """Where it is mounted."""
        return self.directory / "mnt"

    @abstractmethod
    def mount(self) -> None:
        """Ready on return."""

    @abstractmethod
    def unmount(self) -> None:
        """Everything safe, and its process ended, on return."""

    @abstractmethod
    def barrier(self) -> None:
        """Until everything written is in the store."""

    @abstractmethod
    def remount_cold(self) -> None:
        """Mounted again, with nothing of the files' contents on this host."""

    @abstractmethod
    def process_id(self) -> int | None:
        """Of the process that serves the mount; None when there is none."""

    @abstractmethod
    def kill(self) -> None:
        """Its process has ended, at once, whatever it was doing."""

    def begin(self) -> None:
        super().begin()
        self.root.mkdir()

    def end(self) -> None:
        self.kill()
        machine.detach(self.root)
        super().end()

    def store_file(self, file: Path) -> Timed:
        with Stopwatch() as copy:
            machine.run(["cp", file, self.root / file.name])
        with Stopwatch() as ship:
            self.barrier()
        return _in_two(file.stat().st_size, copy, ship)

    def store_tree(self, corpus: Corpus) -> TreeStored:
        with Stopwatch() as copy:
            rsync(corpus.tree, self._tree)
        with Stopwatch() as ship:
            self.barrier()
        return TreeStored(
            Timed(corpus.planted.files, copy.seconds), _in_two(corpus.planted.files, copy, ship)
        )

    def copy_tree_again(self, corpus: Corpus) -> Timed:
        with Stopwatch() as watch:
            rsync(corpus.tree, self._tree)
        return Timed(corpus.planted.files, watch.seconds)

    def restore(self, file: Path, target: Path) -> Timed:
        self.remount_cold()
        machine.forget_pages()
        with Stopwatch() as watch:
            machine.run(["cp", self.root / file.name, target])
        return Timed(file.stat().st_size, watch.seconds)

    def read_cached(self, file: Path) -> Timed:
        machine.forget_pages()
        with Stopwatch() as watch:
            amount = machine.read_through(self.root / file.name)
        return Timed(amount, watch.seconds)

    def read_again(self, file: Path) -> Timed:
        return read_again(self.root / file.name)

    def find(self, corpus: Corpus) -> Timed:
        self.unmount()
        self.mount()
        machine.forget_pages()
        with Stopwatch() as watch:
            found = machine.run(["find", self._tree, "-printf", r"%s %T@\n"])
        entries = found.count("\n")
        if entries != corpus.planted.entries:
            raise Corrupt(f"find saw {entries} entries in {self._tree}, {corpus.planted.entries} were stored")
        return Timed(entries, watch.seconds)

    def read_tree(self, corpus: Corpus) -> Timed:
        machine.forget_pages()
        # GNU tar reads nothing when it sees that its archive is /dev/null.
        script = 'set -o pipefail; tar -C "$1" -cf - . | cat >/dev/null'
        with Stopwatch() as watch:
            machine.run(["bash", "-c", script, "bash", self._tree])
        return Timed(corpus.planted.files, watch.seconds)

    def remove_tree(self, corpus: Corpus) -> Timed:
        with Stopwatch() as watch:
            machine.run(["rm", "-rf", self._tree])
        return Timed(corpus.planted.files, watch.seconds)

    def memory_bytes(self) -> int:
        self.note_memory()
        return self._memory_bytes

    def note_memory(self) -> None:
        """Look at its process before that ends."""
        process = self.process_id()
        if process is not None:
            self._memory_bytes = max(self._memory_bytes, machine.peak_memory_bytes(process))

    @property
    def _tree(self) -> Path:
        return self.root / "tree"


class Reference(Participant):
    """Measured in the same round on the same data as the contenders."""

    workloads: ClassVar[tuple[str, ...]]
    """In place of which it can be asked."""

    @abstractmethod
    def measure(self, workloads: tuple[str, ...], corpus: Corpus) -> Figures:
        """Its figures for those that one act yields; empty for what it has nothing like."""


def read_again(file: Path) -> Timed:
    """`file` read through, and then some times more, which are timed."""
    machine.read_through(file)
    with Stopwatch() as watch:
        amount = sum(machine.read_through(file) for _ in range(_AGAIN))
    return Timed(amount, watch.seconds)


def rsync(source: Path, target: Path) -> None:
    """All that is below `source`, below `target`."""
    machine.run(["rsync", "-aH", f"{source}/", f"{target}/"])


def _in_two(amount: float, copy: Stopwatch, ship: Stopwatch) -> Timed:
    return Timed(amount, copy.seconds + ship.seconds, {"copy": copy.seconds, "ship": ship.seconds})
