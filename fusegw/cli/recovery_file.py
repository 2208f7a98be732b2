"""The file a recovery key goes to: new, 0600, whole and durable, or not there at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fusegw.durable import sync_directory
from fusegw.errors import Denied, Exists, Full, Invalid, NotFound

_ROOM_BYTES = 4096


def check_recovery_file(path: Path) -> None:
    """Raise what would keep `path` from being made, without making it."""
    if os.path.lexists(path):
        raise Exists(f"recovery key file {path} exists already: name a new one")
    if not path.parent.is_dir():
        raise NotFound(f"recovery key file {path}: its directory does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise Denied(f"recovery key file {path}: its directory cannot be written to")


@contextmanager
def recovery_file(path: Path) -> Iterator[Callable[[str], None]]:
    """Create `path` with room for a key; gives what writes the key. Removed again if nothing was written.

    Exists, Denied or Full come before the block, so before there is a key to lose.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Exists(f"recovery key file {path} exists already: name a new one") from None
    except OSError as error:
        raise Denied(f"recovery key file {path} cannot be created: {error.strerror}") from None
    written = False

    def write(key: str) -> None:
        nonlocal written
        text = key.encode() + b"\n"
        if len(text) > _ROOM_BYTES:
            raise Invalid(f"recovery key file {path}: {len(text)} bytes are no recovery key")
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))
        os.fsync(descriptor)
        written = True

    try:
        _make_room(descriptor, path)
        yield write
    finally:
        os.close(descriptor)
        if not written:
            path.unlink(missing_ok=True)
    sync_directory(path.parent)


def _make_room(descriptor: int, path: Path) -> None:
    try:
        os.posix_fallocate(descriptor, 0, _ROOM_BYTES)
    except OSError as error:
        raise Full(f"recovery key file {path}: no room for it: {error.strerror}") from None
