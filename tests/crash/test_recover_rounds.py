"""A gateway under load dies, and with it all it had on its disks: the store gives back the tree as it was at
some moment, not before the last barrier that returned.

Each round: load, kill -9 at a random moment or just as a barrier returns, every local file deleted, the
volume rebuilt from the store alone and compared as a whole, then mounted on another host, where the load goes
on.
FUSEGW_CRASH_ROUNDS and FUSEGW_CRASH_SEED choose how often and which.
"""

import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusegw.assembly import Runtime
from fusegw.errors import FusegwError
from tests.crash.journal import Journal
from tests.crash.mounted import kernel_tree, make_noise
from tests.crash.rebuilt import Tree, rebuilt, tree
from tests.e2e.conftest import in_s3
from tests.model.invariants import check_index
from tests.mount.gateways import NAME, Gateway
from tests.plugins.s3servers import S3Server

pytestmark = [pytest.mark.mount, pytest.mark.slow]
SEED = int(os.environ.get("FUSEGW_CRASH_SEED", "1"))
ROUNDS = int(os.environ.get("FUSEGW_CRASH_ROUNDS", "100"))
NOISE = "noise"


class Victim:
    """A volume whose gateways die one after the other, and what was done to it."""

    def __init__(self, gateway: Gateway, base: Path, seed: int, **environment: str) -> None:
        self.gateway = gateway
        self._base = base
        self._environment = environment
        self._chance = random.Random(seed)
        self.journal = Journal(seed)
        self.barriers = 0
        self.beyond = 0
        """Steps found that no barrier had confirmed."""
        self.rebuild_s: list[float] = []
        self._rounds = 0

    def mount(self) -> None:
        # Checkpoints are written all the time, and the log is pruned at once.
        eager = "checkpoint_log_size = '16K'\ncheckpoint_retention_s = 0\n"
        self.gateway.configure(f"[volumes.{NAME}]\nship_interval_s = 0.5\n{eager}")
        self.gateway.mount("--cache-size", "1G", **self._environment)

    def round(self) -> None:
        """Load, death, and what the store has to say."""
        self._load_and_kill()
        self._rounds += 1
        directory = self._base / f"host{self._rounds}"
        directory.mkdir()
        heir = Gateway(directory, module="tests.crash.daemon", volume_of=self.gateway)
        self.gateway.end()
        for gone in (self.gateway.state, self.gateway.cache):
            shutil.rmtree(gone)
        self.gateway = heir
        begun = time.monotonic()
        found = rebuilt(heir, self._base / "rebuilt", whole_tree)
        self.rebuild_s.append(time.monotonic() - begun)
        shutil.rmtree(self._base / "rebuilt")
        self.beyond += self.journal.verify(without_noise(found))
        self.mount()
        shown = kernel_tree(heir.root)
        assert shown == found, [path for path in shown.keys() | found if shown.get(path) != found.get(path)]

    def _load_and_kill(self) -> None:
        stop, returned = threading.Event(), threading.Semaphore(0)
        root = self.gateway.root

        def call_barriers() -> None:
            while not stop.wait(self._chance.uniform(0, 0.2)):
                covered = self.journal.done
                try:
                    self.gateway.barrier()
                except FusegwError:
                    return
                self.journal.confirm(covered)
                self.barriers += 1
                returned.release()

        threads = [
            threading.Thread(target=self.journal.work, args=(root, stop)),
            threading.Thread(target=make_noise, args=(root / NOISE, stop)),
            threading.Thread(target=call_barriers),
        ]
        at_barrier = self._chance.choice((0, 1, 2, 4))
        moment = self._chance.uniform(0.1, 1.5)
        for thread in threads:
            thread.start()
        if at_barrier:
            for _ in range(at_barrier):
                assert returned.acquire(timeout=60), "no barrier returned"
        else:
            stop.wait(moment)
        self.gateway.kill()
        stop.set()
        for thread in threads:
            thread.join()


async def whole_tree(runtime: Runtime) -> Tree:
    check_index(runtime.metadata)
    return await tree(runtime)


def without_noise(found: Tree) -> Tree:
    return {path: entry for path, entry in found.items() if path.partition("/")[0] != NOISE}


def rounds(gateway: Gateway, base: Path, count: int) -> None:
    victim = Victim(gateway, base, SEED)
    try:
        victim.mount()
        for _ in range(count):
            victim.round()
        rebuild_s = sorted(victim.rebuild_s)
        print(
            f"{count} gateways lost, {victim.journal.ever_confirmed} steps confirmed by {victim.barriers} "
            f"barriers and all found, {victim.beyond} more found; rebuilt and compared in "
            f"{rebuild_s[count // 2]:.2f} s in the middle, {rebuild_s[-1]:.2f} s at most"
        )
        assert victim.journal.ever_confirmed > count
    finally:
        victim.gateway.end()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    (tmp_path / "first").mkdir()
    yield Gateway(tmp_path / "first", module="tests.crash.daemon")


@pytest.fixture(params=["directory", "moto", pytest.param("rgw", marks=pytest.mark.rgw)])
def any_gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Gateway:
    """A volume in each kind of store."""
    (tmp_path / "first").mkdir()
    if request.param == "directory":
        return Gateway(tmp_path / "first", module="tests.crash.daemon")
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return in_s3(tmp_path / "first", server, module="tests.crash.daemon")


@pytest.mark.timeout(300)
def test_a_few_lost_gateways(gateway: Gateway, tmp_path: Path) -> None:
    rounds(gateway, tmp_path, 3)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_lost_gateways(any_gateway: Gateway, tmp_path: Path) -> None:
    rounds(any_gateway, tmp_path, ROUNDS)


@pytest.mark.timeout(300)
def test_with_the_log_before_the_packs_the_rounds_fail(gateway: Gateway, tmp_path: Path) -> None:
    """The control: the same rounds notice a log that refers to what is not in the store."""
    victim = Victim(gateway, tmp_path, SEED, FUSEGW_TEST_LOG_FIRST="1")
    try:
        victim.mount()
        with pytest.raises((AssertionError, FusegwError, BaseExceptionGroup)) as caught:
            for _ in range(10):
                victim.round()
        print(repr(caught.value))
    finally:
        victim.gateway.end()
