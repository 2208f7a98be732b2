"""A real nfs-ganesha under its server, in this process's event loop."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from exports.model import Share
from exports.nfs import NfsServer
from exports.server import Offer, Placed
from exports.settings import NfsSettings
from exports.supervisor import KeptWaiting, never

FSID = 0x0102030405060708
RUNNING_S = 20.0


def free_ports() -> tuple[int, int]:
    """Two ports of the loopback that nobody listens on."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def settings(**more: Any) -> NfsSettings:
    port, mount_port = free_ports()
    return NfsSettings(port=port, mount_port=mount_port, **more)


def placed(directory: Path, name: str = "share", export_id: int = 257, **more: Any) -> Placed:
    """A share of `directory`, in which root is root unless `more` says otherwise."""
    share = Share(name=name, protocols=("nfs",), export_id=export_id, **({"squash": "none"} | more))
    return Placed(share=share, mountpoint=str(directory), directory=str(directory), read_only=share.read_only)


def offer(*shares: Placed) -> Offer:
    return Offer(shares=shares)


def server(
    state: Path,
    mountpoint: Path,
    chosen: NfsSettings,
    now_s: Callable[[], float] = lambda: 1e9,
    kept_waiting: KeptWaiting = never,
) -> NfsServer:
    return NfsServer(chosen, state, mountpoint=mountpoint, fsid=FSID, now_s=now_s, kept_waiting=kept_waiting)


@asynccontextmanager
async def serving(nfs: NfsServer, *shares: Placed) -> AsyncIterator[None]:
    """The shares are served in the block, and ganesha has ended after it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nfs.run)
        await nfs.apply(offer(*shares))
        await running(nfs)
        yield
        await nfs.release()
        nursery.cancel_scope.cancel()


async def running(nfs: NfsServer, *, restarts: int = 0) -> None:
    """ganesha answers, and was started again as often."""
    with trio.fail_after(RUNNING_S):
        while (nfs.status.health.state, nfs.status.health.restarts) != ("running", restarts):
            await trio.sleep(0.02)
