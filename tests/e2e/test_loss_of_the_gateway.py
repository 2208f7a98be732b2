"""The gateway burns down: nothing is left but the store, the passphrase and the operator's page to follow."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e import sourcetrees
from tests.e2e.test_backup_roundtrip import EXACTLY, differences, rsync
from tests.mount.gateways import NAME, Gateway

pytestmark = [pytest.mark.mount, pytest.mark.slow]


def address(gateway: Gateway) -> list[str]:
    """What the operator has written down: where the store is."""
    registry = json.loads((gateway.state / "registry.json").read_text())
    store = registry["volumes"][NAME]["store"]
    options = {"--store": store["url"], "--endpoint-url": store["endpoint_url"], "--region": store["region"]}
    return [word for option, value in options.items() if value for word in (option, value)]


def burn(gateway: Gateway) -> None:
    """The process dies, and with it every local file."""
    gateway.kill()
    subprocess.run(["umount", "-l", gateway.root], check=True)
    shutil.rmtree(gateway.state)
    shutil.rmtree(gateway.cache)
    gateway.configure("")
    gateway.state, gateway.cache = gateway.base / "new" / "state", gateway.base / "new" / "cache"


def inodes(root: Path) -> dict[str, int]:
    return {
        os.path.relpath(os.path.join(directory, name), root): os.lstat(os.path.join(directory, name)).st_ino
        for directory, directories, files in os.walk(root)
        for name in (*directories, *files)
    }


def test_a_burnt_down_gateway_comes_back_from_the_store(any_gateway: Gateway, base: Path) -> None:
    gateway, source = any_gateway, base / "source"
    source.mkdir()
    sourcetrees.build(source)
    gateway.configure(f"[volumes.{NAME}]\npack_size = '8M'\nship_interval_s = 1\n")
    where = address(gateway)
    gateway.mount("-o", "dev,suid", "--cache-size", "200M")
    rsync([f"{source}/"], gateway.root, EXACTLY)
    gateway.command("sync", NAME, "--wait")
    anchor = gateway.command("anchor", NAME).strip()
    assert anchor == gateway.status()["anchor"]
    before = inodes(gateway.root)
    burn(gateway)

    report = json.loads(gateway.command("recover", NAME, *where, "--anchor", anchor, "--json"))
    assert report["anchor_checked"] is True and report["writer_epoch"] == 2 and report["number"] == 1
    assert report["policy"]["pack_size"] == 8 << 20 and report["policy"]["ship_interval_s"] == 1
    assert report["policy"]["cache_size"] == 200 << 20 and report["mountpoint"] == str(gateway.root)
    gateway.mount("-o", "dev,suid")
    assert gateway.cache_stats()["budget_bytes"] == 200 << 20
    assert differences([f"{source}/"], gateway.root) == ""
    assert inodes(gateway.root) == before
    sourcetrees.change(source)
    rsync([f"{source}/"], gateway.root, "--delete", EXACTLY)
    gateway.command("sync", NAME, "--wait")
    assert differences([f"{source}/"], gateway.root) == ""


def test_recovered_and_mounted_in_one_step_and_yesterday_beside_it(gateway: Gateway, base: Path) -> None:
    where = address(gateway)
    gateway.mount()
    (gateway.root / "precious").write_text("yesterday")
    gateway.command("sync", NAME, "--wait")
    yesterday = gateway.status()["log_seq"]
    (gateway.root / "precious").write_text("spoilt")
    gateway.command("sync", NAME, "--wait")
    burn(gateway)
    gateway.command("recover", NAME, *where, "--mount", gateway.root)
    gateway.adopt()
    assert (gateway.root / "precious").read_text() == "spoilt"
    beside = base / "beside"
    beside.mkdir()
    gateway.command("recover", "yesterday", *where, "--at", yesterday, "--mount", beside)
    try:
        assert (beside / "precious").read_text() == "yesterday"
        with pytest.raises(OSError, match="Read-only"):
            (beside / "precious").write_text("x")
        shutil.copy2(beside / "precious", gateway.root / "precious")
        gateway.command("sync", NAME, "--wait")
        assert json.loads(gateway.command("status", "yesterday", "--json"))["log_seq"] == yesterday
    finally:
        gateway.command("umount", "yesterday")
    gateway.command("mount", "yesterday", beside)
    assert (beside / "precious").read_text() == "yesterday", "mounted again, the store has gone on"
    gateway.command("umount", "yesterday")
    assert (gateway.root / "precious").read_text() == "yesterday"
    gateway.umount()
