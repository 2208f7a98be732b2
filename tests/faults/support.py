"""A small volume over a store that can be made to fail."""

import errno
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from cache.disk import Disk, OsDisk
from fusegw.assembly import Runtime, running_volume
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.config import Tuning
from fusegw.index import Source
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.schema import ROOT_INODE
from fusegw.store.base import ObjectStore
from fusegw.store.faulty import FaultyStore
from fusegw.vfs.caller import Caller

KEYS = VolumeKeys(b"fault volume id!", {1: bytes(32)}, chunk_id_key=b"k" * 32, cutter_seed=0x7654321)
ROOT_USER = Caller(0, 0)
TUNING = Tuning(
    chunk_size_bytes=64 << 10,
    pack_size_bytes=1 << 20,
    codec_threads=2,
    ship_interval_s=0.2,
    commit_interval_s=0.05,
    write_wait_s=0.3,
)


def source(
    directory: Path,
    store: ObjectStore,
    *,
    cache_size_bytes: int = 16 << 20,
    tuning: Tuning = TUNING,
    disk: Disk | None = None,
    unmount_wait_s: float = 30.0,
) -> Source:
    return Source(
        store=store,
        keys=KEYS,
        meta_dir=directory / "meta",
        cache_dir=directory / "cache",
        cache_size_bytes=cache_size_bytes,
        tuning=tuning,
        clock=SystemClock(),
        entropy=SystemEntropy(),
        free_bytes=lambda: 1 << 40,
        disk=disk or OsDisk(),
        unmount_wait_s=unmount_wait_s,
    )


@asynccontextmanager
async def volume(given: Source) -> AsyncIterator[Runtime]:
    """The volume, mounted from the store while that is well; what it plans to do wrong begins afterwards."""
    store = given.store
    if isinstance(store, FaultyStore):
        store.set_calm(True)
    async with running_volume(given) as runtime:
        if isinstance(store, FaultyStore):
            store.set_calm(False)
        yield runtime


def content(seed: int, size: int) -> bytes:
    """Bytes that neither compress nor repeat."""
    return random.Random(seed).randbytes(size)


def create(runtime: Runtime, name: bytes) -> int:
    return runtime.volume.namespace.mknod(ROOT_INODE, name, 0o100644, 0, ROOT_USER).ino


async def write_file(runtime: Runtime, name: bytes, data: bytes) -> int:
    ino = create(runtime, name)
    runtime.volume.files.opened(ino)
    try:
        for offset in range(0, len(data), 256 << 10):
            await runtime.volume.files.write(ino, offset, data[offset : offset + (256 << 10)])
        runtime.volume.files.flush(ino)
    finally:
        runtime.volume.closed(ino)
    return ino


async def fill_until_full(runtime: Runtime, prefix: bytes, size: int = 512 << 10) -> dict[bytes, bytes]:
    """Write files until one gets ENOSPC; those written whole, by name."""
    written: dict[bytes, bytes] = {}
    for number in range(10_000):
        name = prefix + b"%d" % number
        data = content(number + len(prefix) * 100_000, size)
        try:
            await write_file(runtime, name, data)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            runtime.volume.namespace.unlink(ROOT_INODE, name)
            return written
        written[name] = data
    raise AssertionError("the volume never filled up")


async def read_file(runtime: Runtime, name: bytes) -> bytes:
    inode = runtime.volume.namespace.lookup(ROOT_INODE, name)
    assert inode is not None, name
    return await runtime.volume.files.read(inode.ino, 0, inode.size)


def forget_cached(runtime: Runtime) -> None:
    """The next reads go to the store."""
    runtime.reading.forget()
    runtime.cache.drop()


async def until(condition, *, seconds: float = 30.0) -> None:  # type: ignore[no-untyped-def]
    """Wait for a state that other tasks bring about."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)
