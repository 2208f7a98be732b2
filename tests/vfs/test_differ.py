"""What changed between snapshots, told by path."""

import math
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from fusegw.assembly import Runtime, running_volume
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.config import Tuning
from fusegw.index import Source
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.schema import ROOT_INODE
from fusegw.store.memory import MemoryStore
from fusegw.vfs.caller import Caller
from fusegw.vfs.differ import Difference, differences

KEYS = VolumeKeys(b"diff volume id!!", {1: bytes(32)}, chunk_id_key=b"k" * 32, cutter_seed=0x1234567)
ME = Caller(0, 0)


def run(directory: Path, body: Callable[[Runtime], Awaitable[None]]) -> None:
    """`body` with a running volume in `directory`."""
    source = Source(
        store=MemoryStore(clock=SystemClock()),
        keys=KEYS,
        meta_dir=directory / "meta",
        cache_dir=directory / "cache",
        cache_size_bytes=64 << 20,
        tuning=Tuning(chunk_size_bytes=16 << 10),
        clock=SystemClock(),
        entropy=SystemEntropy(),
        free_bytes=lambda: 1 << 40,
        unmount_wait_s=math.inf,
    )

    async def main() -> None:
        async with running_volume(source) as runtime:
            await body(runtime)

    trio.run(main)


async def put(runtime: Runtime, parent: int, name: bytes, data: bytes) -> int:
    """A file with this content; its inode."""
    volume = runtime.volume
    ino = volume.namespace.mknod(parent, name, 0o644, 0, ME).ino
    if data:
        await volume.files.write(ino, 0, data)
    return ino


def told(runtime: Runtime, older: str, newer: str | None = None) -> list[tuple[str, str, str]]:
    """(path, difference, path before)."""
    snapshots = runtime.volume.snapshots
    with runtime.metadata.view() as view:
        found = differences(view, snapshots.get(older), snapshots.get(newer) if newer else None)
    return [(one.path, one.difference.value, one.before) for one in found]


def test_each_kind_of_difference_is_told(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> None:
        volume = runtime.volume
        names = volume.namespace
        directory = names.mkdir(ROOT_INODE, b"tree", 0o755, ME).ino
        kept = await put(runtime, directory, b"kept", b"same")
        grown = await put(runtime, directory, b"grown", b"short")
        moved = await put(runtime, directory, b"moved", b"data")
        await put(runtime, directory, b"gone", b"data")
        tagged = await put(runtime, directory, b"tagged", b"data")
        await volume.snapshots.create("first")
        await volume.files.write(grown, 5, b" no more")
        names.rename(directory, b"moved", ROOT_INODE, b"elsewhere", 0)
        names.unlink(directory, b"gone")
        volume.xattrs.set(tagged, b"user.tag", b"x")
        await put(runtime, directory, b"new", b"n" * 100_000)
        names.link(kept, directory, b"again")
        await volume.snapshots.create("second")
        names.rename(ROOT_INODE, b"tree", ROOT_INODE, b"forest", 0)
        await volume.sync()
        first_to_second = [
            ("/elsewhere", Difference.RENAMED.value, "/tree/moved"),
            ("/tree/again", Difference.ADDED.value, ""),
            ("/tree/gone", Difference.REMOVED.value, ""),
            ("/tree/grown", Difference.CONTENT.value, ""),
            ("/tree/new", Difference.ADDED.value, ""),
            ("/tree/tagged", Difference.ATTRIBUTES.value, ""),
        ]
        assert told(runtime, "first", "second") == first_to_second
        assert told(runtime, "second") == [("/forest", Difference.RENAMED.value, "/tree")]
        assert told(runtime, "second", "second") == []
        assert moved and ("/forest/new", Difference.ADDED.value, "") in told(runtime, "first")

    run(tmp_path, body)


def test_a_rollback_leaves_no_difference(tmp_path: Path) -> None:
    async def body(runtime: Runtime) -> None:
        volume = runtime.volume
        ino = await put(runtime, ROOT_INODE, b"file", b"a" * 50_000)
        await volume.snapshots.create("before")
        await volume.files.write(ino, 100, b"changed")
        await put(runtime, ROOT_INODE, b"other", b"b" * 50_000)
        await volume.files.settle_all()
        await volume.sync()
        assert told(runtime, "before") == [("/file", "content", ""), ("/other", "added", "")]
        safety, _ = await volume.rollback.to("before")
        assert told(runtime, safety.name) == [("/file", "content", ""), ("/other", "removed", "")]
        assert told(runtime, "before") == []
        assert await volume.files.read(ino, 0, 1 << 20) == b"a" * 50_000

    run(tmp_path, body)
