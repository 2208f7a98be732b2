"""kill -9 at random moments under load: what an fsync confirmed is whole, the tree is consistent, the mount
is back.

What was not synced is taken away after each kill, as a power cut would. FUSEGW_CRASH_ROUNDS and
FUSEGW_CRASH_SEED choose how often and which; `-s` shows the time each mount took.
"""

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusegw.config import VolumePaths
from fusegw.meta.metadata import Metadata
from tests.crash.load import Writer
from tests.crash.lossy_disk import lose_unsynced
from tests.model.invariants import check_index
from tests.mount.gateways import NAME, Gateway

pytestmark = [pytest.mark.mount, pytest.mark.slow]
SEED = int(os.environ.get("FUSEGW_CRASH_SEED", "1"))
WRITERS = 4


class Victim:
    """A gateway over a disk that forgets, its writers, and rounds of load, kill and power loss."""

    def __init__(self, base: Path, seed: int, *, sync: bool = True) -> None:
        self.gateway = Gateway(base, module="tests.crash.daemon")
        self._random = random.Random(seed)
        self._notes = base / "notes"
        self._environment = {"FUSEGW_TEST_NOTES": str(self._notes)} | (
            {} if sync else {"FUSEGW_TEST_NO_SYNC": "1"}
        )
        self.writers = [Writer(self.gateway.root / f"w{n}", seed * 100 + n) for n in range(WRITERS)]
        self.mount_s: list[float] = []

    def mount(self) -> None:
        begun = time.monotonic()
        self.gateway.mount("--cache-size", "1G", **self._environment)
        self.mount_s.append(time.monotonic() - begun)

    def round(self) -> None:
        """Load, kill at a random moment, lose what was not synced."""
        stop = threading.Event()
        threads = [threading.Thread(target=writer.work, args=(stop,)) for writer in self.writers]
        for thread in threads:
            thread.start()
        stop.wait(self._random.uniform(0.1, 1.5))
        self.gateway.kill()
        stop.set()
        for thread in threads:
            thread.join()
        lose_unsynced(self._notes)

    def verify(self) -> int:
        """Every confirmed file, and every byte that can be reached."""
        checked = sum(writer.verify() for writer in self.writers)
        for directory, _, names in os.walk(self.gateway.root, onerror=_fail):
            for name in names:
                (Path(directory) / name).read_bytes()
        return checked

    def check_index(self) -> None:
        """The invariants of the metadata, unmounted."""
        self.gateway.umount()
        metadata = Metadata(VolumePaths(self.gateway.state, NAME).meta_dir, size_max_bytes=1 << 40)
        try:
            check_index(metadata)
        finally:
            metadata.close()


def _fail(error: OSError) -> None:
    raise error


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


def kill_rounds(base: Path, rounds: int) -> None:
    victim = Victim(base, SEED)
    try:
        victim.mount()
        for number in range(rounds):
            victim.round()
            victim.mount()
            victim.verify()
            if number % 10 == 9 or number == rounds - 1:
                victim.check_index()
                victim.mount()
                victim.verify()
        synced = sum(writer.synced for writer in victim.writers)
        print(
            f"{rounds} rounds, {synced} fsyncs confirmed; mount took {max(victim.mount_s):.2f} s at most, "
            f"{sorted(victim.mount_s)[len(victim.mount_s) // 2]:.2f} s in the middle"
        )
        assert synced > rounds
    finally:
        victim.gateway.end()


@pytest.mark.timeout(300)
def test_a_few_kills(base: Path) -> None:
    kill_rounds(base, 4)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_kills(base: Path) -> None:
    kill_rounds(base, int(os.environ.get("FUSEGW_CRASH_ROUNDS", "100")))


@pytest.mark.timeout(300)
def test_without_the_sync_of_packs_the_rounds_fail(base: Path) -> None:
    """The control: the same rounds notice a gateway that does not sync its packs."""
    victim = Victim(base, SEED, sync=False)
    try:
        victim.mount()
        with pytest.raises((AssertionError, OSError)):
            for _ in range(10):
                victim.round()
                victim.mount()
                victim.verify()
    finally:
        victim.gateway.end()
