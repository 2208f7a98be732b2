"""A real gateway on a disk that loses its power again and again, everything it writes recorded.

Each round: the gateway is mounted on what the last power cut left (a real mount, of remains that were
chosen like those of a replay), two processes' work goes on side by side with barriers, and the gateway is
killed or unmounted. Then every moment of the round's record can be replayed, and one of them is what the
next round begins with.
"""

import copy
import random
import shutil
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.config import Tuning, VolumePaths
from fusegw.errors import FusegwError
from fusegw.keys.secret import Secret
from fusegw.keys.volume import open_volume
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from tests.crash.journal import KINDS, Journal, Step
from tests.crash.load import sync_directory
from tests.crash.mounted import kernel_tree
from tests.crash.power_disk import Content, PowerDisk, write_out
from tests.crash.power_replay import Plan, Record, Standing, cases
from tests.crash.recording import Recording
from tests.mount.gateways import NAME, PASSPHRASE, Gateway

JOURNALS = 2
OURS = ("state", "cache", "store", "recovery")
OUTSIDE = ("state/run", "state/log")
SIZES = (0, 10, 3_000, 20_000, 70_000)
TUNING = Tuning(
    pack_size_bytes=1 << 20,
    chunk_size_bytes=16 << 10,
    ship_interval_s=0.3,
    checkpoint_log_size_bytes=8 << 10,
    checkpoint_retention_s=0,
    gc_interval_s=0,
)
_CONFIGURED = f"""\
[volumes.{NAME}]
pack_size = "1M"
chunk_size = "16K"
ship_interval_s = 0.3
checkpoint_log_size = "8K"
checkpoint_retention_s = 0
gc_interval_s = 0.5
gc_dead_share = 0
gc_grace_s = 0
"""
_ZEROS = (0,) * JOURNALS
_WORK = (*KINDS, "fsyncdir", "fsyncdir")


class PowerVictim:
    """A volume, its journals, and the record of the round that is on."""

    def __init__(self, base: Path, library: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._place = base.resolve() / "disk"
        self._place.mkdir()
        self._recording = Recording(library, self._place, base / "notes")
        self._disk = PowerDisk(self._place, outside=OUTSIDE)
        self._disk.add_directory("store")
        self._standing = Standing(False, _ZEROS, _ZEROS, (-1,) * JOURNALS)
        self._enough = 0
        self._killed = False
        self._stop = threading.Event()
        self.journals = [
            Journal(seed * 10 + number, kinds=_WORK, sizes=SIZES, note=partial(self._note, number))
            for number in range(JOURNALS)
        ]
        self.gateway = Gateway(self._place, environment=self._recording.environment)
        self.gateway.configure(_CONFIGURED)
        self._recording.mark(("created",))
        options = StoreOptions(url=f"file://{self.gateway.store}")
        with closing(open_store(options, clock=SystemClock(), entropy=SystemEntropy())) as store:
            self._keys = open_volume(store, Secret.passphrase(PASSPHRASE)).keys

    def round(self, steps: int, *, rebuilt: bool = False) -> Record:
        """Mount, so many steps, and an end; the record of it. `rebuilt`: the mount has no index to begin
        with, but a store that holds everything.
        """
        if rebuilt:
            self._mount()
            self.gateway.umount()
            shutil.rmtree(VolumePaths(self.gateway.state, NAME).meta_dir)
            self._begin(stored=0)
        self._mount()
        for number in range(JOURNALS):
            self._root(number).mkdir(exist_ok=True)
        sync_directory(self.gateway.root)
        self._work(steps)
        self.gateway.end()
        return Record(
            list(self._recording.notes()), self._disk, self._standing, self.journals, self._keys, TUNING
        )

    def is_told_by(self, record: Record) -> bool:
        """Whether the record tells what is on the real disk. A kill may have come between the last change and
        its note.
        """
        return len(self._unlike(record)) <= self._killed

    def _unlike(self, record: Record) -> list[str]:
        disk = copy.deepcopy(record.disk)
        for note in record.notes:
            disk.follow(note)
        real = PowerDisk(self._place, outside=OUTSIDE)
        real.adopt(*OURS)
        told, found = disk.now(), real.now()
        # LMDB changes its lock file through a mapping, which no record shows.
        paths = {path for path in told.keys() | found.keys() if not path.endswith("/lock.mdb")}
        return sorted(
            path for path in paths if _stripped(told.get(path, "")) != _stripped(found.get(path, ""))
        )

    def lose_power(self, record: Record) -> str:
        """Some moment of the record, and what is left then; the next round begins with it."""
        plan, case = Plan(self._chance.getrandbits(32)), None
        while case is None:
            # There are fewer cases than notes.
            skipped = iter(range(self._chance.randrange(len(record.notes))))
            some = cases(record, plan, lambda _, skipped=skipped: next(skipped, None) is None)
            case = next((case for case in some if case.standing.created and not case.only_store), None)
        for name in OURS:
            place = self._place / name
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
        write_out(case.remains, self._place)
        for journal, confirmed in zip(self.journals, case.standing.confirmed, strict=True):
            journal.confirm(confirmed)
        self._begin(stored=-1)
        return case.what

    def check(self) -> None:
        """All of the volume is whole, by the command."""
        self._mount()
        self.gateway.command("check", NAME, "--read-data")
        self.gateway.umount()

    def close(self) -> None:
        self.gateway.end()
        self._recording.close()

    def _begin(self, *, stored: int) -> None:
        """A new record, of a disk on which everything is durable; `stored` as in `Standing`."""
        self._standing = Standing(True, _ZEROS, _ZEROS, (stored,) * JOURNALS)
        self._recording.restart()
        self._disk = PowerDisk(self._place, outside=OUTSIDE)
        self._disk.adopt(*OURS)

    def _mount(self) -> None:
        """A real mount; it shows what was confirmed before, or more."""
        self.gateway.mount("--cache-size", "1G")
        for number, journal in enumerate(self.journals):
            journal.verify(kernel_tree(self._root(number)))

    def _root(self, number: int) -> Path:
        return self.gateway.root / f"j{number}"

    def _note(self, journal: int, event: str, number: int, step: Step) -> None:
        self._recording.mark((event, journal, number, step.kind))
        if sum(one.done for one in self.journals) >= self._enough:
            self._stop.set()

    def _work(self, steps: int) -> None:
        self._enough = steps
        self._stop.clear()
        threads = [
            *(
                threading.Thread(target=journal.work, args=(self._root(number), self._stop))
                for number, journal in enumerate(self.journals)
            ),
            threading.Thread(target=self._call_barriers),
        ]
        for thread in threads:
            thread.start()
        self._stop.wait()
        self._killed = self._chance.random() < 0.7
        if self._killed:
            self.gateway.kill()
        for thread in threads:
            thread.join()
        if not self._killed:
            self.gateway.umount()

    def _call_barriers(self) -> None:
        while not self._stop.wait(self._chance.uniform(0, 0.5)):
            covered = [journal.done for journal in self.journals]
            try:
                self.gateway.barrier()
            except FusegwError:
                return
            self._recording.mark(("barrier", covered))


def _stripped(what: Content | str | None) -> object:
    return (bytes(what.data).rstrip(b"\0"), what.size) if isinstance(what, Content) else what
