"""What the store does to the gateway: nothing, many things by seeded chance, or it is away.

Before an S3 server the faults happen on the wire, in a proxy. A directory has no wire: there the gateway
itself is started with a store that fails (`scripts.soaklib.daemon`), and is told the weather by a file.
"""

import enum
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Protocol

from fusegw.store.faulty import Fault
from tests.plugins.wire import Page, Reply, Request, Step

STALL_S = 3.0
WEATHER_VARIABLE, NOTES_VARIABLE, SEED_VARIABLE = (
    f"FUSEGW_SOAK_{name}" for name in ("WEATHER", "NOTES", "SEED")
)


class Weather(enum.Enum):
    """How the store is at present."""

    CALM = "calm"
    ROUGH = "rough"
    AWAY = "away"


STORE_RATES = {
    Fault.SLOW_DOWN: 0.20,
    Fault.RESET: 0.15,
    Fault.TRUNCATED: 0.03,
    Fault.LOST_REPLY: 0.05,
    Fault.STALL: 0.01,
}
WIRE_RATES: dict[Step | Reply, float] = {
    Reply(503, "SlowDown"): 0.20,
    Step.RESET: 0.15,
    Step.TRUNCATE_REPLY: 0.03,
    Step.LOSE_REPLY: 0.05,
    Step.STALL: 0.01,
}


class Chaos(Protocol):
    """Makes the weather, and counts what it did."""

    def set(self, weather: Weather) -> None: ...

    def faults(self) -> Counter[str]: ...


class WireChaos:
    """Of a proxy: `step` is asked at each request."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._weather = Weather.CALM
        self._faults: Counter[str] = Counter()

    def set(self, weather: Weather) -> None:
        self._weather = weather

    def faults(self) -> Counter[str]:
        with self._lock:
            return self._faults.copy()

    def step(self, request: Request) -> Step | Reply | Page:
        if self._weather is Weather.CALM:
            return Step.PASS
        if self._weather is Weather.AWAY:
            return Step.RESET
        with self._lock:
            position = self._chance.random()
            for step, rate in WIRE_RATES.items():
                if position < rate:
                    self._faults[step.code if isinstance(step, Reply) else step.name] += 1
                    return step
                position -= rate
        return Step.PASS


class FileChaos:
    """Of a store in another process: it reads the weather from one file and notes faults in another."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._weather, self._notes = directory / "weather", directory / "faults"
        self._notes.touch()
        self.set(Weather.CALM)
        self.environment = {
            WEATHER_VARIABLE: str(self._weather),
            NOTES_VARIABLE: str(self._notes),
            SEED_VARIABLE: str(seed),
        }

    def set(self, weather: Weather) -> None:
        new = self._weather.with_suffix(".new")
        new.write_text(weather.value)
        new.replace(self._weather)

    def faults(self) -> Counter[str]:
        return Counter(self._notes.read_text().split())
