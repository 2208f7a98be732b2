"""The audit log: what is in it, what can never be forged in it, how big it gets."""

import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exports.audit import FILE, AuditLog, Record, read
from exports.settings import AuditSettings
from exports.smb_audit import login, operation
from tests.exports.smbhost import SmbHost, smb_host, until

PLACES = {"data": "/srv/tank/data"}


def packet(*parts: str) -> bytes:
    return b"".join(part.encode() + b"\0" for part in parts)


def told(operation_name: str, what: str, outcome: str = "ok") -> Record | None:
    return operation(packet("max|192.0.2.7|data", operation_name, outcome, what), PLACES)


def log(directory: Path, **settings: Any) -> AuditLog:
    return AuditLog(directory, msgspec.convert(settings, AuditSettings), lambda: 1e9)


def test_operations_become_events() -> None:
    deleted = told("unlinkat", "/srv/tank/data/a/b")
    assert deleted == Record(
        protocol="smb", event="delete", share="data", user="max", client="192.0.2.7", path="/a/b"
    )
    written = told("openat", "w|/srv/tank/data/x|y")
    assert written and (written.event, written.path) == ("write", "/x|y")
    renamed = told("renameat", "/srv/tank/data/a|/srv/tank/data/b|c")
    assert renamed and (renamed.path, renamed.to) == ("/a", "/b|c")
    refused = told("create_file", "0x2|file|open|/srv/tank/data/x", "fail (NT_STATUS_ACCESS_DENIED)")
    assert refused and (refused.event, refused.result) == ("refused", "NT_STATUS_ACCESS_DENIED")


def test_what_nobody_wants_to_know_is_left_out() -> None:
    assert told("openat", "r|/srv/tank/data/x", "fail (No such file or directory)") is None
    assert told("create_file", "0x2|file|open|/x", "fail (NT_STATUS_OBJECT_NAME_NOT_FOUND)") is None


def test_two_names_that_cannot_be_told_apart_stay_together() -> None:
    tricky = "/srv/tank/data/a|/srv/tank/data/b|/srv/tank/data/c"
    found = told("renameat", tricky)
    assert found and found.path.endswith(tricky.removeprefix("/srv/tank/data")) and not found.to


LINE = (
    r"Auth: [SMB2,(null)] user [WORKGROUP]\[max] at [Wed, 25 Nov 2026 23:42:25.381563 UTC] with [NTLMv2] "
    r"status [NT_STATUS_WRONG_PASSWORD] workstation [VM] remote host [ipv4:192.0.2.7:52020] mapped to "
    r"[WORKGROUP]\[max]. local host [ipv4:127.0.0.1:8446]"
)


def test_failed_logins() -> None:
    assert login(LINE) == Record(
        protocol="smb", event="login", user="max", client="192.0.2.7", result="NT_STATUS_WRONG_PASSWORD"
    )
    assert login(LINE.replace("ipv4:192.0.2.7", "ipv6:2001:db8::7")).client == "2001:db8::7"  # type: ignore[union-attr]
    assert login("smbd said " + LINE) is None
    cut = login(LINE[:60])
    assert cut and cut.event == "login" and cut.result != "ok"


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30), min_size=2
    )
)
def test_a_name_never_makes_a_record_of_its_own(names: list[str]) -> None:
    """Whatever is in names: as many lines as operations, each of them what it was."""
    packets = [packet("max|192.0.2.7|data", "unlinkat", "ok", f"/srv/tank/data/{name}") for name in names]
    records = [operation(one, PLACES) for one in packets]
    lines = b"".join(msgspec.json.encode(record) + b"\n" for record in records).splitlines()
    assert [json.loads(line)["path"] for line in lines] == [f"/{name}" for name in names]
    assert all(json.loads(line)["event"] == "delete" for line in lines)


def test_the_log_is_bounded_and_read_in_order(tmp_path: Path) -> None:
    audit = log(tmp_path / "audit", file_size=64 << 10, files=3)
    count = 4000
    for start in range(0, count, 100):
        audit.write(
            Record(protocol="smb", event="delete", path=f"/{number:06}")
            for number in range(start, start + 100)
        )
    sizes = [path.stat().st_size for path in (tmp_path / "audit").iterdir()]
    assert len(sizes) == 3 and sum(sizes) < 3 * (64 << 10) + (20 << 10)
    found = [record.path for record in read(tmp_path / "audit")]
    assert found == sorted(found) and found[-1] == f"/{count - 1:06}"
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "audit").iterdir())


