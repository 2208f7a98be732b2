"""Recovers an index from the store in a directory, and prints what it took: URL PLACE."""

import json
import re
import sys
import time
from pathlib import Path

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.ship.recover import recover
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from tests.faults.support import KEYS


def resident_max_bytes() -> int:
    """The most that was resident since the start; getrusage would count the parent's before exec."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def main(url: str, place: str) -> None:
    clock = SystemClock()
    store = open_store(StoreOptions(url=url), clock=clock, entropy=SystemEntropy())
    before_bytes = resident_max_bytes()
    begun = time.monotonic()
    done = recover(Path(place), store, KEYS, metadata_limit_bytes=1 << 40, clock=clock)
    took = {
        "seconds": time.monotonic() - begun,
        "max_rss_bytes": resident_max_bytes(),
        "before_rss_bytes": before_bytes,
        "seq": done.head.seq,
        "checkpoint": done.checkpoint,
        "segments": done.segments,
    }
    print(json.dumps(took))


if __name__ == "__main__":
    main(*sys.argv[1:])
