"""fusegw itself, by its commands and with its defaults, as an operator would run it."""

import contextlib
import inspect
import os
import select
import signal
import sys
from pathlib import Path

from fusegw import __version__
from fusegw.clock import SystemClock
from fusegw.config import Tuning, VolumePaths
from fusegw.daemon.lock import present_holder
from fusegw.keys import Secret, VolumeKeys
from fusegw.keys.volume import VOLUME_OBJECT, read_volume, unlock
from fusegw.store.memory import MemoryStore
from fusegw.vfs.files import Files
from fusegw.vfs.reading import DECODED_BYTES_MAX
from scripts.benchlib import creating, fio, machine
from scripts.benchlib.contender import Figures, Measured, MountContender, Timed
from scripts.benchlib.distant import ROUND_TRIP_S
from scripts.benchlib.machine import Stopwatch
from scripts.benchlib.stores import ROOT, BucketStore, DirectoryStore, Store

VOLUME = "bench"
PASSPHRASE = "the benchmark's own passphrase"
_PROGRAM, _FAR = "fusegw.cli.main", "scripts.benchlib.distant"


def buffers_bytes(tuning: Tuning = Tuning()) -> int:
    """What a gateway with one volume may hold in memory by its settings: packs on their way to the store,
    written data that is in no pack yet (a quarter more of it in small files), chunks kept decoded, and those
    read ahead."""
    written: int = inspect.signature(Files).parameters["memory_max_bytes"].default * 5 // 4
    uploads = tuning.upload_parallelism * tuning.pack_size_bytes
    return uploads + written + DECODED_BYTES_MAX + tuning.read_ahead_bytes


class Gateway(MountContender):
    """A volume of its own with state and cache in `directory`."""

    name = "fusegw"
    room = 4.0

    def __init__(self, directory: Path, store: Store) -> None:
        super().__init__(directory, store)
        self.packs: list[str] = []
        """Keys of those with the first file that was stored."""

    @classmethod
    def version(cls) -> str:
        return __version__

    def begin(self) -> None:
        super().begin()
        passphrase = self.directory / "passphrase"
        passphrase.touch(0o600)
        passphrase.write_text(f"{PASSPHRASE}\n")
        (self.directory / "config.toml").write_text(self.configuration())  # the host's own is not read
        self._command("init", VOLUME, *self._place(), "--recovery-key-file", self.directory / "recovery-key")
        self.mount()

    def configuration(self) -> str:
        """All of its configuration file."""
        return ""

    def mount(self) -> None:
        self._command("mount", VOLUME, self.root)

    def unmount(self) -> None:
        if machine.is_mounted(self.root):
            self.note_memory()
            self._command("umount", VOLUME)

    def barrier(self) -> None:
        self._command("sync", VOLUME, "--wait")

    def remount_cold(self) -> None:
        self.unmount()
        self.mount()
        self._command("cache", "drop", VOLUME)

    def store_file(self, file: Path) -> Timed:
        timed = super().store_file(file)
        self.packs = self.packs or [key for key in self.store.names() if key.startswith("packs/")]
        return timed

    def round_trips(self, file: Path) -> Measured:
        self.unmount()
        self._command("mount", VOLUME, self.root, program=_FAR)
        self._command("cache", "drop", VOLUME)
        machine.forget_pages()
        with Stopwatch() as watch, (self.root / file.name).open("rb", buffering=0) as reader:
            reader.read(1)
        self.unmount()
        self.mount()
        return Measured(watch.seconds // ROUND_TRIP_S, {"first byte": watch.seconds})

    def create_beside(self, stream: Path) -> Measured:
        self.barrier()
        return creating.compare(self.root, stream)

    def random_access(self, case: fio.Case, plan: fio.Plan) -> Figures:
        if not fio.installed():
            return {}
        fio.lay_out(self.root / "fio", plan.size_bytes)
        self.barrier()
        return fio.run(case, self.root / "fio", plan)

    def keys(self) -> VolumeKeys:
        """What opens its packs."""
        copy = MemoryStore(clock=SystemClock())
        for key in self.store.names():
            if key == VOLUME_OBJECT or key.startswith("keys/"):
                copy.put(key, self.store.read(key))
        return unlock(read_volume(copy), Secret.passphrase(PASSPHRASE)).keys

    def process_id(self) -> int | None:
        holder = present_holder(VolumePaths(self.directory / "state", VOLUME))
        return None if holder is None else holder.pid

    def kill(self) -> None:
        process_id = self.process_id()
        if process_id is None:
            return
        try:
            process = os.pidfd_open(process_id)
        except ProcessLookupError:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], machine.END_TIMEOUT_S)
        finally:
            os.close(process)

    def _place(self) -> tuple[object, ...]:
        match self.store:
            case DirectoryStore(path=path):
                return ("--store", f"file://{path}")
            case BucketStore(endpoint=endpoint, url=url):
                return ("--store", url, "--endpoint-url", endpoint)

    def _command(self, *arguments: object, program: str = _PROGRAM) -> str:
        environment = machine.clean_environment() | {
            "FUSEGW_CONFIG": str(self.directory / "config.toml"),
            "FUSEGW_STATE_DIR": str(self.directory / "state"),
            "FUSEGW_CACHE_DIR": str(self.directory / "cache"),
            "FUSEGW_PASSPHRASE_FILE": str(self.directory / "passphrase"),
        }
        environment |= self.store.environment
        return machine.run(
            [sys.executable, "-m", program, *arguments], environment=environment, directory=ROOT
        )
