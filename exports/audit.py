"""The audit log: who connected to shares, and wrote, deleted, renamed there; JSON lines, bounded in size.

One record is one line whatever is in its names, since JSON escapes line breaks and quotes. Files are
`audit.jsonl`, then `audit.1.jsonl` and so on, older ones; the oldest is removed. Nothing is synced: a record
may be lost with the host, not with the gateway. A log that cannot be written keeps nobody from working; how
many records that cost is the next record.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from exports.model import Protocol
from exports.settings import AuditSettings

FILE = "audit.jsonl"
LINE_BYTES_MAX = 64 << 10
"""More than the longest record has; a longer line is none of ours."""

Event = Literal[
    "login",
    "connect",
    "disconnect",
    "write",
    "mkdir",
    "delete",
    "rename",
    "link",
    "permissions",
    "refused",
    "lost",
]
"""write: opened for writing. refused: could not be opened as wanted. lost: records that nobody wrote."""

log = logging.getLogger(__name__)


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that somebody did, or tried to."""

    time: str = ""
    """UTC, ISO 8601; when the gateway learned of it."""
    protocol: Protocol
    event: Event
    share: str = ""
    user: str = ""
    client: str = ""
    """The client's address."""
    path: str = ""
    """In the share's directory; what lies elsewhere as it is on the gateway's host."""
    to: str = ""
    """The new name, of rename and link."""
    result: str
    """ok, or why it failed; of `lost`, what nobody knows any more."""
    count: int = 1
    """Of `lost`: how many."""


class AuditLog:
    """See the module. Any thread; `now_s` is the wall clock, in s since 1970."""

    def __init__(self, directory: Path, settings: AuditSettings, now_s: Callable[[], float]) -> None:
        self._directory = directory
        self._settings = settings
        self._now_s = now_s
        self._unwritten: dict[Protocol, int] = {}
        self._complained = False
        self._turn = threading.Lock()

    def write(self, records: Iterable[Record]) -> None:
        """Blocking: append them, with the time that it is."""
        with self._turn:
            self._write(records)

    def _write(self, records: Iterable[Record]) -> None:
        now = datetime.fromtimestamp(self._now_s(), UTC).isoformat(timespec="microseconds")
        records = [msgspec.structs.replace(record, time=now) for record in records]
        lost = [
            Record(time=now, protocol=protocol, event="lost", result="unknown", count=count)
            for protocol, count in self._unwritten.items()
        ]
        try:
            self._append(b"".join(msgspec.json.encode(record) + b"\n" for record in (*lost, *records)))
        except OSError as error:
            for record in records:
                self._unwritten[record.protocol] = self._unwritten.get(record.protocol, 0) + 1
            if not self._complained:
                log.error("the audit log cannot be written: %s: %s", error.filename or FILE, error.strerror)
            self._complained = True
        else:
            self._unwritten = {}
            self._complained = False

    def _append(self, lines: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / FILE
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(path, flags, 0o600), "ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            # What a full disk has torn must not swallow the next line.
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write(b"\n" + lines if torn else lines)
            size = file.tell()
        if size >= self._settings.file_size_bytes:
            self._rotate()

    def _rotate(self) -> None:
        for number in range(self._settings.files - 1, 0, -1):
            older = _place(self._directory, number - 1)
            if older.exists():
                older.replace(_place(self._directory, number))
        if self._settings.files == 1:
            (self._directory / FILE).unlink()


def read(directory: Path) -> Iterator[Record]:
    """Blocking: the records in it, oldest first; lines that are none are left out. OSError."""
    decoder = msgspec.json.Decoder(Record)
    numbers = sorted((_number(path) for path in directory.glob("audit*.jsonl")), reverse=True)
    for number in numbers:
        with _place(directory, number).open("rb") as file:
            while line := file.readline(LINE_BYTES_MAX):
                try:
                    yield decoder.decode(line)
                except msgspec.DecodeError:
                    continue


def _place(directory: Path, number: int) -> Path:
    return directory / (FILE if number == 0 else f"audit.{number}.jsonl")


def _number(path: Path) -> int:
    number = path.name.removeprefix("audit").removesuffix("jsonl").strip(".")
    return int(number) if number.isdigit() else 0
