"""Extended attributes: their limits, spaces and flags; ACLs in step with the mode, and inherited."""

import errno
import stat

import pytest

from fusegw.vfs import acl
from fusegw.vfs.caller import Caller
from fusegw.vfs.xattrs import CREATE, LIST_MAX, REPLACE, STATE, TOTAL_MAX, VALUE_MAX
from tests.model.steps import ANYBODY, MASKED_ACL, MINIMAL_ACL, NAMED_ACL
from tests.model.steps import acl as acl_of
from tests.vfs.trees import ADMIN, ROOT, START, USER, Tree, failing


@pytest.fixture
def file(tree: Tree) -> int:
    """A file of the user's."""
    return tree.namespace.mknod(ROOT, b"f", stat.S_IFREG | 0o644, 0, USER).ino


def test_values_are_kept_byte_for_byte(tree: Tree, file: int) -> None:
    values = {b"user.empty": b"", b"user.nul": b"\0a\0", b"trusted.big": bytes(range(256)) * 256}
    for name, value in values.items():
        tree.setxattr(file, name, value)
    tree.commit()
    tree.reopen()
    assert {name: tree.getxattr(file, name) for name in tree.listxattr(file)} == values


def test_limits_of_name_and_value(tree: Tree, file: int) -> None:
    longest = b"user." + b"n" * 250
    tree.setxattr(file, longest, b"x" * VALUE_MAX)
    tree.commit()
    assert tree.getxattr(file, longest) == b"x" * VALUE_MAX
    with failing(errno.E2BIG):
        tree.setxattr(file, longest, b"x" * (VALUE_MAX + 1))
    for name in (longest + b"n", b""):
        with failing(errno.ERANGE):
            tree.setxattr(file, name, b"x")
        with failing(errno.ERANGE):
            tree.getxattr(file, name)
        with failing(errno.ERANGE):
            tree.removexattr(file, name)


def test_the_sum_of_values_is_bounded_and_removing_makes_room(tree: Tree, file: int) -> None:
    count = TOTAL_MAX // (VALUE_MAX + 10)
    for number in range(count):
        tree.setxattr(file, b"user.%04d" % number, b"x" * VALUE_MAX)
    with failing(errno.ENOSPC):
        tree.setxattr(file, b"user.more", b"x" * VALUE_MAX)
    tree.setxattr(file, b"user.0000", b"y" * VALUE_MAX)
    tree.removexattr(file, b"user.0001")
    tree.setxattr(file, b"user.more", b"x" * VALUE_MAX)


def test_the_list_of_names_stays_readable(tree: Tree, file: int) -> None:
    size = 0
    with failing(errno.ENOSPC):
        for number in range(1000):
            name = b"user.%0245d" % number
            tree.setxattr(file, name, b"")
            size += len(name) + 1
    assert size == sum(len(name) + 1 for name in tree.listxattr(file))
    assert LIST_MAX - 300 < size <= LIST_MAX


def test_flags(tree: Tree, file: int) -> None:
    with failing(errno.ENODATA):
        tree.setxattr(file, b"user.a", b"1", REPLACE)
    tree.setxattr(file, b"user.a", b"1", CREATE)
    with failing(errno.EEXIST):
        tree.setxattr(file, b"user.a", b"2", CREATE)
    tree.setxattr(file, b"user.a", b"3", REPLACE)
    assert tree.getxattr(file, b"user.a") == b"3"
    with failing(errno.EINVAL):
        tree.setxattr(file, b"user.a", b"4", 4)


def test_only_files_and_directories_have_user_attributes(tree: Tree) -> None:
    for name, kind in ((b"p", stat.S_IFIFO), (b"s", stat.S_IFSOCK), (b"c", stat.S_IFCHR)):
        ino = tree.namespace.mknod(ROOT, name, kind | 0o644, 0, ADMIN).ino
        with failing(errno.EPERM):
            tree.setxattr(ino, b"user.a", b"1")
        with failing(errno.EPERM):
            tree.removexattr(ino, b"user.a")
        with failing(errno.ENODATA):
            tree.getxattr(ino, b"user.a")
        tree.setxattr(ino, b"trusted.a", b"1")
    tree.setxattr(ROOT, b"user.a", b"1")
    assert tree.getxattr(ROOT, b"user.a") == b"1"


