"""Checks a volume, and prints what it took: URL DIRECTORY-OF-THE-INDEX SHARE."""

import json
import sys
import time
from pathlib import Path

from fusegw.check.run import Check, run
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.meta.beside import IndexBeside
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from tests.e2e.recovering import resident_max_bytes
from tests.faults.support import KEYS


def main(url: str, meta: str, share: str) -> None:
    clock = SystemClock()
    store = open_store(StoreOptions(url=url), clock=clock, entropy=SystemEntropy())
    before_bytes = resident_max_bytes()
    begun = time.monotonic()
    with IndexBeside(Path(meta)) as index:
        report = run(Check(index.view, store, KEYS, clock, time.sleep, trim=index.trim, share=float(share)))
    took = {
        "seconds": time.monotonic() - begun,
        "max_rss_bytes": resident_max_bytes(),
        "before_rss_bytes": before_bytes,
        "whole": report.whole,
        "problems": [damage.problem for damage in report.damage],
        "files": report.files,
        "chunks_read": report.chunks_read,
    }
    print(json.dumps(took))


if __name__ == "__main__":
    main(*sys.argv[1:])
