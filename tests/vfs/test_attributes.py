"""Attributes: each one alone, what changing one does to others, times of all centuries, unsettled files."""

import errno
import stat

import pytest
from msgspec.structs import replace

from fusegw.meta.schema import INODE, TIME_NS_MAX, TIME_NS_MIN, Inode
from fusegw.vfs import acl
from fusegw.vfs.caller import Caller
from tests.model.steps import MASKED_ACL, NAMED_ACL
from tests.vfs.trees import ADMIN, ROOT, START, USER, Tree, failing

OUTSIDER = Caller(1000, 999)
FIRST_OF_1601 = -11_644_473_600 * 10**9
END_OF_9999 = 253_402_300_799 * 10**9 + 999_999_999


def _file(tree: Tree, mode: int = 0o644) -> int:
    ino = tree.namespace.mknod(ROOT, b"f", stat.S_IFREG | mode, 0, USER).ino
    tree.clock.now = START + 7
    return ino


def test_each_attribute_alone_leaves_the_others(tree: Tree) -> None:
    ino = _file(tree)
    before = tree.stat(ino)
    now = tree.clock.now
    assert tree.attributes.setattr(ino, mode=0o600) == replace(
        before, mode=stat.S_IFREG | 0o600, ctime_ns=now
    )
    before = tree.stat(ino)
    assert tree.attributes.setattr(ino, uid=5) == replace(before, uid=5)
    before = tree.stat(ino)
    assert tree.attributes.setattr(ino, gid=6) == replace(before, gid=6)
    before = tree.stat(ino)
    assert tree.attributes.setattr(ino, atime_ns=1) == replace(before, atime_ns=1)
    before = tree.stat(ino)
    assert tree.attributes.setattr(ino, mtime_ns=2) == replace(before, mtime_ns=2)
    before = tree.stat(ino)
    assert tree.attributes.setattr(ino, ctime_ns=3) == replace(before, ctime_ns=3)
    assert tree.stat(ino) == tree.metadata.get(INODE, ino) == replace(before, ctime_ns=3)


def test_nothing_to_change_still_moves_ctime(tree: Tree) -> None:
    ino = _file(tree)
    before = tree.stat(ino)
    assert tree.attributes.setattr(ino) == replace(before, ctime_ns=START + 7)


def test_the_type_of_an_inode_never_changes(tree: Tree) -> None:
    ino = _file(tree)
    tree.attributes.setattr(ino, mode=stat.S_IFDIR | 0o700)
    assert tree.stat(ino).mode == stat.S_IFREG | 0o700


@pytest.mark.parametrize(
    "time_ns",
    [
        TIME_NS_MIN,
        FIRST_OF_1601,
        -(1 << 64) - 1,
        -1,
        -2_208_988_800 * 10**9 + 1,
        0,
        1 << 31,
        4_102_444_800 * 10**9 + 999_999_999,
        (1 << 63) - 1,
        1 << 63,
        1 << 64,
        END_OF_9999,
        TIME_NS_MAX,
    ],
)
def test_times_of_all_centuries_are_kept_to_the_nanosecond(tree: Tree, time_ns: int) -> None:
    ino = _file(tree)
    tree.attributes.setattr(ino, atime_ns=time_ns, mtime_ns=time_ns, ctime_ns=time_ns)
    tree.commit()
    inode = tree.stat(ino)
    assert (inode.atime_ns, inode.mtime_ns, inode.ctime_ns) == (time_ns,) * 3


def test_times_beyond_what_fits_are_held_at_the_limit(tree: Tree) -> None:
    ino = _file(tree)
    tree.attributes.setattr(ino, atime_ns=TIME_NS_MAX + 1, mtime_ns=TIME_NS_MIN - 1, ctime_ns=1 << 80)
    tree.commit()
    inode = tree.stat(ino)
    assert (inode.atime_ns, inode.mtime_ns, inode.ctime_ns) == (TIME_NS_MAX, TIME_NS_MIN, TIME_NS_MAX)


@pytest.mark.parametrize(
    ("mode", "left"), [(0o6755, 0o755), (0o6644, 0o2644), (0o4711, 0o711), (0o2070, 0o070), (0o1777, 0o1777)]
)
def test_chown_takes_privileges_away(tree: Tree, mode: int, left: int) -> None:
    ino = _file(tree)
    tree.attributes.setattr(ino, mode=mode)
    tree.setattr(ino, uid=1)
    assert stat.S_IMODE(tree.stat(ino).mode) == left
    tree.attributes.setattr(ino, mode=mode)
    tree.setattr(ino, gid=1)
    assert stat.S_IMODE(tree.stat(ino).mode) == left
    assert stat.S_IMODE(tree.attributes.setattr(ino, uid=2, mode=mode).mode) == left


