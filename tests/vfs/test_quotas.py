"""Quotas on an index: what counts, what is refused, what may cross, how a tree that is there is counted."""

import errno
import itertools

import pytest
from msgspec.structs import replace

from fusegw.errors import Full, Invalid, NotFound
from fusegw.meta import quota as quota_rows
from fusegw.meta.quota import ACTIVE, COUNTING, REMOVING
from fusegw.meta.schema import INODE, QUOTA, STATE_NEXT_QUOTA, Used
from fusegw.vfs import quotas as quotas_module
from fusegw.vfs.quotas import Quotas
from fusegw.vfs.retag import Retagger
from fusegw.vfs.xattrs import QUOTA as XATTR_QUOTA
from tests.vfs.counting import check_quotas
from tests.vfs.trees import ADMIN, ROOT, Tree, failing

FILE, DIRECTORY = 0o100644, 0o755


class Room:
    """A committer that never waits."""

    async def room(self) -> None: ...


class Limited:
    """A tree, its quotas, and who counts them; nothing is counted before `count`."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.retagger = Retagger(tree.metadata, tree.inodes, Room())  # type: ignore[arg-type]
        self.quotas = Quotas(tree.metadata, tree.inodes, changed=self.retagger.look)

    def mkdir(self, name: bytes, parent: int = ROOT) -> int:
        return self.tree.namespace.mkdir(parent, name, DIRECTORY, ADMIN).ino

    def file(self, name: bytes, parent: int = ROOT, nbytes: int = 0) -> int:
        ino = self.tree.namespace.mknod(parent, name, FILE, 0, ADMIN).ino
        if nbytes:
            self.grow(ino, nbytes)
        return ino

    def grow(self, ino: int, nbytes: int) -> None:
        """As if so much had been written and settled."""
        with self.tree.metadata.change() as change:
            before = change.get(INODE, ino)
            assert before is not None
            after = replace(before, allocated=before.allocated + nbytes)
            change.put(INODE, ino, after)
            self.tree.usage.moved(change, before, after)

    def move(self, parent: int, name: bytes, to: int, new_name: bytes | None = None, flags: int = 0) -> None:
        self.tree.namespace.rename(parent, name, to, new_name or name, flags)

    def count(self, entries_max: int = 3) -> int:
        """Count to the end; how many steps that took."""
        return next(steps for steps in itertools.count() if not self.retagger.step(entries_max))

    def used(self, ino: int) -> tuple[int, int]:
        used = self.quotas.find(ino).used
        return used.nbytes, used.files

    def check(self, *apart: int) -> None:
        check_quotas(self.tree.metadata, apart=frozenset(apart))


@pytest.fixture
def limited(tree: Tree) -> Limited:
    return Limited(tree)


def test_files_of_a_tree_and_of_the_volume_are_limited(limited: Limited) -> None:
    top = limited.mkdir(b"top")
    assert limited.quotas.set(top, files_max=3).quota.state == ACTIVE
    limited.quotas.set(ROOT, files_max=5)
    inner = limited.mkdir(b"inner", top)
    limited.file(b"a", inner)
    assert limited.used(top) == (0, 3)
    for make in (limited.mkdir, limited.file):
        with failing(errno.EDQUOT):
            make(b"b", inner)
    with failing(errno.EDQUOT):
        limited.tree.namespace.symlink(inner, b"b", b"target", ADMIN)
    limited.file(b"b")
    with failing(errno.EDQUOT):
        limited.file(b"c")
    limited.tree.namespace.unlink(inner, b"a")
    limited.file(b"b", inner)
    assert limited.used(ROOT) == (0, 5)
    limited.check()


def test_names_and_links_do_not_count_inodes_do(limited: Limited) -> None:
    top = limited.mkdir(b"top")
    limited.quotas.set(top, files_max=2)
    ino = limited.file(b"a", top, 100)
    limited.tree.namespace.link(ino, top, b"b")
    limited.tree.namespace.unlink(top, b"a")
    assert limited.used(top) == (100, 2)
    limited.tree.namespace.unlink(top, b"b")
    assert limited.used(top) == (100, 1), "its data is there until it is freed"
    limited.grow(ino, -100)
    assert limited.used(top) == (0, 1)
    limited.check()


def test_bytes_in_memory_are_counted_and_no_more_than_there_are(limited: Limited) -> None:
    top, other = limited.mkdir(b"top"), limited.file(b"other")
    limited.quotas.set(top, bytes_max=1000)
    ino, usage = limited.file(b"a", top, 500), limited.tree.usage
    quota = limited.tree.stat(top).quota
    usage.wrote(other, 1 << 20)
    usage.refuse_bytes(quota, 500)
    usage.wrote(ino, 300)
    usage.refuse_bytes(quota, 200)
    with failing(errno.EDQUOT):
        usage.refuse_bytes(quota, 201)
    assert usage.unsettled_beside(quota) == [ino]
    usage.settled(ino, 100)
    usage.refuse_bytes(quota, 400)
    usage.settled(ino, 0)
    usage.refuse_bytes(quota, 500)
    with failing(errno.EDQUOT):
        usage.refuse_bytes(quota, 501)
    assert usage.unsettled_beside(quota) == []


def test_a_quota_within_another_counts_for_both(limited: Limited) -> None:
    outer = limited.mkdir(b"outer")
    limited.quotas.set(outer, bytes_max=1000)
    inner = limited.mkdir(b"inner", outer)
    limited.quotas.set(inner, bytes_max=5000, files_max=9)
    limited.file(b"a", inner, 700)
    limited.file(b"b", outer, 100)
    assert limited.used(inner) == (700, 2) and limited.used(outer) == (800, 4)
    number = limited.tree.stat(inner).quota
    limited.tree.usage.refuse_bytes(number, 200)
    with failing(errno.EDQUOT):
        limited.tree.usage.refuse_bytes(number, 201)
    room = limited.tree.usage.room(number)
    assert (room.bytes_used, room.bytes_left, room.files_used, room.files_left) == (700, 200, 2, 7)
    limited.check()


def test_a_file_takes_its_bytes_along_if_there_is_room(limited: Limited) -> None:
    left, right = limited.mkdir(b"left"), limited.mkdir(b"right")
    limited.quotas.set(left, bytes_max=1000, files_max=10)
    limited.quotas.set(right, bytes_max=1000, files_max=2)
    limited.file(b"a", left, 600)
    limited.file(b"b", left, 600)
    limited.move(left, b"a", right)
    assert limited.used(left) == (600, 2) and limited.used(right) == (600, 2)
    with failing(errno.EDQUOT):
        limited.move(left, b"b", right)
    limited.quotas.set(right, files_max=5)
    with failing(errno.EDQUOT):
        limited.move(left, b"b", right)
    limited.quotas.set(right, bytes_max=0, files_max=2)
    with failing(errno.EDQUOT):
        limited.move(left, b"b", right)
    limited.move(right, b"a", ROOT)
    limited.move(left, b"b", right)
    assert limited.used(left) == (0, 1) and limited.used(right) == (600, 2)
    limited.check()


def test_a_file_that_moves_within_the_outer_quota_needs_no_room_there(limited: Limited) -> None:
    outer = limited.mkdir(b"outer")
    limited.quotas.set(outer, bytes_max=1000)
    inner = limited.mkdir(b"inner", outer)
    limited.quotas.set(inner, files_max=5)
    limited.file(b"a", outer, 1000)
    limited.move(outer, b"a", inner)
    limited.move(inner, b"a", outer)
    assert limited.used(outer) == (1000, 3) and limited.used(inner) == (0, 1)


def test_what_cannot_cross(limited: Limited) -> None:
    top, other = limited.mkdir(b"top"), limited.mkdir(b"other")
    limited.quotas.set(top, files_max=10)
    names = limited.tree.namespace
    names.link(limited.file(b"linked"), ROOT, b"again")
    limited.mkdir(b"directory")
    limited.file(b"file", top)
    for name in (b"linked", b"directory"):
        with failing(errno.EXDEV):
            limited.move(ROOT, name, top)
        with failing(errno.EXDEV):
            limited.move(ROOT, name, top, b"file", 2)
    with failing(errno.EXDEV):
        names.link(names.lookup(ROOT, b"linked").ino, top, b"x")
    limited.move(ROOT, b"top", other)
    with failing(errno.EXDEV):
        inner = limited.mkdir(b"inner", top)
        limited.quotas.set(inner, files_max=2)
        limited.move(top, b"inner", ROOT)
    limited.check()


def test_names_of_a_file_in_two_trees_move_within_each(limited: Limited) -> None:
    top, names = limited.mkdir(b"top"), limited.tree.namespace
    inside, outside = limited.mkdir(b"inside", top), limited.mkdir(b"outside")
    ino = limited.file(b"a", top, 10)
    names.link(ino, ROOT, b"b")
    limited.quotas.set(top, bytes_max=10, files_max=3)
    limited.count()
    limited.move(top, b"a", inside)
    limited.move(ROOT, b"b", outside)
    with failing(errno.EXDEV):
        limited.move(inside, b"a", outside)
    assert limited.used(top) == (10, 3)
    names.unlink(inside, b"a")
    limited.move(outside, b"b", ROOT)
    assert limited.used(top) == (0, 2), "it counts for where it is once it moves"
    limited.check()


def test_files_of_two_trees_change_places(limited: Limited) -> None:
    left, right = limited.mkdir(b"left"), limited.mkdir(b"right")
    limited.quotas.set(left, bytes_max=100)
    limited.file(b"a", left, 70)
    limited.file(b"b", right, 30)
    limited.move(left, b"a", right, b"b", 2)
    assert limited.used(left) == (30, 2)
    with failing(errno.EDQUOT):
        limited.quotas.set(left, bytes_max=80)
        limited.move(right, b"b", left, b"a", 2)
    limited.check()


def test_a_tree_that_is_there_is_counted_in_steps(limited: Limited) -> None:
    top = limited.mkdir(b"top")
    directories = [top, limited.mkdir(b"empty", top)]
    for number in range(5):
        directories.append(limited.mkdir(b"d%d" % number, directories[-1 - number % 2]))
    for at, directory in enumerate(directories):
        for number in range(at + 1):
            limited.file(b"f%d" % number, directory, 10)
    limited.file(b"outside", ROOT, 1000)
    figures = limited.quotas.set(top, bytes_max=10, files_max=1)
    assert figures.quota.state == COUNTING
    assert limited.retagger.step(3) is not False
    limited.file(b"while it is counted", directories[-1], 10)
    limited.tree.commit()
    limited.check()
    limited.retagger = Retagger(limited.tree.metadata, limited.tree.inodes, Room())  # type: ignore[arg-type]
    assert limited.count() > 3
    files = sum(range(1, len(directories) + 1)) + 1
    assert limited.used(top) == (10 * files, files + len(directories))
    assert limited.quotas.find(top).quota.state == ACTIVE
    with failing(errno.EDQUOT):
        limited.file(b"then", top)
    limited.quotas.remove(top)
    with pytest.raises(NotFound):
        limited.quotas.find(top)
    limited.file(b"then", top)
    assert limited.count() > 3
    assert limited.quotas.all() == []
    limited.check()


def test_a_count_passes_over_quotas_inside_and_takes_them_in(limited: Limited) -> None:
    outer = limited.mkdir(b"outer")
    middle = limited.mkdir(b"middle", outer)
    inner = limited.mkdir(b"inner", middle)
    limited.file(b"a", inner, 7)
    limited.quotas.set(inner, files_max=9)
    limited.quotas.set(outer, files_max=99)
    limited.quotas.set(middle, files_max=50)
    limited.count()
    limited.check()
    assert [limited.used(one) for one in (outer, middle, inner)] == [(7, 4), (7, 3), (7, 2)]
    limited.quotas.remove(middle)
    limited.count()
    assert [limited.used(one) for one in (outer, inner)] == [(7, 4), (7, 2)]
    limited.quotas.remove(inner)
    limited.quotas.remove(outer)
    limited.count()
    assert limited.quotas.all() == []
    limited.check()


def test_a_removal_that_is_not_done_yet_is_undone_by_setting_it_again(limited: Limited) -> None:
    top = limited.mkdir(b"top")
    limited.quotas.set(top, files_max=9)
    for number in range(8):
        limited.file(b"%d" % number, top)
    number = limited.quotas.find(top).number
    limited.quotas.remove(top)
    limited.retagger.step(3)
    assert limited.quotas.all()[0].quota.state == REMOVING
    limited.quotas.set(top, bytes_max=5)
    assert limited.count() and limited.quotas.find(top).number == number
    assert limited.used(top) == (0, 9)
    limited.check()


def test_what_moves_while_it_is_counted_is_not_missed(limited: Limited) -> None:
    """Each move of a directory or file at each step of the count."""
    for moment in range(12):
        top = limited.mkdir(b"top%d" % moment)
        first, last = limited.mkdir(b"first", top), limited.mkdir(b"last", top)
        for directory in (first, last):
            for number in range(3):
                limited.file(b"f%d" % number, directory, 10)
        moved = limited.mkdir(b"moved", last)
        limited.file(b"g", moved, 10)
        limited.quotas.set(top, files_max=100)
        for _ in range(moment):
            limited.retagger.step(1)
        for parent, name, to, new_name in (
            (last, b"moved", first, b"moved"),
            (last, b"f0", first, b"f0"),
            (last, b"f1", last, b"f2"),
            (first, b"f2", ROOT, b"out%d" % moment),
        ):
            try:
                limited.move(parent, name, to, new_name)
            except OSError as error:
                assert error.errno == errno.EXDEV and name == b"moved"
        limited.count(1)
        while limited.tree.unlinked:
            limited.grow(limited.tree.unlinked.pop(), -10)
        assert limited.used(top)[0] == 10 * 4, moment
        limited.check()


def test_a_quota_goes_with_its_directory(limited: Limited) -> None:
    outer = limited.mkdir(b"outer")
    limited.quotas.set(outer, files_max=9)
    top = limited.mkdir(b"top", outer)
    limited.quotas.set(top, files_max=9)
    ino = limited.file(b"a", top, 50)
    limited.tree.namespace.unlink(top, b"a")
    assert limited.used(outer) == (50, 2)
    limited.tree.namespace.rmdir(outer, b"top")
    assert [one.quota.directory for one in limited.quotas.all()] == [outer]
    assert limited.used(outer) == (0, 1), "what is open still counts for the volume alone"
    limited.grow(ino, -50)
    assert limited.used(outer) == (0, 1)
    limited.check()


def test_a_number_is_never_given_twice(limited: Limited) -> None:
    top = limited.mkdir(b"top")
    numbers = []
    for _ in range(3):
        numbers.append(limited.quotas.set(top, files_max=5).number)
        limited.quotas.remove(top)
        limited.count()
        limited.tree.commit()
        limited.tree.reopen()
        limited = Limited(limited.tree)
    assert numbers == [1, 2, 3]
    assert limited.tree.metadata.number(STATE_NEXT_QUOTA) == 4


def test_trees_are_counted_again_after_inodes_were_put_back(limited: Limited) -> None:
    outer = limited.mkdir(b"outer")
    inner = limited.mkdir(b"inner", outer)
    files = [limited.file(b"%d" % number, inner, 10) for number in range(4)]
    old = {ino: limited.tree.stat(ino) for ino in (outer, inner, *files)}
    limited.quotas.set(outer, files_max=50)
    limited.quotas.set(inner, files_max=50)
    limited.count()
    with limited.tree.metadata.change() as change:
        for ino, inode in old.items():
            before = change.get(INODE, ino)
            change.put(INODE, ino, inode)
            limited.tree.usage.moved(change, before, inode)
    assert limited.used(outer) == (0, 0)
    with limited.tree.metadata.change() as change:
        limited.retagger.recount(change)
    limited.count()
    assert limited.used(outer) == (40, 6) and limited.used(inner) == (40, 5)
    limited.check()


def test_a_quota_of_nothing_and_of_no_directory_are_refused(limited: Limited) -> None:
    top, ino = limited.mkdir(b"top"), limited.file(b"a")
    for wrong in ({}, {"bytes_max": 0}):
        with pytest.raises(Invalid, match="needs a limit"):
            limited.quotas.set(top, **wrong)
    with pytest.raises(Invalid, match="no directory"):
        limited.quotas.set(ino, files_max=5)
    with pytest.raises(NotFound):
        limited.quotas.set(12345, files_max=5)
    with pytest.raises(NotFound):
        limited.quotas.remove(top)


def test_there_are_not_more_than_can_be_listed(limited: Limited, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "QUOTAS_MAX", 2)
    for name in (b"a", b"b"):
        limited.quotas.set(limited.mkdir(name), files_max=5)
    with pytest.raises(Full, match="2 quotas"):
        limited.quotas.set(limited.mkdir(b"c"), files_max=5)
    limited.quotas.set(ROOT, files_max=50)


def test_a_wrong_sum_and_a_tree_that_was_missed_are_seen(limited: Limited) -> None:
    """The comparison itself."""
    top = limited.mkdir(b"top")
    limited.quotas.set(top, files_max=5)
    ino = limited.file(b"a", top, 10)
    limited.check()
    with limited.tree.metadata.change() as change:
        change.put(quotas_module.QUOTA_USED, 1, Used(10, 3))
    with pytest.raises(AssertionError):
        limited.check()
    with limited.tree.metadata.change() as change:
        change.put(quotas_module.QUOTA_USED, 1, Used(10, 2))
        limited.tree.inodes.retag(change, ino, 0)
    with pytest.raises(AssertionError, match="counts for 0"):
        limited.check()
    assert limited.tree.metadata.get(QUOTA, 1) is not None and quota_rows.VOLUME_QUOTA == 0


def test_an_attribute_tells_what_is_left(limited: Limited) -> None:
    top = limited.mkdir(b"top")
    ino, xattrs = limited.file(b"a", top, 300), limited.tree.xattrs
    with failing(errno.ENODATA):
        xattrs.get(ino, XATTR_QUOTA)
    limited.quotas.set(ROOT, bytes_max=1000)
    assert xattrs.get(ino, XATTR_QUOTA) == b"bytes 300 700"
    limited.quotas.set(top, bytes_max=5000, files_max=9)
    limited.count()
    for there in (top, ino):
        assert xattrs.get(there, XATTR_QUOTA) == b"bytes 300 700\nfiles 2 7"
    assert xattrs.get(ROOT, XATTR_QUOTA) == b"bytes 300 700"
    assert xattrs.list(top) == []
    with failing(errno.EPERM):
        xattrs.set(top, XATTR_QUOTA, b"bytes 0 0")
    with failing(errno.ESTALE):
        xattrs.get(12345, XATTR_QUOTA)
