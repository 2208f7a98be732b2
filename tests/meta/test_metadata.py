"""The index as one view over a change, the pending set, the frozen set and LMDB; commits that fail and are
repeated; soft and hard limits."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusegw.errors import Denied, Full
from fusegw.meta import opening
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.records import decode_records
from fusegw.meta.schema import CHUNK_ID, INODE_MAX, LOG_TAIL, REAP, STATE, XATTR, chunk_key
from tests.meta.indexes import commit, open_index

# one view over all layers

_KEYS = st.tuples(st.integers(1, 3), st.sampled_from([b"", b"a", b"b", b"ba", b"\xff"]))
_WRITES = st.lists(st.tuples(_KEYS, st.one_of(st.none(), st.binary(max_size=3))), max_size=5)
_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["merge", "merge", "drop", "look"]), _WRITES),
        st.tuples(st.sampled_from(["freeze", "save", "reopen"]), st.just([])),
    ),
    max_size=15,
)
Writes = list[tuple[tuple[int, bytes], bytes | None]]


class View:
    """An index beside a dict that says what must be in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metadata = open_index(directory)
        self.expected: dict[tuple[int, bytes], bytes] = {}
        self.unsaved: set[tuple[int, bytes]] = set()
        self.frozen = False

    def happen(self, event: str, writes: Writes) -> None:
        if event == "freeze":
            self.metadata.freeze()
            self.frozen = bool(self.unsaved)
        elif event in ("save", "reopen"):
            commit(self.metadata)
            self.unsaved.clear()
            self.frozen = False
            if event == "reopen":
                self.metadata.close()
                self.metadata = open_index(self.directory)
        else:
            self.write(event, writes)

    def write(self, event: str, writes: Writes) -> None:
        seen = dict(self.expected)
        change = self.metadata.change()
        for key, value in writes:
            if value is None:
                change.delete(XATTR, key)
                seen.pop(key, None)
            else:
                change.put(XATTR, key, value)
                seen[key] = value
        self.compare(change, seen)
        self.compare(self.metadata, self.expected)
        if event == "merge":
            change.merge()
            self.expected = seen
            self.unsaved |= {key for key, _ in writes}
        self.compare(self.metadata, self.expected)

    def compare(self, view: Metadata | Change, expected: dict[tuple[int, bytes], bytes]) -> None:
        for low, high in (
            ((0, b""), (9, b"")),
            ((1, b"a"), (2, b"b")),
            ((2, b""), (3, b"")),
            ((2, b"b"), (2, b"a")),
        ):
            rows = sorted((key, value) for key, value in expected.items() if low <= key < high)
            assert list(view.scan(XATTR, low, high)) == rows
            assert list(view.scan(XATTR, low, high, reverse=True)) == rows[::-1]
        for key in ((ino, name) for ino in (1, 2, 3) for name in (b"", b"a", b"b", b"ba", b"\xff")):
            assert view.get(XATTR, key) == expected.get(key)


@settings(max_examples=60, deadline=None)
@given(_EVENTS)
def test_reads_see_the_newest_of_all_layers(events: list[tuple[str, Writes]]) -> None:
    with TemporaryDirectory() as directory:
        view = View(Path(directory))
        try:
            for event, writes in events:
                view.happen(event, writes)
                view.compare(view.metadata, view.expected)
                unsaved = dict(view.metadata.unsaved(XATTR))
                present = {key: value for key, value in view.expected.items() if key in view.unsaved}
                assert unsaved == present
        finally:
            view.metadata.close()


# changes


def test_a_change_is_merged_whole_on_a_clean_exit(metadata: Metadata) -> None:
    with metadata.change() as change:
        change.put(REAP, 1, 10)
        change.put(XATTR, (1, b"a"), b"1")
        assert metadata.get(REAP, 1) is None
    assert metadata.get(REAP, 1) == 10
    assert metadata.get(XATTR, (1, b"a")) == b"1"


def test_a_change_is_dropped_on_an_exception(metadata: Metadata) -> None:
    with pytest.raises(OSError), metadata.change() as change:
        change.put(REAP, 1, 10)
        raise OSError
    assert metadata.get(REAP, 1) is None
    assert not metadata.freeze()


