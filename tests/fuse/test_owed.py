"""Whether anybody on the mount was kept waiting."""

import pytest
import trio
import trio.testing
from pyfuse3 import FUSEError

from fusegw.fuse.owed import LATE_S, Owed
from fusegw.fuse.replies import waiting


class Asked:
    def __init__(self) -> None:
        self.owed = Owed()

    @waiting
    async def read(self, seconds: float) -> bytes:
        await trio.sleep(seconds)
        return b""

    @waiting
    async def write(self, seconds: float) -> None:
        await trio.sleep(seconds)
        raise OSError(5, "lost")


async def test_quick_answers_keep_nobody_waiting(autojump_clock: trio.testing.MockClock) -> None:
    asked = Asked()
    assert not asked.owed.kept_waiting(1e9)
    for _ in range(5):
        await asked.read(LATE_S / 2)
    assert not asked.owed.kept_waiting(1e9)


async def test_an_answer_that_is_owed_for_long(autojump_clock: trio.testing.MockClock) -> None:
    """While it is owed, whoever else is answered meanwhile; and for as long afterwards as is asked for."""
    asked = Asked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.read, 4 * LATE_S)
        await trio.sleep(LATE_S / 2)
        assert not asked.owed.kept_waiting(1e9)
        await trio.sleep(LATE_S)
        await asked.read(0.0)
        assert asked.owed.kept_waiting(0.0)
    await trio.sleep(10.0)
    assert (asked.owed.kept_waiting(9.0), asked.owed.kept_waiting(11.0)) == (False, True)


async def test_one_that_fails_or_is_given_up_is_owed_no_more(autojump_clock: trio.testing.MockClock) -> None:
    asked = Asked()
    with pytest.raises(FUSEError):
        await asked.write(0.0)
    with trio.move_on_after(LATE_S / 2):
        await asked.read(1e6)
    await trio.sleep(1e6)
    assert not asked.owed.kept_waiting(1e9)
