"""`fusegw` whose mounted volume lies in a directory that fails; the environment says how (`FileChaos`).

The faults lie below what tries again, where a server's would come from.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fusegw.store.opening
from fusegw.cli.main import main
from fusegw.config import GatewaySettings
from fusegw.daemon.process import Ready
from fusegw.gateway import run
from fusegw.store.base import ObjectInfo
from fusegw.store.directory import DirectoryStore
from fusegw.store.faulty import Fault, FaultyStore
from scripts.soaklib.chaos import (
    NOTES_VARIABLE,
    SEED_VARIABLE,
    STALL_S,
    STORE_RATES,
    WEATHER_VARIABLE,
    Weather,
)


class Weathered:
    """`ObjectStore` over a directory that looks at the weather before each request."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._weather = Path(os.environ[WEATHER_VARIABLE])
        self._notes = Path(os.environ[NOTES_VARIABLE])
        # Each process its own faults, as each connection has; the seed alone would repeat the first ones.
        seed = hash((int(os.environ[SEED_VARIABLE]), self._notes.stat().st_size))
        self._store = FaultyStore(
            DirectoryStore(*arguments, **options),
            rates=STORE_RATES,
            seed=seed,
            sleep=time.sleep,
            stall_s=STALL_S,
            note=self._note,
        )

    @property
    def url(self) -> str:
        return self._store.url

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        self._today().put(key, data, create_only=create_only)

    def get(self, key: str, *, size_max: int) -> bytes:
        return self._today().get(key, size_max=size_max)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._today().get_range(key, offset, length)

    def head(self, key: str) -> ObjectInfo:
        return self._today().head(key)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return self._today().list(prefix, start_after=start_after)

    def delete(self, keys: Iterable[str]) -> None:
        self._today().delete(keys)

    def close(self) -> None:
        self._store.close()

    def _today(self) -> FaultyStore:
        weather = Weather(self._weather.read_text())
        self._store.set_calm(weather is Weather.CALM)
        self._store.set_outage(weather is Weather.AWAY)
        return self._store

    def _note(self, fault: Fault) -> None:
        with self._notes.open("a") as notes:
            notes.write(f"{fault.name}\n")


def gateway(settings: GatewaySettings, *, on_ready: Ready) -> None:
    fusegw.store.opening.DirectoryStore = Weathered  # type: ignore[misc,assignment]
    run(settings, on_ready=on_ready)


if __name__ == "__main__":
    sys.exit(main(gateway=gateway))
