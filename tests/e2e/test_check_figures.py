"""How long, and in how much memory, a volume of many small files is checked: its index, and every record."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from tests.e2e.test_recovery_time import MAKING, MIB, RESIDENT_MAX_BYTES, ROOT, make
from tests.faults.support import source, volume


def run(tmp_path: Path, count: int) -> None:
    url = f"file://{tmp_path}/store"
    store = open_store(StoreOptions(url=url), clock=SystemClock(), entropy=SystemEntropy(), create=True)

    async def prepare() -> None:
        async with volume(source(tmp_path, store, tuning=MAKING, cache_size_bytes=1 << 30)) as runtime:
            await make(runtime, count)

    trio.run(prepare)
    size = (tmp_path / "meta" / "data.mdb").stat().st_size
    for share, what in (("0", "index, packs and log"), ("1", "and every record")):
        command = [sys.executable, "-m", "tests.e2e.checking", url, str(tmp_path / "meta"), share]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        took = json.loads(done.stdout)
        assert took["whole"], took["problems"]
        resident, before = took["max_rss_bytes"] / MIB, took["before_rss_bytes"] / MIB
        print(
            f"{count:,} files, {what}: {took['seconds']:.1f} s, {resident:.0f} MiB, of them {before:.0f} "
            f"before it began; the index has {size / MIB:.0f} MiB; {took['chunks_read']:,} records read"
        )
        assert took["max_rss_bytes"] <= RESIDENT_MAX_BYTES


def test_some_files(tmp_path: Path) -> None:
    run(tmp_path, 1000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [10_000, 100_000, 1_000_000])
def test_many_files(tmp_path: Path, count: int) -> None:
    run(tmp_path, count)
