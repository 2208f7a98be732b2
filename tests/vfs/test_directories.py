"""Listing: cookies stay valid whatever happens between two reads, entries that stay are seen exactly once,
and directories may be large."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusegw.meta.schema import FIRST_COOKIE, INODE
from fusegw.vfs.renames import EXCHANGE
from tests.vfs.trees import ADMIN, ROOT, Tree, failing, new_tree

FILE = 0o100644


def _list(tree: Tree, directory: int = ROOT, batch: int = 1000) -> list[tuple[bytes, int]]:
    """(name, cookie) of all entries, read as the kernel does: some at a time, going on behind the last."""
    found: list[tuple[bytes, int]] = []
    cookie = 0
    while True:
        part = _read(tree, directory, cookie, batch)
        if not part:
            return found
        found += part
        cookie = part[-1][1]


def _read(tree: Tree, directory: int, cookie: int, count: int) -> list[tuple[bytes, int]]:
    return [
        (name, position)
        for (name, position, _), _ in zip(
            tree.namespace.readdir(directory, cookie), range(count), strict=False
        )
    ]


def test_cookies_start_above_those_of_dot_and_dotdot_and_rise(tree: Tree) -> None:
    for name in (b"b", b"a", b"c"):
        tree.namespace.mknod(ROOT, name, FILE, 0, ADMIN)
    assert _list(tree) == [(b"b", FIRST_COOKIE), (b"a", FIRST_COOKIE + 1), (b"c", FIRST_COOKIE + 2)]


def test_a_cookie_is_never_used_again(tree: Tree) -> None:
    tree.namespace.mknod(ROOT, b"a", FILE, 0, ADMIN)
    tree.namespace.unlink(ROOT, b"a")
    tree.commit()
    tree.reopen()
    tree.namespace.mknod(ROOT, b"a", FILE, 0, ADMIN)
    assert _list(tree) == [(b"a", FIRST_COOKIE + 1)]


def test_rename_over_keeps_the_place_of_what_it_replaces(tree: Tree) -> None:
    for name in (b"a", b"b", b"c"):
        tree.namespace.mknod(ROOT, name, FILE, 0, ADMIN)
    tree.namespace.rename(ROOT, b"c", ROOT, b"a", 0)
    assert _list(tree) == [(b"a", FIRST_COOKIE), (b"b", FIRST_COOKIE + 1)]


def test_rename_to_a_free_name_takes_a_fresh_place(tree: Tree) -> None:
    for name in (b"a", b"b"):
        tree.namespace.mknod(ROOT, name, FILE, 0, ADMIN)
    tree.namespace.rename(ROOT, b"a", ROOT, b"c", 0)
    assert _list(tree) == [(b"b", FIRST_COOKIE + 1), (b"c", FIRST_COOKIE + 2)]


def test_exchange_swaps_inodes_and_leaves_places(tree: Tree) -> None:
    directory = tree.namespace.mkdir(ROOT, b"d", 0o755, ADMIN).ino
    tree.namespace.mknod(ROOT, b"a", FILE, 0, ADMIN)
    tree.namespace.mknod(directory, b"x", FILE, 0, ADMIN)
    before = _list(tree), _list(tree, directory)
    tree.namespace.rename(ROOT, b"a", directory, b"x", EXCHANGE)
    assert (_list(tree), _list(tree, directory)) == before


def test_listing_what_is_no_directory(tree: Tree) -> None:
    ino = tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN).ino
    with failing(20):
        tree.namespace.readdir(ino, 0)


def test_neighbours_are_not_listed(tree: Tree) -> None:
    one = tree.namespace.mkdir(ROOT, b"one", 0o755, ADMIN).ino
    two = tree.namespace.mkdir(ROOT, b"two", 0o755, ADMIN).ino
    for directory in (one, two):
        tree.namespace.mknod(directory, b"f%d" % directory, FILE, 0, ADMIN)
    tree.commit()
    assert [name for name, _ in _list(tree, one)] == [b"f%d" % one]


_NAMES = st.sampled_from([b"%d" % number for number in range(12)])
_CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("make"), _NAMES),
        st.tuples(st.just("unlink"), _NAMES),
        st.tuples(st.sampled_from(["rename", "exchange"]), _NAMES, _NAMES),
        st.tuples(st.sampled_from(["freeze", "commit"])),
    ),
    max_size=4,
)


def _change(tree: Tree, change: tuple[Any, ...]) -> set[bytes]:
    """Do it if it can be done; returns the names that came or went."""
    kind, *names = change
    try:
        if kind == "make":
            tree.namespace.mknod(ROOT, names[0], FILE, 0, ADMIN)
        elif kind == "unlink":
            tree.namespace.unlink(ROOT, names[0])
        elif kind == "rename":
            tree.namespace.rename(ROOT, names[0], ROOT, names[1], 0)
        elif kind == "exchange":
            tree.namespace.rename(ROOT, names[0], ROOT, names[1], EXCHANGE)
            return set()
        elif kind == "freeze":
            tree.metadata.freeze()
        else:
            tree.commit()
    except OSError:
        return set()
    return set(names)


@settings(max_examples=150, deadline=None)
@given(st.sets(_NAMES), st.lists(_CHANGES, max_size=12), st.integers(1, 3))
def test_a_listing_sees_what_stays_exactly_once(
    names: set[bytes], rounds: list[list[tuple[Any, ...]]], batch: int
) -> None:
    with new_tree() as tree:
        for name in sorted(names):
            tree.namespace.mknod(ROOT, name, FILE, 0, ADMIN)
        seen: list[tuple[bytes, int]] = []
        moved: set[bytes] = set()
        for changes in [*rounds, []]:
            part = _read(tree, ROOT, seen[-1][1] if seen else 0, batch)
            if not part:
                break
            seen += part
            for change in changes:
                moved |= _change(tree, change)
        else:
            seen += [entry for entry in _list(tree) if not seen or entry[1] > seen[-1][1]]
        cookies = [cookie for _, cookie in seen]
        assert cookies == sorted(set(cookies))
        listed = [name for name, _ in seen]
        for name in names - moved:
            assert listed.count(name) == 1


def test_twenty_thousand_entries(tree: Tree) -> None:
    _large(tree, 20_000)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_million_entries() -> None:
    with new_tree() as tree:
        _large(tree, 1_000_000)


def _large(tree: Tree, count: int) -> None:
    """Make, list in batches, unlink every tenth, list again; committing as a running gateway would."""
    names = [b"a rather usual name of a file %d" % number for number in range(count)]
    for number, name in enumerate(names):
        tree.namespace.mknod(ROOT, name, FILE, 0, ADMIN)
        if number % 12_000 == 0:
            tree.commit()
    assert [name for name, _ in _list(tree, batch=50)] == names
    gone = names[::10]
    for number, name in enumerate(gone):
        tree.namespace.unlink(ROOT, name)
        if number % 12_000 == 0:
            tree.commit()
    assert [name for name, _ in _list(tree, batch=50)] == [
        name for number, name in enumerate(names) if number % 10
    ]
    assert tree.namespace.lookup(ROOT, names[0]) is None
    last = tree.namespace.lookup(ROOT, names[-1])
    assert last is not None and last.ino == count + 1
    root = tree.metadata.get(INODE, ROOT)
    assert root is not None
    assert (root.entries, root.next_cookie) == (count - len(gone), FIRST_COOKIE + count)
