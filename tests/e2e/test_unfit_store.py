"""A store that ignores conditional writes, found out at the mount: a volume moved there is refused."""

from contextlib import closing
from pathlib import Path

import pytest

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.registry import Registry
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from tests.e2e.conftest import in_s3
from tests.mount.gateways import NAME, Gateway
from tests.plugins.s3servers import S3Server

pytestmark = pytest.mark.mount


def copy(source: StoreOptions, target: StoreOptions) -> None:
    clock, entropy = SystemClock(), SystemEntropy()
    with (
        closing(open_store(source, clock=clock, entropy=entropy)) as here,
        closing(open_store(target, clock=clock, entropy=entropy)) as there,
    ):
        for entry in here.list():
            there.put(entry.key, here.get(entry.key, size_max=entry.size))


def test_a_volume_moved_to_rclone_is_not_mounted(
    base: Path, moto_server: S3Server, rclone_server: S3Server
) -> None:
    gateway: Gateway = in_s3(base, moto_server)
    moved = rclone_server.options()
    try:
        gateway.mount()
        (gateway.root / "file").write_text("content")
        gateway.umount()
        copy(Registry(gateway.state).get(NAME).store, moved)
        gateway.configure(
            f'[volumes.{NAME}.store]\nurl = "{moved.url}"\nendpoint_url = "{moved.endpoint_url}"\n'
            'region = "us-east-1"\n'
        )
        done = gateway.run("mount", NAME, gateway.root)
        assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
        assert "conditional writes (If-None-Match)" in done.stderr, done.stderr
        gateway.mount("-o", "ro")
        assert (gateway.root / "file").read_text() == "content"
    finally:
        gateway.end()