@pytest.mark.parametrize("name", [b"other.a", b"plain", b"system.a", b"system.posix_acl", b"User.a"])
def test_other_spaces_are_not_kept(tree: Tree, file: int, name: bytes) -> None:
    with failing(errno.EOPNOTSUPP):
        tree.setxattr(file, name, b"1")
    with failing(errno.EOPNOTSUPP):
        tree.getxattr(file, name)
    with failing(errno.EOPNOTSUPP):
        tree.removexattr(file, name)


def test_trusted_ones_are_listed_to_the_privileged_only(tree: Tree, file: int) -> None:
    for name in (b"user.a", b"trusted.b", b"security.c"):
        tree.setxattr(file, name, b"")
    assert tree.xattrs.list(file, ADMIN) == tree.xattrs.list(file)
    assert tree.xattrs.list(file) == [b"security.c", b"trusted.b", b"user.a"]
    assert tree.xattrs.list(file, USER) == [b"security.c", b"user.a"]


def test_changes_move_ctime_and_no_change_does_not(tree: Tree, file: int) -> None:
    for step, change in enumerate(
        [
            lambda: tree.setxattr(file, b"user.a", b"1"),
            lambda: tree.setxattr(file, b"user.a", b"2"),
            lambda: tree.removexattr(file, b"user.a"),
        ],
        start=1,
    ):
        tree.clock.now = START + step
        change()
        assert (tree.stat(file).ctime_ns, tree.stat(file).mtime_ns) == (START + step, START)
    tree.setxattr(file, b"user.b", b"1")
    tree.clock.now = START + 100
    tree.setxattr(file, b"user.b", b"1")
    tree.removexattr(file, acl.ACCESS_ACL)
    assert tree.stat(file).ctime_ns == START + 3


def test_inodes_do_not_see_each_other(tree: Tree, file: int) -> None:
    other = tree.namespace.mknod(ROOT, b"g", stat.S_IFREG | 0o644, 0, USER).ino
    tree.setxattr(other, b"user.a", b"1")
    assert tree.listxattr(file) == []
    with failing(errno.ENODATA):
        tree.getxattr(file, b"user.a")


def test_what_is_gone_is_stale(tree: Tree) -> None:
    for call in (
        lambda: tree.getxattr(99, b"user.a"),
        lambda: tree.setxattr(99, b"user.a", b"1"),
        lambda: tree.removexattr(99, b"user.a"),
        lambda: tree.listxattr(99),
    ):
        with failing(errno.ESTALE):
            call()


# ACLs


def test_an_access_acl_sets_the_mode(tree: Tree, file: int) -> None:
    tree.setattr(file, mode=0o4644)
    tree.setxattr(file, acl.ACCESS_ACL, NAMED_ACL)
    assert stat.S_IMODE(tree.stat(file).mode) == 0o4660
    assert tree.getxattr(file, acl.ACCESS_ACL) == NAMED_ACL
    assert tree.listxattr(file) == [acl.ACCESS_ACL]


def test_a_minimal_access_acl_is_the_mode_and_nothing_else(tree: Tree, file: int) -> None:
    tree.setxattr(file, acl.ACCESS_ACL, NAMED_ACL)
    tree.setxattr(file, acl.ACCESS_ACL, MINIMAL_ACL)
    assert stat.S_IMODE(tree.stat(file).mode) == 0o754
    assert tree.listxattr(file) == []
    with failing(errno.ENODATA):
        tree.getxattr(file, acl.ACCESS_ACL)


def test_removing_an_acl_leaves_the_mode(tree: Tree, file: int) -> None:
    tree.setxattr(file, acl.ACCESS_ACL, NAMED_ACL)
    tree.removexattr(file, acl.ACCESS_ACL)
    assert stat.S_IMODE(tree.stat(file).mode) == 0o660
    assert tree.listxattr(file) == []
    tree.removexattr(file, acl.ACCESS_ACL)


@pytest.mark.parametrize(
    ("caller", "kept"), [(ADMIN, True), (Caller(1000, 9, 0, (100,)), True), (Caller(1000, 9), False)]
)
def test_setting_an_acl_from_outside_the_group_clears_setgid(
    tree: Tree, file: int, caller: Caller, kept: bool
) -> None:
    tree.setattr(file, mode=0o2755)
    tree.setxattr(file, acl.ACCESS_ACL, NAMED_ACL, 0, caller)
    assert bool(tree.stat(file).mode & stat.S_ISGID) is kept


