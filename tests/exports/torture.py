"""smbtorture against a share on any directory, served as the gateway serves its shares."""

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import trio

from exports.model import Share, User
from exports.nthash import nt_hash
from exports.server import Offer, Placed
from exports.settings import SmbSettings
from exports.smb import SmbServer
from tests.exports.smbhost import free_port

SUITES = (
    *("connect", "rw", "read", "lock", "sharemode", "deny", "create", "rename", "mkdir", "timestamps"),
    *("maxfid", "session", "tcon", "credits", "compound_find", "openattr", "winattr", "durable-open"),
    *("getinfo", "setinfo", "streams", "acls", "charset", "dir", "delete-on-close-perms", "notify"),
)
SUITE_TIMEOUT_S = 1500
PASSWORD = "torture"
USER = User(name="torture", uid=20000, gid=20000, nt_hash=nt_hash(PASSWORD))
_RESULT = re.compile(r"^(success|failure|error|skip): (\S+)", re.MULTILINE)


class Torture:
    """The share, and what runs against it."""

    def __init__(self, base: Path, port: int) -> None:
        self._login = base / "login"
        self._login.write_text(f"username = torture\npassword = {PASSWORD}\n")
        self._login.chmod(0o600)
        self._port = port

    async def run(self, suite: str) -> dict[str, str]:
        """What became of each test of a suite: success, failure, error, skip, by name; `SUITE: ended` when it
        did not come to its end."""
        command = [
            *("smbtorture", "//127.0.0.1/torture", "-p", str(self._port), "-A", str(self._login)),
            f"smb2.{suite}",
        ]
        with trio.move_on_after(SUITE_TIMEOUT_S) as time:
            done = await trio.run_process(
                command,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            )
        if time.cancelled_caught:
            return {f"{suite}: ended": "failure"}
        text = done.stdout.decode(errors="replace")
        found = {f"{suite}.{name.rpartition('.')[2]}": kind for kind, name in _RESULT.findall(text)}
        if done.returncode < 0 or not found:
            found[f"{suite}: ended"] = "failure"
        return found


@contextlib.asynccontextmanager
async def tortured(directory: Path, *, mountpoint: Path) -> AsyncIterator[Torture]:
    """smbd with one share of `directory`, which is on the file system at `mountpoint`."""
    with tempfile.TemporaryDirectory(prefix="fusegw-torture-") as base:
        os.chmod(base, 0o755)
        port = free_port()
        server = SmbServer(SmbSettings(listen=("127.0.0.1",), port=port), Path(base) / "smb")
        share = Share(name="torture", users=("torture",), signing=False)
        placed = Placed(
            share=share,
            mountpoint=str(mountpoint),
            directory=str(directory),
            read_only=False,
            members=("torture",),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            await server.apply(Offer(shares=(placed,), users=(USER,), sid="S-1-5-21-1-2-3"))
            while server.status.health.state != "running":
                await trio.sleep(0.1)
            yield Torture(Path(base), port)
            nursery.cancel_scope.cancel()


@contextlib.contextmanager
def ext4(size_bytes: int = 1 << 30) -> Iterator[Path]:
    """A fresh ext4 in a loop device."""
    with tempfile.TemporaryDirectory(prefix="fusegw-ext4-") as base:
        os.chmod(base, 0o755)
        image, place = Path(base) / "image", Path(base) / "mnt"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(size_bytes)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop,acl,user_xattr", image, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", place], check=True)


def failures(results: dict[str, str]) -> set[str]:
    return {name for name, kind in results.items() if kind in ("failure", "error")}
