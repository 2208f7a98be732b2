"""What grows with the number of files, and what does not: the index, table by table; the time until a volume
is mounted; memory; names looked up and made in a second.

The volumes are made of rows (`tests.e2e.generated`): each file has 1,000,000 bytes in one chunk, so ten
million of them are 10 TB. Gateways, mounts and requests are real. Rates are taken in turns, all sizes one
after the other in each round, so that what else the machine does meets them alike.
"""

import contextlib
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from fusegw.check.damages import Damages
from fusegw.check.index import check_index
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.config import VolumePaths
from fusegw.meta.beside import IndexBeside
from fusegw.meta.metadata import Metadata
from fusegw.meta.opening import DATA_NAME
from fusegw.meta.schema import CHUNK, CHUNK_ID, DIRENT, EXTENT, PACK, POSITION
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from fusegw.vfs.fresh import create_volume_root
from tests.e2e.generated import PER_DIRECTORY, directory_name, file_name, fill, path_of, sizes
from tests.e2e.sampling import memory
from tests.e2e.test_recovery_time import MAKING, make
from tests.faults.support import source, volume
from tests.mount.gateways import NAME, Gateway, drop_kernel_caches, kernel_caches_shared

MIB = 1 << 20
BYTES_MAX = 300
"""Of the index per file, with all that its data needs."""
GROWN_BYTES_MAX = 330
"""The same, where pages are not full."""
LAST_PAGES_BYTES = 64 << 10
"""Of each table the last page, and what leads to it."""
NAME_BYTES_MAX = 150
"""Without the rows of its data."""
PRIVATE_BYTES_MAX = 100 * MIB
"""Memory of a gateway that was just mounted, without the pages of the index that it has mapped."""
KNOWN_BYTES_MAX = 200
"""What it takes more for each file that the kernel knows of."""
DATA = {table.name for table in (EXTENT, CHUNK, CHUNK_ID, PACK)}
QUIET = "[volumes.tank]\nscrub_daily_share = 0\ngc_interval_s = 0\nmetadata_limit = '512G'\n"
"""The packs that the index names do not exist."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Effort(msgspec.Struct, frozen=True):
    """How much is done."""

    rounds: int
    names: int
    """Looked up, and made, in a round."""
    mounts: int
    """With the index in memory."""
    looked_up: int = 0
    """Files of the largest volume whose attributes are asked for in the end."""
    made: int = 0
    """Files that are then made there."""


class Scale:
    """A volume of `count` files, and the gateway that serves it."""

    def __init__(self, base: Path, count: int) -> None:
        base.mkdir()
        self.count = count
        self.gateway = Gateway(base)
        self.gateway.configure(QUIET)
        self.index = VolumePaths(self.gateway.state, NAME).meta_dir
        self.rates: dict[str, list[float]] = {}
        self.costs: dict[str, list[float]] = {}
        self.faults: dict[str, list[float]] = {}
        self._made = 0

    def make(self) -> None:
        """All files are there, nothing is mounted."""
        self.gateway.mount()
        self.gateway.umount()
        begun = time.monotonic()
        fill(self.index, self.count)
        self.say(f"made in {time.monotonic() - begun:.0f} s")

    def say(self, text: str) -> None:
        print(f"{self.count:>10,} files: {text}")

    def weigh(self) -> None:
        """The index, table by table."""
        tables = {name: size for name, size in sizes(self.index).items() if size.rows > 1}
        total = sum(size.nbytes for size in tables.values())
        data = sum(size.nbytes for name, size in tables.items() if name in DATA)
        parts = ", ".join(f"{name} {size.nbytes / self.count:.1f}" for name, size in tables.items())
        self.say(
            f"index of {total / MIB:,.0f} MiB, {total / self.count:.0f} bytes per file, "
            f"{(total - data) / self.count:.0f} of them without its data: {parts}"
        )
        if self.count >= 10 * PER_DIRECTORY:
            assert total <= BYTES_MAX * self.count + LAST_PAGES_BYTES
            assert total - data <= NAME_BYTES_MAX * self.count + LAST_PAGES_BYTES

    def mount_cold(self, names: int, chance: random.Random) -> None:
        """Mounted with an empty page cache; then names are looked up, so each page of the index that this
        takes is read from the disk."""
        drop_kernel_caches()
        took_s, processor_s = self._mount()
        self.say(
            f"mounted in {took_s:.2f} s ({processor_s:.2f} s of processor time of the gateway) with an empty "
            f"page cache; {self.memory()}"
        )
        assert self.private_bytes() <= PRIVATE_BYTES_MAX
        assert self.gateway.status()["files"] == 1 + self.count // PER_DIRECTORY + self.count
        begun = time.monotonic()
        asked = self.look_up(names, chance)
        rate = asked / (time.monotonic() - begun)
        self.say(f"{rate:,.0f} names looked up a second, with an empty page cache; {self.memory()}")
        self.gateway.umount()

    def mount_warm(self, mounts: int) -> None:
        """Mounted with the whole index in the page cache; mounted on return."""
        self.warm()
        took = []
        for turn in range(mounts):
            if turn:
                self.gateway.umount()
            took.append(self._mount())
        took_s, processor_s = (statistics.median(each) for each in zip(*took, strict=True))
        self.say(
            f"mounted in {took_s:.2f} s ({processor_s:.2f} s of processor time of the gateway) with a warm "
            f"index (median of {mounts}); {self.memory()}"
        )

    def warm(self) -> None:
        """The whole index is in the page cache, unless something else drops it."""
        with open(self.index / DATA_NAME, "rb", buffering=0) as file:
            while file.read(MIB):
                pass

    def _mount(self) -> tuple[float, float]:
        """Seconds until `fusegw mount` ended; those of processor time that the gateway used until then."""
        begun = time.monotonic()
        self.gateway.mount()
        return time.monotonic() - begun, _processor_s(self.gateway.pid)

    def private_bytes(self) -> int:
        return memory(self.gateway.pid, "RssAnon")

    def memory(self) -> str:
        mapped = memory(self.gateway.pid, "RssFile")
        return f"memory {self.private_bytes() / MIB:.0f} MiB, and {mapped / MIB:.0f} MiB of mapped files"

    def timed(self, what: str, action: Callable[[], int]) -> None:
        """How many a second; and for one, processor time of the gateway in microseconds, and how often it
        waited for a page from the disk."""
        pid = self.gateway.pid
        processor_s, faults, begun = _processor_s(pid), _faults(pid), time.monotonic()
        done = action()
        self.rates.setdefault(what, []).append(done / (time.monotonic() - begun))
        self.costs.setdefault(what, []).append((_processor_s(pid) - processor_s) / done * 1e6)
        self.faults.setdefault(what, []).append((_faults(pid) - faults) / done)

    def look_up(self, names: int, chance: random.Random) -> int:
        """Files anywhere, by path; how many names the kernel asked for."""
        root = str(self.gateway.root)
        numbers = [chance.randrange(self.count) for _ in range(names)]
        for number in numbers:
            os.stat(f"{root}/{path_of(number)}")
        return len(set(numbers)) + len({number // PER_DIRECTORY for number in numbers})

    def create(self, names: int, chance: random.Random) -> int:
        """Empty files in ten directories anywhere, durable at the end."""
        directories = self.count // PER_DIRECTORY
        some = [directory_name(chance.randrange(directories)).decode() for _ in range(10)]
        for number in range(names):
            self._made += 1
            path = self.gateway.root / some[number % len(some)] / f"new-document-{self._made:07d}"
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        self.gateway.control().sync(wait=False, on_progress=lambda progress: None)
        return names

    def list(self, chance: random.Random) -> int:
        """Some directories, with the attributes of what is in them; how many entries."""
        directories, listed = self.count // PER_DIRECTORY, 0
        for number in chance.sample(range(directories), min(directories, 10)):
            with os.scandir(self.gateway.root / directory_name(number).decode()) as entries:
                found = {entry.name for entry in entries if entry.stat().st_mtime}
            first = number * PER_DIRECTORY
            assert found >= {file_name(first + nth).decode() for nth in range(PER_DIRECTORY)}
            listed += len(found)
        return listed


def _processor_s(pid: int) -> float:
    """What a process has used of processors, in seconds."""
    fields = _figures(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _faults(pid: int) -> int:
    """How often a process waited for a page of a file from the disk."""
    return int(_figures(pid)[9])


def _figures(pid: int) -> list[str]:
    """Of /proc/PID/stat, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def forget_names() -> None:
    """Make the kernel forget names and inodes, not the pages of files."""
    os.sync()
    with kernel_caches_shared():
        Path("/proc/sys/vm/drop_caches").write_text("2")


