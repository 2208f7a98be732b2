"""Trying again: what a store answers with Unavailable is asked again, later and later, for a bounded time.

Promises:

- Only Unavailable (and Overloaded, which waits longer) is retried; every other error passes through at once.
- Waits double from try to try up to a ceiling, and each is drawn from the upper half of its span, so that
  many clients spread out. Tries and total time are bounded; the last error says how many and how long.
- A create-only put whose reply was lost finds its own object when tried again: on Exists after an earlier try
  the stored bytes are compared, and equal ones mean success. On the first try Exists is news: passed on.
- `close` wakes all who wait, and nothing is asked of the store any more.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NoReturn, TypeVar

import msgspec
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from fusegw.clock import Clock, Entropy
from fusegw.errors import Corrupt, Exists, NotFound, Overloaded, Unavailable
from fusegw.store.base import DELETE_BATCH_MAX, ObjectInfo, ObjectStore

LIST_SLICE = 1000
"""Entries taken from a list before they are handed on; one page of S3."""

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class RetryPolicy(msgspec.Struct, frozen=True):
    """How long to keep trying one request."""

    tries_max: int = 8
    elapsed_max_s: float = 120.0
    """No new try begins after this."""
    wait_first_s: float = 0.1
    wait_first_overloaded_s: float = 1.0
    wait_max_s: float = 5.0

    def wait_s(self, tries: int, *, overloaded: bool) -> float:
        """Longest wait after that many tries."""
        first = self.wait_first_overloaded_s if overloaded else self.wait_first_s
        return float(min(self.wait_max_s, first * 2 ** min(tries - 1, 32)))


class RetryingStore:
    """`ObjectStore` that repeats what may succeed later. Thread-safe."""

    def __init__(
        self,
        inner: ObjectStore,
        *,
        clock: Clock,
        entropy: Entropy,
        policy: RetryPolicy = RetryPolicy(),
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """sleep: waits so many seconds; by default until `close` at the latest."""
        self._inner = inner
        self._clock = clock
        self._entropy = entropy
        self._policy = policy
        self._closing = threading.Event()
        self._sleep = sleep or self._closing.wait

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        tries = 0

        def attempt() -> None:
            nonlocal tries
            tries += 1
            try:
                self._inner.put(key, data, create_only=create_only)
            except Exists:
                if tries == 1 or not self._holds(key, data):
                    raise

        self._again(attempt)

    def get(self, key: str, *, size_max: int) -> bytes:
        return self._again(lambda: self._inner.get(key, size_max=size_max))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._again(lambda: self._inner.get_range(key, offset, length))

    def head(self, key: str) -> ObjectInfo:
        return self._again(lambda: self._inner.head(key))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        last = start_after
        entries: Iterator[ObjectInfo] | None = None

        def attempt() -> tuple[ObjectInfo, ...]:
            nonlocal entries
            # An iterator that raised is over: begin a new one after the last entry handed on.
            current = self._inner.list(prefix, start_after=last) if entries is None else entries
            entries = None
            found = tuple(islice(current, LIST_SLICE))
            entries = current
            return found

        while found := self._again(attempt):
            yield from found
            last = found[-1].key

    def delete(self, keys: Iterable[str]) -> None:
        remaining = iter(keys)
        while batch := tuple(islice(remaining, DELETE_BATCH_MAX)):
            self._delete_batch(batch)

    def close(self) -> None:
        self._closing.set()
        self._inner.close()

    def _delete_batch(self, batch: tuple[str, ...]) -> None:
        self._again(lambda: self._inner.delete(batch))

    def _holds(self, key: str, data: bytes | memoryview) -> bool:
        """Whether the object under `key` has exactly these bytes."""
        try:
            return self._inner.get(key, size_max=len(data)) == data
        except (Corrupt, NotFound):  # longer than ours, or deleted meanwhile
            return False

    def _pause(self, seconds: float) -> None:
        self._sleep(seconds)

    def _again(self, attempt: Callable[[], _Result]) -> _Result:
        """The result of `attempt`, tried as the policy says."""
        policy, started = self._policy, self._clock.monotonic()

        def wait(state: RetryCallState) -> float:
            longest = policy.wait_s(state.attempt_number, overloaded=isinstance(_error(state), Overloaded))
            return self._entropy.uniform(longest / 2, longest)

        def stop(state: RetryCallState) -> bool:
            elapsed = self._clock.monotonic() - started
            too_late = elapsed + state.upcoming_sleep > policy.elapsed_max_s
            return too_late or state.attempt_number >= policy.tries_max or self._closing.is_set()

        def give_up(state: RetryCallState) -> NoReturn:
            error = _error(state)
            elapsed = self._clock.monotonic() - started
            tries = state.attempt_number
            raise type(error)(f"{error} (gave up after {tries} tries in {elapsed:.1f} s)") from error

        def note(state: RetryCallState) -> None:
            _log.info(
                "try %d failed, next in %.1f s: %s", state.attempt_number, state.upcoming_sleep, _error(state)
            )

        def unless_closed() -> _Result:
            if self._closing.is_set():
                raise Unavailable(f"store {self.url}: closed while a request waited to be tried again")
            return attempt()

        retrying = Retrying(
            sleep=self._pause,
            wait=wait,
            stop=stop,
            retry=retry_if_exception_type(Unavailable),
            before_sleep=note,
            retry_error_callback=give_up,
        )
        return retrying(unless_closed)


def _error(state: RetryCallState) -> BaseException:
    """What the try that just ended raised."""
    error = state.outcome.exception() if state.outcome is not None else None
    if error is None:
        raise AssertionError("only failed tries are waited for")
    return error
