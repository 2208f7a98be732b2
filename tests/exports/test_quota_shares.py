"""Clients of shares meet quotas: writes are refused, and over SMB a share on a directory with a quota is as
large as that. NFS clients are shown the volume."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exports.nfshost import Client, NfsHost
from tests.exports.smbhost import SmbHost, data_host, until
from tests.mount.gateways import NAME

MIB = 1 << 20


@pytest.fixture
def own() -> Iterator[SmbHost]:
    """A gateway for this test alone, with the share `data` for max."""
    with data_host() as host:
        yield host


def size_and_room(host: SmbHost) -> tuple[int, int]:
    """What a client is told of the share, in bytes."""
    found = re.search(r"(\d+) blocks of size (\d+)\. (\d+) blocks available", host.client("data", "ls"))
    assert found
    blocks, size, left = map(int, found.groups())
    return blocks * size, left * size


@pytest.mark.mount
@pytest.mark.samba
def test_over_smb(own: SmbHost, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(bytes(range(1, 256)) * (24 * MIB // 255))
    assert size_and_room(own)[0] > 64 * MIB
    own.command("quota", "set", f"{NAME}:/data", "--bytes", "64M")
    assert size_and_room(own) == (64 * MIB, 64 * MIB)
    own.client("data", f"put {local} first")
    taken = pytest.approx(local.stat().st_size, abs=1 << 20)
    # What is closed may still be on its way into packs.
    until(lambda: 64 * MIB - size_and_room(own)[1] == taken)
    assert size_and_room(own)[0] == 64 * MIB
    own.command("quota", "set", f"{NAME}:/data", "--bytes", "16M")
    refused = own.try_client("data", f"put {local} second")
    assert "NT_STATUS_DISK_FULL" in refused.stdout + refused.stderr, refused
    own.client("data", "rm first; rm second")
    own.command("quota", "remove", f"{NAME}:/data")
    assert size_and_room(own)[0] > 64 * MIB


@pytest.mark.mount
@pytest.mark.ganesha
def test_over_nfs(tmp_path: Path) -> None:
    host = NfsHost(tmp_path)
    try:
        host.mount()
        host.share("all")
        host.command("quota", "set", NAME, "--files", "3")
        client = Client(host, "all", 4)
        try:
            client.mkdir("/directory")
            client.write("/first", b"content")
            with pytest.raises(OSError):
                client.write("/second", b"content")
            client.unlink("/first")
            client.write("/second", b"content")
        finally:
            client.close()
    finally:
        host.end()
