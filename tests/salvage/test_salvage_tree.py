"""Names out of a damaged index lead nowhere, and neither does a link that was planted on the way."""

import os
from pathlib import Path

import pytest

from fusegw.errors import Corrupt
from fusegw.meta.schema import Inode
from fusegw.salvage.tree import Looks, Tree

LOOKS = Looks(Inode(7, 1, 0o100644, 1, os.geteuid(), os.getegid(), 0, 0, 0, 0, 0), {})


def spool(base: Path) -> Path:
    path = base / "spool"
    path.write_bytes(b"data")
    return path


@pytest.mark.parametrize(
    "parts", [(b"..", b"x"), (b"a", b".."), (b"../x",), (b"a/../../x",), (b"",), (b".",)]
)
def test_a_name_that_is_none_is_refused(tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    tree = Tree(tmp_path / "root")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Corrupt, match="no name of a file"):
        tree.file(parts, LOOKS, spool(tmp_path))
    with pytest.raises(Corrupt, match="no name of a file"):
        tree.special(parts, LOOKS)
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "spool"])
    tree.close()


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root")
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "dir").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        tree.file((b"dir", b"file"), LOOKS, spool(tmp_path))
    assert not any((tmp_path / "outside").iterdir())
    # The control: a path walked as usual ends up outside.
    (tmp_path / "root" / "dir" / "file").write_bytes(b"")
    assert (tmp_path / "outside" / "file").exists()
    tree.close()


def test_directories_get_their_looks_last(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root")
    row = Inode(8, 1, 0o040500, 2, os.geteuid(), os.getegid(), 0, 0, 0, 1_000_000_000, 0)
    tree.directory((b"dir",), Looks(row, {}))
    assert tree.file((b"dir", b"file"), LOOKS, spool(tmp_path)) == []
    assert tree.finish() == []
    status = (tmp_path / "root" / "dir").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o500, 1_000_000_000)
    assert (tmp_path / "root" / "dir" / "file").read_bytes() == b"data"
    tree.close()


def test_what_the_disk_cannot_keep_is_said(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root")
    odd = Looks(LOOKS.inode, {b"nonsense.name": b"value"})
    (problem,) = tree.file((b"file",), odd, spool(tmp_path))
    assert "nonsense.name" in problem
    tree.close()
