"""A host of its own for each test of the commands: state, cache, store, passphrase, and ways to run them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fusegw.cli.main import main
from fusegw.config import VolumePaths
from fusegw.daemon import mountpoint
from fusegw.daemon.lock import last_holder, present_holder

STUB = Path(__file__).with_name("stub_gateway.py")
ROOT = Path(__file__).resolve().parents[2]
CHEAP = ("--kdf-memory", "19M", "--kdf-iterations", "2", "--kdf-lanes", "1")
PASSPHRASE = "correct horse battery staple"


class Done:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self) -> dict[str, object]:
        document = msgspec.json.decode(self.out)
        assert isinstance(document, dict)
        return document

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"


class Host:
    """The commands with a test's directories; `run` in this process, `spawn` as a program around the stub."""

    def __init__(self, base: Path, capture: Callable[[], tuple[str, str]]) -> None:
        self.base = base
        self.state = base / "state"
        self.cache = base / "cache"
        self.store = base / "store"
        self.recovery = base / "recovery"
        self.mountpoint = base / "mnt"
        self.passphrase_file = base / "passphrase"
        self._capture = capture
        self.mountpoint.mkdir()
        self.write(self.passphrase_file, PASSPHRASE + "\n")

    def write(self, path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o600)
        return path

    def run(self, *arguments: object) -> Done:
        self._capture()
        code = main([str(one) for one in arguments])
        return Done(code, *self._capture())

    def spawn(self, *arguments: object, **environment: str) -> Done:
        return self._spawn(self.command(*arguments), **environment)

    def real(self, *arguments: object, **environment: str) -> Done:
        """As a program around the gateway itself."""
        return self._spawn([sys.executable, "-m", "fusegw.cli.main", *map(str, arguments)], **environment)

    def _spawn(self, command: Sequence[str], **environment: str) -> Done:
        done = subprocess.run(
            command,
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def command(self, *arguments: object) -> Sequence[str]:
        return [sys.executable, str(STUB), *map(str, arguments)]

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "FUSEGW_CONFIG": str(self.config()),
            "FUSEGW_STATE_DIR": str(self.state),
            "FUSEGW_CACHE_DIR": str(self.cache),
            "FUSEGW_PASSPHRASE_FILE": str(self.passphrase_file),
            "STUB_SETTINGS": str(self.base / "settings.json"),
        } | more

    def config(self, text: str | None = None) -> Path:
        """The configuration file; with `text` it gets a new content."""
        file = self.base / "config.toml"
        if text is not None or not file.exists():
            file.write_text(text or "")
        return file

    def init(self, name: str = "tank", *more: object) -> Done:
        self.store.mkdir(exist_ok=True)
        url = f"file://{self.store}/{name}"
        recovery = ("--recovery-key-file", self.base / f"recovery-{name}")
        return self.run("init", name, "--store", url, *recovery, *CHEAP, *more)

    def settings(self) -> dict[str, object]:
        """What the stub was given."""
        document = msgspec.json.decode((self.base / "settings.json").read_bytes())
        assert isinstance(document, dict)
        return document

    def paths(self, name: str = "tank") -> VolumePaths:
        return VolumePaths(self.state, name)

    def tree(self, *roots: Path) -> dict[str, bytes]:
        """Every file below the roots and its content: what a command must not have changed."""
        return {
            str(path): path.read_bytes()
            for root in roots
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    def end_all(self) -> None:
        """No gateway and no mount of this host outlives its test."""
        directory = self.state / "volumes"
        for name in sorted(os.listdir(directory)) if directory.is_dir() else []:
            holder = present_holder(self.paths(name)) or last_holder(self.paths(name))
            if present_holder(self.paths(name)) is not None and holder is not None:
                os.kill(holder.pid, signal.SIGKILL)
            place = str(self.mountpoint)
            while (entry := mountpoint.mounted_on(place)) is not None and entry.fs_type == mountpoint.FS_TYPE:
                mountpoint.unmount(place, lazy=True)
