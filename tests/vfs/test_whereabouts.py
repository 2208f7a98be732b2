"""Paths of directories, up from their inodes and down by their names, while both may change."""

import pytest

from fusegw.errors import Invalid, NotFound
from fusegw.vfs import whereabouts as module
from fusegw.vfs.whereabouts import Whereabouts
from tests.vfs.trees import ADMIN, ROOT, Tree


def mkdir(tree: Tree, name: bytes, parent: int = ROOT) -> int:
    return tree.namespace.mkdir(parent, name, 0o755, ADMIN).ino


@pytest.mark.parametrize("per_turn", [1, 2, 1000])
async def test_up(tree: Tree, monkeypatch: pytest.MonkeyPatch, per_turn: int) -> None:
    monkeypatch.setattr(module, "_ENTRIES_PER_TURN", per_turn)
    places = Whereabouts(tree.metadata)
    for name in (b"a", b"b", b"c\xff"):
        last = mkdir(tree, name)
    deep = mkdir(tree, b"deep", last)
    assert await places.path(ROOT) == "/"
    assert await places.path(deep) == "/c\\xff/deep"
    tree.namespace.rename(ROOT, b"c\xff", ROOT, b"d", 0)
    assert await places.path(deep) == "/d/deep"
    tree.namespace.rename(last, b"deep", ROOT, b"up", 0)
    assert await places.path(deep) == "/up"
    tree.namespace.rmdir(ROOT, b"up")
    assert await places.path(deep) is None
    assert await places.path(12345) is None


async def test_a_directory_keeps_few_hints(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HINTS_MAX", 2)
    places = Whereabouts(tree.metadata)
    made = [mkdir(tree, b"%d" % number) for number in range(5)]
    for _ in range(2):
        assert [await places.path(ino) for ino in made] == [f"/{number}" for number in range(5)]


def test_down(tree: Tree) -> None:
    places = Whereabouts(tree.metadata)
    deep = mkdir(tree, "tüf".encode(), mkdir(tree, b"a"))
    assert places.find("/") == ROOT and places.find("/a/tüf") == places.find("//a//tüf/") == deep
    for wrong in ("a", "", "/a/../a", "/./a"):
        with pytest.raises(Invalid):
            places.find(wrong)
    for missing in ("/b", "/a/b", "/" + "x" * 300):
        with pytest.raises(NotFound):
            places.find(missing)
