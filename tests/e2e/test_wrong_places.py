"""Stores, accounts, mount points that are not what the volume needs: a clear refusal, nothing touched."""

import os
import subprocess
from pathlib import Path

import pytest

from fusegw.daemon.mountpoint import FS_TYPE, mounted_on
from fusegw.errors import Busy, Denied, Invalid, NotFound, WrongKey
from tests.mount.gateways import CHEAP, NAME, Gateway
from tests.plugins.s3servers import RgwServer

pytestmark = pytest.mark.mount


def tree(*places: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()}


def refused(
    gateway: Gateway, kind: type[Exception], message: str, *options: object, **environment: str
) -> None:
    """One line on stderr, the documented code, no mount, no change in the store."""
    before = tree(gateway.store)
    done = gateway.run("mount", NAME, gateway.root, *options, **environment)
    assert done.returncode == kind.exit_code, done  # type: ignore[attr-defined]
    assert done.stderr.startswith("fusegw: error: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    entry = mounted_on(str(gateway.root))
    assert entry is None or entry.fs_type != FS_TYPE
    assert tree(gateway.store) == before


def write_and_end(gateway: Gateway) -> None:
    gateway.mount()
    (gateway.root / "file").write_text("content")
    gateway.umount()


@pytest.mark.parametrize("same_passphrase", [True, False])
def test_another_volume_in_the_place_of_ours(gateway: Gateway, base: Path, same_passphrase: bool) -> None:
    """The address is right, what lies there is not: it is not the passphrase that is blamed."""
    write_and_end(gateway)
    other = base / "other"
    other.mkdir()
    (base / "phrase").write_text("something else entirely")
    (base / "phrase").chmod(0o600)
    phrase = () if same_passphrase else ("--passphrase-file", base / "phrase")
    recovery = ("--recovery-key-file", base / "recovery of pond")
    gateway.command("init", "pond", "--store", f"file://{other}", *recovery, *phrase, *CHEAP)
    gateway.store.rename(base / "ours")
    other.rename(gateway.store)
    refused(gateway, Invalid, "check the store's address")
    gateway.store.rename(other)
    (base / "ours").rename(gateway.store)
    gateway.mount()
    assert (gateway.root / "file").read_text() == "content"


def test_metadata_of_another_volume(gateway: Gateway, base: Path) -> None:
    write_and_end(gateway)
    (base / "second").mkdir()
    recovery = ("--recovery-key-file", base / "recovery of pond")
    gateway.command("init", "pond", "--store", f"file://{base}/second", *recovery, *CHEAP)
    gateway.command("mount", "pond", gateway.root)
    gateway.command("umount", "pond")
    volumes = gateway.state / "volumes"
    (volumes / NAME).rename(volumes / "aside")
    (volumes / "pond").rename(volumes / NAME)
    refused(gateway, Invalid, "belongs to volume")
    (volumes / NAME).rename(volumes / "pond")
    (volumes / "aside").rename(volumes / NAME)
    gateway.mount()
    assert (gateway.root / "file").read_text() == "content"


def test_a_wrong_passphrase_from_each_source(gateway: Gateway, base: Path) -> None:
    (base / "wrong").write_text("wrong")
    (base / "wrong").chmod(0o600)
    refused(gateway, WrongKey, "opens no slot", "--passphrase-file", base / "wrong")
    refused(gateway, WrongKey, "opens no slot", "-o", f"passphrase_file={base / 'wrong'}")
    refused(gateway, WrongKey, "opens no slot", FUSEGW_PASSPHRASE_FILE=str(base / "wrong"))
    refused(gateway, WrongKey, "opens no slot", FUSEGW_PASSPHRASE_FILE="", FUSEGW_PASSPHRASE="wrong")
    gateway.mount("--passphrase-file", base / "passphrase", FUSEGW_PASSPHRASE_FILE=str(base / "wrong"))


def test_mount_points_of_others(gateway: Gateway, base: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "theirs", gateway.root], check=True)
    try:
        refused(gateway, Busy, "theirs (tmpfs) is mounted there")
    finally:
        subprocess.run(["umount", gateway.root], check=True)
    link = base / "link"
    link.symlink_to(gateway.root)
    gateway.command("mount", NAME, link)
    assert os.path.ismount(gateway.root)
    gateway.command("umount", link)
    assert not os.path.ismount(gateway.root)
    gateway.root.rmdir()
    refused(gateway, NotFound, "does not exist")
    assert not gateway.root.exists()


@pytest.mark.slow
@pytest.mark.rgw
def test_accounts_and_buckets_that_are_not_there(rgw_gateway: Gateway, rgw_server: RgwServer) -> None:
    gateway = rgw_gateway
    refused(gateway, Denied, "s3://shared-bucket", AWS_SECRET_ACCESS_KEY="not the secret of this account")
    refused(gateway, Denied, "s3://shared-bucket", AWS_ACCESS_KEY_ID="nobody")
    refused(gateway, Denied, "credentials", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    table = '[volumes.tank.store]\nurl = "{}"\nendpoint_url = "{}"\nregion = "us-east-1"\n'
    for address, kind, message in (
        ("s3://shared-bucket/volumes/none", NotFound, "there is no volume"),
        ("s3://no-such-bucket/volumes/1", NotFound, "no-such-bucket"),
    ):
        gateway.configure(table.format(address, rgw_server.endpoint_url))
        refused(gateway, kind, message)
    gateway.configure("")
    gateway.mount()
