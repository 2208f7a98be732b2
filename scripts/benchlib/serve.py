"""Serves shares of directories on the disk until its standard input ends: `serve DIRECTORY SMB NFS MOUNT`.

The numbers are ports. DIRECTORY holds the directories `smb` and `nfs`; state is kept beside them, and a file
`ready` says that both answer.
"""

import sys
import time
from pathlib import Path

import trio

from exports.model import Share, User
from exports.nfs import NfsServer
from exports.nthash import nt_hash
from exports.server import Offer, Placed
from exports.settings import NfsSettings, SmbSettings
from exports.smb import SmbServer
from fusegw.clock import SystemEntropy
from fusegw.shares import new_sid
from scripts.benchlib.shares import PASSWORD, UID, USER


def offer(directory: Path) -> Offer:
    shares = (
        Share(name="smb", users=(USER,)),
        Share(name="nfs", protocols=("nfs",), squash="none", export_id=1),
    )
    user = User(name=USER, uid=UID, gid=UID, nt_hash=nt_hash(PASSWORD))
    return Offer(
        shares=tuple(
            Placed(
                share=share,
                mountpoint="/",
                directory=str(directory / share.name),
                read_only=False,
                members=(USER,),
            )
            for share in shares
        ),
        users=(user,),
        sid=new_sid(SystemEntropy().token(12)),
    )


async def serve(directory: Path, smb_port: int, nfs_port: int, mount_port: int) -> None:
    servers = [
        SmbServer(SmbSettings(listen=("127.0.0.1",), port=smb_port), directory / "s"),
        NfsServer(
            NfsSettings(port=nfs_port, mount_port=mount_port),
            directory / "n",
            mountpoint=Path("/"),
            fsid=1,
            now_s=time.time,
        ),
    ]
    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(server.run)
            await server.apply(offer(directory))
        while any(one.status.health.state != "running" for one in servers):  # noqa: ASYNC110 (others get ready)
            await trio.sleep(0.1)
        (directory / "ready").touch()
        async with trio.lowlevel.FdStream(0) as stdin:
            await stdin.receive_some()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve, Path(sys.argv[1]), *map(int, sys.argv[2:]))
