"""kill -9 of gateway and server of shares at random moments: what a flush or COMMIT confirmed is whole.

What the gateway's disk had not been told to sync is taken away after each kill, as a power cut would.
FUSEGW_CRASH_ROUNDS and FUSEGW_CRASH_SEED choose how often and which.
"""

import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from smbprotocol.exceptions import SMBException

from exports.status import Health
from tests.crash.lossy_disk import lose_unsynced
from tests.exports.nfs_wire import Nfs3, NfsError
from tests.exports.nfshost import NfsHost, kill
from tests.exports.smb_wire import SmbClient
from tests.exports.smbhost import SmbHost, directory, processes, until

pytestmark = [pytest.mark.mount, pytest.mark.slow, pytest.mark.samba, pytest.mark.ganesha]
SEED = int(os.environ.get("FUSEGW_CRASH_SEED", "1"))
ROUNDS = int(os.environ.get("FUSEGW_CRASH_ROUNDS", "50"))
FILE_BYTES_MAX, NFS_BYTES_MAX = 300_000, 64 << 10
COPY_BYTES = 48 << 20
RESTART_S = 5.0
SHARE = "data"


class Victim(ABC):
    """A gateway with the share `data` over a disk that forgets, and what its client was told to be safe."""

    protocol: str

    def __init__(self, base: Path, seed: int, *, sync: bool = True) -> None:
        self._random = random.Random(seed)
        self._notes = base / "notes"
        self._environment = {"FUSEGW_TEST_NOTES": str(self._notes)}
        self._environment |= {} if sync else {"FUSEGW_TEST_NO_SYNC": "1"}
        self._names = (f"file{number}" for number in itertools.count())
        self.safe: dict[str, bytes] = {}
        """Digest by name."""

    @property
    @abstractmethod
    def host(self) -> Any: ...

    @abstractmethod
    def connect(self) -> Any:
        """A client with `write` and `close`."""

    @abstractmethod
    def server_pids(self) -> list[int]:
        """First process of the server first."""

    @abstractmethod
    def copy(self, file: Path) -> "subprocess.Popen[bytes]":
        """A client that puts `file` into the share."""

    def mount(self) -> None:
        self.host.mount("--cache-size", "1G", **self._environment)
        if not (self.host.root / SHARE).exists():
            directory(self.host, SHARE)
            self.offer()
        until(lambda: _health(self).state == "running")

    @abstractmethod
    def offer(self) -> None: ...

    def round(self) -> None:
        """Load, kill at a random moment, lose what was not synced."""
        client, stop = self.connect(), threading.Event()
        thread = threading.Thread(target=self._work, args=(client, stop))
        thread.start()
        stop.wait(self._random.uniform(0.2, 0.8))
        kill(*self.server_pids(), self.host.pid)
        stop.set()
        thread.join()
        lose_unsynced(self._notes)

    def _work(self, client: Any, stop: threading.Event) -> None:
        while not stop.is_set():
            name = next(self._names)
            data = self._random.randbytes(self._random.randrange(1, FILE_BYTES_MAX))
            try:
                client.write(name, data)
            except (OSError, NfsError, SMBException):
                break
            self.safe[name] = hashlib.sha256(data).digest()
        try:
            client.close()
        except (OSError, SMBException):
            pass

    def verify(self) -> None:
        for name, digest in self.safe.items():
            data = (self.host.root / SHARE / name).read_bytes()
            assert hashlib.sha256(data).digest() == digest, name


class SmbVictim(Victim):
    protocol = "smb"

    def __init__(self, base: Path, seed: int, *, sync: bool = True) -> None:
        super().__init__(base, seed, sync=sync)
        self.smb = SmbHost(base, module="tests.crash.daemon")

    @property
    def host(self) -> SmbHost:
        return self.smb

    def offer(self) -> None:
        self.smb.add_user("max")
        self.smb.command("export", "add", SHARE, "--path", f"/{SHARE}", "--user", "max")

    def connect(self) -> SmbClient:
        return SmbClient(self.smb, SHARE)

    def server_pids(self) -> list[int]:
        first = _health(self).pid
        assert first is not None
        return [first, *(pid for pid in processes([str(self.smb.server_dir)]) if pid != first)]

    def copy(self, file: Path) -> "subprocess.Popen[bytes]":
        command = self.smb.client_command(SHARE, "max", "-c", f"put {file} copied")
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class NfsClient:
    """One that does not wait for a server that is gone, as libnfs would."""

    def __init__(self, host: NfsHost) -> None:
        self._nfs = Nfs3(host.port, host.mount_port)
        self._root = self._nfs.mount(f"/{SHARE}")

    def write(self, name: str, data: bytes) -> None:
        """A new file, committed on return."""
        file = self._nfs.create(self._root, name)
        verifiers = {
            self._nfs.write(file, start, data[start : start + NFS_BYTES_MAX])[1]
            for start in range(0, len(data), NFS_BYTES_MAX)
        }
        assert verifiers == {self._nfs.commit(file)}

    def close(self) -> None:
        self._nfs.__exit__()


