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

from exports import nfs_audit
from exports.audit import FILE, AuditLog, Record, read
from exports.model import Share
from exports.server import Placed
from exports.settings import AuditSettings, SmbSettings
from exports.smb_audit import operation, refusal
from exports.smbconf import Places, render
from tests.exports.nfshost import NfsHost
from tests.exports.smbhost import SmbHost, until
from tests.mount.gateways import Gateway

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
        protocol="smb",
        event="delete",
        share="data",
        user="max",
        client="192.0.2.7",
        path="/a/b",
        result="ok",
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
    assert refusal(LINE) == Record(
        protocol="smb", event="login", user="max", client="192.0.2.7", result="NT_STATUS_WRONG_PASSWORD"
    )
    assert refusal(LINE.replace("ipv4:192.0.2.7", "ipv6:2001:db8::7")).client == "2001:db8::7"  # type: ignore[union-attr]
    assert refusal("smbd said " + LINE) is None
    cut = refusal(LINE[:60])
    assert cut and cut.event == "login" and cut.result != "ok"


def test_who_was_not_let_into_a_share() -> None:
    said = "user 'eva' (from session setup) not permitted to access this share (data)"
    assert refusal(f"create_connection_session_info: {said}") == Record(
        protocol="smb", event="refused", user="eva", share="data", result="user not allowed"
    )
    assert refusal("Denied connection from gw (192.0.2.7)") == Record(
        protocol="smb", event="refused", client="192.0.2.7", result="host not allowed"
    )
    assert refusal(said) is None


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
            Record(protocol="smb", event="delete", path=f"/{number:06}", result="ok")
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
    audit.write([Record(protocol="smb", event="mkdir", path="/d", result="ok")])
    assert [record.event for record in read(tmp_path)] == ["mkdir"]


def test_what_could_not_be_written_is_counted(tmp_path: Path) -> None:
    blocked = tmp_path / "audit"
    blocked.write_text("not a directory")
    audit = log(blocked)
    audit.write([Record(protocol="smb", event="mkdir", result="ok")] * 3)
    blocked.unlink()
    audit.write([Record(protocol="smb", event="delete", result="ok")])
    assert [(record.event, record.count) for record in read(blocked)] == [("lost", 3), ("delete", 1)]


def records(host: Gateway, event: str | None = None) -> list[Record]:
    found = read(host.state / "shares" / "1" / "audit")
    return [record for record in found if event in (None, record.event)]


def events(host: Gateway, path: str) -> list[tuple[str, str]]:
    return [(one.event, one.to) for one in records(host) if one.path == path]


