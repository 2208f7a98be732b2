"""How much was asked of a store since the mount, and since this host knows the volume.

The totals are a small file beside the index, replaced as a whole every `SAVE_INTERVAL_S` and at the end of a
mount; so a gateway that is killed loses the figures of that time at most. They are this host's: a recovery
elsewhere begins at zero, and so does one whose file is damaged. What commands ask of a store by themselves
(`check`, `drill`, `recover`, `init`) is not in them.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from fusegw.clock import Clock
from fusegw.durable import replace_file
from fusegw.errors import Corrupt, Denied, UnknownFormat
from fusegw.store.counting import Traffic, TrafficCounter

FORMAT_VERSION: Final = 1
SAVE_INTERVAL_S: Final = 60.0

log = logging.getLogger(__name__)


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """A time, and what was going on in it."""

    since_unix_s: float
    """When it began, in seconds since 1970."""
    traffic: Traffic = Traffic()
    ingested_bytes: int = 0
    """Data written to files, before deduplication and compression."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds."""

    format_version: int = FORMAT_VERSION
    saved_unix_s: float
    period: Period


_TOTALS: msgspec.json.Decoder[Totals] = msgspec.json.Decoder(Totals)


def load_totals(file: Path) -> Totals | None:
    """What was saved last, None when nothing was. Corrupt, Denied, UnknownFormat."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Denied(f"{file} cannot be read: {error.strerror}") from None
    try:
        version = msgspec.json.decode(data, type=dict[str, object]).get("format_version")
        if version != FORMAT_VERSION:
            raise UnknownFormat(
                f"{file} has format version {version!r}, this fusegw knows {FORMAT_VERSION}; upgrade fusegw"
            )
        return _TOTALS.decode(data)
    except msgspec.DecodeError as error:
        raise Corrupt(
            f"{file} is damaged ({error}); it only counts requests: remove it, and the count begins anew"
        ) from None


class Meter:
    """Reads the counters of one mount and adds them to what the file has. Thread-safe; one `save` at a time.

    `ingested` gives the bytes written to files since the mount.
    """

    def __init__(
        self,
        file: Path,
        counter: TrafficCounter,
        *,
        ingested: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._file = file
        self._counter = counter
        self._ingested = ingested
        self._clock = clock
        self._began_unix_s = self._now_unix_s()
        self._before = self._load()
        self._saved: Period | None = None
        self._failing = False

    def since_mount(self) -> Period:
        """This mount alone."""
        return Period(
            since_unix_s=self._began_unix_s,
            traffic=self._counter.traffic(),
            ingested_bytes=self._ingested(),
        )

    def total(self) -> Period:
        """This mount and those before it."""
        return _together(self._before, self.since_mount())

    def save(self) -> None:
        """Blocking. What cannot be written is logged, once, and tried again by the next call."""
        total = self.total()
        if total == self._saved:
            return
        totals = Totals(saved_unix_s=self._now_unix_s(), period=total)
        try:
            replace_file(self._file, msgspec.json.format(msgspec.json.encode(totals), indent=2) + b"\n")
        except OSError as error:
            if not self._failing:
                log.warning("the count of requests in %s cannot be saved: %s", self._file, error.strerror)
            self._failing = True
            return
        self._saved, self._failing = total, False

    def _load(self) -> Period:
        try:
            found = load_totals(self._file)
        except (Corrupt, Denied, UnknownFormat) as error:
            log.warning("the count of requests begins anew: %s", error)
            found = None
        return Period(since_unix_s=self._began_unix_s) if found is None else found.period

    def _now_unix_s(self) -> float:
        return self._clock.time_ns() / 1e9


def _together(before: Period, now: Period) -> Period:
    return Period(
        since_unix_s=before.since_unix_s,
        traffic=before.traffic.plus(now.traffic),
        ingested_bytes=before.ingested_bytes + now.ingested_bytes,
    )