def test_pending_rows_count_keys_not_writes(metadata: Metadata) -> None:
    for value in range(5):
        with metadata.change() as change:
            change.put(REAP, 1, value)
            change.put(REAP, 2 + value, value)
    assert metadata.pending_rows == 6
    metadata.freeze()
    assert metadata.pending_rows == 6, "not durable before the commit is done"
    commit(metadata)
    assert metadata.pending_rows == 0


def test_numbers_of_the_state_table(metadata: Metadata) -> None:
    assert metadata.number(b"some") == 0
    with metadata.change() as change:
        change.put(STATE, b"some", (1 << 40).to_bytes(8, "big"))
    assert metadata.number(b"some") == 1 << 40


def test_find_chunk_sees_every_layer(metadata: Metadata) -> None:
    first, second, third = (bytes([number]) * 32 for number in (1, 2, 3))
    for chunk_id in (first, second):
        with metadata.change() as change:
            change.put(CHUNK_ID, chunk_key(chunk_id), 1)
        metadata.freeze()
    assert [metadata.find_chunk(chunk_id) for chunk_id in (first, second, third)] == [True, True, False]
    commit(metadata)
    assert metadata.find_chunk(first)
    with metadata.change() as change:
        change.delete(CHUNK_ID, chunk_key(first))
    assert not metadata.find_chunk(first)


# commits that fail


def _fill(metadata: Metadata, inodes: range, size: int = 3000) -> None:
    with metadata.change() as change:
        for ino in inodes:
            change.put(XATTR, (ino, b"user.a"), bytes([ino % 256]) * size)


def _values(metadata: Metadata) -> dict[int, int]:
    return {ino: value[0] for (ino, _), value in metadata.scan(XATTR, (0, b""), (INODE_MAX + 1, b""))}


def test_a_commit_that_does_not_fit_loses_nothing_and_is_repeated(tmp_path: Path) -> None:
    metadata = open_index(tmp_path, map_size_bytes=1 << 20)
    try:
        _fill(metadata, range(1, 50))
        commit(metadata)
        _fill(metadata, range(50, 600))
        metadata.freeze()
        for _ in range(3):
            with pytest.raises(Full, match=r"cannot grow.*delete files"):
                metadata.save()
        everything = {ino: ino % 256 for ino in range(1, 600)}
        assert _values(metadata) == everything
        with metadata.change() as change:
            change.put(REAP, 7, 7)
        assert metadata.pending_rows == 551, "what could not be saved still counts"
        metadata.freeze()
        assert metadata.pending_rows == 551
        with pytest.raises(Full):
            metadata.save()
        with metadata.change() as change:
            for ino in range(100, 600):
                change.delete(XATTR, (ino, b"user.a"))
        commit(metadata)
        assert metadata.pending_rows == 0
    finally:
        metadata.close()
    metadata = open_index(tmp_path)
    try:
        assert _values(metadata) == {ino: ino % 256 for ino in range(1, 100)}
        assert metadata.get(REAP, 7) == 7
    finally:
        metadata.close()


def test_above_the_soft_limit_the_index_is_full_and_deletions_commit(tmp_path: Path) -> None:
    metadata = open_index(tmp_path, size_max_bytes=400_000)
    try:
        assert not metadata.full
        _fill(metadata, range(1, 300))
        commit(metadata)
        assert metadata.full
        assert metadata.used_bytes > 400_000
        with metadata.change() as change:
            for ino in range(1, 280):
                change.delete(XATTR, (ino, b"user.a"))
        commit(metadata)
        metadata.write((LOG_TAIL, number, None) for number in range(1, metadata.commit_number + 1))
        metadata.saved()
        assert not metadata.full, "once the log has the changes, the room of both is free"
        assert len(_values(metadata)) == 20
    finally:
        metadata.close()