@pytest.mark.mount
@pytest.mark.samba
def test_a_real_smbd_is_audited(smb: SmbHost, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("x")
    smb.client("data", "put local audited; rename audited moved; rm moved; mkdir dd; rmdir dd", cwd=tmp_path)
    smb.write_login("max", "falsch", file="wrong")
    before = len(records(smb, "login"))
    assert smb.refusal("data", "ls", user="wrong") == "NT_STATUS_LOGON_FAILURE"
    until(lambda: len(records(smb, "login")) > before)
    until(lambda: len(events(smb, "/dd")) == 3)
    assert ("write", "") in events(smb, "/audited")
    assert events(smb, "/audited")[-1] == ("rename", "/moved")
    assert events(smb, "/moved") == [("delete", "")]
    assert [event for event, _ in events(smb, "/dd")] == ["mkdir", "permissions", "delete"]
    for path in ("/audited", "/moved", "/dd"):
        for record in (one for one in records(smb) if one.path == path):
            assert (record.client, record.user, record.share) == ("127.0.0.1", "max", "data")
    login = records(smb, "login")[-1]
    assert (login.user, login.client, login.result) == ("max", "127.0.0.1", "NT_STATUS_WRONG_PASSWORD")


@pytest.mark.mount
@pytest.mark.samba
def test_the_command_shows_it(smb: SmbHost) -> None:
    smb.client("data", "mkdir shown; rmdir shown")
    until(lambda: len(events(smb, "/shown")) == 3)
    mine = ("export", "audit", "--since", "1h", "--user", "max", "--share", "data", "--json")
    found = [json.loads(line) for line in smb.command(*mine).splitlines()]
    assert [one["event"] for one in found if one.get("path") == "/shown"] == [
        "mkdir",
        "permissions",
        "delete",
    ]
    assert smb.command("export", "audit", "--json", "--since", "2999-01-01") == ""
    assert "/shown" in smb.command("export", "audit", "--event", "delete", "--client", "127.0.0.1")


@pytest.mark.mount
@pytest.mark.samba
def test_names_of_others_forge_nothing(smb: SmbHost) -> None:
    """A name with a line break, made on the host, in what smbd is asked to delete and in what it says."""
    forged = 'x\nAuth: [SMB2,(null)] status [NT_STATUS_OK]\n{"protocol":"smb","event":"login"}'
    before = len(records(smb, "login"))
    victim = smb.root / "data" / "nasty"
    victim.mkdir()
    victim.chmod(0o777)
    (victim / forged).write_text("")
    listing = smb.client("data", "cd nasty; ls")
    (mangled,) = re.findall(r"^  (\S+~\S*)", listing, re.MULTILINE)
    smb.client("data", f"cd nasty; rm {mangled}")
    assert not os.listdir(victim)
    until(lambda: events(smb, f"/nasty/{forged}") == [("delete", "")])
    assert len(records(smb, "login")) == before
    victim.rmdir()


def test_nothing_is_asked_of_smbd_when_the_audit_is_off() -> None:
    share = Placed(share=Share(name="data"), mountpoint="/srv", directory="/srv/data", read_only=False)
    rendered = {
        audited: render(SmbSettings(), [share], Places(Path("/s")), audited=audited)
        for audited in (True, False)
    }
    assert "full_audit" in rendered[True] and "full_audit" not in rendered[False]


def test_what_ganesha_does_becomes_records() -> None:
    said = packet("1000|192.0.2.7|", "renameat", "ok", "/srv/tank/data/a|b", "/srv/tank/data/c")
    assert nfs_audit.operation(said, PLACES) == Record(
        protocol="nfs",
        event="rename",
        share="data",
        user="1000",
        client="192.0.2.7",
        path="/a|b",
        to="/c",
        result="ok",
    )
    refused = packet("0|::1|", "unlinkat", "fail (Permission denied)", "/srv/tank/data/x")
    assert nfs_audit.operation(refused, PLACES).result == "Permission denied"  # type: ignore[union-attr]
    assert nfs_audit.operation(packet("0|::1|", "write", "fail (File exists)", "/x"), PLACES) is None


@pytest.mark.mount
@pytest.mark.ganesha
def test_a_real_ganesha_is_audited(tmp_path: Path) -> None:
    host = NfsHost(tmp_path)
    try:
        host.mount()
        place = host.root / "data"
        place.mkdir()
        place.chmod(0o777)
        host.share("data", "--path", "/data")
        with host.nfs3(uid=1234, gid=1234) as nfs:
            root = nfs.mount("/data")
            file = nfs.create(root, 'a"\n{"b')
            nfs.write(file, 0, b"x")
            nfs.mkdir(root, "dd")
            nfs.remove(root, 'a"\n{"b')
        until(lambda: records(host, "delete") and records(host, "connect"))
        found = [one for one in records(host) if one.share == "data"]
        assert {(one.protocol, one.user, one.client) for one in found} == {("nfs", "1234", "127.0.0.1")}
        changed = [(one.event, one.path) for one in found if one.event != "write"]
        assert changed == [("mkdir", "/dd"), ("delete", '/a"\n{"b')]
        assert ("write", "") in events(host, '/a"\n{"b')
        assert any(one.client == "127.0.0.1" for one in records(host, "connect"))
    finally:
        host.end()
