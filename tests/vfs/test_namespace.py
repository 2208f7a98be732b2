"""What the comparison with the reference does not say: exact rows, link counts at their limits, inode
numbers, unlinked inodes, lookups by handle, files with unsettled data, and damage."""

import errno
import stat

import pytest
from msgspec.structs import replace

from fusegw.errors import Corrupt
from fusegw.meta.schema import (
    COOKIE_MAX,
    DIRENT,
    INODE,
    INODE_MAX,
    REAP,
    SCHEMA_VERSION,
    STATE,
    STATE_BYTES,
    STATE_FILES,
    STATE_NEXT_INODE,
    STATE_SCHEMA,
    STATE_VOLUME_ID,
)
from fusegw.vfs.caller import Caller
from fusegw.vfs.directories import LINKS_MAX, SUBDIRECTORIES_MAX
from fusegw.vfs.renames import EXCHANGE, NOREPLACE
from tests.vfs.trees import ADMIN, ROOT, START, USER, Tree, failing

FILE = stat.S_IFREG | 0o644


def test_a_fresh_volume_has_a_root_and_its_state(tree: Tree) -> None:
    root = tree.stat(ROOT)
    assert (root.mode, root.nlink, root.parent, root.generation) == (stat.S_IFDIR | 0o755, 2, ROOT, 1)
    assert (root.atime_ns, root.mtime_ns, root.ctime_ns) == (START, START, START)
    assert tree.metadata.get(STATE, STATE_VOLUME_ID) == b"v" * 16
    numbers = {
        name: tree.metadata.number(name)
        for name in (STATE_SCHEMA, STATE_NEXT_INODE, STATE_FILES, STATE_BYTES)
    }
    assert numbers == {STATE_SCHEMA: SCHEMA_VERSION, STATE_NEXT_INODE: 2, STATE_FILES: 1, STATE_BYTES: 0}
    assert list(tree.namespace.readdir(ROOT, 0)) == []


def test_owner_of_a_new_file_is_the_caller_and_its_generation_the_epoch(tree: Tree) -> None:
    tree.commit()
    tree.reopen()
    inode = tree.namespace.mknod(ROOT, b"f", FILE, 0, USER)
    assert (inode.uid, inode.gid, inode.nlink, inode.size, inode.generation) == (1000, 100, 1, 0, 2)


def test_inode_numbers_are_never_used_again(tree: Tree) -> None:
    first = tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN).ino
    tree.namespace.unlink(ROOT, b"f")
    tree.reap(first)
    tree.commit()
    tree.reopen()
    assert tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN).ino == first + 1


def test_a_refused_creation_uses_no_inode_number(tree: Tree) -> None:
    first = tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN).ino
    with failing(errno.EEXIST):
        tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN)
    assert tree.usage.files == 2
    assert tree.namespace.mknod(ROOT, b"g", FILE, 0, ADMIN).ino == first + 1


def test_the_last_inode_number_is_given_out_and_no_more(tree: Tree) -> None:
    with tree.metadata.change() as change:
        change.put(STATE, STATE_NEXT_INODE, INODE_MAX.to_bytes(8, "big"))
    tree.commit()
    tree.reopen()
    assert tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN).ino == INODE_MAX
    with failing(errno.ENOSPC):
        tree.namespace.mknod(ROOT, b"g", FILE, 0, ADMIN)
    assert tree.namespace.lookup(ROOT, b"g") is None


def test_a_directory_gives_out_its_last_position_and_no_more(tree: Tree) -> None:
    tree.namespace.mknod(ROOT, b"old", FILE, 0, ADMIN)
    tree.namespace.mkdir(ROOT, b"d", 0o755, ADMIN)
    with tree.metadata.change() as change:
        root = change.get(INODE, ROOT)
        assert root is not None
        change.put(INODE, ROOT, replace(root, next_cookie=COOKIE_MAX))
    directory = tree.namespace.lookup(ROOT, b"d")
    assert directory is not None
    within = tree.namespace.mknod(directory.ino, b"f", FILE, 0, ADMIN)
    last = tree.namespace.mknod(ROOT, b"last", FILE, 0, ADMIN)
    refused = (
        lambda: tree.namespace.mknod(ROOT, b"more", FILE, 0, ADMIN),
        lambda: tree.namespace.link(last.ino, ROOT, b"more"),
        lambda: tree.namespace.rename(directory.ino, b"f", ROOT, b"more", 0),
    )
    for attempt in refused:
        with failing(errno.ENOSPC):
            attempt()
    tree.namespace.rename(directory.ino, b"f", ROOT, b"old", 0)
    listed = [(name, cookie) for name, cookie, _ in tree.namespace.readdir(ROOT, 0)]
    assert listed == [(b"old", 3), (b"d", 4), (b"last", COOKIE_MAX)]
    found = tree.namespace.lookup(ROOT, b"old")
    assert found is not None and found.ino == within.ino
    for beyond in (COOKIE_MAX, COOKIE_MAX + 1, (1 << 63) - 1):
        assert list(tree.namespace.readdir(ROOT, beyond)) == []


