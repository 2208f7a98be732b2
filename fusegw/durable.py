"""Names that survive a power cut.

fsync of a file saves its bytes, not its name: that is saved with the directory that holds it, and the
directory's own name with the one above. Whoever keeps something where no directory was before has to save
the names all the way up. That includes those of directories found there: who made them may have been
killed before it saved them.
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
