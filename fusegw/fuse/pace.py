"""Fewer turns of the event loop per request: a request costs a third of what it costs without this.

pyfuse3 waits for the kernel under a fair lock around `wait_readable`; both go through the event loop and
then sleep in epoll, which costs more than most handlers. A client that works through many files sends its
next request some 20 to 100 µs after each reply, so looking at the descriptor for a moment finds it there.
pyfuse3 takes its event loop from `pyfuse3.trio` so that another one can be put in its place; `enable` puts
this variant of trio there:

- the lock is not fair: a worker done with its request takes it again without yielding, and who waits for it
is woken to look (so a worker that waits inside its handler always has a successor);
- the reader looks at the descriptor some more times before it parks, as long as that pays. After some
  requests in a row it lets the rest of the gateway run.

Each look gives up the GIL. After parking the reader looks again before it reads: a request that was
withdrawn in between must not leave it blocked in read(2), with the whole gateway behind it.
"""

import os
import select
from types import SimpleNamespace, TracebackType
from typing import Any

import pyfuse3
import trio

IN_A_ROW_MAX = 8
LOOKS_MAX = 120
"""About 1 µs each: tar and find think some 100 µs between two requests. Parking and being woken costs as
much, and a client that thinks longer is soon not trusted any more."""
_TRUST_MAX = 8
_RETRY_EVERY = 16


class GreedyLock:
    """An async context manager for one holder; woken waiters compete with whoever comes by."""

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._held:
            await self._waiting.park()
        self._held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = False
        if self._waiting:
            self._waiting.unpark()


class Readiness:
    """`wait_readable` for the one descriptor of the session.

    Trust falls with each series of looks that saw nothing; one that saw something after its first look makes
    it whole. Without trust only every `_RETRY_EVERY`th wait begins with a series, the others with one look.
    The requests of a stream come in pairs, one at the first look and the next too late for any: looking would
    keep a processor from the threads that encode and decode.
    """

    def __init__(self, looks_max: int) -> None:
        self._looks_max = looks_max
        self._poll: select.poll | None = None
        self._in_a_row = 0
        self._trust = _TRUST_MAX
        self._waits = 0

    async def wait_readable(self, fd: int) -> None:
        poll = self._poll
        if poll is None:
            poll = self._poll = select.poll()
            poll.register(fd, select.POLLIN)
        if self._in_a_row >= IN_A_ROW_MAX:
            self._in_a_row = 0
            await trio.lowlevel.checkpoint()
        for look in range(self._looks()):
            if poll.poll(0):
                self._in_a_row += 1
                if look:
                    self._trust = _TRUST_MAX
                return
        self._in_a_row = 0
        if self._trust:
            self._trust -= 1
        await trio.lowlevel.wait_readable(fd)
        while not poll.poll(0):
            await trio.lowlevel.wait_readable(fd)

    def _looks(self) -> int:
        if self._trust:
            return self._looks_max
        self._waits += 1
        return 1 if self._waits % _RETRY_EVERY else self._looks_max


def enable() -> None:
    """From now on pyfuse3 waits this way. Call it before `pyfuse3.main`, once per session."""
    # With one processor the client cannot run while we look.
    looks_max = LOOKS_MAX if len(os.sched_getaffinity(0)) > 1 else 1
    stand_in: Any = SimpleNamespace(
        Lock=GreedyLock,
        open_nursery=trio.open_nursery,
        ClosedResourceError=trio.ClosedResourceError,
        lowlevel=SimpleNamespace(
            wait_readable=Readiness(looks_max).wait_readable,
            notify_closing=trio.lowlevel.notify_closing,
            current_task=trio.lowlevel.current_task,
            current_trio_token=trio.lowlevel.current_trio_token,
        ),
    )
    pyfuse3.trio = stand_in  # type: ignore[attr-defined]