class Doubtful:
    """An LMDB environment whose next commit is carried out, and said to have failed."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._armed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def begin(self, **options: Any) -> Any:
        if self._armed and options.get("write"):
            self._armed = False
            return self._made_and_not_told()
        return self._environment.begin(**options)

    @contextmanager
    def _made_and_not_told(self) -> Iterator[Any]:
        with self._environment.begin(write=True) as transaction:
            yield transaction
        raise lmdb.DiskError("the reply was lost")


def test_a_commit_that_was_made_and_said_to_have_failed_is_told_again(tmp_path: Path) -> None:
    """What it deleted is gone when it is tried again, but whoever has read the log so far does not know."""
    with closing(open_index(tmp_path / "meta")) as metadata:
        _fill(metadata, range(1, 3))
        commit(metadata)
        with metadata.change() as change:
            change.delete(XATTR, (1, b"user.a"))
        metadata.freeze()
        metadata._env = Doubtful(metadata._env)
        metadata._give_up_reserve()
        with pytest.raises(Full):
            metadata.save()
        with metadata.view() as view:
            shipped = view.commit
        with metadata.change() as change:
            change.put(XATTR, (3, b"user.a"), b"later")
        metadata.freeze()
        metadata.save()
        metadata.saved()
        with metadata.view() as view:
            told = dict(view.rows(LOG_TAIL))
    after = [
        (key, stored is None)
        for number, row in told.items()
        if number > shipped
        for code, key, stored in decode_records(row.records, "the log")
        if code == XATTR.code
    ]
    assert after == [(XATTR.encode_key((1, b"user.a")), True), (XATTR.encode_key((3, b"user.a")), False)]
    assert shipped == metadata.commit_number - 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "fusegw-test", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


def _use_up(directory: Path) -> None:
    with open(directory / "filler", "wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(1 << 12))


@pytest.mark.mount
def test_what_a_disk_refuses_is_not_called_damage(small_disk: Path) -> None:
    _use_up(small_disk)
    with pytest.raises(Full, match=r"cannot be opened: .*No space left.*free disk space"):
        open_index(small_disk / "meta")
    (small_disk / "filler").unlink()
    open_index(small_disk / "meta").close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(Denied, match=r"cannot be opened: .*Read-only.*must be writable"):
        open_index(small_disk / "meta")


@pytest.mark.mount
def test_on_a_full_disk_the_reserve_lets_deletions_commit(small_disk: Path) -> None:
    metadata = open_index(small_disk / "meta", reserve_bytes=1 << 20)
    reserve = small_disk / "meta" / "reserve"
    try:
        assert reserve.stat().st_blocks * 512 == 1 << 20
        _fill(metadata, range(1, 400))
        commit(metadata)
        _use_up(small_disk)
        with metadata.change() as change:
            for ino in range(1, 390):
                change.delete(XATTR, (ino, b"user.a"))
        commit(metadata)
        assert not reserve.exists()
        assert len(_values(metadata)) == 10
        os.unlink(small_disk / "filler")
        with metadata.change() as change:
            change.put(REAP, 1, 1)
        commit(metadata)
        assert reserve.exists(), "taken back when there is room again"
    finally:
        metadata.close()


@pytest.mark.mount
def test_without_a_reserve_a_full_disk_takes_nothing(small_disk: Path) -> None:
    """The control of the test above."""
    metadata = open_index(small_disk / "meta", reserve_bytes=4096)
    try:
        _fill(metadata, range(1, 400))
        commit(metadata)
        (small_disk / "meta" / "reserve").unlink()
        _use_up(small_disk)
        with metadata.change() as change:
            for ino in range(1, 390):
                change.delete(XATTR, (ino, b"user.a"))
        metadata.freeze()
        with pytest.raises(Full):
            metadata.save()
        assert len(_values(metadata)) == 10
    finally:
        metadata.close()


# reading ahead


def test_what_is_read_ahead_is_an_index_that_fits_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for share, expected in ((1, True), (1 << 50, False)):
        monkeypatch.setattr(opening, "_MEMORY_SHARE", share)
        open_index(tmp_path).close()
        environment, _ = opening.open_to_write(tmp_path, 1 << 30)
        with closing(environment):
            assert environment.flags()["readahead"] is expected
