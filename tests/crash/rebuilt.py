"""What the store alone gives back, looked at in this process and without becoming the volume's writer."""

import stat
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from fusegw.assembly import Runtime, running_volume
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.config import Tuning
from fusegw.index import Source
from fusegw.keys.secret import Secret
from fusegw.keys.volume import open_volume
from fusegw.meta.schema import ROOT_INODE
from fusegw.registry import Registry
from fusegw.ship.recover import recover
from fusegw.store.opening import open_store
from tests.mount.gateways import NAME, PASSPHRASE, Gateway

Seen = TypeVar("Seen")


class Entry(msgspec.Struct, frozen=True):
    """A name in a tree and all that is compared of what it stands for."""

    mode: int
    nlink: int
    content: bytes = b""
    """Of a file; of a symlink its target."""
    xattrs: frozenset[tuple[bytes, bytes]] = frozenset()


Tree = dict[str, Entry]
"""By path from the root, without the root."""


def rebuilt(gateway: Gateway, directory: Path, look: Callable[[Runtime], Awaitable[Seen]]) -> Seen:
    """What `look` finds in a volume rebuilt in `directory` from the store that `gateway` uses."""
    clock, entropy = SystemClock(), SystemEntropy()
    options = Registry(gateway.state).get(NAME).store

    async def main() -> Seen:
        async with running_volume(source) as runtime:
            return await look(runtime)

    with closing(open_store(options, clock=clock, entropy=entropy)) as store:
        keys = open_volume(store, Secret.passphrase(PASSPHRASE)).keys
        recover(directory / "meta", store, keys, metadata_limit_bytes=1 << 40, clock=clock)
        source = Source(
            store=store,
            keys=keys,
            meta_dir=directory / "meta",
            cache_dir=directory / "cache",
            cache_size_bytes=1 << 30,
            tuning=Tuning(),
            clock=clock,
            entropy=entropy,
            free_bytes=lambda: 1 << 40,
            read_only=True,
        )
        return trio.run(main)


async def tree(runtime: Runtime) -> Tree:
    """The whole tree, every byte read."""
    volume = runtime.volume
    found: Tree = {}
    waiting = [(ROOT_INODE, "")]
    while waiting:
        directory, above = waiting.pop()
        for name, _, inode in list(volume.namespace.readdir(directory, 0)):
            path = above + name.decode()
            content = inode.target
            if stat.S_ISREG(inode.mode):
                content = await volume.files.read(inode.ino, 0, inode.size)
            elif stat.S_ISDIR(inode.mode):
                waiting.append((inode.ino, path + "/"))
            names = volume.xattrs.list(inode.ino)
            xattrs = frozenset((name, volume.xattrs.get(inode.ino, name)) for name in names)
            found[path] = Entry(inode.mode, inode.nlink, content, xattrs)
    return found