@contextlib.contextmanager
def volumes(base: Path, counts: list[int]) -> Iterator[list[Scale]]:
    with contextlib.ExitStack() as stack:
        found = []
        for count in counts:
            scale = Scale(base / f"of-{count}", count)
            stack.callback(scale.gateway.end)
            found.append(scale)
        yield found


def rate(scales: list[Scale], effort: Effort) -> None:
    """All sizes in turns, every second round in the opposite order; ratios are those of a round."""
    chance = random.Random(11)
    for turn in range(effort.rounds):
        for scale in scales[:: -1 if turn % 2 else 1]:
            scale.warm()
            forget_names()
            scale.timed("looked up", lambda scale=scale: scale.look_up(effort.names, chance))
            forget_names()
            scale.timed("listed with attributes", lambda scale=scale: scale.list(chance))
            scale.timed("made", lambda scale=scale: scale.create(effort.names, chance))
    first = scales[0]
    for what in first.rates:
        for scale in scales:
            ratios = [one / other for one, other in zip(scale.rates[what], first.rates[what], strict=True)]
            scale.say(
                f"{what}: {statistics.median(scale.rates[what]):,.0f} a second, "
                f"{statistics.median(ratios):.2f} of the rate with {first.count:,} "
                f"({min(ratios):.2f} to {max(ratios):.2f}); "
                f"{statistics.median(scale.costs[what]):.0f} µs of processor time and "
                f"{statistics.median(scale.faults[what]):.2f} pages from the disk each"
            )


