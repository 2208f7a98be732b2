"""Figures that are more than a rate: latencies of fio, percentiles, memory, buffers, objects of a store."""

import os
from pathlib import Path
from typing import Any

import pytest

from fusegw.clock import SystemClock
from fusegw.config import Tuning
from fusegw.errors import Unavailable
from fusegw.store.memory import MemoryStore
from scripts.benchlib import creating, distant, fio, machine
from scripts.benchlib.corpus import Corpus, Planted
from scripts.benchlib.distant import ROUND_TRIP_S, DistantStore
from scripts.benchlib.gateway import buffers_bytes
from scripts.benchlib.stores import Directories


def test_figures_of_fio_are_those_of_the_direction() -> None:
    def half(iops: float, p50_ns: int, p99_ns: int) -> dict[str, Any]:
        return {"iops": iops, "clat_ns": {"percentile": {"50.000000": p50_ns, "99.000000": p99_ns}}}

    report = {"jobs": [{"read": half(1000.5, 2000, 90000), "write": half(0, 0, 0)}]}
    assert fio.figures(fio.Case("read", 8), report) == pytest.approx(
        {"fio-read-8": 1000.5, "fio-read-8-p50": 2e-6, "fio-read-8-p99": 9e-5}
    )


@pytest.mark.parametrize(
    ("large_bytes", "plan"),
    [
        (4 << 20, fio.Plan(1 << 20, 1)),
        (512 << 20, fio.Plan(128 << 20, 5)),
        (1 << 30, fio.Plan(256 << 20, 10)),
        (1 << 40, fio.Plan(256 << 20, 10)),
    ],
)
def test_fio_has_less_to_do_where_the_data_is_small(large_bytes: int, plan: fio.Plan) -> None:
    assert fio.Plan.of(large_bytes) == plan


def test_the_file_for_fio_is_made_once(tmp_path: Path) -> None:
    fio.lay_out(tmp_path / "fio", 3 << 19)
    first = (tmp_path / "fio").read_bytes()
    fio.lay_out(tmp_path / "fio", 3 << 19)
    assert len(first) == 3 << 19 and (tmp_path / "fio").read_bytes() == first


def test_a_percentile_is_a_value_that_so_many_are_not_above() -> None:
    values = [float(number) for number in range(1, 201)]
    assert [creating.percentile(values[::-1], percent) for percent in (50, 99, 100)] == [100, 198, 200]
    assert creating.percentile([7.0], 99) == 7.0


def test_files_are_made_alone_and_beside_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sync", lambda: None)
    (tmp_path / "source").write_bytes(bytes(1 << 20))
    (tmp_path / "to").mkdir()
    measured = creating.compare(tmp_path / "to", tmp_path / "source")
    assert measured.figure == measured.parts["beside"] / measured.parts["alone"] > 0
    assert (tmp_path / "to" / "stream").stat().st_size == 1 << 20
    made = [path for path in (tmp_path / "to" / "created").rglob("*") if path.is_file()]
    assert len(made) > 1000 and {path.stat().st_size for path in made} == {creating.SMALL_BYTES}


def test_a_copy_that_fails_is_no_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sync", lambda: None)
    (tmp_path / "source").write_bytes(b"x")
    (tmp_path / "stream").mkdir()
    (tmp_path / "stream" / "source").mkdir()
    with pytest.raises(Unavailable, match="status 1"):
        creating.compare(tmp_path, tmp_path / "source")


def test_the_most_memory_of_a_process_is_found_and_of_none_is_nothing() -> None:
    assert machine.peak_memory_bytes(os.getpid()) > 1 << 20
    assert machine.peak_memory_bytes(1 << 30) == 0


def test_buffers_follow_the_settings() -> None:
    usual = Tuning()
    smaller = Tuning(upload_parallelism=1)
    assert buffers_bytes(usual) - buffers_bytes(smaller) == 3 * usual.pack_size_bytes
    assert buffers_bytes(Tuning(read_ahead_bytes=0)) == buffers_bytes(usual) - usual.read_ahead_bytes


def test_objects_of_a_directory_are_named_and_read(tmp_path: Path) -> None:
    store = Directories(tmp_path).empty("a")
    (store.path / "packs" / "00").mkdir(parents=True)
    (store.path / "packs" / "00" / "x").write_bytes(b"pack")
    (store.path / "volume").touch()
    assert (sorted(store.names()), store.objects()) == (["packs/00/x", "volume"], 2)
    assert store.read("packs/00/x") == b"pack"


def test_other_data_is_as_long_and_shares_nothing(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, Planted(0, 0, 0))
    corpus.day1.write_bytes(bytes(range(256)) * 8)
    other = corpus.other().read_bytes()
    assert len(other) == 2048 and all(a != b for a, b in zip(other, corpus.day1.read_bytes(), strict=True))
    assert corpus.other() == tmp_path / "day1-other"


def test_a_distant_store_does_what_it_is_asked_a_round_trip_later(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(distant.time, "sleep", waits.append)
    store = DistantStore(MemoryStore(clock=SystemClock()))
    store.put("a", b"123")
    assert store.get("a", size_max=3) == b"123"
    assert store.get_range("a", 1, 1) == b"2"
    assert store.head("a").size == 3
    assert [info.key for info in store.list()] == ["a"]
    store.delete(["a"])
    assert waits == [ROUND_TRIP_S] * 6
