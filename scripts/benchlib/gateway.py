"""fusegw itself, by its commands and with its defaults, as an operator would run it."""

import contextlib
import os
import select
import signal
import sys

from fusegw import __version__
from fusegw.config import VolumePaths
from fusegw.daemon.lock import present_holder
from scripts.benchlib import machine
from scripts.benchlib.contender import MountContender
from scripts.benchlib.stores import ROOT, BucketStore, DirectoryStore

VOLUME = "bench"


class Gateway(MountContender):
    """A volume of its own with state and cache in `directory`."""

    name = "fusegw"
    room = 4.0

    @classmethod
    def version(cls) -> str:
        return __version__

    def begin(self) -> None:
        super().begin()
        passphrase = self.directory / "passphrase"
        passphrase.touch(0o600)
        passphrase.write_text("the benchmark's own passphrase\n")
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
            self._command("umount", VOLUME)

    def barrier(self) -> None:
        self._command("sync", VOLUME, "--wait")

    def remount_cold(self) -> None:
        self.unmount()
        self.mount()
        self._command("cache", "drop", VOLUME)

    def kill(self) -> None:
        holder = present_holder(VolumePaths(self.directory / "state", VOLUME))
        if holder is None:
            return
        try:
            process = os.pidfd_open(holder.pid)
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

    def _command(self, *arguments: object) -> str:
        environment = machine.clean_environment() | {
            "FUSEGW_CONFIG": str(self.directory / "config.toml"),
            "FUSEGW_STATE_DIR": str(self.directory / "state"),
            "FUSEGW_CACHE_DIR": str(self.directory / "cache"),
            "FUSEGW_PASSPHRASE_FILE": str(self.directory / "passphrase"),
        }
        environment |= self.store.environment
        return machine.run(
            [sys.executable, "-m", "fusegw.cli.main", *arguments], environment=environment, directory=ROOT
        )
