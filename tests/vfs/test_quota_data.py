"""Written data and quotas: what is in memory counts, and no more than turns out to be there."""

import errno
from pathlib import Path

import pytest

from fusegw.assembly import Runtime
from fusegw.clock import SystemClock
from fusegw.meta.schema import ROOT_INODE
from fusegw.store.memory import MemoryStore
from fusegw.vfs.usage import Usage
from tests.faults.support import ROOT_USER, content, source, volume
from tests.vfs.counting import check_quotas
from tests.vfs.trees import failing

KIB = 1 << 10
LIMIT = 1024 * KIB
PIECE = 64 * KIB


class Place:
    """A directory with a quota in a running volume."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.files = runtime.volume.files
        self.ino = runtime.volume.namespace.mkdir(ROOT_INODE, b"top", 0o755, ROOT_USER).ino
        runtime.quotas.set(self.ino, bytes_max=LIMIT)

    def create(self, name: bytes) -> int:
        ino = self.runtime.volume.namespace.mknod(self.ino, name, 0o100644, 0, ROOT_USER).ino
        self.files.opened(ino)
        return ino

    async def fill(self, ino: int, pieces: int, *, start: int = 0, seed: int = 1) -> int:
        """Write that many pieces that do not repeat, or up to the first that is refused; how many went in."""
        for number in range(start, start + pieces):
            try:
                await self.files.write(ino, number * PIECE, content(ino * 1000 + number + seed, PIECE))
            except OSError as error:
                assert error.errno == errno.EDQUOT, error
                return number - start
        return pieces

    @property
    def used(self) -> int:
        return self.runtime.quotas.find(self.ino).used.nbytes

    async def settled(self) -> int:
        await self.files.settle_all()
        check_quotas(self.runtime.metadata)
        return self.used


@pytest.mark.parametrize("protected", [True, False], ids=["protected", "control"])
async def test_many_writers_stop_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    if not protected:
        monkeypatch.setattr(Usage, "wrote", lambda self, ino, nbytes: None)
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as runtime:
        place = Place(runtime)
        writers = [place.create(b"%d" % number) for number in range(5)]
        for number in range(8):
            for ino in writers:
                await place.fill(ino, 1, start=number)
        assert (await place.settled() == LIMIT) == protected


async def test_zeros_and_what_is_written_over_need_no_room(tmp_path: Path) -> None:
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as runtime:
        place = Place(runtime)
        ino = place.create(b"zeros")
        for number in range(40):
            assert await place.files.write(ino, number * PIECE, bytes(PIECE)) == PIECE
        assert await place.settled() == 0
        assert await place.fill(ino, 40) == LIMIT // PIECE
        assert await place.settled() == LIMIT
        for seed in range(2, 6):
            assert await place.fill(ino, LIMIT // PIECE, seed=seed) == LIMIT // PIECE
        with failing(errno.EDQUOT):
            await place.files.write(ino, 30 * PIECE, b"x")
        assert await place.settled() == LIMIT
        assert await place.files.read(ino, 5 * PIECE, PIECE) == content(ino * 1000 + 5 + 5, PIECE)


async def test_what_is_cut_off_or_closed_gives_room(tmp_path: Path) -> None:
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as runtime:
        place = Place(runtime)
        first, second = place.create(b"first"), place.create(b"second")
        assert await place.fill(first, 40) == 16
        place.files.truncate(first, 4 * PIECE)
        assert await place.fill(second, 40) == 12
        runtime.volume.namespace.unlink(place.ino, b"first")
        with failing(errno.EDQUOT):
            await place.files.write(second, 12 * PIECE, content(9, PIECE))
        runtime.volume.closed(first)
        await place.files.settle_all()
        while runtime.volume.reap_backlog:
            await runtime.committer.commit()
        assert await place.fill(second, 40, start=12) == 4
        assert await place.settled() == LIMIT


async def test_a_file_takes_along_what_is_in_memory(tmp_path: Path) -> None:
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as runtime:
        place, names = Place(runtime), runtime.volume.namespace
        outside = names.mknod(ROOT_INODE, b"outside", 0o100644, 0, ROOT_USER).ino
        place.files.opened(outside)
        assert await place.fill(outside, 10) == 10
        names.rename(ROOT_INODE, b"outside", place.ino, b"inside", 0)
        assert await place.fill(place.create(b"other"), 40) == 6
        with failing(errno.EDQUOT):
            await place.files.write(outside, 10 * PIECE, content(9, PIECE))
        assert await place.settled() == LIMIT
        names.rename(place.ino, b"inside", ROOT_INODE, b"outside", 0)
        assert await place.settled() == 6 * PIECE


async def test_refused_writes_leave_no_claim_on_the_cache(tmp_path: Path) -> None:
    async with volume(source(tmp_path, MemoryStore(clock=SystemClock()))) as runtime:
        place = Place(runtime)
        ino = place.create(b"a")
        assert await place.fill(ino, 16) == 16
        await runtime.volume.barrier()
        await runtime.shipper.close()
        before = runtime.cache.fill_ratio()
        for _ in range(100):
            assert await place.fill(ino, 1, start=16) == 0
        assert runtime.cache.fill_ratio() == before
