"""Serves SMB in the network it finds, and prints the address that it is asked at: `LISTEN…`."""

import os
import sys
import tempfile
from pathlib import Path

import trio

from exports.interfaces import reachable
from exports.model import Share
from exports.server import Offer, Placed
from exports.settings import SmbSettings
from exports.smb import SmbServer

WAIT_S = 20.0


async def main(*listen: str) -> None:
    with tempfile.TemporaryDirectory(prefix="fusegw-smb-") as base:
        os.chmod(base, 0o755)
        server = SmbServer(SmbSettings(listen=listen, port=4450), Path(base) / "smb")
        share = Placed(share=Share(name="one", guest=True), mountpoint="/", directory="/", read_only=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            await server.apply(Offer(shares=(share,), sid="S-1-5-21-1-2-3"))
            with trio.fail_after(WAIT_S):
                while server.status.health.state != "running":
                    await trio.sleep(0.02)
            print(reachable(listen))
            await server.release()
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