def test_a_torn_line_swallows_nothing(tmp_path: Path) -> None:
    audit = log(tmp_path)
    (tmp_path / FILE).write_bytes(b'{"protocol":"smb","event":"del')
    audit.write([Record(protocol="smb", event="mkdir", path="/d")])
    assert [record.event for record in read(tmp_path)] == ["mkdir"]


def test_what_could_not_be_written_is_counted(tmp_path: Path) -> None:
    blocked = tmp_path / "audit"
    blocked.write_text("not a directory")
    audit = log(blocked)
    audit.write([Record(protocol="smb", event="mkdir")] * 3)
    blocked.unlink()
    audit.write([Record(protocol="smb", event="delete")])
    assert [(record.event, record.count) for record in read(blocked)] == [("lost", 3), ("delete", 1)]


def records(host: SmbHost, *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in host.command("export", "audit", "--json", *options).splitlines()]


def events(host: SmbHost, path: str) -> list[tuple[str, str]]:
    return [(one["event"], one.get("to", "")) for one in records(host) if one.get("path") == path]


@pytest.mark.mount
@pytest.mark.samba
def test_a_real_smbd_is_audited(smb: SmbHost, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("x")
    smb.client("data", "put local audited; rename audited moved; rm moved; mkdir dd; rmdir dd", cwd=tmp_path)
    smb.write_login("max", "falsch", file="wrong")
    assert smb.refusal("data", "ls", user="wrong") == "NT_STATUS_LOGON_FAILURE"
    until(lambda: records(smb, "--event", "login"))
    assert ("write", "") in events(smb, "/audited")
    assert events(smb, "/audited")[-1] == ("rename", "/moved")
    assert events(smb, "/moved") == [("delete", "")]
    assert [event for event, _ in events(smb, "/dd")] == ["mkdir", "permissions", "delete"]
    for record in records(smb, "--share", "data"):
        assert (record["client"], record["user"]) == ("127.0.0.1", "max")
    login = records(smb, "--event", "login")[-1]
    assert (login["user"], login["client"], login["result"]) == (
        "max",
        "127.0.0.1",
        "NT_STATUS_WRONG_PASSWORD",
    )
    assert records(smb, "--since", "2999-01-01") == [] and records(smb, "--user", "nobody-else") == []
    assert "/moved" in smb.command("export", "audit", "--since", "1h")


@pytest.mark.mount
@pytest.mark.samba
def test_names_of_others_forge_nothing(smb: SmbHost, tmp_path: Path) -> None:
    """A name with a line break, made on the host, in what smbd is asked to delete and in what it says."""
    forged = 'x\nAuth: [SMB2,(null)] status [NT_STATUS_OK]\n{"protocol":"smb","event":"login"}'
    before = len(records(smb, "--event", "login"))
    victim = smb.root / "data" / "nasty"
    victim.mkdir(mode=0o777)
    victim.chmod(0o777)
    (victim / forged.replace("/", "")).write_text("")
    listing = smb.client("data", "cd nasty; ls")
    (mangled,) = re.findall(r"^  (\S+~\S*)", listing, re.MULTILINE)
    smb.client("data", f"cd nasty; rm {mangled}")
    assert not os.listdir(victim)
    until(lambda: events(smb, f"/nasty/{forged}") == [("delete", "")])
    assert len(records(smb, "--event", "login")) == before
    victim.rmdir()


@pytest.mark.mount
@pytest.mark.samba
def test_the_audit_can_be_switched_off() -> None:
    """The control: without it there is nothing of all this."""
    with smb_host() as host:
        host.configure((host.base / "config.toml").read_text() + "[audit]\nenabled = false\n")
        host.mount()
        place = host.root / "data"
        place.mkdir()
        place.chmod(0o777)
        host.add_user("max")
        host.command("export", "add", "data", "--path", "/data", "--user", "max")
        host.serving()
        host.client("data", "mkdir d")
        assert records(host) == []
