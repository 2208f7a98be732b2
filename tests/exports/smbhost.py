"""A gateway with shares over SMB on a port of its own, and clients of it."""

import contextlib
import os
import re
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fusegw.clock import SystemClock
from tests.mount.gateways import Gateway

CLIENT_TIMEOUT_S = 60
PASSWORD = "geheim & süß"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], *, seconds: float = 30.0) -> Any:
    """What `condition` gives once it is true."""
    clock = SystemClock()
    deadline = clock.monotonic() + seconds
    while not (found := condition()):
        assert clock.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
    return found


class SmbHost(Gateway):
    """One volume whose shares are served on 127.0.0.1."""

    def __init__(self, base: Path, **options: Any) -> None:
        self.port = free_port()
        super().__init__(base, **options)
        self.configure(f'[smb]\nlisten = ["127.0.0.1"]\nport = {self.port}\n')

    @property
    def smb(self) -> dict[str, Any]:
        """What status says of the SMB server; empty when it says nothing."""
        servers = [one for one in self.status()["servers"] if one["protocol"] == "smb"]
        return servers[0] if servers else {}

    @property
    def server_dir(self) -> Path:
        return self.state / "shares" / "1" / "smb"

    def serving(self) -> dict[str, Any]:
        """Wait until smbd answers."""
        found: dict[str, Any] = until(
            lambda: (smb := self.smb) and smb["health"]["state"] == "running" and smb  # type: ignore[func-returns-value]
        )
        return found

    def add_user(self, name: str, password: str = PASSWORD, *options: object) -> None:
        file = self.base / f"password-{name}"
        file.write_text(password + "\n")
        file.chmod(0o600)
        self.command("export", "user", "add", name, "--password-file", file, *options)
        self.write_login(name, password)

    def write_login(self, name: str, password: str, *, file: str | None = None) -> Path:
        """A file that lets smbclient log in."""
        path = self.base / f"login-{file or name}"
        path.write_text(f"username = {name}\npassword = {password}\n")
        path.chmod(0o600)
        return path

    def client_command(self, share: str, user: str, *options: str) -> list[str]:
        login = ("-N",) if not user else ("-A", str(self.base / f"login-{user}"))
        return ["smbclient", f"//127.0.0.1/{share}", "-p", str(self.port), *login, *options]

    def try_client(
        self, share: str, commands: str, *options: str, user: str = "max", cwd: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """One smbclient, whatever it ends with."""
        return subprocess.run(
            [*self.client_command(share, user, *options), "-c", commands],
            capture_output=True,
            text=True,
            timeout=CLIENT_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
        )

    def client(
        self, share: str, commands: str, *options: str, user: str = "max", cwd: Path | None = None
    ) -> str:
        """One smbclient that succeeds; what it printed. Its exit code does not tell of every command."""
        done = self.try_client(share, commands, *options, user=user, cwd=cwd)
        said = done.stdout + done.stderr
        assert done.returncode == 0 and "NT_STATUS" not in said, said
        return said

    def refusal(self, share: str, commands: str, *, user: str = "max") -> str:
        """The status that a client is refused with."""
        done = self.try_client(share, commands, user=user)
        found = re.search(r"NT_STATUS_\w+", done.stdout + done.stderr)
        assert found, done.stdout + done.stderr
        return found[0]


class Session:
    """An smbclient that stays connected. It has a terminal: to a pipe it would answer much later."""

    _PROMPT = re.compile(rb"smb: [^>]*> ")

    def __init__(self, host: SmbHost, share: str, user: str = "max") -> None:
        self._ours, theirs = os.openpty()
        self._process = subprocess.Popen(
            host.client_command(share, user),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={"PATH": os.environ["PATH"], "TERM": "dumb"},
            start_new_session=True,
        )
        os.close(theirs)
        said = self._until_prompt()
        assert "NT_STATUS" not in said, said

    def ask(self, command: str) -> str:
        """What it answers to a command; when it has left, that it is disconnected."""
        try:
            os.write(self._ours, command.encode() + b"\n")
        except OSError:
            return "NT_STATUS_CONNECTION_DISCONNECTED"
        return self._until_prompt()

    def _until_prompt(self) -> str:
        said = b""
        while not self._PROMPT.search(said):
            ready, _, _ = select.select([self._ours], [], [], CLIENT_TIMEOUT_S)
            assert ready, f"smbclient is silent after {said!r}"
            try:
                data = os.read(self._ours, 4096)
            except OSError:
                data = b""
            if not data:
                return said.decode(errors="replace") + "NT_STATUS_CONNECTION_DISCONNECTED"
            said += data
        return said.decode(errors="replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def smb_host(**options: Any) -> Iterator[SmbHost]:
    """A host whose directory every user can reach: pytest's own are closed to others."""
    base = Path(tempfile.mkdtemp(prefix="fusegw-smb-"))
    base.chmod(0o755)
    host = SmbHost(base, **options)
    try:
        yield host
    finally:
        host.end()
        shutil.rmtree(base)


def directory(host: SmbHost, name: str, *, owner: int | None = None) -> Path:
    """A directory of the volume for a share."""
    place = host.root / name
    place.mkdir()
    place.chmod(0o777 if owner is None else 0o755)
    if owner is not None:
        os.chown(place, owner, owner)
    return place


@contextlib.contextmanager
def data_host() -> Iterator[SmbHost]:
    """A mounted one that serves the share `data`, the directory of that name, to the user max."""
    with smb_host() as host:
        host.mount()
        directory(host, "data")
        host.add_user("max")
        host.command("export", "add", "data", "--path", "/data", "--user", "max")
        host.serving()
        yield host


def processes(words: Sequence[str]) -> list[int]:
    """Those with all these words among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if all(any(word in argument for argument in arguments) for word in words):
                    found.append(int(entry.name))
    return found
