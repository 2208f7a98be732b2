"""A record of everything that processes did to the files below a directory, in one order with what they had
acknowledged by then.

`write_recorder.c` makes it, preloaded into the processes; whoever drives them adds marks of his own. What
was done through mappings is missing, which for LMDB is its lock file alone: the kernel's locks in it are
made anew by whoever opens the index first.
"""

import enum
import os
import pickle
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEAD = struct.Struct("<IIQQQII")
_SOURCE = Path(__file__).with_name("write_recorder.c")


class Kind(enum.IntEnum):
    """What was done; `write_recorder.c` says what a note of each kind holds."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    ALLOCATE = 4
    SYNC = 5
    SYNCED = 6
    SYNC_ALL = 7
    MKDIR = 8
    REMOVE = 9
    RENAME = 10
    LINK = 11
    SYMLINK = 12
    MARK = 13
    """Of the driver; it alone writes these."""


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the record."""

    kind: Kind
    inode: int = 0
    a: int = 0
    b: int = 0
    path: str = ""
    other: str = ""
    data: bytes = b""

    @property
    def mark(self) -> Any:
        """What the driver said."""
        return pickle.loads(self.data)


class Recording:
    """The record in `file` of what happens below `root`; `environment` is for the processes."""

    def __init__(self, library: Path, root: Path, file: Path) -> None:
        self.root = root
        self.environment = {
            "LD_PRELOAD": str(library),
            "FUSEGW_RECORD_ROOT": str(root),
            "FUSEGW_RECORD_FILE": str(file),
        }
        self._file = file
        self._marks = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def mark(self, what: object) -> None:
        """Put `what` where the record is now."""
        data = pickle.dumps(what)
        head = _HEAD.pack(_HEAD.size + len(data), Kind.MARK, 0, 0, 0, 0, 0)
        written = os.writev(self._marks, [head, data])
        assert written == len(head) + len(data)

    def restart(self) -> None:
        """Forget what was recorded; nobody may be writing."""
        os.ftruncate(self._marks, 0)

    def notes(self) -> Iterator[Note]:
        """What was recorded, in order."""
        data = self._file.read_bytes()
        at = 0
        while at < len(data):
            length, kind, inode, a, b, first, second = _HEAD.unpack_from(data, at)
            begin = at + _HEAD.size
            path, other = data[begin : begin + first], data[begin + first : begin + first + second]
            at += length
            yield Note(
                *(Kind(kind), inode, a, b, os.path.normpath(os.fsdecode(path)) if path else ""),
                *(os.fsdecode(other), data[begin + first + second : at]),
            )

    def close(self) -> None:
        os.close(self._marks)


def build_recorder(directory: Path) -> Path:
    """The library to preload, compiled."""
    library = directory / "write_recorder.so"
    command = ["cc", "-Wall", "-Wextra", "-Werror", "-O2", "-fPIC", "-shared", "-o", library, _SOURCE, "-ldl"]
    subprocess.run([*command, "-pthread"], check=True, timeout=120)
    return library
