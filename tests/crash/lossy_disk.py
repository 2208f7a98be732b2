"""Power loss below the cache: a disk that notes what was synced, and what takes the rest away afterwards.

The gateway runs over `NotingDisk` and is killed; `lose_unsynced` then does to its files what a power cut may
do: bytes written after the last fdatasync are gone, and so is a new file whose directory was not synced.
"""

import json
import os
from pathlib import Path
from typing import Any

from cache.disk import Buffer, OsDisk


class NotingDisk(OsDisk):
    """The operating system's disk, with a note of each step that durability hangs on.

    With `sync` false it leaves out every fdatasync: the control of a test that must notice this.
    """

    def __init__(self, notes: Path, *, sync: bool = True) -> None:
        super().__init__()
        self._sync = sync
        self._notes = os.open(notes, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._changed: set[str] = set()

    def open(self, path: str, flags: int) -> int:
        new = not os.path.exists(path)
        fd = super().open(path, flags)
        if new:
            self._note("new", path, 0)
        return fd

    def pwrite(self, fd: int, data: Buffer, offset: int) -> None:
        self._changing(fd)
        super().pwrite(fd, data, offset)

    def pwritev(self, fd: int, buffers: Any, offset: int) -> None:
        self._changing(fd)
        super().pwritev(fd, buffers, offset)

    def ftruncate(self, fd: int, size: int) -> None:
        self._changing(fd)
        super().ftruncate(fd, size)
        self._note("cut", _path(fd), size)

    def fdatasync(self, fd: int) -> None:
        if self._sync:
            size = self.stat(fd).st_size
            super().fdatasync(fd)
            self._note("synced", _path(fd), size)

    def fsync_dir(self, path: str) -> None:
        super().fsync_dir(path)
        self._note("named", path, 0)

    def _changing(self, fd: int) -> None:
        path = _path(fd)
        if path not in self._changed:
            self._note("changed", path, self.stat(fd).st_size)
            self._changed.add(path)

    def _note(self, event: str, path: str, size: int) -> None:
        os.write(self._notes, json.dumps([event, path, size]).encode() + b"\n")


def lose_unsynced(notes: Path) -> int:
    """Take away what the notes do not show as durable; returns how many files lost something."""
    durable: dict[str, int] = {}
    nameless: set[str] = set()
    for line in notes.read_text().splitlines():
        event, path, size = json.loads(line)
        if event == "new":
            nameless.add(path)
        elif event == "changed":
            durable.setdefault(path, size)
        elif event == "synced":
            durable[path] = size
        elif event == "cut":  # what is appended now is new, however long the file once was
            durable[path] = min(durable[path], size)
        else:
            nameless = {new for new in nameless if os.path.dirname(new) != path}
    lost = 0
    for path in durable.keys() | nameless:
        if not os.path.exists(path):
            continue
        if path in nameless:
            os.unlink(path)
            lost += 1
        elif os.path.getsize(path) > durable[path]:
            os.truncate(path, durable[path])
            lost += 1
    notes.unlink()
    return lost


def _path(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")
