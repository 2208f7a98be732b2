"""How long, and in how much memory, an index of many small files comes back from the store alone."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import trio

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import LOGGED_TABLES, ROOT_INODE
from fusegw.ship.checkpoint import Manifest
from fusegw.store.base import ObjectStore
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from tests.faults.support import ROOT_USER, TUNING, source, volume

MIB = 1 << 20
RESIDENT_MAX_BYTES = 500 * MIB
FILE_BYTES_MAX = 300
PER_DIRECTORY = 1000
BATCH = 50
"""Below the number of writes that may wait for room at a time."""
ROOT = Path(__file__).parents[2]
MAKING = msgspec.structs.replace(
    TUNING, ship_interval_s=5, commit_interval_s=1, pack_size_bytes=32 << 20, write_wait_s=60
)


def directory_name(number: int) -> bytes:
    return b"folder-%05d" % number


def file_name(number: int) -> bytes:
    return b"document-%07d.txt" % number


async def make(runtime: Runtime, count: int) -> None:
    """That many files of a few bytes, in directories of a thousand."""
    directory = ROOT_INODE
    names, files = runtime.volume.namespace, runtime.volume.files

    async def write(number: int, parent: int) -> None:
        ino = names.mknod(parent, file_name(number), 0o100644, 0, ROOT_USER).ino
        files.opened(ino)
        try:
            await files.write(ino, 0, b"content of document %d" % number)
            files.flush(ino)
        finally:
            runtime.volume.closed(ino)

    for first in range(0, count, BATCH):
        if first % PER_DIRECTORY == 0:
            name = directory_name(first // PER_DIRECTORY)
            directory = names.mkdir(ROOT_INODE, name, 0o755, ROOT_USER).ino
        async with trio.open_nursery() as nursery:
            for number in range(first, min(first + BATCH, count)):
                nursery.start_soon(write, number, directory)
        await runtime.committer.room()
    await runtime.volume.barrier()


def digest(metadata: Metadata) -> str:
    """Of all rows that describe the volume."""
    found = hashlib.blake2b()
    with metadata.view() as view:
        for table in LOGGED_TABLES:
            for key, stored in view.stored(table):
                found.update(key)
                found.update(stored)
    return found.hexdigest()


async def checkpointed(directory: Path, store: ObjectStore) -> tuple[Manifest, str, float]:
    """The checkpoint that a gateway writes of the volume by itself; the volume's rows; seconds it took."""
    always = msgspec.structs.replace(MAKING, checkpoint_interval_s=0.001, ship_interval_s=0.2)
    async with volume(source(directory, store, tuning=always, cache_size_bytes=1 << 30)) as runtime:
        begun = time.monotonic()
        await runtime.volume.barrier()
        checkpointer = runtime.checkpointer
        while checkpointer.newest is None or checkpointer.newest.name.seq != runtime.log.head.seq:
            await trio.sleep(0.05)
        return checkpointer.newest.manifest, digest(runtime.metadata), time.monotonic() - begun


def run(tmp_path: Path, count: int) -> None:
    url = f"file://{tmp_path}/store"
    store = open_store(StoreOptions(url=url), clock=SystemClock(), entropy=SystemEntropy(), create=True)

    async def prepare() -> tuple[Manifest, str, float]:
        given = source(tmp_path, store, tuning=MAKING, cache_size_bytes=1 << 30)
        async with volume(given) as runtime:
            await make(runtime, count)
        return await checkpointed(tmp_path, store)

    manifest, before, writing_s = trio.run(prepare)
    place = tmp_path / "recovered"
    command = [sys.executable, "-m", "tests.e2e.recovering", url, str(place)]
    took = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    recovered = Metadata(place, size_max_bytes=1 << 40)
    try:
        assert digest(recovered) == before
    finally:
        recovered.close()
    per_file = manifest.raw_bytes / count
    resident, before_it = took["max_rss_bytes"] / MIB, took["before_rss_bytes"] / MIB
    stored = f"{manifest.stored_bytes / MIB:.1f} MiB ({manifest.stored_bytes / count:.0f} per file)"
    print(
        f"\n{count:,} files: checkpoint in {writing_s:.1f} s, {per_file:.0f} bytes per file, stored {stored}"
    )
    print(
        f"recovered in {took['seconds']:.1f} s with {resident:.0f} MiB, of them {before_it:.0f} before it "
        f"began, and {took['segments']} segments after checkpoint {took['checkpoint']}"
    )
    assert took["checkpoint"] is not None
    assert per_file <= FILE_BYTES_MAX
    assert took["max_rss_bytes"] <= RESIDENT_MAX_BYTES


def test_some_files(tmp_path: Path) -> None:
    run(tmp_path, 1000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [10_000, 100_000, 1_000_000])
def test_many_files(tmp_path: Path, count: int) -> None:
    run(tmp_path, count)
