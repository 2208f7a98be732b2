"""Totals over restarts: added up, saved now and then, and lost by no more than that."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from fusegw.errors import Corrupt, Denied, UnknownFormat
from fusegw.metering import SAVE_INTERVAL_S, Meter, Period, load_totals
from fusegw.serving import keep_totals
from fusegw.store.counting import Traffic, TrafficCounter
from tests.plugins.fakes import ManualClock


class Mount:
    """One run of a gateway, as far as it counts."""

    def __init__(self, file: Path, clock: ManualClock) -> None:
        self.counter = TrafficCounter()
        self.ingested = 0
        self.meter = Meter(
            file,
            self.counter,
            ingested=lambda: self.ingested,
            clock=clock,
        )

    def back_up(self, puts: int) -> None:
        self.counter.add("put_requests", puts)
        self.counter.add("sent_bytes", 10 * puts)
        self.ingested += 100 * puts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "traffic.json"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def mounting(file: Path, clock: ManualClock) -> Callable[[], Mount]:
    return lambda: Mount(file, clock)


def puts(period: Period) -> tuple[int, int, int]:
    return period.traffic.put_requests, period.traffic.sent_bytes, period.ingested_bytes


def test_totals_go_on_where_they_were(mounting: Callable[[], Mount], file: Path, clock: ManualClock) -> None:
    first = mounting()
    first.back_up(3)
    assert first.meter.since_mount() == first.meter.total()
    first.meter.save()
    clock.now_s += 1000
    second = mounting()
    second.back_up(2)
    assert puts(second.meter.since_mount()) == (2, 20, 200)
    assert puts(second.meter.total()) == (5, 50, 500)
    assert second.meter.since_mount().since_unix_s == 2000
    assert second.meter.total().since_unix_s == 1000
    second.meter.save()
    saved = load_totals(file)
    assert saved is not None
    assert saved.period == second.meter.total()
    assert saved.saved_unix_s == 2000


def test_saving_twice_counts_once(mounting: Callable[[], Mount]) -> None:
    first = mounting()
    first.back_up(3)
    first.meter.save()
    first.back_up(1)
    first.meter.save()
    first.meter.save()
    assert puts(mounting().meter.total()) == (4, 40, 400)


def test_killed_it_loses_what_came_after_the_last_save(mounting: Callable[[], Mount]) -> None:
    killed = mounting()
    killed.back_up(3)
    killed.meter.save()
    killed.back_up(5)
    assert puts(mounting().meter.total()) == (3, 30, 300)


async def test_a_running_gateway_saves_by_itself(
    mounting: Callable[[], Mount], file: Path, mock_clock: trio.testing.MockClock
) -> None:
    mount = mounting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_totals, mount.meter)
        await trio.testing.wait_all_tasks_blocked()
        for round_number in (1, 2):
            mount.back_up(3)
            before = load_totals(file)
            mock_clock.jump(SAVE_INTERVAL_S - 1)
            await trio.testing.wait_all_tasks_blocked()
            assert load_totals(file) == before, "the control: not yet"
            mock_clock.jump(1)
            while (saved := load_totals(file)) == before:
                await trio.lowlevel.checkpoint()
            assert saved is not None and saved.period.traffic.put_requests == 3 * round_number
            await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()


def test_nothing_new_is_not_written_again(mounting: Callable[[], Mount], file: Path) -> None:
    mount = mounting()
    mount.back_up(1)
    mount.meter.save()
    file.unlink()
    mount.meter.save()
    assert not file.exists()
    mount.back_up(1)
    mount.meter.save()
    assert file.exists()


def test_a_full_disk_leaves_the_old_totals_and_is_told_once(
    mounting: Callable[[], Mount],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mount = mounting()
    mount.back_up(1)
    mount.meter.save()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    mount.back_up(1)
    with caplog.at_level(logging.WARNING):
        mount.meter.save()
        mount.meter.save()
    assert [str(file) in record.message for record in caplog.records] == [True]
    saved = load_totals(file)
    assert saved is not None and saved.period.traffic == Traffic(put_requests=1, sent_bytes=10)
    monkeypatch.undo()
    mount.meter.save()
    assert load_totals(file) != saved


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"", Corrupt),
        (b"{", Corrupt),
        (b"[]", Corrupt),
        (b'{"format_version": 1}', Corrupt),
        (b'{"format_version": 2}', UnknownFormat),
    ],
)
def test_damage_is_told_and_ends_no_gateway(
    mounting: Callable[[], Mount],
    file: Path,
    caplog: pytest.LogCaptureFixture,
    text: bytes,
    error: type[Exception],
) -> None:
    file.write_bytes(text)
    with pytest.raises(error, match=r"traffic\.json"):
        load_totals(file)
    with caplog.at_level(logging.WARNING):
        mount = mounting()
    assert "begins anew" in caplog.text
    mount.back_up(1)
    mount.meter.save()
    saved = load_totals(file)
    assert saved is not None and saved.period.traffic.put_requests == 1


def test_nothing_saved_is_nothing_known(tmp_path: Path) -> None:
    assert load_totals(tmp_path / "missing") is None
    with pytest.raises(Denied, match="cannot be read"):
        load_totals(tmp_path)


def test_the_file_is_for_its_owner_and_may_grow_fields(mounting: Callable[[], Mount], file: Path) -> None:
    mount = mounting()
    mount.back_up(1)
    mount.meter.save()
    assert file.stat().st_mode & 0o777 == 0o600
    document = msgspec.json.decode(file.read_bytes())
    file.write_bytes(msgspec.json.encode(document | {"novel": 1}))
    assert puts(mounting().meter.total()) == (1, 10, 100)
