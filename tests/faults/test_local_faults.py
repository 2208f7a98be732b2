"""What failing local disks do to a running volume: clear errors, nothing confirmed is lost, deleting
helps.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from cache.disk import Buffer, OsDisk
from fusegw.clock import SystemClock
from fusegw.errors import Corrupt, Full, FusegwError
from fusegw.meta.schema import ROOT_INODE
from fusegw.store.memory import MemoryStore
from tests.faults.support import (
    TUNING,
    content,
    create,
    forget_cached,
    read_file,
    source,
    until,
    volume,
    write_file,
)


class SickDisk(OsDisk):
    """Refuses writes or syncs while told to."""

    def __init__(self) -> None:
        super().__init__()
        self.write_errno = 0
        self.sync_errno = 0

    def pwrite(self, fd: int, data: Buffer, offset: int) -> None:
        self._refuse(self.write_errno)
        super().pwrite(fd, data, offset)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        self._refuse(self.write_errno)
        super().pwritev(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        self._refuse(self.sync_errno)
        super().fdatasync(fd)

    def _refuse(self, number: int) -> None:
        if number:
            raise OSError(number, os.strerror(number))


def new_store() -> MemoryStore:
    return MemoryStore(clock=SystemClock())


def cache_files(directory: Path) -> list[Path]:
    return [path for path in (directory / "cache" / "packs").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, Full), (errno.EIO, FusegwError)])
@pytest.mark.parametrize("where", ["write_errno", "sync_errno"])
async def test_fsync_never_succeeds_before_the_disk_does(
    tmp_path: Path, where: str, number: int, kind: type[FusegwError]
) -> None:
    disk, store = SickDisk(), new_store()
    async with volume(source(tmp_path, store, disk=disk)) as runtime:
        files = runtime.volume.files
        before = content(1, 200_000)
        ino = await write_file(runtime, b"before", before)
        await files.fsync(ino)
        setattr(disk, where, number)
        data = content(2, 400_000)
        sick = create(runtime, b"sick")
        for offset in range(0, len(data), 100_000):
            await files.write(sick, offset, data[offset : offset + 100_000])
        for _ in range(2):
            with pytest.raises(kind):
                await files.fsync(sick)
        assert await read_file(runtime, b"sick") == data, "what was accepted stays readable"
        assert await read_file(runtime, b"before") == before
        setattr(disk, where, 0)
        await files.fsync(sick)
        await runtime.volume.barrier()
        forget_cached(runtime)
        assert await read_file(runtime, b"sick") == data
        assert await read_file(runtime, b"before") == before
    async with volume(source(tmp_path, store)) as runtime:
        assert runtime.volume.namespace.lookup(ROOT_INODE, b"sick") is not None


async def test_a_full_cache_disk_gives_enospc_and_deleting_helps(tmp_path: Path) -> None:
    disk = SickDisk()
    tuning = replace(TUNING, write_wait_s=2)
    given = source(tmp_path, new_store(), disk=disk, tuning=tuning, cache_size_bytes=1 << 30)
    async with volume(given) as runtime:
        kept = content(3, 500_000)
        await write_file(runtime, b"kept", kept)
        await runtime.volume.sync()
        disk.write_errno = errno.ENOSPC
        refused = None
        accepted = 0
        ino = create(runtime, b"big")
        for number in range(200):
            try:
                await runtime.volume.files.write(ino, number << 20, content(number, 1 << 20))
                accepted += 1
            except OSError as error:
                refused = error.errno
                break
        assert refused == errno.ENOSPC, "memory is bounded: at some point writers are told"
        assert accepted < 100
        runtime.volume.namespace.unlink(ROOT_INODE, b"big")
        disk.write_errno = 0
        await until(lambda: runtime.volume.reap_backlog == 0 and runtime.pipeline.error is None)
        again = content(4, 300_000)
        await write_file(runtime, b"again", again)
        await runtime.volume.barrier()
        assert await read_file(runtime, b"again") == again
        assert await read_file(runtime, b"kept") == kept


async def test_damaged_and_deleted_cache_files_heal_from_the_store(tmp_path: Path) -> None:
    async with volume(source(tmp_path, new_store())) as runtime:
        files = {b"f%d" % n: content(n, 700_000) for n in range(6)}
        for name, data in files.items():
            await write_file(runtime, name, data)
        await runtime.volume.barrier()
        paths = cache_files(tmp_path)
        assert len(paths) >= 3
        for number, path in enumerate(paths):
            if number % 3 == 0:
                path.unlink()
            else:
                with path.open("r+b") as file:
                    for position in range(200, path.stat().st_size, 5_000):
                        file.seek(position)
                        byte = file.read(1)
                        file.seek(position)
                        file.write(bytes([byte[0] ^ 0x40]))
        runtime.reading.forget()
        for name, data in files.items():
            assert await read_file(runtime, name) == data
        runtime.reading.forget()
        misses = runtime.cache.stats().misses
        for name, data in files.items():
            assert await read_file(runtime, name) == data
        assert runtime.cache.stats().misses == misses, "the healed copies are in the cache again"


async def test_damage_in_cache_and_store_is_an_error_that_names_itself_and_heals_by_a_new_write(
    tmp_path: Path,
) -> None:
    store = new_store()
    async with volume(source(tmp_path, store)) as runtime:
        data, other = content(1, 60_000), content(2, 60_000)
        await write_file(runtime, b"f", data)
        await runtime.volume.barrier()
        await write_file(runtime, b"other", other)
        await runtime.volume.barrier()
        damaged = next(iter(store.list("packs/")))
        raw = bytearray(store.get(damaged.key, size_max=1 << 20))
        raw[200] ^= 1
        store.delete([damaged.key])
        store.put(damaged.key, bytes(raw))
        forget_cached(runtime)
        broken = []
        for name, expected in ((b"f", data), (b"other", other)):
            try:
                assert await read_file(runtime, name) == expected
            except Corrupt as error:
                broken.append(name)
                assert damaged.key.rsplit("/", 1)[1] in str(error)
        assert len(broken) == 1, "only the damaged file is refused"
        (name,) = broken
        expected = {b"f": data, b"other": other}[name]
        await write_file(runtime, b"copy", expected)
        await runtime.volume.barrier()
        forget_cached(runtime)
        assert await read_file(runtime, b"copy") == expected


async def test_full_metadata_refuses_new_names_and_lets_old_ones_go(tmp_path: Path) -> None:
    tuning = replace(TUNING, metadata_limit_bytes=1 << 20)
    async with volume(source(tmp_path, new_store(), tuning=tuning)) as runtime:
        names = []
        refused = None
        for number in range(100_000):
            if runtime.volume.crowded:
                try:
                    await runtime.volume.room()
                except OSError as error:
                    refused = error.errno
                    break
            name = b"%0200d" % number
            create(runtime, name)
            names.append(name)
            if number % 500 == 0:
                await runtime.volume.sync_directory(ROOT_INODE)
        assert refused == errno.ENOSPC
        for name in names:
            runtime.volume.namespace.unlink(ROOT_INODE, name)
        await until(lambda: runtime.volume.reap_backlog == 0)
        await runtime.volume.sync_directory(ROOT_INODE)
        assert not runtime.volume.crowded
        create(runtime, b"again")


async def test_filled_up_volume_is_whole_after_all(tmp_path: Path) -> None:
    """A small cache over a good store: writers are slowed, not refused, and the budget holds."""
    async with volume(source(tmp_path, new_store(), tuning=replace(TUNING, write_wait_s=20))) as runtime:
        data = content(6, 40 << 20)
        ino = create(runtime, b"big")
        peak = 0
        for offset in range(0, len(data), 1 << 20):
            await runtime.volume.files.write(ino, offset, data[offset : offset + (1 << 20)])
            on_disk = sum(path.stat().st_blocks * 512 for path in cache_files(tmp_path))
            peak = max(peak, on_disk)
        await runtime.volume.barrier()
        assert peak <= (16 << 20) + (1 << 20)
        runtime.reading.forget()
        for offset in range(0, len(data), 5 << 20):
            assert await runtime.volume.files.read(ino, offset, 4096) == data[offset : offset + 4096]