def test_files_counts_what_has_a_name(tree: Tree) -> None:
    tree.namespace.mkdir(ROOT, b"d", 0o755, ADMIN)
    ino = tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN).ino
    tree.namespace.link(ino, ROOT, b"g")
    assert tree.usage.files == 3
    tree.namespace.unlink(ROOT, b"f")
    assert tree.usage.files == 3
    tree.namespace.unlink(ROOT, b"g")
    tree.namespace.rmdir(ROOT, b"d")
    assert tree.usage.files == 1
    tree.commit()
    tree.reopen()
    assert tree.usage.files == 1


def test_an_inode_without_a_name_is_reported_once_and_queued_in_the_same_change(tree: Tree) -> None:
    ino = tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN).ino
    tree.namespace.link(ino, ROOT, b"g")
    tree.namespace.unlink(ROOT, b"f")
    assert tree.unlinked == []
    assert tree.metadata.get(REAP, ino) is None
    tree.namespace.unlink(ROOT, b"g")
    assert tree.unlinked == [ino]
    assert tree.metadata.get(REAP, ino) is not None
    assert tree.stat(ino).nlink == 0


def test_rename_over_the_last_name_reports_it(tree: Tree) -> None:
    old = tree.namespace.mknod(ROOT, b"old", FILE, 0, ADMIN).ino
    tree.namespace.mknod(ROOT, b"new", FILE, 0, ADMIN)
    tree.namespace.rename(ROOT, b"new", ROOT, b"old", 0)
    assert tree.unlinked == [old]
    assert tree.metadata.get(REAP, old) is not None


def test_a_removed_directory_takes_nothing_and_has_no_parent(tree: Tree) -> None:
    ino = tree.namespace.mkdir(ROOT, b"d", 0o755, ADMIN).ino
    other = tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN).ino
    tree.namespace.rmdir(ROOT, b"d")
    assert tree.unlinked == [ino]
    assert (tree.stat(ino).nlink, tree.stat(ino).parent) == (0, 0)
    with failing(errno.ENOENT):
        tree.namespace.mknod(ino, b"x", FILE, 0, ADMIN)
    with failing(errno.ENOENT):
        tree.namespace.mkdir(ino, b"x", 0o755, ADMIN)
    with failing(errno.ENOENT):
        tree.namespace.symlink(ino, b"x", b"t", ADMIN)
    with failing(errno.ENOENT):
        tree.namespace.link(other, ino, b"x")
    with failing(errno.ENOENT):
        tree.namespace.rename(ROOT, b"f", ino, b"x", 0)
    assert list(tree.namespace.readdir(ino, 0)) == []
    with failing(errno.ESTALE):
        tree.namespace.lookup(ino, b"..")


def test_lookup_by_handle_after_reopening(tree: Tree) -> None:
    directory = tree.namespace.mkdir(ROOT, b"d", 0o755, ADMIN).ino
    below = tree.namespace.mkdir(directory, b"e", 0o755, ADMIN).ino
    file = tree.namespace.mknod(below, b"f", FILE, 0, ADMIN).ino
    tree.commit()
    tree.reopen()
    assert tree.lookup(parent=file, name=b".") == file
    assert tree.lookup(parent=below, name=b".") == below
    assert tree.lookup(parent=below, name=b"..") == directory
    assert tree.lookup(parent=ROOT, name=b"..") == ROOT
    tree.namespace.rename(directory, b"e", ROOT, b"e", 0)
    assert tree.lookup(parent=below, name=b"..") == ROOT


