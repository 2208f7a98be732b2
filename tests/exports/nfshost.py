"""A gateway with shares over NFS on ports of its own, and libnfs as their client."""

import errno
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from libnfs import _libnfs as library

from fusegw.clock import SystemClock
from tests.exports.ganeshas import free_ports
from tests.exports.nfs_wire import Nfs3, Nfs4
from tests.mount.gateways import Gateway

TIMEOUT_S = 120
WRITE_BYTES_MAX = {3: 1 << 20, 4: 2048}
"""By version: Debian's libnfs cannot encode more of NFSv4 in one call."""


class NfsHost(Gateway):
    """One volume whose shares are served on 127.0.0.1; not before one is added."""

    def __init__(self, base: Path, **options: Any) -> None:
        self.port, self.mount_port = free_ports()
        super().__init__(base, **options)
        self.configuration = f"[nfs]\nport = {self.port}\nmount_port = {self.mount_port}\n"
        self.configure(self.configuration)

    def share(self, name: str, *options: object) -> None:
        self.command("export", "add", name, "--protocol", "nfs", "--squash", "none", *options)
        self.serving()

    @property
    def nfs(self) -> dict[str, Any]:
        """What status says of the NFS server; empty when it says nothing."""
        servers = [one for one in self.control().status().servers if one.protocol == "nfs"]
        return {"state": servers[0].health.state, "pid": servers[0].health.pid} if servers else {}

    def serving(self, *, other_than: int | None = None) -> int:
        """Wait until ganesha answers; its process."""
        clock = SystemClock()
        deadline = clock.monotonic() + 30
        while (found := self.nfs).get("state") != "running" or found["pid"] == other_than:
            assert clock.monotonic() < deadline, f"ganesha does not run: {found}"
            time.sleep(0.02)
        return int(found["pid"])

    def nfs3(self, **more: Any) -> Nfs3:
        return Nfs3(self.port, self.mount_port, **more)

    def nfs4(self, minor: int = 1, **more: Any) -> Nfs4:
        return Nfs4(self.port, minor, **more)

    def kill_ganesha(self) -> int:
        """As the kernel's OOM killer would; the process, which is gone."""
        pid = self.serving()
        kill(pid)
        return pid

    def kill_all(self) -> None:
        """Gateway and ganesha at once."""
        kill(self.serving(), self.pid)

    def url(self, path: str, version: int = 3) -> str:
        return f"nfs://127.0.0.1{path}?version={version}&nfsport={self.port}&mountport={self.mount_port}"

    def tool(self, program: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """nfs-cp, nfs-ls, nfs-cat, whatever they end with."""
        return subprocess.run([program, *arguments], capture_output=True, timeout=TIMEOUT_S)


class Client:
    """libnfs by its Python binding, with its errors as OSError."""

    def __init__(self, host: NfsHost, share: str, version: int) -> None:
        self._version = version
        self._context = library.nfs_init_context()
        self._url = library.nfs_parse_url_dir(self._context, host.url(f"/{share}", version))
        self._check(library.nfs_mount(self._context, self._url.server, self._url.path), share)

    def mkdir(self, path: str) -> None:
        self._check(library.nfs_mkdir(self._context, path), path)

    def write(self, path: str, data: bytes) -> None:
        """A new file, committed on return."""
        handle = library.new_NFSFileHandle()
        status = library.nfs_create(self._context, path, os.O_WRONLY, 0o644, handle)
        self._check(status, path)
        file = library.NFSFileHandle_value(handle)
        step = WRITE_BYTES_MAX[self._version]
        for start in range(0, len(data), step):
            piece = bytearray(data[start : start + step])
            self._check(library.nfs_write(self._context, file, len(piece), piece), path)
        self._check(library.nfs_fsync(self._context, file), path)
        self._check(library.nfs_close(self._context, file), path)

    def read(self, path: str, size: int) -> bytes:
        """Up to `size` bytes of the file, one more than there should be to see that it ends."""
        handle = library.new_NFSFileHandle()
        self._check(library.nfs_open(self._context, path, os.O_RDONLY, handle), path)
        file, found = library.NFSFileHandle_value(handle), bytearray()
        while len(found) < size:
            piece = bytearray(min(size - len(found), 1 << 20))
            count = self._check(library.nfs_read(self._context, file, len(piece), piece), path)
            if not count:
                break
            found += piece[:count]
        self._check(library.nfs_close(self._context, file), path)
        return bytes(found)

    def names(self, path: str) -> set[str]:
        handle = library.new_NFSDirHandle()
        self._check(library.nfs_opendir(self._context, path, handle), path)
        directory, found = library.NFSDirHandle_value(handle), set()
        while (entry := library.nfs_readdir(self._context, directory)) is not None:
            found.add(entry.name)
        return found - {".", ".."}

    def rename(self, old: str, new: str) -> None:
        self._check(library.nfs_rename(self._context, old, new), old)

    def unlink(self, path: str) -> None:
        self._check(library.nfs_unlink(self._context, path), path)

    def close(self) -> None:
        library.nfs_destroy_url(self._url)
        library.nfs_destroy_context(self._context)

    def _check(self, status: int, path: str) -> int:
        if status < 0:
            raise OSError(-status, errno.errorcode.get(-status, "?"), path)
        return status


def kill(*pids: int) -> None:
    """SIGKILL to all of them, and wait until they are gone."""
    handles = [os.pidfd_open(pid) for pid in pids]
    try:
        for handle in handles:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in handles:
            assert select.select([handle], [], [], 30)[0]
    finally:
        for handle in handles:
            os.close(handle)
