"""The same files put and fetched through a share: on fusegw, on the disk, and past the share into the mount.

All by the same clients, smbclient and libnfs's nfs-cp and nfs-cat, on the loopback; the servers are those of
a gateway with its configuration, also where what they serve is a directory of the disk.
"""

import json
import os
import shutil
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from scripts.benchlib import machine
from scripts.benchlib.contender import Participant, Timed
from scripts.benchlib.corpus import Corpus
from scripts.benchlib.gateway import VOLUME, Gateway
from scripts.benchlib.machine import Stopwatch
from scripts.benchlib.results import Target, Workload
from scripts.benchlib.stores import ROOT, free_port
from scripts.benchlib.workloads import Act

USER, PASSWORD = "bench", "the benchmark's own password"
UID = 20000
_MB = 1e6
_TARGETS = (Target(0.8, "FUSE mount"),)
_FEW = 1000
"""Small files that are put and fetched; their number is part of no ratio."""
_UNFIT = frozenset('<>:"\\|?*')
"""Not in names on a share of SMB."""
Protocol = Literal["smb", "nfs"]

SHARE_WORKLOADS = (
    Workload("smb-put", "put through SMB", "MB/s", _MB, targets=_TARGETS),
    Workload("smb-get", "get through SMB", "MB/s", _MB, targets=_TARGETS),
    Workload("smb-files-put", "small files put through SMB", "files/s"),
    Workload("smb-files-get", "small files got through SMB", "files/s"),
    Workload("nfs-put", "put through NFS", "MB/s", _MB, targets=_TARGETS),
    Workload("nfs-get", "get through NFS", "MB/s", _MB, targets=_TARGETS),
)


class Place(Participant):
    """Somewhere that a file can be put to and fetched from."""

    @abstractmethod
    def put(self, protocol: Protocol, file: Path) -> Timed:
        """Until the client has ended."""

    @abstractmethod
    def get(self, protocol: Protocol, file: Path) -> Timed:
        """`file`, put before; from the server's disk, not from the kernel's page cache."""

    @abstractmethod
    def put_tree(self, tree: Path) -> None:
        """The same for the files below `tree`, over SMB where there is a share."""

    @abstractmethod
    def get_tree(self, tree: Path, target: Path) -> None:
        """`tree`, put before, into the directory `target`."""

    @abstractmethod
    def served(self, protocol: Protocol, file: Path) -> Path:
        """Where it lies."""


class Served(Place):
    """A place behind shares `smb` and `nfs`, for what serves them to fill in the ports."""

    smb_port: int
    nfs_port: int
    mount_port: int

    def choose_ports(self) -> None:
        self.smb_port, self.nfs_port, self.mount_port = free_port(), free_port(), free_port()

    def prepare(self, root: Path) -> None:
        """The directories of the shares, and a login for smbclient."""
        for protocol in ("smb", "nfs"):
            (root / protocol).mkdir()
            os.chown(root / protocol, UID, UID)
        self._login.touch(0o600)
        self._login.write_text(f"username = {USER}\npassword = {PASSWORD}\n")
        self.directory.chmod(0o711)  # the user of the share must get through

    @property
    def _login(self) -> Path:
        return self.directory / "login"

    def put(self, protocol: Protocol, file: Path) -> Timed:
        with Stopwatch() as watch:
            if protocol == "smb":
                self._smb(f'put "{file}" "{file.name}"')
            else:
                machine.run(["nfs-cp", file, self._url(file)])
        return Timed(file.stat().st_size, watch.seconds)

    def get(self, protocol: Protocol, file: Path) -> Timed:
        machine.forget_pages()
        with Stopwatch() as watch:
            if protocol == "smb":
                self._smb(f'get "{file.name}" /dev/null')
            else:
                machine.run(["sh", "-c", 'exec nfs-cat "$1" >/dev/null', "sh", self._url(file)])
        return Timed(file.stat().st_size, watch.seconds)

    def put_tree(self, tree: Path) -> None:
        self._smb(f'prompt; recurse; lcd "{tree.parent}"; mput "{tree.name}"')

    def get_tree(self, tree: Path, target: Path) -> None:
        self._smb(f'prompt; recurse; lcd "{target}"; mget "{tree.name}"')

    def _smb(self, command: str) -> None:
        words = ["smbclient", "//127.0.0.1/smb", "-p", self.smb_port, "-A", self._login, "-c", command]
        machine.run(words)

    def _url(self, file: Path) -> str:
        ports = f"nfsport={self.nfs_port}&mountport={self.mount_port}"
        return f"nfs://127.0.0.1/nfs/{file.name}?version=3&{ports}"


class ShareOnFusegw(Served, Gateway):
    """Shares of a volume."""

    name = "fusegw"

    def configuration(self) -> str:
        self.choose_ports()
        return (
            f'[smb]\nlisten = ["127.0.0.1"]\nport = {self.smb_port}\n'
            f'[nfs]\nlisten = "127.0.0.1"\nport = {self.nfs_port}\nmount_port = {self.mount_port}\n'
        )

    def begin(self) -> None:
        Gateway.begin(self)
        self.prepare(self.root)
        password = self.directory / "password"
        password.touch(0o600)
        password.write_text(PASSWORD)
        self._command("export", "user", "add", USER, "--uid", UID, "--gid", UID, "--password-file", password)
        self._command("export", "add", "smb", "--path", "/smb", "--user", USER)
        self._command("export", "add", "nfs", "--path", "/nfs", "--protocol", "nfs", "--squash", "none")
        machine.wait_until(self._running(), "the servers of the shares do not run", machine.READY_TIMEOUT_S)

    def served(self, protocol: Protocol, file: Path) -> Path:
        return self.root / protocol / file.name

    def _running(self) -> Iterator[bool]:
        while True:
            servers: list[dict[str, Any]] = json.loads(self._command("status", VOLUME, "--json"))["servers"]
            yield [one["health"]["state"] for one in servers] == ["running", "running"]