class NfsVictim(Victim):
    protocol = "nfs"

    def __init__(self, base: Path, seed: int, *, sync: bool = True) -> None:
        super().__init__(base, seed, sync=sync)
        self.nfs = NfsHost(base, module="tests.crash.daemon")

    @property
    def host(self) -> NfsHost:
        return self.nfs

    def offer(self) -> None:
        self.nfs.share(SHARE, "--path", f"/{SHARE}")

    def connect(self) -> NfsClient:
        return NfsClient(self.nfs)

    def server_pids(self) -> list[int]:
        return [self.nfs.serving()]

    def copy(self, file: Path) -> "subprocess.Popen[bytes]":
        command = ["nfs-cp", str(file), self.nfs.url(f"/{SHARE}/copied")]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


KINDS = pytest.mark.parametrize("kind", [SmbVictim, NfsVictim], ids=["smb", "nfs"])
Make = Callable[..., Victim]


@pytest.fixture
def victim() -> Iterator[Make]:
    """Makes victims; every user can reach their directories, which pytest's own do not let."""
    made: list[tuple[Victim, Path]] = []

    def make(kind: type[Victim], **options: Any) -> Victim:
        base = Path(tempfile.mkdtemp(prefix="fusegw-kill-"))
        base.chmod(0o755)
        made.append((kind(base, SEED, **options), base))
        made[-1][0].mount()
        return made[-1][0]

    yield make
    for one, base in made:
        one.host.end()
        shutil.rmtree(base)


def kill_rounds(victim: Victim, rounds: int) -> None:
    for _ in range(rounds):
        victim.round()
        victim.mount()
        victim.verify()
    print(f"{victim.protocol}: {rounds} rounds, {len(victim.safe)} files confirmed, all of them whole")
    assert len(victim.safe) > rounds


@KINDS
@pytest.mark.timeout(300)
def test_a_few_kills(victim: Make, kind: type[Victim]) -> None:
    kill_rounds(victim(kind), 2)


@KINDS
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_kills(victim: Make, kind: type[Victim]) -> None:
    kill_rounds(victim(kind), ROUNDS)


@pytest.mark.timeout(300)
def test_without_the_sync_of_packs_the_rounds_fail(victim: Make) -> None:
    """The control: the same rounds notice a gateway that does not sync its packs."""
    unsafe = victim(SmbVictim, sync=False)
    with pytest.raises((AssertionError, OSError)):
        for _ in range(10):
            unsafe.round()
            unsafe.mount()
            unsafe.verify()


@KINDS
@pytest.mark.timeout(300)
def test_a_server_killed_while_somebody_copies(victim: Make, kind: type[Victim], tmp_path: Path) -> None:
    """It comes back, and status says so; the copy goes on (NFS) or fails; nothing wrong is stored."""
    one = victim(kind)
    source = tmp_path / "source"
    source.write_bytes(random.Random(SEED).randbytes(COPY_BYTES))
    copied = one.host.root / SHARE / "copied"
    before = one.server_pids()[0]
    with _half_way(one, source, copied) as client:
        begun = time.monotonic()
        kill(*one.server_pids())
        client.send_signal(signal.SIGCONT)
        until(lambda: (found := _health(one)).pid not in (None, before) and found.state == "running")
        took_s = time.monotonic() - begun
        status = client.wait(60)
    print(f"{kind.protocol}: answers {took_s:.2f} s after it was killed, the client ended with {status}")
    health = _health(one)
    assert health.restarts == 1 and "SIGKILL" in str(health.last_error)
    assert took_s < RESTART_S
    if kind is NfsVictim:
        assert status == 0
    if status == 0:
        assert copied.read_bytes() == source.read_bytes()
    else:
        part = copied.read_bytes()
        assert _is_piecewise(part, source.read_bytes())
        copied.unlink()
        with one.copy(source) as again:
            assert again.wait(60) == 0
        assert copied.read_bytes() == source.read_bytes()


def _half_way(victim: Victim, source: Path, copied: Path) -> "subprocess.Popen[bytes]":
    """A client that copies, and is stopped before it has finished."""
    for _ in range(20):
        client = victim.copy(source)
        while client.poll() is None and not (copied.exists() and copied.stat().st_size):
            time.sleep(0.005)
        client.send_signal(signal.SIGSTOP)
        if client.poll() is None:
            return client
        assert client.wait() == 0
        copied.unlink()
    raise AssertionError("it is copied before it can be disturbed")


def _health(victim: Victim) -> Health:
    servers = victim.host.control().status().servers
    return next((one.health for one in servers if one.protocol == victim.protocol), Health(state="stopped"))


def _is_piecewise(part: bytes, whole: bytes, step: int = 4096) -> bool:
    """Whether every page is what it should be, or was not written yet."""
    return all(
        part[at : at + step] == whole[at : at + step][: len(part) - at] or not any(part[at : at + step])
        for at in range(0, len(part), step)
    )
