"""The index is read by another process while its gateway writes, and nobody is held up."""

import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from fusegw.errors import Corrupt, NotFound, UnknownFormat
from fusegw.meta.beside import IndexBeside
from fusegw.meta.codec import encode_u64
from fusegw.meta.schema import DAMAGED, REAP, SCHEMA_VERSION, STATE, STATE_SCHEMA
from tests.meta.indexes import commit, open_index

ROOT = Path(__file__).parents[2]
COUNT = """
import sys
from pathlib import Path
from fusegw.meta.beside import IndexBeside
from fusegw.meta.schema import REAP
index = IndexBeside(Path(sys.argv[1]))
view = index.view()
print(view.count(REAP), flush=True)
sys.stdin.read(1)
rows = sum(1 for _ in view.rows(REAP))
index.trim()
print(rows, sum(1 for _ in view.rows(REAP)), flush=True)
sys.stdin.read(1)
"""


def make(place: Path, rows: int = 100, version: int = SCHEMA_VERSION) -> None:
    metadata = open_index(place)
    with metadata.change() as change:
        change.put(STATE, STATE_SCHEMA, encode_u64(version))
        for number in range(rows):
            change.put(REAP, number, 0)
    commit(metadata)
    metadata.close()


def test_a_view_of_another_process_stays_as_it_is(tmp_path: Path) -> None:
    make(tmp_path / "meta")
    metadata = open_index(tmp_path / "meta")
    command = [sys.executable, "-c", COUNT, str(tmp_path / "meta")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as reader:  # type: ignore[call-overload]
        assert reader.stdout.readline() == "100\n"
        for number in range(1000, 3000):
            with metadata.change() as change:
                change.put(REAP, number, 0)
            if number % 100 == 0:
                commit(metadata)
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "100 100\n", "also after its memory was let go of"
        assert f" {reader.pid} " in metadata._env.readers()
        reader.kill()
    with metadata.change() as change:
        change.put(REAP, 7, 0)
    commit(metadata)
    assert f" {reader.pid} " not in metadata._env.readers(), "a killed reader leaves no place behind"
    metadata.close()


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="mount the volume first"):
        IndexBeside(tmp_path / "none")
    make(tmp_path / "newer", version=SCHEMA_VERSION + 1)
    with pytest.raises(UnknownFormat, match="schema"):
        IndexBeside(tmp_path / "newer")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(Corrupt, match="is damaged"):
        IndexBeside(tmp_path / "broken")


def test_a_table_that_is_missing_is_damage_and_not_made_anew(tmp_path: Path) -> None:
    make(tmp_path / "meta")
    with lmdb.open(str(tmp_path / "meta"), max_dbs=32, map_size=1 << 30) as environment:
        database = environment.open_db(DAMAGED.name.encode())
        with environment.begin(write=True) as transaction:
            transaction.drop(database, delete=True)
    for opening in (IndexBeside, open_index):
        for _ in range(2):
            with pytest.raises(Corrupt, match=r"has no table 'damaged'; restore it from a copy"):
                opening(tmp_path / "meta")
