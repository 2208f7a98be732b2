"""One smbd under its server, without a gateway."""

import os
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
