"""Where an inode's newest change is: not on its way, on its way, in the store."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import INODE, LOCAL, LOCAL_HEAD, LOG_TAIL, Commit, Head, Inode, encode_head
from fusegw.meta.unshipped import InodeSet, Standing, Unshipped

INODES = st.lists(st.integers(0, 2000) | st.integers(0, (1 << 40) - 1), max_size=50)


@given(INODES, INODES, INODES)
def test_a_set_of_inodes_is_a_set(first: list[int], second: list[int], asked: list[int]) -> None:
    one, other = InodeSet(), InodeSet()
    one.update(first)
    other.update(second)
    one.merge(other)
    expected = set(first) | set(second)
    assert [ino for ino in (*expected, *asked) if (ino in one) != (ino in expected)] == []


def test_a_commit_is_stored_once_the_head_has_passed_the_cut_it_is_in() -> None:
    unshipped = Unshipped()
    unshipped.committed(1, [7], 100)
    assert unshipped.standing(7) is Standing.LOCAL
    unshipped.cut()
    assert unshipped.standing(7) is Standing.SHIPPING
    unshipped.committed(2, [7, 8], 200)
    unshipped.shipped(1)
    assert (unshipped.standing(7), unshipped.standing(8)) == (Standing.LOCAL, Standing.LOCAL)
    unshipped.cut()
    unshipped.shipped(2)
    assert (unshipped.standing(7), unshipped.standing(8)) == (Standing.STORED, Standing.STORED)


def test_a_cut_that_was_given_up_is_part_of_the_next() -> None:
    unshipped = Unshipped()
    unshipped.committed(1, [7], 100)
    unshipped.cut()
    unshipped.committed(2, [8], 200)
    unshipped.cut()
    unshipped.shipped(1)
    assert (unshipped.standing(7), unshipped.standing(8)) == (Standing.SHIPPING, Standing.SHIPPING)
    unshipped.shipped(2)
    assert (unshipped.standing(7), unshipped.standing(8)) == (Standing.STORED, Standing.STORED)


def test_the_oldest_change_is_the_oldest_of_all_that_are_not_shipped() -> None:
    """Data may be older than what was committed before it."""
    unshipped = Unshipped()
    assert unshipped.since_ns is None
    unshipped.committed(1, [7], 500)
    unshipped.committed(2, [8], 400)
    unshipped.cut()
    unshipped.committed(3, [9], 300)
    unshipped.committed(3, [], None)
    assert unshipped.since_ns == 300
    unshipped.shipped(2)
    assert unshipped.since_ns == 300
    unshipped.cut()
    unshipped.committed(4, [9], 600)
    unshipped.shipped(3)
    assert unshipped.since_ns == 600
    unshipped.shipped(4)
    assert unshipped.since_ns is None


def test_a_commit_that_went_out_before_it_was_told_of_is_not_waited_for() -> None:
    """A cut sees what the disk has, which may be a commit more than the loop knows."""
    unshipped = Unshipped()
    unshipped.cut()
    unshipped.shipped(1)
    unshipped.committed(1, [7], 100)
    assert unshipped.standing(7) is Standing.STORED


def test_changes_in_memory_count(metadata: Metadata) -> None:
    put(metadata, 7)
    assert metadata.standing(7) is Standing.LOCAL
    metadata.freeze()
    assert metadata.standing(7) is Standing.LOCAL
    metadata.save()
    metadata.saved()
    assert (metadata.standing(7), metadata.standing(8)) == (Standing.LOCAL, Standing.STORED)
    metadata.unshipped.cut()
    assert metadata.standing(7) is Standing.SHIPPING
    put(metadata, 7)
    assert metadata.standing(7) is Standing.LOCAL


def test_a_start_reads_it_from_the_log_tail(tmp_path: Path) -> None:
    index = Metadata(tmp_path, size_max_bytes=1 << 30)
    since = []
    for ino in (7, 8, 9):
        put(index, ino)
        since.append(index.unsaved_since_ns)
        save(index)
    assert index.unshipped_since_ns == since[0]
    index.write([(LOCAL, LOCAL_HEAD, encode_head(Head(seq=1, commit=1))), (LOG_TAIL, 1, None)])
    index.close()
    again = Metadata(tmp_path, size_max_bytes=1 << 30)
    assert [again.standing(ino).value for ino in (7, 8, 9)] == ["stored", "local", "local"]
    assert again.unshipped_since_ns == since[1]
    again.unshipped.cut()
    again.unshipped.shipped(3)
    assert again.unshipped_since_ns is None
    assert [again.standing(ino).value for ino in (7, 8, 9)] == ["stored", "stored", "stored"]
    again.close()


def test_nothing_is_called_safe_behind_a_tail_that_cannot_be_read(tmp_path: Path) -> None:
    index = Metadata(tmp_path, size_max_bytes=1 << 30)
    put(index, 7)
    save(index)
    index.write([(LOG_TAIL, 2, Commit(0, b"no records"))])
    index.close()
    again = Metadata(tmp_path, size_max_bytes=1 << 30)
    assert [again.standing(ino).value for ino in (7, 8)] == ["local", "local"]
    again.close()


def put(index: Metadata, ino: int) -> None:
    with index.change() as change:
        change.put(INODE, ino, Inode(ino, 1, 0o100644, 1, 0, 0, 0, 0, 0, 0, 0))


def save(index: Metadata) -> None:
    index.freeze()
    index.save()
    index.saved()
