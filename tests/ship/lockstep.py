"""One order of events at a time: a scheduler that owns time and the worker threads of a whole volume, or two.

Within `Lockstep.run` every blocking call that the code hands to a worker thread, and within it every request
to a `Contested` store, stops at *points*: before it begins, when a request leaves, when its reply is on the
way. Once all tasks are blocked the scheduler lets one of those that stopped go on to its next point, or lets
time pass to the next deadline; a seed decides which. Nothing ever runs at the same time as anything else, so
the same seed gives the same run.

Now and then one that stopped is left alone for long, as a machine that is suspended is. With `faults` a
request may get lost, its reply may, or it may arrive long after its sender gave it up.
"""

import math
import random
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any, NoReturn, TypeVar

import pytest
import trio
import trio.testing

from fusegw.errors import FusegwError, Unavailable
from fusegw.store.base import ObjectInfo, ObjectStore

_Result = TypeVar("_Result")
STUCK_S = 30
"""Real time one step may take before it counts as a deadlock."""
HELD_S = 5.0
"""Time that may pass at once while a call is held."""
SUSPENDED = 0.003
"""How often one that stopped is left alone,"""
ALONE_STEPS_MAX = 1500
"""and for how many steps of others at most."""


class _Call:
    """A blocking call, in a thread that runs only within `step`."""

    def __init__(self, function: Callable[[], Any], here: threading.local) -> None:
        self._function = function
        self._here = here
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._over = False
        self._error: BaseException | None = None
        self._result: Any = None
        self.done = trio.Event()
        self.alone_until = 0

    def step(self) -> bool:
        """Go on to the next point; whether there was one. Blocks the loop meanwhile, which is the idea."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        else:
            self._go.release()
        assert self._stopped.acquire(timeout=STUCK_S), "a call waits for another one that is held"
        if self._over:
            self._thread.join()
        return not self._over

    def stop(self) -> None:
        """In the call's own thread: wait for the next step."""
        self._stopped.release()
        self._go.acquire()

    def outcome(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        self._here.call = self
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        self._over = True
        self._stopped.release()


class _Late:
    """A request on its way whose sender has given it up."""

    def __init__(self, request: Callable[[], object]) -> None:
        self._request = request
        self.done = trio.Event()
        self.alone_until = 0

    def step(self) -> bool:
        self._request()
        return False


class Lockstep:
    """The scheduler of one run. `random` is for whoever wants chance from the same seed."""

    def __init__(self, seed: int, *, faults: bool = False) -> None:
        self.random = random.Random(seed)
        self.clock = trio.testing.MockClock()
        self.faults = faults
        self._seed = seed
        self._hurry = self.random.uniform(0.01, 0.3)
        self._held: list[_Call | _Late] = []
        self._here = threading.local()
        self.steps = 0

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """Run `body` to its end."""
        # What decides trio's own order; pytest-trio has made that depend on nothing else.
        trio._core._run._r.seed(self._seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", self._run_sync)
            trio.run(self._main, body, clock=self.clock)

    def point(self) -> None:
        """In a worker thread: let others go first, as long as it pleases the scheduler."""
        self._here.call.stop()

    def later(self, request: Callable[[], object]) -> None:
        """Carry `request` out some time, whoever may have sent it."""
        self._hold(_Late(request))

    async def _main(self, body: Callable[[], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drive)
            await body()
            nursery.cancel_scope.cancel()

    async def _run_sync(
        self,
        function: Callable[..., _Result],
        *arguments: object,
        limiter: trio.CapacityLimiter | None = None,
        abandon_on_cancel: bool = False,
    ) -> _Result:
        """As `trio.to_thread.run_sync`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if limiter is not None:
            async with limiter:
                return await self._run_sync(function, *arguments)
        call = _Call(partial(function, *arguments), self._here)
        self._hold(call)
        with trio.CancelScope(shield=True):
            await call.done.wait()
        result: _Result = call.outcome()
        return result

    async def _drive(self) -> None:
        while True:
            await trio.testing.wait_all_tasks_blocked()
            self.steps += 1
            until_next_s = trio.lowlevel.current_statistics().seconds_to_next_deadline
            if self._held and (until_next_s > HELD_S or self.random.random() > self._hurry):
                self._let_one_go()
            else:
                assert until_next_s < math.inf, "everybody waits for somebody else"
                self.clock.jump(max(0.0, until_next_s) + 1e-6)

    def _hold(self, held: "_Call | _Late") -> None:
        if self.random.random() < SUSPENDED:
            held.alone_until = self.steps + self.random.randint(50, ALONE_STEPS_MAX)
        self._held.append(held)

    def _let_one_go(self) -> None:
        awake = [held for held in self._held if held.alone_until <= self.steps] or self._held
        held = self.random.choice(awake)
        self._held.remove(held)
        if held.step():
            self._hold(held)
        else:
            held.done.set()


class LockstepClock:
    """The time of a `Lockstep`, `ahead_s` seconds ahead."""

    def __init__(self, lockstep: Lockstep, *, ahead_s: float = 0.0) -> None:
        self._clock = lockstep.clock
        self._ahead_s = ahead_s

    def time_ns(self) -> int:
        return 10**18 + int((self._clock.current_time() + self._ahead_s) * 1e9)

    def monotonic(self) -> float:
        return self._clock.current_time()


class SeededEntropy:
    """Chance from a seed."""

    def __init__(self, seed: object) -> None:
        self._random = random.Random(str(seed))

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


LOST, REPLY_LOST, LATE = "lost", "reply lost", "late"


class Contested:
    """`ObjectStore` over `inner` for one of those who compete for it."""

    def __init__(self, inner: ObjectStore, lockstep: Lockstep) -> None:
        self._inner = inner
        self._lockstep = lockstep
        self.url = inner.url

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        what = bytes(data)
        self._request(lambda: self._inner.put(key, what, create_only=create_only), writes=True)

    def get(self, key: str, *, size_max: int) -> bytes:
        return self._request(lambda: self._inner.get(key, size_max=size_max))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._request(lambda: self._inner.get_range(key, offset, length))

    def head(self, key: str) -> ObjectInfo:
        return self._request(lambda: self._inner.head(key))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return iter(self._request(lambda: [*self._inner.list(prefix, start_after=start_after)]))

    def delete(self, keys: Iterable[str]) -> None:
        gone = [*keys]
        self._request(lambda: self._inner.delete(gone), writes=True)

    def close(self) -> None:
        self._inner.close()

    def _request(self, send: Callable[[], _Result], *, writes: bool = False) -> _Result:
        lockstep = self._lockstep
        fate = lockstep.random.choice((LOST, REPLY_LOST, LATE)) if self._unlucky() else ""
        lockstep.point()
        if fate in ("", REPLY_LOST):
            result = _outcome(send)
        elif fate == LATE and writes:
            lockstep.later(partial(_outcome, send))
        lockstep.point()
        if fate:
            raise Unavailable(f"store {self.url}: {fate}")
        return result()

    def _unlucky(self) -> bool:
        return self._lockstep.faults and self._lockstep.random.random() < 0.15


def _outcome(send: Callable[[], _Result]) -> Callable[[], _Result]:
    """Carry a request out; its reply, to be looked at later."""
    try:
        result = send()
    except FusegwError as error:
        return partial(_raise, error)
    return lambda: result


def _raise(error: FusegwError) -> NoReturn:
    raise error
