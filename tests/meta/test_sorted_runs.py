"""Rows sorted through a file, and what the load of an index makes of ids that come in any order."""

import errno
import os
import random
from itertools import pairwise
from pathlib import Path

import pytest

from fusegw.errors import Full
from fusegw.meta import sorted_runs
from fusegw.meta.load import Load
from fusegw.meta.records import encode_put
from fusegw.meta.schema import CHUNK, CHUNK_ID, Chunk, Head, chunk_key
from fusegw.meta.sorted_runs import SortedRuns
from tests.meta.indexes import open_index


def rows_of(seed: int, count: int) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(5) for _ in range(count)]


@pytest.mark.parametrize("sizes", [[], [0], [7], [1, 0, 40], [100, 3, 3, 100]])
def test_runs_come_back_in_one_order(
    tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorted_runs, "_BLOCK_ROWS", 8)
    sorter, everything = SortedRuns(tmp_path, 5), rows_of(99, 20)
    last = list(everything)
    for seed, size in enumerate(sizes):
        run = rows_of(seed, size)
        everything += run
        sorter.add(run)
    assert list(sorter.merged(last)) == sorted(everything)
    assert os.listdir(tmp_path) == [], "the file has no name"
    sorter.close()


def test_rows_that_are_gone_are_not_passed_over(tmp_path: Path) -> None:
    sorter = SortedRuns(tmp_path, 5)
    sorter.add(rows_of(1, 100))
    merged = sorter.merged([])
    assert sorter._file is not None
    os.ftruncate(sorter._file, 499)
    with pytest.raises(OSError, match="shorter"):
        list(merged)
    sorter.close()


def chunk_row(number: int, chunk_id: bytes) -> bytes:
    key = CHUNK.encode_key(number)
    return encode_put(CHUNK.code, key, CHUNK.encode(key, Chunk(chunk_id, 1, 0, 80, 100, 72, 0, 1)))


def load_chunks(directory: Path, ids: list[bytes], *, run_bytes: int) -> tuple[dict[bytes, int], int]:
    """The dedup index of chunks with these ids, numbered from 1; pages of its leaves."""
    metadata = open_index(directory)
    load = Load(metadata, run_bytes=run_bytes)
    load.add(b"".join(chunk_row(number, chunk_id) for number, chunk_id in enumerate(ids, 1)), "chunks")
    load.finish(Head())
    load.abandon()
    metadata.renew()
    with metadata.view() as view:
        found = dict(view.rows(CHUNK_ID))
    with metadata.begin() as transaction:
        leaves = transaction.stat(db=metadata.databases[CHUNK_ID.name])["leaf_pages"]
    metadata.close()
    return found, leaves


def test_ids_in_any_order_fill_the_pages_of_the_dedup_index(tmp_path: Path) -> None:
    chance = random.Random(4)
    ids = [chance.randbytes(32) for _ in range(5000)]
    expected = {chunk_key(chunk_id): number for number, chunk_id in enumerate(ids, 1)}
    in_one, leaves = load_chunks(tmp_path / "one", ids, run_bytes=1 << 30)
    in_many, leaves_of_many = load_chunks(tmp_path / "many", ids, run_bytes=20_000)
    assert in_one == in_many == expected
    assert leaves == leaves_of_many


@pytest.mark.parametrize("run_bytes", [200, 1 << 30])
def test_of_several_chunks_with_one_key_the_newest_is_found(
    tmp_path: Path, run_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusegw.meta.load._BATCH_ROWS", 3)
    ids = [bytes([number % 5]) * 32 for number in range(40)]
    found, _ = load_chunks(tmp_path, ids, run_bytes=run_bytes)
    assert found == {bytes([digit]) * 8: 36 + digit for digit in range(5)}
    assert all(left < right for left, right in pairwise(found))


def test_a_full_disk_below_the_runs_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: SortedRuns, rows: list[bytes]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SortedRuns, "add", refuse)
    with pytest.raises(Full, match="free disk space"):
        load_chunks(tmp_path, [bytes(32)], run_bytes=1)
