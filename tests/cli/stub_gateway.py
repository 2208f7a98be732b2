"""The real command line around a stand-in for the gateway, run as a program.

The stand-in writes the settings it got to $STUB_SETTINGS, fails as $STUB_FAIL says ("Class: message";
"exit" ends the process), mounts an empty file system when $STUB_MOUNT is set, answers `status` and
`shutdown`, and ends by SIGTERM, by `shutdown` or by being unmounted.
"""

import errno
import os
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import fusegw.errors
from fusegw.cli.main import main
from fusegw.config import GatewaySettings, VolumeSettings
from fusegw.control.protocol import (
    CacheDropReply,
    CacheStatsReply,
    FileStatusReply,
    PromoteReply,
    ShutdownReply,
    StatusReply,
    StoreHealth,
    SyncProgress,
    SyncReply,
    TrafficReply,
)
from fusegw.daemon.process import Ready
from fusegw.errors import Invalid, Unavailable
from fusegw.metering import Period
from fusegw.store.counting import Traffic

if TYPE_CHECKING:  # as in the real gateway, the event loop is imported in the background process
    import trio


class Handler:
    """Made-up numbers."""

    def __init__(self, settings: VolumeSettings, ended: "trio.Event") -> None:
        self._settings = settings
        self._ended = ended

    async def status(self) -> StatusReply:
        return StatusReply(
            pid=os.getpid(),
            volume=self._settings.volume,
            mountpoint=str(self._settings.mountpoint),
            store_url=self._settings.store.url,
            read_only=self._settings.read_only,
            epoch=1,
            backlog_bytes=3 << 20,
            oldest_unshipped_s=90.0,
            ingest_rate_bytes_s=0.0,
            upload_rate_bytes_s=1 << 20,
            eta_s=3.0,
            store_health=StoreHealth(state="degraded", last_error="503 SlowDown", since_unix_s=1.0),
            files=1234,
            open_files=1,
            logical_bytes=10 << 30,
            stored_bytes=5 << 30,
            metadata_bytes=1 << 20,
        )

    async def file_status(self, inode: int) -> FileStatusReply:
        return FileStatusReply(
            state="shipping", size_bytes=inode << 20, unstored_bytes=5 << 20, oldest_unshipped_s=90.0
        )

    async def cache_stats(self) -> CacheStatsReply:
        return CacheStatsReply(
            used_bytes=1 << 30,
            budget_bytes=10 << 30,
            dirty_bytes=0,
            hits=3,
            misses=1,
            hit_bytes=3000,
            miss_bytes=1000,
            evictions=0,
            evicted_bytes=0,
            hit_ratio=0.75,
            dedup_ratio=2.0,
            compression_ratio=None,
        )

    async def cache_drop(self) -> CacheDropReply:
        return CacheDropReply(freed_bytes=1 << 20)

    async def traffic(self) -> TrafficReply:
        now = Traffic(put_requests=2_000, get_requests=1_000, sent_bytes=1 << 30, received_bytes=2 << 30)
        return TrafficReply(
            since_mount=Period(since_unix_s=86400.0, traffic=now, ingested_bytes=512 << 20),
            total=Period(since_unix_s=0.0, traffic=now.plus(now), ingested_bytes=4 << 30),
        )

    async def sync(self, *, wait: bool) -> SyncReply:
        if wait and os.environ.get("STUB_SYNC_FAILS"):
            raise Unavailable("the store has been away for 60 s")
        return SyncReply(complete=wait, backlog_bytes=0 if wait else 3 << 20)

    def progress(self) -> SyncProgress:
        return SyncProgress(backlog_bytes=1, upload_rate_bytes_s=1.0)

    async def promote(self) -> PromoteReply:
        raise Invalid("the volume follows no other gateway: there is nothing to promote")

    async def shutdown(self) -> ShutdownReply:
        self._ended.set()
        return ShutdownReply(pid=os.getpid())


def gateway(settings: GatewaySettings, *, on_ready: Ready) -> None:
    dump(settings)
    fail = os.environ.get("STUB_FAIL", "")
    if fail == "exit":
        os._exit(9)
    if fail:
        name, _, message = fail.partition(": ")
        raise getattr(fusegw.errors, name, RuntimeError)(message)
    for volume in settings.volumes:
        volume.paths.meta_dir.mkdir(exist_ok=True)
        (volume.paths.meta_dir / "data.mdb").touch()
    import trio

    trio.run(serve, settings, on_ready)


def dump(settings: GatewaySettings) -> None:
    if path := os.environ.get("STUB_SETTINGS"):
        volumes = {volume.volume: fields(volume) for volume in settings.volumes}
        text = msgspec.json.encode(
            next(iter(volumes.values()))
            | {
                "options": settings.options,
                "unified": settings.unified,
                "volumes": volumes,
                "missing": {one.paths.name: str(one.error) for one in settings.missing},
            },
            enc_hook=str,
        )
        Path(path).write_bytes(text)


def fields(volume: VolumeSettings) -> dict[str, object]:
    return {name: getattr(volume, name) for name in volume.__struct_fields__}


async def serve(settings: GatewaySettings, on_ready: Ready) -> None:
    import trio

    from fusegw.control import server

    ended = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def until_signal() -> None:
                async for _ in signals:
                    ended.set()

            nursery.start_soon(until_signal)
            for volume in settings.volumes:
                await nursery.start(server.serve, volume.paths.socket_file, Handler(volume, ended))
            if os.environ.get("STUB_MOUNT"):
                nursery.start_soon(serve_mount, settings, on_ready, ended)
            else:
                on_ready()
            await ended.wait()
            nursery.cancel_scope.cancel()


async def serve_mount(settings: GatewaySettings, on_ready: Ready, ended: "trio.Event") -> None:
    import pyfuse3

    class Empty(pyfuse3.Operations):  # type: ignore[misc]
        async def getattr(self, inode: int, ctx: object = None) -> object:
            if inode != pyfuse3.ROOT_INODE:
                raise pyfuse3.FUSEError(errno.ENOENT)
            attributes = pyfuse3.EntryAttributes()
            attributes.st_ino = inode
            attributes.st_mode = stat.S_IFDIR | 0o755
            attributes.st_nlink = 2
            attributes.attr_timeout = 3600.0  # the kernel's cache outlives the gateway
            return attributes

        async def opendir(self, inode: int, ctx: object) -> int:
            return inode

    options = {f"fsname={settings.options.fsname}", "subtype=fusegw"}
    pyfuse3.init(Empty(), str(settings.mountpoint), options)
    on_ready()
    try:
        await pyfuse3.main()
    finally:
        pyfuse3.close(unmount=False)
        ended.set()


if __name__ == "__main__":
    sys.exit(main(gateway=gateway))
