"""A real gateway: the program itself, started and ended as an operator would."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusegw.config import VolumePaths
from fusegw.control.client import ControlClient
from fusegw.daemon import mountpoint
from fusegw.daemon.lock import present_holder

ROOT = Path(__file__).resolve().parents[2]
NAME = "tank"
PASSPHRASE = "correct horse battery staple"
CHEAP = ("--kdf-memory", "19M", "--kdf-iterations", "2", "--kdf-lanes", "1")
COMMAND_TIMEOUT_S = 120
END_TIMEOUT_S = 60


class Gateway:
    """One volume below `base`. `root` is where it is mounted; nothing is started before `mount`.

    `module` is what runs as `fusegw`, `environment` what it finds in its environment besides the usual, and
    `location` the options of `init` that say where the store is (default: the directory `store`). With
    `volume_of` there is no `init`: it is the volume of that gateway, on a host that knows no more of it than
    its address.
    """

    def __init__(
        self,
        base: Path,
        *,
        module: str = "fusegw.cli.main",
        location: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        volume_of: "Gateway | None" = None,
    ) -> None:
        self._module = module
        self._environment = (volume_of._environment if volume_of else {}) | dict(environment or {})
        self.base = base
        self.root = base / "mnt"
        self.store = volume_of.store if volume_of else base / "store"
        self.state = base / "state"
        self.cache = base / "cache"
        self._pids: set[int] = set()
        self._config_file = base / "config.toml"
        self._passphrase_file = base / "passphrase"
        # Of its own, though empty, so that the host's is not read.
        self.configure("")
        self._passphrase_file.write_text(PASSPHRASE)
        self._passphrase_file.chmod(0o600)
        self.root.mkdir()
        if volume_of is not None:
            self.state.mkdir(mode=0o700)
            shutil.copy(volume_of.state / "registry.json", self.state)
            return
        self.store.mkdir()
        recovery = ("--recovery-key-file", base / "recovery")
        self.command("init", NAME, *(location or ("--store", f"file://{self.store}")), *recovery, *CHEAP)

    @property
    def pid(self) -> int:
        """The process that serves the mount."""
        holder = present_holder(VolumePaths(self.state, NAME))
        assert holder is not None, "no gateway is running"
        return holder.pid

    @property
    def log(self) -> str:
        return VolumePaths(self.state, NAME).log_file.read_text()

    def configure(self, text: str) -> None:
        """The configuration file of the next commands."""
        self._config_file.write_text(text)

    def run(self, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        """A `fusegw` command, whatever it ends with."""
        return subprocess.run(
            [sys.executable, "-m", self._module, *map(str, arguments)],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "FUSEGW_CONFIG": str(self._config_file),
                "FUSEGW_STATE_DIR": str(self.state),
                "FUSEGW_CACHE_DIR": str(self.cache),
                "FUSEGW_PASSPHRASE_FILE": str(self._passphrase_file),
            }
            | self._environment
            | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )

    def command(self, *arguments: object, **environment: str) -> str:
        """A `fusegw` command that succeeds; its output."""
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}: {done.stderr}"
        return done.stdout

    def status(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.command("status", NAME, "--json"))
        return report

    def control(self) -> ControlClient:
        """Asks the running gateway without the cost of a command."""
        return ControlClient(VolumePaths(self.state, NAME).socket_file, timeout_s=COMMAND_TIMEOUT_S)

    def barrier(self) -> None:
        """As `fusegw sync --wait`."""
        self.control().sync(wait=True, on_progress=lambda progress: None)

    def cache_stats(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.command("cache", "stats", NAME, "--json"))
        return report

    def mount(self, *options: object, **environment: str) -> None:
        """Mounted and ready on return."""
        self.command("mount", NAME, self.root, *options, **environment)
        self.adopt()

    def adopt(self) -> None:
        """What another command has mounted there ends with this gateway."""
        self._pids.add(self.pid)

    def add(self, name: str) -> Path:
        """Create one more volume; the directory that is its store."""
        store = self.base / f"store-{name}"
        store.mkdir()
        recovery = ("--recovery-key-file", self.base / f"recovery-{name}")
        self.command("init", name, "--store", f"file://{store}", *recovery, *CHEAP)
        return store

    def mount_all(self, *options: object) -> str:
        """All volumes as directories of one mount; what the command had to say."""
        done = self.run("mount", self.root, *options)
        assert done.returncode == 0, done.stderr
        self._pids.add(self.pid)
        return done.stderr

    def umount(self) -> None:
        """Unmounted, and the process has ended."""
        self.command("umount", NAME)

    def remount(self, *options: object) -> None:
        self.umount()
        self.mount(*options)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal the process and wait until it is gone."""
        with ended(self.pid) as wait:
            os.kill(self.pid, number)
            wait()

    def end(self) -> None:
        """No process and no mount of this gateway is left, whatever happened before."""
        holder = present_holder(VolumePaths(self.state, NAME))
        if holder is not None and holder.pid in self._pids:
            with contextlib.suppress(ProcessLookupError), ended(holder.pid) as wait:
                os.kill(holder.pid, signal.SIGKILL)
                wait()
        place = str(self.root)
        while (entry := mountpoint.mounted_on(place)) is not None and entry.fs_type == mountpoint.FS_TYPE:
            mountpoint.unmount(place, lazy=True)


class ended:
    """`with ended(pid) as wait: …; wait()` returns when the process, no child of ours, has ended."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def __enter__(self) -> "ended":
        return self

    def __call__(self) -> None:
        ready, _, _ = select.select([self._descriptor], [], [], END_TIMEOUT_S)
        assert ready, f"the process has not ended within {END_TIMEOUT_S} s"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def drop_kernel_caches() -> None:
    """Make the kernel forget names, inodes and pages, so that the next access asks the gateway."""
    os.sync()
    with kernel_caches_shared():
        _drop()


@contextlib.contextmanager
def kernel_caches_dropped() -> Iterator[None]:
    """As `drop_kernel_caches`, and no other test does so before the block ends."""
    os.sync()
    with _kernel_caches(fcntl.LOCK_EX):
        _drop()
        yield


def kernel_caches_shared() -> contextlib.AbstractContextManager[None]:
    """While others may drop them."""
    return _kernel_caches(fcntl.LOCK_SH)


@contextlib.contextmanager
def _kernel_caches(operation: int) -> Iterator[None]:
    """There is one set of them on a host, and tests run side by side."""
    with (Path(tempfile.gettempdir()) / "fusegw-tests-kernel-caches").open("w") as file:
        fcntl.flock(file, operation)
        yield


def _drop() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("3")
