"""Watching a running gateway from outside: disk space of its cache, its own figures, its memory."""

import contextlib
import os
import re
import threading
from pathlib import Path
from typing import NamedTuple

from fusegw.config import VolumePaths
from fusegw.control.client import ControlClient
from tests.mount.gateways import NAME, Gateway

SAMPLE_S = 0.1


class Sample(NamedTuple):
    """Bytes at one moment."""

    on_disk: int
    """What du counts below the cache directory."""
    used: int
    """What `cache stats` says."""
    resident: int
    """Memory of the process, without what it shares with the page cache's files."""


class Watch:
    """`with Watch(gateway) as watch:` samples until the end of the block; at least one sample is taken."""

    def __init__(self, gateway: Gateway) -> None:
        self._cache = gateway.cache
        self._pid = gateway.pid
        self._client = ControlClient(VolumePaths(gateway.state, NAME).socket_file)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._failure: Exception | None = None
        self.samples: list[Sample] = []

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self._failure is None, f"watching ended early: {self._failure!r}"

    @property
    def on_disk_max(self) -> int:
        return max(sample.on_disk for sample in self.samples)

    @property
    def used_max(self) -> int:
        return max(sample.used for sample in self.samples)

    @property
    def resident_max(self) -> int:
        """Also between two samples, since the process began: the kernel's own high-water mark."""
        return max(memory(self._pid, "VmHWM"), *(sample.resident for sample in self.samples))

    def report(self) -> str:
        mib = 1 << 20
        return (
            f"cache on disk ≤ {self.on_disk_max / mib:.1f} MiB, by its own account ≤ "
            f"{self.used_max / mib:.1f} MiB, memory ≤ {self.resident_max / mib:.1f} MiB "
            f"({len(self.samples)} samples)"
        )

    def _watch(self) -> None:
        try:
            while True:
                used = self._client.cache_stats().used_bytes
                self.samples.append(Sample(disk_usage(self._cache), used, memory(self._pid, "VmRSS")))
                if self._stop.wait(SAMPLE_S):
                    return
        except Exception as error:
            self._failure = error


def disk_usage(place: Path) -> int:
    """Allocated bytes of all files below `place`, which may change meanwhile."""
    total = 0
    for directory, _, names in os.walk(place):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


def memory(pid: int, field: str) -> int:
    """A field of /proc/PID/status, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None, f"process {pid} has no {field}"
    return int(found[1]) << 10