def test_a_handle_of_a_removed_inode_finds_nothing(tree: Tree) -> None:
    ino = tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN).ino
    tree.namespace.unlink(ROOT, b"f")
    assert tree.stat(ino).nlink == 0
    with failing(errno.ESTALE):
        tree.namespace.lookup(ino, b".")


def test_what_is_gone_is_stale(tree: Tree) -> None:
    calls = [
        lambda: tree.namespace.lookup(99, b"."),
        lambda: tree.namespace.lookup(99, b".."),
        lambda: tree.namespace.lookup(99, b"f"),
        lambda: tree.namespace.readlink(99),
        lambda: tree.namespace.readdir(99, 0),
        lambda: tree.namespace.mknod(99, b"f", FILE, 0, ADMIN),
        lambda: tree.namespace.unlink(99, b"f"),
        lambda: tree.namespace.rename(ROOT, b"f", 99, b"f", 0),
        lambda: tree.namespace.link(99, ROOT, b"f"),
    ]
    for call in calls:
        with failing(errno.ESTALE):
            call()


def test_names_of_255_bytes_of_any_kind(tree: Tree) -> None:
    names = [bytes(range(1, 256)).replace(b"/", b""), b"\xff" * 255, b"\x01"]
    for name in names:
        tree.namespace.mknod(ROOT, name, FILE, 0, ADMIN)
    tree.commit()
    assert [name for name, _, _ in tree.namespace.readdir(ROOT, 0)] == names
    with failing(errno.ENAMETOOLONG):
        tree.namespace.mknod(ROOT, b"n" * 256, FILE, 0, ADMIN)
    with failing(errno.ENAMETOOLONG):
        tree.namespace.lookup(ROOT, b"n" * 256)


def _set_nlink(tree: Tree, ino: int, nlink: int) -> None:
    with tree.metadata.change() as change:
        change.put(INODE, ino, replace(tree.stat(ino), nlink=nlink))


def test_a_file_has_a_limited_number_of_names(tree: Tree) -> None:
    ino = tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN).ino
    _set_nlink(tree, ino, LINKS_MAX - 1)
    assert tree.namespace.link(ino, ROOT, b"g").nlink == LINKS_MAX
    with failing(errno.EMLINK):
        tree.namespace.link(ino, ROOT, b"h")


def test_a_directory_has_a_limited_number_of_subdirectories(tree: Tree) -> None:
    full = tree.namespace.mkdir(ROOT, b"full", 0o755, ADMIN).ino
    tree.namespace.mkdir(ROOT, b"d", 0o755, ADMIN)
    tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN)
    tree.namespace.mknod(full, b"g", FILE, 0, ADMIN)
    _set_nlink(tree, full, SUBDIRECTORIES_MAX)
    with failing(errno.EMLINK):
        tree.namespace.mkdir(full, b"x", 0o755, ADMIN)
    with failing(errno.EMLINK):
        tree.namespace.rename(ROOT, b"d", full, b"x", 0)
    with failing(errno.EMLINK):
        tree.namespace.rename(ROOT, b"d", full, b"g", EXCHANGE)
    tree.namespace.rename(ROOT, b"f", full, b"x", 0)
    assert tree.stat(full).nlink == SUBDIRECTORIES_MAX


def test_exchange_of_directory_and_file_across_directories(tree: Tree) -> None:
    one = tree.namespace.mkdir(ROOT, b"one", 0o755, ADMIN).ino
    two = tree.namespace.mkdir(ROOT, b"two", 0o755, ADMIN).ino
    directory = tree.namespace.mkdir(one, b"x", 0o755, ADMIN).ino
    file = tree.namespace.mknod(two, b"y", FILE, 0, ADMIN).ino
    tree.namespace.rename(one, b"x", two, b"y", EXCHANGE)
    assert (tree.lookup(parent=one, name=b"x"), tree.lookup(parent=two, name=b"y")) == (file, directory)
    assert (tree.stat(one).nlink, tree.stat(two).nlink) == (2, 3)
    assert tree.stat(directory).parent == two
    entry = tree.metadata.get(DIRENT, (two, b"y"))
    assert entry is not None and entry.kind == 4


def test_noreplace_and_exchange_together_are_refused(tree: Tree) -> None:
    tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN)
    with failing(errno.EINVAL):
        tree.namespace.rename(ROOT, b"f", ROOT, b"g", NOREPLACE | EXCHANGE)


