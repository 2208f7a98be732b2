"""fio: 4 KiB at random places of one file, one request after the other in each job, past the page cache.

Without O_DIRECT a file this small would soon be in the page cache whole, and the kernel alone be measured.
"""

import os
import shutil
from pathlib import Path
from typing import Any, Literal

import msgspec

from scripts.benchlib import machine

_SIZE_BYTES_MAX = 256 << 20
_SECONDS_MAX = 10
_SHARE = 4
"""The file has so small a part of the large file's length."""
_BYTES_PER_SECOND = 100 << 20
"""A run takes a second for each time that the large file has these."""
_NS = 1e-9


class Case(msgspec.Struct, frozen=True):
    """One kind of run."""

    direction: Literal["read", "write"]
    jobs: int

    @property
    def workloads(self) -> tuple[str, str, str]:
        """Names of what it yields: operations per second, and two latencies."""
        name = f"fio-{self.direction}-{self.jobs}"
        return name, f"{name}-p50", f"{name}-p99"


CASES = (Case("read", 1), Case("read", 8), Case("write", 1), Case("write", 8))
"""Reads first: the file is then as it was written, in one piece."""


class Plan(msgspec.Struct, frozen=True):
    """How long the file is, and how long each run takes."""

    size_bytes: int
    seconds: int

    @classmethod
    def of(cls, large_bytes: int) -> "Plan":
        """256 MiB and 10 s where the large file has a GiB; less where it is smaller."""
        seconds = large_bytes // _BYTES_PER_SECOND
        return cls(min(large_bytes // _SHARE, _SIZE_BYTES_MAX), max(1, min(seconds, _SECONDS_MAX)))


def installed() -> bool:
    return shutil.which("fio") is not None


def lay_out(file: Path, size_bytes: int) -> None:
    """`file` has that many bytes that nothing can compress, unless it is there already."""
    if file.exists():
        return
    with file.open("wb") as out:
        left = size_bytes
        while left:
            piece = min(left, machine.READ_BYTES)
            out.write(os.urandom(piece))
            left -= piece
        os.fsync(out.fileno())


def run(case: Case, file: Path, plan: Plan) -> dict[str, float]:
    """Figures of the case, by workload; `file` must have been laid out."""
    said = machine.run(
        [
            *("fio", "--name=bench", f"--filename={file}", f"--size={plan.size_bytes}", "--bs=4k"),
            *(f"--rw=rand{case.direction}", f"--numjobs={case.jobs}", "--group_reporting"),
            *("--ioengine=psync", "--direct=1", "--time_based", f"--runtime={plan.seconds}"),
            "--output-format=json",
        ],
        directory=file.parent,
    )
    return figures(case, msgspec.json.decode(said[said.index("{") :]))


def figures(case: Case, report: dict[str, Any]) -> dict[str, float]:
    """What fio's JSON says: operations per second, latencies in seconds."""
    found = report["jobs"][0][case.direction]
    percentiles = found["clat_ns"]["percentile"]
    values = found["iops"], percentiles["50.000000"] * _NS, percentiles["99.000000"] * _NS
    return dict(zip(case.workloads, values, strict=True))
