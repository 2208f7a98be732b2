"""One smbd under its server, without a gateway."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio

from exports.model import Share
from exports.server import Offer, Placed
from exports.settings import SmbSettings
from exports.smb import SmbServer
from tests.plugins.s3servers import free_port

pytestmark = [pytest.mark.samba]
RUNNING_S = 60.0


def offer(name: str, directory: Path) -> Offer:
    placed = Placed(
        share=Share(name=name, guest=True), mountpoint="/", directory=str(directory), read_only=True
    )
    return Offer(shares=(placed,), sid="S-1-5-21-1-2-3")


async def started(server: SmbServer) -> int:
    with trio.fail_after(RUNNING_S):
        while server.status.health.state != "running":
            await trio.sleep(0.02)
    pid = server.status.health.pid
    assert pid is not None
    return pid


@pytest.mark.parametrize(
    ("listen", "asked"),
    [
        (("lo",), "127.0.0.1"),
        (("outside",), "192.0.2.1"),
        (("192.0.2.0/24", "lo"), "192.0.2.1"),
        (("192.0.2.1/24",), "192.0.2.1"),
        (("inside",), "fd00::1"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_it_is_found_where_it_listens(listen: tuple[str, ...], asked: str) -> None:
    """By the name of an interface, too: smbd is not reached at the loopback then."""
    network = (
        "ip link set lo up; ip link add outside type veth peer name inside; "
        "ip addr add 192.0.2.1/24 dev outside; ip addr add fd00::1/64 dev inside nodad; "
        "ip link set inside up; ip link set outside up"
    )
    run = shlex.join([sys.executable, "-m", "tests.exports.smb_elsewhere", *listen])
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", f"{network}; exec {run}"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert (done.returncode, done.stdout.strip()) == (0, asked), done.stderr


async def test_nothing_to_serve_means_that_smbd_has_ended(tmp_path: Path) -> None:
    """Or the shares that come next would meet one that does not know of them."""
    with tempfile.TemporaryDirectory(prefix="fusegw-smbd-") as base:
        os.chmod(base, 0o755)
        server = SmbServer(SmbSettings(listen=("127.0.0.1",), port=free_port()), Path(base) / "smb")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            await server.apply(offer("one", tmp_path))
            first = await started(server)
            await server.apply(Offer())
            assert not Path(f"/proc/{first}").exists()
            await server.apply(offer("two", tmp_path))
            assert await started(server) != first
            await server.release()
            nursery.cancel_scope.cancel()
