"""Reading the kernel's mount table and judging mount points."""

import os
from pathlib import Path

import pytest

from fusegw.daemon import mountpoint
from fusegw.daemon.mountpoint import MountEntry, canonical, check_mountpoint, parse_mountinfo
from fusegw.errors import Busy, Exists, Invalid, NotFound

TABLE = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:35 / /mnt/with\040space rw,nosuid shared:7 master:2 - fuse.fusegw tank rw,user_id=0
41 22 0:36 / /mnt/back\134slash rw - tmpfs a\011b rw
42 22 0:37 / /mnt/\303\244 rw - fuse.fusegw pond\040x rw

broken line
"""


def test_the_kernels_escapes() -> None:
    assert parse_mountinfo(TABLE) == [
        MountEntry("/", "ext4", "/dev/sda1"),
        MountEntry("/mnt/with space", "fuse.fusegw", "tank"),
        MountEntry("/mnt/back\\slash", "tmpfs", "a\tb"),
        MountEntry("/mnt/ä", "fuse.fusegw", "pond x"),
    ]


def test_this_hosts_table() -> None:
    root = mountpoint.mounted_on("/")
    assert root is not None and root.path == "/"
    assert mountpoint.mounted_on("/no such place") is None


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    check_mountpoint(str(tmp_path), nonempty=False)


def test_what_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        check_mountpoint(str(tmp_path / "missing"), nonempty=True)
    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match="not a directory"):
        check_mountpoint(str(tmp_path / "file"), nonempty=True)
    with pytest.raises(Exists, match="not empty"):
        check_mountpoint(str(tmp_path), nonempty=False)
    check_mountpoint(str(tmp_path), nonempty=True)
    with pytest.raises(Busy, match="is mounted there"):
        check_mountpoint("/proc", nonempty=True)


def test_symlinks_lead_to_the_place_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert canonical(tmp_path / "link") == str(tmp_path.resolve() / "real")
    os.chdir(tmp_path / "real")
    assert canonical(Path(".")) == str(tmp_path.resolve() / "real")


def test_nothing_to_unmount(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is not mounted"):
        mountpoint.unmount(str(tmp_path), lazy=False)
