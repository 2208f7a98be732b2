"""The gateway under test, whichever host it is on at present: mounted, worked on, killed, moved, compared."""

import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fusegw.config import VolumePaths
from fusegw.errors import Busy, FusegwError, Unavailable
from fusegw.meta.beside import IndexBeside
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import PACK
from scripts.soaklib.chaos import Weather
from scripts.soaklib.figures import Figures
from scripts.soaklib.places import Place
from tests.crash.journal import Journal
from tests.crash.mounted import kernel_tree, make_noise
from tests.crash.rebuilt import Tree
from tests.model.invariants import check_index
from tests.mount.gateways import NAME, Gateway

MIB = 1 << 20
CACHE_BYTES = 64 * MIB
DISK_BYTES = CACHE_BYTES + 48 * MIB
"""Of the file system that the cache has for itself."""
JOURNALS = 3
REPEATS = 0.3
MOUNTS_MAX = 20
EAGER = f"""
[volumes.{NAME}]
pack_size = "4M"
chunk_size = "64K"
ship_interval_s = 0.5
checkpoint_log_size = "64K"
checkpoint_interval_s = 5
checkpoint_retention_s = 0
gc_interval_s = 10
gc_grace_s = 0
gc_orphan_grace_s = 0
scrub_daily_share = 1
"""
"""Everything that the gateway does by itself, all the time."""


