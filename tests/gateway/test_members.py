"""The volumes of a unified mount as they come, stay away, break and end; by a trio clock that jumps."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from fusegw.config import VolumePaths, VolumeSettings
from fusegw.errors import FusegwError, Unavailable, WrongKey
from fusegw.keys.secret import Secret
from fusegw.members import RETRY_FIRST_S, RETRY_MAX_S, Members
from fusegw.store.options import StoreOptions


def volume(name: str) -> VolumeSettings:
    return VolumeSettings(
        volume=name,
        volume_number=1,
        volume_id=bytes(16),
        store=StoreOptions(url="file:///x"),
        secret=Secret.passphrase("a passphrase"),
        paths=VolumePaths(Path("/state"), name),
        cache_dir=Path("/cache"),
        cache_size_bytes=1 << 30,
        mountpoint=Path("/mnt") / name,
    )


class Stage:
    """Volumes that open as `outcomes` say: None, or an error, one after the other (the last one again)."""

    def __init__(self, **outcomes: list[Exception | None]) -> None:
        self.outcomes = outcomes
        self.opened_at: dict[str, list[float]] = {name: [] for name in outcomes}
        self.breaking: dict[str, trio.Event] = {name: trio.Event() for name in outcomes}
        self.notes: list[tuple[str, str]] = []
        self.shown: set[str] = set()
        self.takes_s: dict[str, float] = {}
        self.end_error: Callable[[str], Exception | None] = lambda name: None
        self.members = Members(
            [volume(name) for name in outcomes],
            self.show,
            lambda settings, why: self.notes.append((settings.volume, why)),
        )

    @asynccontextmanager
    async def show(self, settings: VolumeSettings) -> AsyncIterator[None]:
        name = settings.volume
        self.opened_at[name].append(trio.current_time())
        await trio.sleep(self.takes_s.get(name, 0))
        outcomes = self.outcomes[name]
        outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
        if outcome is not None:
            raise outcome
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._break, name)
            self.shown.add(name)
            try:
                yield
            finally:
                self.shown.remove(name)
            nursery.cancel_scope.cancel()
        error = self.end_error(name)
        if error is not None:
            raise error

    async def _break(self, name: str) -> None:
        await self.breaking[name].wait()
        raise RuntimeError("a mistake")


@asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[Members]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.members.run)
        await stage.members.tried()
        yield stage.members
        stage.members.end()


async def test_one_that_cannot_be_opened_is_left_out(autojump_clock: object) -> None:
    stage = Stage(a=[None], b=[WrongKey("opens no slot")], c=[None])
    async with running(stage) as members:
        assert stage.shown == {"a", "c"} and list(members.missing) == ["b"]
        await trio.sleep(10 * RETRY_MAX_S)
        assert len(stage.opened_at["b"]) == 1  # an operator must help
    assert ("b", "opens no slot") in stage.notes and members.failure is None
    assert stage.shown == set()


async def test_one_whose_store_is_away_comes_when_it_can(autojump_clock: object) -> None:
    away = [Unavailable("no route") for _ in range(10)]
    stage = Stage(a=[*away, None], b=[None])
    async with running(stage) as members:
        assert str(members.missing["a"]) == "no route"
        with trio.fail_after(20 * RETRY_MAX_S):
            while "a" not in stage.shown:
                await trio.sleep(1)
        assert members.missing == {}
    times = stage.opened_at["a"]
    pauses = [round(after - before) for before, after in pairwise(times)]
    assert pauses == [min(RETRY_FIRST_S * 2**number, RETRY_MAX_S) for number in range(10)]
    assert [why for name, why in stage.notes if name == "a"] == 10 * ["no route"] + [""]


async def test_the_end_does_not_wait_for_one_that_is_away(autojump_clock: object) -> None:
    stage = Stage(a=[Unavailable("no route")], b=[None])
    async with running(stage):
        await trio.sleep(RETRY_MAX_S * 4)
        begun = trio.current_time()
    assert trio.current_time() == begun


async def test_the_end_does_not_wait_for_one_that_is_being_opened(autojump_clock: object) -> None:
    """Nor is it a failure of the end that it could not be opened."""
    stage = Stage(a=[Unavailable("no route")], b=[None])
    stage.takes_s["a"] = 3.0
    async with running(stage) as members:
        await trio.sleep(RETRY_FIRST_S + 1)
        assert len(stage.opened_at["a"]) == 2
        begun = trio.current_time()
    assert trio.current_time() == begun and members.failure is None


async def test_all_may_be_missing_in_order(autojump_clock: object) -> None:
    stage = Stage(a=[Unavailable("no route")], b=[WrongKey("no slot")])
    async with running(stage) as members:
        assert [str(error) for error in members.missing.values()] == ["no route", "no slot"]


async def test_one_that_breaks_does_not_take_the_others_along(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(a=[None], b=[None])
    async with running(stage) as members:
        stage.breaking["a"].set()
        with trio.fail_after(1):
            while "a" in stage.shown:
                await trio.sleep(0.01)
        await trio.sleep(RETRY_MAX_S)
        assert stage.shown == {"b"} and "RuntimeError: a mistake" in str(members.missing["a"])
    assert "a mistake" in caplog.text and stage.notes[-1][0] == "a"


async def test_what_goes_wrong_in_the_end_is_told() -> None:
    stage = Stage(a=[None], b=[None])
    stage.end_error = lambda name: FusegwError("disk gone") if name == "b" else None
    async with running(stage) as members:
        pass
    assert str(members.failure) == "disk gone"