@pytest.mark.parametrize(
    "value",
    [
        b"junk!",
        acl_of((1, 7, ANYBODY), (4, 7, ANYBODY)),
        acl_of((1, 8, ANYBODY), (4, 7, ANYBODY), (32, 7, ANYBODY)),
    ],
)
@pytest.mark.parametrize("name", [acl.ACCESS_ACL, acl.DEFAULT_ACL])
def test_an_invalid_acl_changes_nothing(tree: Tree, name: bytes, value: bytes) -> None:
    before = tree.stat(ROOT)
    with failing(errno.EINVAL):
        tree.setxattr(ROOT, name, value)
    assert tree.stat(ROOT) == before
    assert tree.listxattr(ROOT) == []


def test_only_directories_have_a_default_acl(tree: Tree, file: int) -> None:
    with failing(errno.EACCES):
        tree.setxattr(file, acl.DEFAULT_ACL, NAMED_ACL)
    with failing(errno.ENODATA):
        tree.getxattr(file, acl.DEFAULT_ACL)
    mode = tree.stat(ROOT).mode
    tree.setxattr(ROOT, acl.DEFAULT_ACL, NAMED_ACL)
    assert tree.stat(ROOT).mode == mode


def test_a_symlink_has_no_acl(tree: Tree) -> None:
    ino = tree.namespace.symlink(ROOT, b"l", b"t", USER).ino
    with failing(errno.EOPNOTSUPP):
        tree.setxattr(ino, acl.ACCESS_ACL, MINIMAL_ACL)
    with failing(errno.EOPNOTSUPP):
        tree.getxattr(ino, acl.ACCESS_ACL)


def test_a_default_acl_is_inherited(tree: Tree) -> None:
    directory = tree.namespace.mkdir(ROOT, b"d", 0o755, ADMIN).ino
    tree.setxattr(directory, acl.DEFAULT_ACL, NAMED_ACL)
    file = tree.namespace.mknod(directory, b"f", stat.S_IFREG | 0o664, 0, USER)
    below = tree.namespace.mkdir(directory, b"d", 0o755, USER)
    link = tree.namespace.symlink(directory, b"l", b"t", USER)
    assert stat.S_IMODE(file.mode) == 0o660
    assert tree.getxattr(file.ino, acl.ACCESS_ACL) == NAMED_ACL
    assert tree.listxattr(file.ino) == [acl.ACCESS_ACL]
    assert stat.S_IMODE(below.mode) == 0o640
    assert tree.getxattr(below.ino, acl.DEFAULT_ACL) == NAMED_ACL
    entries = acl.parse(tree.getxattr(below.ino, acl.ACCESS_ACL))
    assert entries is not None and acl.mode_bits(entries) == 0o640
    assert (tree.listxattr(link.ino), stat.S_IMODE(link.mode)) == ([], 0o777)


def test_a_minimal_default_acl_gives_a_mode_and_no_access_acl(tree: Tree) -> None:
    directory = tree.namespace.mkdir(ROOT, b"d", 0o755, ADMIN).ino
    tree.setxattr(directory, acl.DEFAULT_ACL, MINIMAL_ACL)
    file = tree.namespace.mknod(directory, b"f", stat.S_IFREG | 0o666, 0, USER)
    assert stat.S_IMODE(file.mode) == 0o644
    assert tree.listxattr(file.ino) == []
    below = tree.namespace.mkdir(directory, b"d", 0o777, USER)
    assert tree.listxattr(below.ino) == [acl.DEFAULT_ACL]


def test_a_mask_without_names_is_inherited_too(tree: Tree) -> None:
    directory = tree.namespace.mkdir(ROOT, b"d", 0o755, ADMIN).ino
    tree.setxattr(directory, acl.DEFAULT_ACL, MASKED_ACL)
    file = tree.namespace.mknod(directory, b"f", stat.S_IFREG | 0o777, 0, USER)
    assert stat.S_IMODE(file.mode) == 0o711
    assert tree.getxattr(file.ino, acl.ACCESS_ACL) == MASKED_ACL


def test_the_state_is_read_of_everything_listed_nowhere_and_set_by_nobody(tree: Tree, file: int) -> None:
    link = tree.namespace.symlink(ROOT, b"l", b"f", USER).ino
    for ino in (ROOT, file, link):
        assert tree.getxattr(ino, STATE) == b"local"
        assert tree.listxattr(ino) == []
        with failing(errno.EPERM):
            tree.setxattr(ino, STATE, b"stored")
        with failing(errno.EPERM):
            tree.removexattr(ino, STATE)
        assert tree.getxattr(ino, STATE) == b"local"
    with failing(errno.ESTALE):
        tree.getxattr(12345, STATE)