def test_setgid_directories_hand_their_group_on(tree: Tree) -> None:
    directory = tree.namespace.mkdir(ROOT, b"d", 0o777, ADMIN).ino
    tree.setattr(directory, mode=0o2777, gid=300)
    outsider, member = Caller(1000, 100), Caller(1000, 100, 0, lambda: (300,))
    below = tree.namespace.mkdir(directory, b"e", 0o755, outsider)
    assert (below.gid, stat.S_IMODE(below.mode)) == (300, 0o2755)
    modes = {
        name: stat.S_IMODE(tree.namespace.mknod(directory, name, stat.S_IFREG | mode, 0, who).mode)
        for name, mode, who in [
            (b"outside", 0o2755, outsider),
            (b"outside, no x", 0o2644, outsider),
            (b"member", 0o2755, member),
            (b"root", 0o2755, ADMIN),
        ]
    }
    assert modes == {b"outside": 0o755, b"outside, no x": 0o2644, b"member": 0o2755, b"root": 0o2755}
    assert tree.namespace.symlink(directory, b"l", b"t", outsider).gid == 300


def test_supplementary_groups_are_asked_for_only_when_they_matter(tree: Tree) -> None:
    def groups() -> tuple[int, ...]:
        raise AssertionError("not needed here")

    caller = Caller(1000, 100, 0, groups)
    ino = tree.namespace.mknod(ROOT, b"f", FILE, 0, caller).ino
    tree.setattr(ino, mode=0o600, who=caller)
    tree.setattr(ino, mode=0o2600, who=caller)
    tree.setattr(ino, gid=7)
    with pytest.raises(AssertionError):
        tree.setattr(ino, mode=0o2600, who=caller)


def _hold(tree: Tree, ino: int) -> None:
    """As if 5 bytes had been written that have not settled."""
    tree.inodes.hold(replace(tree.stat(ino), size=5, mtime_ns=START + 5, ctime_ns=START + 5))


def test_unsettled_data_stays_with_the_file_whatever_happens_to_its_names(tree: Tree) -> None:
    ino = tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN).ino
    _hold(tree, ino)
    tree.clock.now = START + 9
    tree.namespace.rename(ROOT, b"f", ROOT, b"g", 0)
    tree.namespace.link(ino, ROOT, b"h")
    seen = tree.namespace.lookup(ROOT, b"h")
    assert seen is not None
    assert (seen.size, seen.mtime_ns, seen.ctime_ns, seen.nlink) == (5, START + 5, START + 9, 2)
    assert [inode.size for _, _, inode in tree.namespace.readdir(ROOT, 0)] == [5, 5]
    row = tree.metadata.get(INODE, ino)
    assert row is not None
    assert (row.size, row.mtime_ns, row.ctime_ns, row.nlink) == (0, START, START, 2)
    tree.namespace.unlink(ROOT, b"g")
    tree.namespace.unlink(ROOT, b"h")
    assert (tree.stat(ino).size, tree.stat(ino).nlink) == (5, 0)
    row = tree.metadata.get(INODE, ino)
    assert row is not None and row.nlink == 0


def test_a_name_without_its_inode_is_damage_not_absence(tree: Tree) -> None:
    ino = tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN).ino
    with tree.metadata.change() as change:
        change.delete(INODE, ino)
    calls = [
        lambda: tree.namespace.lookup(ROOT, b"f"),
        lambda: list(tree.namespace.readdir(ROOT, 0)),
        lambda: tree.namespace.unlink(ROOT, b"f"),
        lambda: tree.namespace.rename(ROOT, b"f", ROOT, b"g", 0),
    ]
    for call in calls:
        with pytest.raises(Corrupt, match="b'f' in directory 1 names inode 2"):
            call()
    assert tree.namespace.lookup(ROOT, b"g") is None


def test_a_listed_name_without_its_entry_is_damage(tree: Tree) -> None:
    tree.namespace.mknod(ROOT, b"f", FILE, 0, ADMIN)
    with tree.metadata.change() as change:
        change.delete(DIRENT, (ROOT, b"f"))
    with pytest.raises(Corrupt, match="lists b'f'"):
        list(tree.namespace.readdir(ROOT, 0))
