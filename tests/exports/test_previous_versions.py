"""Snapshots over SMB, as previous versions: listed, read, refused when written, gone when deleted."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exports.smbhost import SmbHost, directory, smb_host
from tests.mount.gateways import NAME

pytestmark = [pytest.mark.mount, pytest.mark.samba]
VERSION = re.compile(r"@GMT-\d{4}\.\d\d\.\d\d-\d\d\.\d\d\.\d\d")


@pytest.fixture
def own() -> Iterator[SmbHost]:
    """A gateway with shares of a directory (`data`) and of the whole volume (`all`)."""
    with smb_host() as host:
        host.mount()
        directory(host, "data")
        host.root.chmod(0o777)
        host.add_user("max")
        host.command("export", "add", "data", "--path", "/data", "--user", "max")
        host.command("export", "add", "all", "--path", "/", "--user", "max")
        host.serving()
        yield host


def snapshot(host: SmbHost, name: str) -> str:
    """Make one in a second of its own; the time that SMB clients name."""
    made = json.loads(host.command("snapshot", "create", NAME, name, "--json"))["snapshots"][0]
    second = int(made["created_unix_s"])
    while int(time.time()) == second:
        time.sleep(0.05)
    return time.strftime("@GMT-%Y.%m.%d-%H.%M.%S", time.gmtime(second))


def versions(said: str) -> list[str]:
    """What smbclient lists, without repetitions."""
    return list(dict.fromkeys(VERSION.findall(said)))


def test_versions_of_files_and_directories(own: SmbHost, tmp_path: Path) -> None:
    file = own.root / "data" / "file"
    file.write_bytes(b"oldest")
    file.chmod(0o666)
    (own.root / "data" / "deep").mkdir()
    (own.root / "data" / "deep" / "lost").write_bytes(b"to be deleted")
    first = snapshot(own, "first")
    file.write_bytes(b"middle, longer")
    second = snapshot(own, "second")
    (own.root / "data" / "deep" / "lost").unlink()
    file.write_bytes(b"newest")

    for share, prefix in (("data", ""), ("all", "data/")):
        # The newest first, as clients show them.
        assert versions(own.client(share, f"allinfo {prefix}file")) == [second, first]
        for version, content in ((first, b"oldest"), (second, b"middle, longer")):
            own.client(share, f"get {version}/{prefix}file out", cwd=tmp_path)
            assert (tmp_path / "out").read_bytes() == content
            assert "lost" in own.client(share, f"ls {version}/{prefix}deep/*")
        assert "lost" not in own.client(share, f"ls {prefix}deep/*")
        own.client(share, f"get {first}/{prefix}deep/lost out", cwd=tmp_path)
        assert (tmp_path / "out").read_bytes() == b"to be deleted"
        assert "snapshots" not in own.client(share, "ls")

    (tmp_path / "in").write_bytes(b"x")
    put = own.try_client("data", f"put {tmp_path}/in {first}/file")
    assert re.search(r"NT_STATUS_(MEDIA_WRITE_PROTECTED|ACCESS_DENIED)", put.stdout + put.stderr), put
    own.try_client("data", f"del {first}/deep/lost")
    assert (own.root / ".snapshots" / "first" / "data" / "deep" / "lost").exists()

    own.command("snapshot", "delete", NAME, "first")
    assert versions(own.client("data", "allinfo file")) == [second]
    gone = own.try_client("data", f"get {first}/file out", cwd=tmp_path)
    assert re.search(r"NT_STATUS_OBJECT_(NAME|PATH)_NOT_FOUND", gone.stdout + gone.stderr), gone
    own.client("data", f"get {second}/file out", cwd=tmp_path)
    assert (tmp_path / "out").read_bytes() == b"middle, longer"
    assert os.listdir(own.root / ".previous-versions") == [second]