class Patient:
    """A volume in a store of `place`, and what was done to it. `base` is the soak's own directory."""

    def __init__(self, place: Place, base: Path, seed: int) -> None:
        self.place = place
        self.figures = Figures()
        self.chance = random.Random(seed)
        self.journals = [Journal(seed * 100 + number, repeats=REPEATS) for number in range(JOURNALS)]
        self.pause = threading.Event()
        """Never set; for waiting."""
        self.disk = base / "disk"
        self._base = base
        self._hosts = 0
        self._scrubbed = 0
        self.disk.mkdir()
        size = f"size={DISK_BYTES}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "soak", self.disk], check=True)
        self.gateway = self._with_cache(place.first(self._host()))

    def end(self) -> None:
        """No process and no mount is left."""
        self.gateway.end()
        subprocess.run(["umount", self.disk], check=True)

    def keep(self, evidence: Path) -> None:
        """What `end` or the end of the store would take away, and what there is to know of the steps."""
        shutil.copytree(self.disk, evidence / "disk")
        for number, journal in enumerate(self.journals):
            (evidence / f"journal{number}").write_text("\n".join(journal.summary()))
        self.place.keep(evidence)

    def line(self) -> str:
        """All figures."""
        journals = self.journals
        return self.figures.line(
            steps=sum(journal.ever_done for journal in journals),
            fsyncs=sum(journal.ever_synced for journal in journals),
            written=sum(journal.ever_written for journal in journals),
            refused=sum(journal.refused for journal in journals),
            faults=self.place.chaos.faults(),
        )

    def weather(self, weather: Weather) -> None:
        self.place.chaos.set(weather)

    def mount(self, *, write_wait_s: float = 60) -> None:
        """Mounted and ready; while the store does not answer, that may take several tries."""
        wait = f"write_wait_s = {write_wait_s}\n"
        self.gateway.configure(EAGER + wait + self.place.settings(self.gateway))
        for _ in range(MOUNTS_MAX):
            done = self.gateway.run("mount", NAME, self.gateway.root, "--cache-size", CACHE_BYTES)
            if done.returncode != Unavailable.exit_code:
                break
            self.figures.mounts_refused += 1
        assert done.returncode == 0, f"mount ended with {done.returncode}: {done.stderr}"
        self.gateway.adopt()
        self._scrubbed = 0
        for number in range(JOURNALS):
            self._root(number).mkdir(exist_ok=True)

    def kill(self) -> None:
        self.gateway.kill()
        self.figures.kills += 1

    def barrier(self) -> bool:
        """Whether everything acknowledged is said to be in the store."""
        covered = [journal.done for journal in self.journals]
        try:
            self.gateway.barrier()
        except FusegwError:
            self.figures.barriers_failed += 1
            return False
        for journal, steps in zip(self.journals, covered, strict=True):
            journal.confirm(steps)
        self.figures.barriers += 1
        return True

    @contextmanager
    def load(self, *, doomed: bool = False, may_be_full: bool = False) -> Iterator[None]:
        """Everybody is at work. doomed: the gateway does not outlive it."""
        stop = threading.Event()
        threads = [
            threading.Thread(
                target=journal.work, args=(self._root(number), stop), kwargs={"may_be_full": may_be_full}
            )
            for number, journal in enumerate(self.journals)
        ]
        threads.append(threading.Thread(target=make_noise, args=(self.gateway.root / "noise", stop)))
        threads.append(threading.Thread(target=self._call_barriers, args=(stop,)))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if not doomed:
            failures = [journal.failure for journal in self.journals if journal.failure is not None]
            assert not failures, f"work on a living mount failed: {failures}"

    def move(self) -> None:
        """Another host, which has nothing but the address of the store and the secret."""
        last = self.gateway
        last.end()
        self.gateway = self._with_cache(self.place.next(self._host(), last))
        # Until all is compared, for whoever has to find out what happened.
        self._lost = [last.base, last.cache]
        self.figures.hosts_lost += 1

    def forget_lost(self) -> None:
        """Nothing of the host before is needed any more, but for a store in it."""
        base, cache = self._lost
        shutil.rmtree(base / "state")
        shutil.rmtree(cache)

    def compare_all(self) -> None:
        """Nothing may be missing: the tree is what was done."""
        for journal, found in zip(self.journals, self._trees(), strict=True):
            journal.verify_all(found)

    def compare_local(self) -> None:
        """All that an fsync covered is there."""
        for journal, found in zip(self.journals, self._trees(), strict=True):
            journal.verify_local(found)

    def compare_stored(self) -> int:
        """All that a barrier covered is there; how many steps more."""
        return sum(journal.verify(found) for journal, found in zip(self.journals, self._trees(), strict=True))

    @contextmanager
    def meanwhile(self, task: Callable[[], None]) -> Iterator[None]:
        """The task runs beside the block."""
        thread = threading.Thread(target=task)
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def check(self, *options: str) -> None:
        self.gateway.command("check", NAME, *options)
        self.figures.checks += 1

    def collect(self, *expected: type[FusegwError]) -> None:
        """By command; the background may be at it already."""
        done = self.gateway.run("gc", NAME, "--orphans")
        codes = {0, *(kind.exit_code for kind in (Busy, *expected))}
        assert done.returncode in codes, f"gc ended with {done.returncode}: {done.stderr}"
        self.figures.collections += done.returncode == 0

    def living_bytes(self) -> dict[str, int]:
        """By name of the pack: what files use of it."""
        with IndexBeside(VolumePaths(self.gateway.state, NAME).meta_dir) as index, index.view() as view:
            packs = [pack for _, pack in view.rows(PACK)]
        return {pack.pack_id.hex(): pack.live_bytes for pack in packs}

    def look(self) -> None:
        """The gateway itself has seen nothing wrong."""
        scrub = self.gateway.status()["scrub"]
        self.figures.scrubbed_packs += scrub["packs"] - self._scrubbed
        self._scrubbed = scrub["packs"]
        assert not scrub["damaged_chunks"], f"the scrub found damage: {scrub}"

    def check_index(self) -> None:
        """The invariants of the index, unmounted."""
        self.gateway.umount()
        metadata = Metadata(VolumePaths(self.gateway.state, NAME).meta_dir, size_max_bytes=1 << 40)
        try:
            check_index(metadata)
        finally:
            metadata.close()

    def _call_barriers(self, stop: threading.Event) -> None:
        while not stop.wait(self.chance.uniform(0, 1)):
            if not self.barrier():
                stop.wait(1)

    def _trees(self) -> list[Tree]:
        """One for each journal; what nobody keeps account of must be readable."""
        kernel_tree(self.gateway.root / "noise")
        trees = [kernel_tree(self._root(number)) for number in range(JOURNALS)]
        self.figures.compared_files += sum(map(len, trees))
        self.figures.compared_bytes += sum(len(entry.content) for found in trees for entry in found.values())
        return trees

    def _root(self, number: int) -> Path:
        return self.gateway.root / f"journal{number}"

    def _host(self) -> Path:
        self._hosts += 1
        directory = self._base / f"host{self._hosts}"
        directory.mkdir()
        return directory

    def _with_cache(self, gateway: Gateway) -> Gateway:
        gateway.cache = self.disk / f"host{self._hosts}"
        return gateway


def corrupt(path: Path, chance: random.Random) -> None:
    """Some of the bytes that a sparse file has are others, or its end is gone."""
    size = path.stat().st_size
    if chance.random() < 0.2:
        os.truncate(path, chance.randrange(size))
        return
    with open(path, "r+b", buffering=0) as file:
        for _ in range(chance.randint(1, 8)):
            try:
                at = os.lseek(file.fileno(), chance.randrange(size), os.SEEK_DATA)
            except OSError:  # nothing but a hole behind it
                continue
            length = chance.choice((1, 100, 5000))
            os.pwrite(file.fileno(), chance.randbytes(min(length, size - at)), at)
