"""Names that survive a power cut.

fsync of a file saves its bytes, not its name: that is saved with the directory that holds it, and the
directory's own name with the one above. Whoever keeps something where no directory was before has to save
the names all the way up. That includes those of directories found there: who made them may have been
killed before it saved them.

A file that is small and replaced as a whole is never seen half-written: `replace_file`.
"""

import os
from pathlib import Path


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """On return the names in `directory` survive power loss. OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(file: Path, data: bytes) -> None:
    """On return `file` holds `data` and nobody but its owner may read it; it and its name survive power loss.
    OSError; `file` is then as it was before.

    One writer at a time.
    """
    temporary = file.with_name(f"{file.name}.new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as new:
        new.write(data)
        new.flush()
        os.fsync(handle)
    os.rename(temporary, file)
    sync_directory(file.parent)


def sync_way_to(directory: str | os.PathLike[str]) -> None:
    """On return the names of `directory` and of those above it survive power loss, up to the root of the file
    system it is on. OSError.

    Directories that may not be read are left out: what this process made it may read.
    """
    place = Path(directory).absolute()
    device = place.stat().st_dev
    for above in place.parents:
        if above.stat().st_dev != device:
            return
        try:
            sync_directory(above)
        except PermissionError:
            continue
