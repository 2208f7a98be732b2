"""Serves NFS in the network it finds, and prints which of the addresses named reach it.

`LISTEN BOUND ADDRESS…`: what ganesha's configuration says, what the library it is preloaded with is told."""

import socket
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import trio

from exports import ganesha
from exports.supervisor import Command
from tests.exports import ganeshas


def reachable(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 5).close()
    except OSError:
        return False
    return True


async def main(listen: str, bound: str, *addresses: str) -> None:
    started = ganesha.command

    def command(*arguments: Any, **more: Any) -> Command:
        command = started(*arguments, **more)
        command.environment["FUSEGW_NFS_LISTEN"] = bound
        return command

    ganesha.command = command
    with tempfile.TemporaryDirectory() as place:
        tree, chosen = Path(place, "tree"), ganeshas.settings(listen=listen)
        tree.mkdir()
        nfs = ganeshas.server(Path(place, "nfs"), tree, chosen)
        async with ganeshas.serving(nfs, ganeshas.placed(tree)):
            for address in addresses:
                for port in (chosen.port, chosen.mount_port):
                    if await trio.to_thread.run_sync(partial(reachable, address, port)):
                        print(address)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