def test_chown_by_one_outside_the_group_takes_setgid_without_execution_too(tree: Tree) -> None:
    ino = _file(tree)
    tree.attributes.setattr(ino, mode=0o2644, gid=100)
    assert stat.S_IMODE(tree.stat(ino).mode) == 0o2644
    tree.setattr(ino, uid=1000, who=OUTSIDER)
    assert stat.S_IMODE(tree.stat(ino).mode) == 0o644


def test_chown_leaves_a_directory_its_bits(tree: Tree) -> None:
    ino = tree.namespace.mkdir(ROOT, b"d", 0o755, ADMIN).ino
    tree.attributes.setattr(ino, mode=0o6755)
    tree.setattr(ino, uid=1, gid=1)
    assert stat.S_IMODE(tree.stat(ino).mode) == 0o6755


def test_chown_drops_capabilities(tree: Tree) -> None:
    ino = _file(tree)
    tree.setxattr(ino, b"security.capability", b"caps")
    tree.setxattr(ino, b"security.other", b"stays")
    tree.setattr(ino, mode=0o755)
    assert tree.listxattr(ino) == [b"security.capability", b"security.other"]
    tree.setattr(ino, uid=1)
    assert tree.listxattr(ino) == [b"security.other"]


@pytest.mark.parametrize(
    ("caller", "kept"),
    [
        (ADMIN, True),
        (Caller(1000, 100), True),
        (Caller(1000, 7, 0, (100,)), True),
        (Caller(1000, 7, 0, lambda: {100}), True),
        (OUTSIDER, False),
        (None, True),
    ],
)
def test_chmod_keeps_setgid_only_for_members_of_the_group(
    tree: Tree, caller: Caller | None, kept: bool
) -> None:
    for ino in (_file(tree), tree.namespace.mkdir(ROOT, b"d", 0o755, USER).ino):
        inode = tree.attributes.setattr(ino, mode=0o2755, caller=caller)
        assert bool(inode.mode & stat.S_ISGID) is kept
        assert stat.S_IMODE(inode.mode) & 0o777 == 0o755


def test_chmod_with_a_new_group_asks_for_membership_in_that_one(tree: Tree) -> None:
    ino = tree.namespace.mkdir(ROOT, b"d", 0o755, USER).ino
    assert not tree.attributes.setattr(ino, mode=0o2755, gid=5, caller=USER).mode & stat.S_ISGID
    assert tree.attributes.setattr(ino, mode=0o2755, gid=200, caller=USER).mode & stat.S_ISGID


def test_chmod_moves_the_mask_of_an_acl(tree: Tree) -> None:
    ino = _file(tree)
    tree.setxattr(ino, acl.ACCESS_ACL, NAMED_ACL)
    tree.setattr(ino, mode=0o751)
    entries = acl.parse(tree.getxattr(ino, acl.ACCESS_ACL))
    assert entries is not None
    assert [(tag, permissions) for tag, permissions, _ in entries] == [
        (acl.USER_OBJ, 7),
        (acl.USER, 7),
        (acl.GROUP_OBJ, 4),
        (acl.GROUP, 6),
        (acl.MASK, 5),
        (acl.OTHER, 1),
    ]
    assert acl.mode_bits(entries) == 0o751


def test_chmod_leaves_the_default_acl(tree: Tree) -> None:
    ino = tree.namespace.mkdir(ROOT, b"d", 0o755, ADMIN).ino
    tree.setxattr(ino, acl.DEFAULT_ACL, MASKED_ACL)
    tree.setattr(ino, mode=0o700)
    assert tree.getxattr(ino, acl.DEFAULT_ACL) == MASKED_ACL


def test_a_symlink_has_times_and_an_owner_and_no_mode(tree: Tree) -> None:
    ino = tree.namespace.symlink(ROOT, b"l", b"target", USER).ino
    with failing(errno.EOPNOTSUPP):
        tree.setattr(ino, mode=0o600)
    tree.setattr(ino, uid=4, gid=5, mtime_ns=6)
    inode = tree.stat(ino)
    assert (inode.uid, inode.gid, inode.mtime_ns, inode.mode) == (4, 5, 6, stat.S_IFLNK | 0o777)


def test_an_inode_that_is_gone_is_stale(tree: Tree) -> None:
    with failing(errno.ESTALE):
        tree.setattr(99, mode=0o600)


def test_unsettled_data_keeps_its_times_out_of_the_row(tree: Tree) -> None:
    ino = _file(tree)
    row = tree.stat(ino)
    tree.inodes.hold(replace(row, size=5, mtime_ns=START + 5))
    seen = tree.attributes.setattr(ino, mode=0o600, mtime_ns=START + 6)
    assert (seen.size, seen.mtime_ns, seen.mode) == (5, START + 6, stat.S_IFREG | 0o600)
    kept: Inode | None = tree.metadata.get(INODE, ino)
    assert kept == replace(row, mode=stat.S_IFREG | 0o600)