class ShareOnDisk(Served):
    """The same servers, for directories of the disk that everything lies on."""

    name = "disk share"
    room = 2.0
    _process: "subprocess.Popen[bytes] | None" = None

    @classmethod
    def version(cls) -> str | None:
        needed = ("smbd", "smbclient", "ganesha.nfsd", "nfs-cp", "nfs-cat")
        if not all(map(shutil.which, needed)):
            return None
        return "samba " + machine.run(["smbd", "--version"]).split()[-1]

    def begin(self) -> None:
        super().begin()
        self.choose_ports()
        self.prepare(self.directory)
        words = [sys.executable, "-m", "scripts.benchlib.serve", self.directory]
        words += [self.smb_port, self.nfs_port, self.mount_port]
        self._process = subprocess.Popen(
            [str(word) for word in words],
            cwd=ROOT,
            env=machine.clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        what = "the servers of shares on the disk do not run"
        machine.wait_until(self._serving(), what, machine.READY_TIMEOUT_S)

    def _serving(self) -> Iterator[bool]:
        while True:
            yield (self.directory / "ready").exists()

    def end(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(machine.END_TIMEOUT_S)
        super().end()

    def served(self, protocol: Protocol, file: Path) -> Path:
        return self.directory / protocol / file.name


class PastTheShare(Gateway, Place):
    """The mount that the shares of fusegw are on, by cp."""

    name = "FUSE mount"

    def put(self, protocol: Protocol, file: Path) -> Timed:
        with Stopwatch() as watch:
            machine.run(["cp", file, self.served(protocol, file)])
        return Timed(file.stat().st_size, watch.seconds)

    def get(self, protocol: Protocol, file: Path) -> Timed:
        machine.forget_pages()
        with Stopwatch() as watch:
            machine.run(["cp", self.served(protocol, file), "/dev/null"])
        return Timed(file.stat().st_size, watch.seconds)

    def put_tree(self, tree: Path) -> None:
        machine.run(["cp", "-r", tree, self.served("smb", tree)])

    def get_tree(self, tree: Path, target: Path) -> None:
        machine.run(["cp", "-r", self.served("smb", tree), target / tree.name])

    def served(self, protocol: Protocol, file: Path) -> Path:
        return self.root / f"{protocol}-{file.name}"


PLACES: tuple[type[Place], ...] = (ShareOnFusegw, ShareOnDisk, PastTheShare)


def _put(protocol: Protocol, place: Place, corpus: Corpus) -> dict[str, Timed]:
    file = _file(protocol, corpus)
    machine.warm(file)
    machine.settle()
    timed = place.put(protocol, file)
    machine.expect_same(file, place.served(protocol, file))
    return {f"{protocol}-put": timed}


def _get(protocol: Protocol, place: Place, corpus: Corpus) -> dict[str, Timed]:
    machine.settle()
    return {f"{protocol}-get": place.get(protocol, _file(protocol, corpus))}


def _put_few(place: Place, corpus: Corpus) -> dict[str, Timed]:
    tree = _few(corpus)
    machine.tree_bytes(tree)
    machine.settle()
    with Stopwatch() as watch:
        place.put_tree(tree)
    machine.run(["diff", "-r", tree, place.served("smb", tree)])
    return {"smb-files-put": Timed(_count(tree), watch.seconds)}


def _get_few(place: Place, corpus: Corpus) -> dict[str, Timed]:
    tree, target = _few(corpus), place.directory / "fetched"
    target.mkdir()
    machine.forget_pages()
    with Stopwatch() as watch:
        place.get_tree(tree, target)
    machine.run(["diff", "-r", tree, target / tree.name])
    return {"smb-files-get": Timed(_count(tree), watch.seconds)}


def _few(corpus: Corpus) -> Path:
    """Some of the small files, by links."""
    few = corpus.directory / "few"
    if not few.exists():
        new = few.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        found = (path for path in sorted(corpus.tree.rglob("*")) if path.is_file())
        for path in islice((path for path in found if not _UNFIT & set(str(path))), _FEW):
            target = new / path.relative_to(corpus.tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
        new.rename(few)
    return few


def _count(tree: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(tree))


def _file(protocol: Protocol, corpus: Corpus) -> Path:
    """Another one for NFS, of which nothing is stored already."""
    return corpus.day1 if protocol == "smb" else corpus.other()


def _acts(protocol: Protocol) -> tuple[Act, ...]:
    put, get = f"{protocol}-put", f"{protocol}-get"
    return (
        Act((put,), lambda place, corpus: _put(protocol, place, corpus)),
        Act((get,), lambda place, corpus: _get(protocol, place, corpus), after=put),
    )


SHARE_ACTS = (
    *_acts("smb"),
    Act(("smb-files-put",), _put_few),
    Act(("smb-files-get",), _get_few, after="smb-files-put"),
    *_acts("nfs"),
)
