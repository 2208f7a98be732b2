"""What the operator points at: a volume by its name, or a file on a mount by its path.

A text is a path when it has a slash in it or is "." or "..", or when no volume has that name and something
of that name exists; so a volume's name wins over a file here that is called the same, and `./NAME` is the
file. Symbolic links are followed.
"""

import errno
import os
import stat
from pathlib import Path

import click
import msgspec

from fusegw.cli.session import Site, complete_volume
from fusegw.daemon import mountpoint
from fusegw.daemon.mountpoint import FS_TYPE
from fusegw.errors import Denied, Invalid, NotFound, Unavailable
from fusegw.fuse.nodes import SLOT_MASK, SLOT_SHIFT, VOLUME_SHIFT, WITHIN_SLOT
from fusegw.meta.schema import ROOT_INODE

STATE_XATTR = "user.fusegw.state"

place_argument = click.argument(
    "place", required=False, metavar="[NAME|PATH]", shell_complete=complete_volume
)
"""A volume, or anything on a mounted one; may be left out where there is only one volume."""


class Place(msgspec.Struct, frozen=True):
    """A file on a mounted volume."""

    volume: str
    path: str
    """Absolute, without symbolic links."""
    inode: int
    is_dir: bool

    @property
    def stored(self) -> bool:
        """Whether the mount itself says that everything of the file is in the store."""
        try:
            return os.getxattr(self.path, STATE_XATTR) == b"stored"
        except OSError:
            return False


def place_of(site: Site, text: str | None) -> Place | None:
    """The file that `text` means, None when it names a volume (or nothing was said).

    NotFound when there is no such file, or it is on no mounted volume of this state directory.
    """
    if text is None or not _is_path(site, text):
        return None
    path = os.path.realpath(text)
    entry = _mount_of(path)
    if entry is None or entry.fs_type != FS_TYPE:
        on = f"it is on {entry.path} ({entry.fs_type})" if entry else "nothing is mounted there"
        raise NotFound(f"{path} is not on a mounted volume: {on}")
    found = _stat(path)
    if found.st_ino >> SLOT_SHIFT & SLOT_MASK:
        raise Invalid(f"{path} belongs to a snapshot: fusegw snapshot list says whether that is in the store")
    # Only the root of a mount has a number that does not say which volume it is of.
    number = found.st_ino >> VOLUME_SHIFT
    known = site.registry.volumes()
    name = {one.number: name for name, one in known.items()}.get(number) if number else entry.source
    if name is None or name not in known:
        raise NotFound(
            f"{path} is on a mount of {entry.source!r}, which is no single volume of {site.state_dir}; name "
            "a path below, or the other state directory with --state-dir"
        )
    inode = found.st_ino & WITHIN_SLOT if number else ROOT_INODE
    return Place(name, path, inode, stat.S_ISDIR(found.st_mode))


def _is_path(site: Site, text: str) -> bool:
    if "/" in text or text in (".", ".."):
        return True
    return text not in site.registry.volumes() and os.path.lexists(text)


def _mount_of(path: str) -> mountpoint.MountEntry | None:
    """The mount that shows `path`: the deepest one above it, and of several there the last."""
    above = {path, *map(str, Path(path).parents)}
    best = None
    for entry in mountpoint.mounts():
        if entry.path in above and (best is None or len(entry.path) >= len(best.path)):
            best = entry
    return best


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise Unavailable(f"{path}: the gateway behind this mount is gone; mount it again") from None
        if isinstance(error, PermissionError):
            raise Denied(f"{path}: permission denied") from None
        raise NotFound(f"{path}: {error.strerror}") from None
