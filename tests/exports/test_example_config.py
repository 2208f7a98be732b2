"""The example configuration, as it is delivered, serves one share of each kind."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.exports.nfs_wire import Nfs3
from tests.exports.smbhost import SmbHost, free_port, smb_host, until

EXAMPLE = Path(__file__).resolve().parents[2] / "packaging" / "config.example.toml"


class Example(msgspec.Struct, frozen=True):
    """A host with the example's configuration, but for ports, places and the store."""

    host: SmbHost
    nfs_port: int
    mount_port: int


@pytest.fixture
def example() -> Iterator[Example]:
    text = re.sub(r"\[volumes\.tank\.store\]\n(.+\n)+", "", EXAMPLE.read_text())
    with smb_host() as host:
        found = Example(host, free_port(), free_port())
        ports = {445: host.port, 2049: found.nfs_port, 20048: found.mount_port}
        for usual, port in ports.items():
            text, count = re.subn(
                rf"^((?:mount_)?port) = {usual}\b", rf"\1 = {port}", text, flags=re.MULTILINE
            )
            assert count == 1
        host.configure(text)
        yield found


@pytest.mark.mount
@pytest.mark.samba
@pytest.mark.ganesha
def test_both_shares_of_the_example_are_served(example: Example) -> None:
    host = example.host
    host.mount("--cache-size", "1G")
    host.add_user("backup")
    servers = until(lambda: _running(host))
    assert {one["protocol"]: one["shares"] for one in servers} == {
        "smb": ["backups"],
        "nfs": ["backups-nfs"],
    }
    (host.root / "here").write_text("x")
    assert "here" in host.client("backups", "ls", user="backup")
    with Nfs3(example.nfs_port, example.mount_port) as nfs:
        assert "here" in set(nfs.names(nfs.mount("/backups-nfs")))
    shown = json.loads(host.command("export", "show", "backups-nfs", "--client", "linux", "--json"))
    assert shown["port"] == example.nfs_port


def _running(host: SmbHost) -> list[dict[str, Any]]:
    """Both servers, as soon as both answer."""
    servers: list[dict[str, Any]] = host.status()["servers"]
    return servers if [one["health"]["state"] for one in servers] == ["running"] * 2 else []