def burden(scale: Scale, effort: Effort) -> None:
    """The memory that a gateway takes when the kernel knows of many files."""
    chance = random.Random(12)
    before = scale.private_bytes()
    asked = scale.look_up(effort.looked_up, chance)
    scale.say(f"after {asked:,} names were looked up: {scale.memory()}")
    made = scale.create(effort.made, chance)
    scale.say(f"after {made:,} more files were made: {scale.memory()}")
    assert scale.private_bytes() <= before + PRIVATE_BYTES_MAX + (asked + made) * KNOWN_BYTES_MAX


def run(base: Path, counts: list[int], effort: Effort) -> None:
    with volumes(base, counts) as scales:
        for scale in scales:
            scale.make()
            scale.weigh()
        chance = random.Random(10)
        for scale in scales:
            scale.mount_cold(effort.names, chance)
        for scale in scales:
            scale.mount_warm(effort.mounts)
        rate(scales, effort)
        burden(scales[-1], effort)


def test_generated_rows_fit_together(tmp_path: Path) -> None:
    metadata = Metadata(tmp_path, size_max_bytes=1 << 30)
    with metadata.change() as change:
        create_volume_root(
            change, volume_id=bytes(16), epoch=1, clock=SystemClock(), uid=0, gid=0, mode=0o755
        )
    metadata.freeze()
    metadata.save()
    metadata.close()
    fill(tmp_path, 3000)
    damages = Damages()
    with IndexBeside(tmp_path) as index, index.view() as view:
        check_index(view, damages)
        assert view.count(DIRENT) == view.count(POSITION) == 3003
        assert view.count(CHUNK_ID) == 3000
    assert [found.problem for found in damages.found()] == []


@pytest.mark.mount
def test_some_files(base: Path) -> None:
    run(base, [1000, 10_000], Effort(rounds=1, names=200, mounts=1, looked_up=500, made=100))


@pytest.mark.soak
@pytest.mark.mount
@pytest.mark.timeout(3 * 3600)
def test_ten_thousand_to_ten_million_files(base: Path) -> None:
    counts = [10_000, 100_000, 1_000_000, 10_000_000]
    run(base, counts, Effort(rounds=7, names=2000, mounts=3, looked_up=1_000_000, made=100_000))


def grow(tmp_path: Path, count: int) -> None:
    """By a gateway that writes the files, a few bytes each: pages of the index are as commits leave them."""
    store = open_store(
        StoreOptions(url=f"file://{tmp_path}/store"),
        clock=SystemClock(),
        entropy=SystemEntropy(),
        create=True,
    )

    async def main() -> None:
        async with volume(source(tmp_path, store, tuning=MAKING, cache_size_bytes=1 << 30)) as runtime:
            await make(runtime, count)

    trio.run(main)
    tables = {name: size for name, size in sizes(tmp_path / "meta").items() if size.rows > 1}
    total, data = (
        sum(size.nbytes for name, size in tables.items() if name in chosen) for chosen in (set(tables), DATA)
    )
    log = sum(entry.size for entry in store.list("log/"))
    print(
        f"{count:,} files written: {total / count:.0f} bytes per file, {(total - data) / count:.0f} of them "
        f"without its data; {log / count:.0f} bytes per file in the log; "
        + ", ".join(f"{name} {size.nbytes / count:.1f}" for name, size in tables.items())
    )
    assert total <= GROWN_BYTES_MAX * count + LAST_PAGES_BYTES


def test_an_index_that_grew(tmp_path: Path) -> None:
    grow(tmp_path, 1000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_an_index_that_grew_large(tmp_path: Path) -> None:
    grow(tmp_path, 100_000)
