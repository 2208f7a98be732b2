"""A store that fails on purpose, by plan or by seeded chance: what tests put below the layer they try.

Faults look to the caller as the S3 client's own errors do. The same seed and the same sequence of calls give
the same faults; every fault is counted.
"""

import enum
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from fusegw.errors import Denied, Overloaded, Unavailable
from fusegw.store.base import ObjectInfo, ObjectStore

_Result = TypeVar("_Result")


class Fault(enum.Enum):
    """One way a request goes wrong."""

    SERVER_ERROR = "500 InternalError: nothing was done"
    SLOW_DOWN = "503 SlowDown: nothing was done"
    DENIED = "403 AccessDenied: nothing was done"
    RESET = "connection reset before the request arrived"
    TRUNCATED = "a body, there or back, that ended early and was noticed"
    STALL = "silence until the time-out; nothing was done"
    LOST_REPLY = "the request was carried out and the reply lost"
    DAMAGED = "a body read with one bit flipped, unnoticed"


class FaultyStore:
    """`ObjectStore` over `inner` with faults. Thread-safe.

    plan: the fault of each request in turn, None for none; when it is used up, chance decides.
    rates: probability of each fault, by `seed`.
    sleep, stall_s: how a stall passes its time.
    note: told of each fault before it happens.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        plan: Iterable[Fault | None] = (),
        rates: Mapping[Fault, float] | None = None,
        seed: int = 0,
        sleep: Callable[[float], object] = lambda seconds: None,
        stall_s: float = 60.0,
        note: Callable[[Fault], object] = lambda fault: None,
    ) -> None:
        self._inner = inner
        self._plan = iter(plan)
        self._rates = dict(rates or {})
        self._seed = seed
        self._sleep = sleep
        self._stall_s = stall_s
        self._note = note
        self._lock = threading.Lock()
        self._requests = 0
        self._outage = False
        self._calm = False
        self.injected: Counter[Fault] = Counter()

    @property
    def url(self) -> str:
        return self._inner.url

    def set_outage(self, outage: bool) -> None:
        """While True every request fails with Unavailable, whatever the plan."""
        self._outage = outage

    def set_calm(self, calm: bool) -> None:
        """While True nothing of the plan and nothing by chance happens."""
        self._calm = calm

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        self._request(lambda: self._inner.put(key, data, create_only=create_only))

    def get(self, key: str, *, size_max: int) -> bytes:
        return self._read(lambda: self._inner.get(key, size_max=size_max))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._read(lambda: self._inner.get_range(key, offset, length))

    def head(self, key: str) -> ObjectInfo:
        return self._request(lambda: self._inner.head(key))[0]

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return self._request(lambda: self._inner.list(prefix, start_after=start_after))[0]

    def delete(self, keys: Iterable[str]) -> None:
        self._request(lambda: self._inner.delete(keys))

    def close(self) -> None:
        self._inner.close()

    def _read(self, call: Callable[[], bytes]) -> bytes:
        data, fault = self._request(call)
        if fault is Fault.DAMAGED and data:
            middle = len(data) // 2
            return b"".join((data[:middle], bytes((data[middle] ^ 1,)), data[middle + 1 :]))
        return data

    def _request(self, call: Callable[[], _Result]) -> tuple[_Result, Fault | None]:
        """The result of `call` and the fault still to be applied to it."""
        if self._outage:
            raise Unavailable(f"store {self.url}: cannot connect")
        fault = None if self._calm else self._next_fault()
        if fault in (None, Fault.DAMAGED):
            return call(), fault
        if fault is Fault.SLOW_DOWN:
            raise Overloaded(f"store {self.url}: {fault.value}")
        if fault is Fault.DENIED:
            raise Denied(f"store {self.url}: {fault.value}")
        if fault is Fault.STALL:
            self._sleep(self._stall_s)
        if fault is Fault.LOST_REPLY:
            call()
        raise Unavailable(f"store {self.url}: {fault.value}")

    def _next_fault(self) -> Fault | None:
        with self._lock:
            number = self._requests
            self._requests += 1
            fault = next(self._plan, self._by_chance(number))
            if fault is not None:
                self.injected[fault] += 1
                self._note(fault)
            return fault

    def _by_chance(self, number: int) -> Fault | None:
        draw = hashlib.blake2b(f"{self._seed}:{number}".encode(), digest_size=8).digest()
        position = int.from_bytes(draw, "big") / 2**64
        for fault, rate in self._rates.items():
            if position < rate:
                return fault
            position -= rate
        return None
