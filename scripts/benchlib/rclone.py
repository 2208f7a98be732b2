"""rclone mount with a full VFS cache: the nearest thing to a gateway that keeps files as they are.

Its files are in the store once nothing is queued or under way; the store then holds them byte for byte, so
the amount is checked as well. Uploads begin 1 s after a file was closed: the default of 5 s would only make
it look slower, and with no delay it loses files that rsync gives their times while they are being uploaded.
"""

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree, which
from typing import Any

from fusegw.errors import Unavailable
from scripts.benchlib import machine
from scripts.benchlib.contender import MountContender, Timed, TreeStored
from scripts.benchlib.corpus import Corpus
from scripts.benchlib.stores import BucketStore, DirectoryStore, Store

UPLOAD_TIMEOUT_S = 3600
IDLE_LOOKS_MAX = 200
"""A file may be on its way from the kernel to rclone, but not for that many polls."""


class Rclone(MountContender):
    """One `rclone mount` process in the foreground."""

    name = "rclone mount"
    room = 4.0

    def __init__(self, directory: Path, store: Store) -> None:
        super().__init__(directory, store)
        self._process: subprocess.Popen[bytes] | None = None
        self._written_bytes = 0

    @classmethod
    def version(cls) -> str | None:
        program = _program()
        return machine.run([program, "version"]).split()[1] if program else None

    def begin(self) -> None:
        super().begin()
        self.mount()

    def mount(self) -> None:
        program = _program()
        assert program is not None
        command = [
            *(program, "mount", self._remote(), str(self.root), "--config", "/dev/null"),
            *("--cache-dir", str(self._cache), "--vfs-cache-mode", "full", "--vfs-write-back", "1s"),
            *("--rc", "--rc-addr", f"unix://{self._socket}", "--log-file", str(self.directory / "log")),
        ]
        environment = machine.clean_environment() | self.store.environment
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        machine.wait_until(self._mounted(), "rclone mount did not get ready", machine.READY_TIMEOUT_S)

    def unmount(self) -> None:
        if self._process is not None:
            self.barrier()
            self.note_memory()
            self.kill()
            machine.detach(self.root)

    def barrier(self) -> None:
        machine.wait_until(self._stored(), "rclone did not finish its uploads", UPLOAD_TIMEOUT_S)

    def remount_cold(self) -> None:
        self.unmount()
        rmtree(self._cache)
        self.mount()

    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    def kill(self) -> None:
        if self._process is not None:
            machine.end_process(self._process)
            self._process = None

    def store_file(self, file: Path) -> Timed:
        self._written_bytes += file.stat().st_size
        return super().store_file(file)

    def store_tree(self, corpus: Corpus) -> TreeStored:
        self._written_bytes += corpus.planted.bytes
        return super().store_tree(corpus)

    def remove_tree(self, corpus: Corpus) -> Timed:
        self._written_bytes -= corpus.planted.bytes
        return super().remove_tree(corpus)

    @property
    def _cache(self) -> Path:
        return self.directory / "cache"

    @property
    def _socket(self) -> Path:
        return self.directory / "rc"

    def _remote(self) -> str:
        match self.store:
            case DirectoryStore(path=path):
                return str(path)
            case BucketStore(endpoint=endpoint, path=path):
                return f":s3,provider=Ceph,env_auth=true,endpoint='{endpoint}',no_check_bucket=true:{path}"

    def _mounted(self) -> Iterator[bool]:
        assert self._process is not None
        while True:
            if self._process.poll() is not None:
                said = (self.directory / "log").read_text()[-2000:]
                raise Unavailable(f"rclone mount ended with status {self._process.returncode}: {said}")
            yield machine.is_mounted(self.root)

    def _stored(self) -> Iterator[bool]:
        looks = 0
        while True:
            if idle(self._statistics()):
                looks += 1
                missing_bytes = self._written_bytes - self.store.stored_bytes()
                if missing_bytes <= 0:
                    yield True
                elif looks > IDLE_LOOKS_MAX:
                    raise Unavailable(f"rclone mount uploads nothing more and lacks {missing_bytes} bytes")
            yield False

    def _statistics(self) -> dict[str, Any]:
        connection = _UnixConnection(self._socket)
        try:
            connection.request("POST", "/vfs/stats")
            statistics: dict[str, Any] = json.loads(connection.getresponse().read())
        except OSError as error:
            raise Unavailable(f"rclone mount does not answer at {self._socket}: {error}") from None
        finally:
            connection.close()
        return statistics


def idle(statistics: dict[str, Any]) -> bool:
    """Is nothing left to upload? Unavailable when uploads failed."""
    disk = statistics["diskCache"]
    if disk["erroredFiles"] or disk["outOfSpace"]:
        raise Unavailable(f"rclone mount could not upload {disk['erroredFiles']} files: see its log")
    return not disk["uploadsInProgress"] and not disk["uploadsQueued"]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=machine.READY_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _program() -> str | None:
    """rclone of this environment, or the system's."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.exists() else which("rclone")
