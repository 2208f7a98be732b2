"""A gateway is stopped, another takes its volume over, the first goes on: nothing it does shows any more.

Both are real, on one store; their clocks are a day apart. In each round the gateway in office is loaded,
stopped (SIGSTOP) and taken over from, continued, and found fenced; the next round begins from the other side.
`-s` shows how long it took until the old one said so. FUSEGW_FENCING_ROUNDS and FUSEGW_CRASH_SEED choose how
often and which.
"""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusegw.errors import FusegwError
from tests.crash.fencing_load import content_of
from tests.crash.rebuilt import Tree, rebuilt, tree
from tests.mount.gateways import NAME, ROOT, Gateway

pytestmark = [pytest.mark.mount, pytest.mark.slow]
SEED = int(os.environ.get("FUSEGW_CRASH_SEED", "1"))
SHIP_INTERVAL_S = 0.5
WAIT_MAX_S = 60.0
DAY_S = 86_400


class Load:
    """A process that makes files on a mount, and a thread that calls barriers; both until told to stop or
    refused."""

    def __init__(self, gateway: Gateway, directory: str, seed: int) -> None:
        self._gateway = gateway
        self._directory = directory
        self._seed = seed
        self._stop = threading.Event()
        self._news = threading.Condition()
        self.sizes: dict[str, int] = {}
        """Of every file begun, by path."""
        self.before = frozenset[str]()
        """Those begun before the takeover."""
        self.synced: list[str] = []
        self.confirmed: list[str] = []
        """By a barrier that returned."""
        self.refused: int | None = None
        """The error number that ended the work."""
        self.fenced: FusegwError | None = None
        """What ended the barriers."""
        self._threads = [threading.Thread(target=work) for work in (self._listen, self._call_barriers)]

    def begin(self) -> None:
        command = [sys.executable, "-m", "tests.crash.fencing_load"]
        self._process = subprocess.Popen(
            [*command, str(self._gateway.root), self._directory, str(self._seed)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for thread in self._threads:
            thread.start()

    def wait_for_confirmed(self, count: int) -> None:
        """Until barriers have confirmed so many files."""
        with self._news:
            self._news.wait_for(lambda: len(self.confirmed) >= count or self.fenced, WAIT_MAX_S)
        assert len(self.confirmed) >= count, f"{len(self.confirmed)} of {count} confirmed: {self.fenced}"

    def end(self) -> None:
        self._stop.set()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write("stop\n")
        self._process.wait(WAIT_MAX_S)
        for thread in self._threads:
            thread.join(WAIT_MAX_S)
            assert not thread.is_alive()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def content_of(self, path: str) -> bytes:
        return content_of(self._seed, int(path.rpartition("/")[2]), self.sizes[path])

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what, number, *size = line.split()
            if what == "begun":
                self.sizes[f"{self._directory}/{number}"] = int(size[0])
            elif what == "synced":
                self.synced.append(f"{self._directory}/{number}")
            else:
                self.refused = int(number)

    def _call_barriers(self) -> None:
        try:
            while not self._stop.wait(0.05):
                covered = self.synced[:]
                self._gateway.barrier()
                self.confirmed = covered
                self._tell()
        except FusegwError as error:
            self.fenced = error
        self._tell()

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()


class Duel:
    """Two gateways of one volume: `old` is in office, `new` will be."""

    def __init__(self, base: Path, seed: int, *, fencing: bool = True) -> None:
        self._base = base
        self._seed = seed
        self._chance = random.Random(seed)
        self._environment = {} if fencing else {"FUSEGW_TEST_NO_FENCING": "1"}
        (base / "a").mkdir()
        (base / "b").mkdir()
        self.old = Gateway(base / "a", module="tests.crash.daemon")
        self.new = Gateway(base / "b", module="tests.crash.daemon", volume_of=self.old)
        self._ahead_s = {self.old: DAY_S, self.new: 0}
        for gateway in (self.old, self.new):
            gateway.configure(f"[volumes.{NAME}]\nship_interval_s = {SHIP_INTERVAL_S}\n")
        self.loads: list[Load] = []
        self.noticed_s: list[float] = []
        self.unsent = 0
        self._rounds = 0

    def mount(self, gateway: Gateway) -> None:
        ahead_s = str(self._ahead_s[gateway])
        gateway.mount("--cache-size", "1G", FUSEGW_TEST_AHEAD_S=ahead_s, **self._environment)

    @contextlib.contextmanager
    def taken_over(self) -> Iterator[tuple[Load, Load]]:
        """The new one is in office and at work; the old one, of which the first load is, was stopped in the
        middle of it and goes on."""
        self._rounds += 1
        loads = [
            Load(gateway, f"{self._rounds}-{which}", self._seed * 1000 + self._rounds)
            for which, gateway in (("old", self.old), ("new", self.new))
        ]
        self.loads += loads
        loads[0].begin()
        loads[0].wait_for_confirmed(3)
        time.sleep(self._chance.uniform(0, 2 * SHIP_INTERVAL_S))
        pid = self.old.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            self.mount(self.new)
            loads[1].begin()
            loads[1].wait_for_confirmed(3)
        finally:
            loads[0].before = frozenset(loads[0].sizes)
            os.kill(pid, signal.SIGCONT)
        try:
            yield loads[0], loads[1]
        finally:
            for load in loads:
                load.end()

    def round(self) -> None:
        with self.taken_over() as (late, office):
            begun = time.monotonic()
            while not (why := self.old.control().status().fenced):
                assert time.monotonic() < begun + WAIT_MAX_S, "the old gateway does not say that it is fenced"
                time.sleep(0.01)
            self.noticed_s.append(time.monotonic() - begun)
            assert "took the volume over" in why, why
            with pytest.raises(OSError) as caught:
                (self.old.root / "more").touch()
            assert caught.value.errno == errno.EROFS
            office.wait_for_confirmed(len(office.synced) + 3)
        assert late.refused == errno.EROFS, late.refused
        assert "took the volume over" in str(late.fenced), late.fenced
        assert office.refused is None and office.fenced is None, (office.refused, office.fenced)
        found = self.judge()
        seen = [path for path in late.sizes if path in found and path not in late.before]
        assert not seen, f"begun after the takeover, and in the store: {seen}"
        # What never left the old host can be read there, to its end.
        unsent = [path for path in late.synced if path not in found]
        for path in unsent:
            assert (self.old.root / path).read_bytes() == late.content_of(path), path
        self.unsent += len(unsent)
        self.old.umount()
        self.salvage(unsent, late)
        self.old, self.new = self.new, self.old

    def salvage(self, unsent: list[str], late: Load) -> None:
        """All of these files come out of the old host, byte for byte, and nothing that is wrong."""
        directory = self._base / "salvaged"
        self.old.command("salvage", NAME, directory, *(["--from", "meta"] if unsent else []))
        written = {path: directory / "meta" / path for path in late.sizes}
        for path in unsent:
            assert written[path].read_bytes() == late.content_of(path), path
        for path, file in written.items():
            assert not file.exists() or late.content_of(path).startswith(file.read_bytes()), path
        assert not list(directory.glob("*.incomplete"))
        shutil.rmtree(directory, ignore_errors=True)

    def judge(self) -> Tree:
        """What the store gives back has all that barriers confirmed, and of the rest nothing wrong."""
        directory = self._base / "rebuilt"
        found = rebuilt(self.new, directory, tree)
        shutil.rmtree(directory)
        for load in self.loads:
            lost = [path for path in load.confirmed if path not in found]
            assert not lost, f"confirmed and not in the store: {lost}"
            for path in load.sizes.keys() & found.keys():
                have, right = found[path].content, load.content_of(path)
                assert have == right or (path not in load.confirmed and right.startswith(have)), (
                    f"{path} has {len(have)} bytes, expected {len(right)}"
                )
        return found

    def end(self) -> None:
        for gateway in (self.old, self.new):
            gateway.end()


def rounds(base: Path, count: int) -> None:
    duel = Duel(base, SEED)
    try:
        duel.mount(duel.old)
        for _ in range(count):
            duel.round()
        aside = [*base.glob("*/state/volumes/*/unsent-*")]
        confirmed = sum(len(load.confirmed) for load in duel.loads)
        noticed = sorted(duel.noticed_s)
        print(
            f"{count} takeovers, {confirmed} files confirmed by barriers, "
            f"{duel.unsent} synced ones stayed on fenced hosts; ship interval {SHIP_INTERVAL_S} s, fenced "
            f"{noticed[len(noticed) // 2]:.2f} s after going on in the middle, {noticed[-1]:.2f} s at most"
        )
        # A fenced host that has mounted again keeps what it had.
        if duel.unsent and count > 1:
            assert aside and all((place / "meta" / "data.mdb").exists() for place in aside)
    finally:
        duel.end()


@pytest.mark.timeout(300)
def test_a_stopped_gateway_is_fenced_when_it_goes_on(tmp_path: Path) -> None:
    rounds(tmp_path, 2)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_takeovers(tmp_path: Path) -> None:
    rounds(tmp_path, int(os.environ.get("FUSEGW_FENCING_ROUNDS", "100")))


@pytest.mark.timeout(300)
def test_without_the_fencing_check_a_takeover_loses_files(tmp_path: Path) -> None:
    """The control: barriers of a gateway that does not notice are believed, and the judge sees it."""
    duel = Duel(tmp_path, SEED, fencing=False)
    try:
        duel.mount(duel.old)
        with duel.taken_over() as (late, _):
            late.wait_for_confirmed(len(late.synced) + 3)
        with pytest.raises(AssertionError, match="confirmed and not in the store"):
            duel.judge()
    finally:
        duel.end()
