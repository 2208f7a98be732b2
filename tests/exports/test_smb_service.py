"""Who gets in, what is refused, what happens when something dies or changes: with a real smbd."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from exports.nthash import nt_hash
from tests.exports.smbhost import PASSWORD, Session, SmbHost, data_host, directory, processes, smb_host, until
from tests.mount.gateways import NAME, ended

pytestmark = [pytest.mark.mount, pytest.mark.samba]
REFUSED = ("NT_STATUS_ACCESS_DENIED", "NT_STATUS_MEDIA_WRITE_PROTECTED")


@pytest.fixture
def own() -> Iterator[SmbHost]:
    """A gateway for this test alone, with the share `data` for max."""
    with data_host() as host:
        yield host


@contextlib.contextmanager
def share(host: SmbHost, name: str, *options: object) -> Iterator[str]:
    """One more share, of the directory `data`, for the time of the block."""
    host.command("export", "add", name, "--path", "/data", *options)
    try:
        yield name
    finally:
        host.command("export", "remove", name)


def test_a_wrong_password_and_an_unknown_user_are_refused(smb: SmbHost) -> None:
    smb.write_login("max", "falsch", file="wrong")
    assert smb.refusal("data", "ls", user="wrong") == "NT_STATUS_LOGON_FAILURE"
    smb.write_login("moritz", PASSWORD, file="unknown")
    assert smb.refusal("data", "ls", user="unknown") == "NT_STATUS_LOGON_FAILURE"
    assert smb.refusal("data", "ls", user="").startswith("NT_STATUS_")


def test_an_account_of_this_host_is_none_of_the_shares(smb: SmbHost) -> None:
    smb.write_login("daemon", "", file="daemon")
    assert smb.refusal("data", "ls", user="daemon") == "NT_STATUS_LOGON_FAILURE"


def test_only_hosts_that_are_named(smb: SmbHost) -> None:
    with share(smb, "elsewhere", "--host", "192.0.2.0/24") as name:
        assert smb.refusal(name, "ls") == "NT_STATUS_ACCESS_DENIED"
    with share(smb, "here", "--host", "192.0.2.0/24", "--host", "127.0.0.0/8") as name:
        smb.client(name, "ls")


def test_a_read_only_share_refuses_changes(smb: SmbHost) -> None:
    (smb.root / "data" / "kept").write_text("x")
    with share(smb, "reading", "--read-only") as name:
        smb.client(name, "get kept /dev/null")
        for command in ("put /etc/hostname new", "rm kept", "mkdir d", "rename kept moved"):
            assert smb.refusal(name, command) in (
                "NT_STATUS_ACCESS_DENIED",
                "NT_STATUS_MEDIA_WRITE_PROTECTED",
            )
    assert (smb.root / "data" / "kept").read_text() == "x"


def test_users_and_groups_of_a_share(smb: SmbHost) -> None:
    smb.add_user("eva", "eva's password", "--group", "staff")
    with share(smb, "forall") as name:
        smb.client(name, "ls", user="eva")
        smb.client(name, "ls", user="max")
    with share(smb, "forstaff", "--group", "staff") as name:
        smb.client(name, "ls", user="eva")
        assert smb.refusal(name, "ls", user="max") == "NT_STATUS_ACCESS_DENIED"
    smb.command("export", "user", "remove", "eva")
    assert smb.refusal("data", "ls", user="eva") == "NT_STATUS_LOGON_FAILURE"


def test_guests_only_where_they_are_let_in(smb: SmbHost) -> None:
    with share(smb, "open", "--guest", "--read-only", "--no-signing") as name:
        smb.client(name, "ls", "--option=clientsigning=off", user="")
        assert smb.refusal("data", "ls", user="").startswith("NT_STATUS_")


def test_encryption_where_it_is_required(smb: SmbHost) -> None:
    with share(smb, "secret", "--encryption", "required") as name:
        smb.client(name, "ls", "--client-protection=encrypt")
        done = smb.try_client(name, "ls", "-m", "SMB2_10")
        assert "NT_STATUS_ACCESS_DENIED" in done.stdout + done.stderr


def test_old_dialects_are_not_spoken(smb: SmbHost) -> None:
    for dialect in ("NT1", "SMB2_02"):
        done = smb.try_client("data", "ls", "-m", dialect, "--option=client min protocol=CORE")
        assert done.returncode != 0, dialect
    smb.client("data", "ls", "-m", "SMB2_10")


def test_a_share_for_macos(smb: SmbHost) -> None:
    with share(smb, "apple", "--macos") as name:
        smb.client(name, "put /etc/hostname mac; get mac /dev/null; rm mac")


def test_forced_user(smb: SmbHost) -> None:
    smb.add_user("robot", "password", "--group", "machines")
    with share(smb, "forced", "--user", "max", "--force-user", "robot", "--create-mask", "0600") as name:
        smb.client(name, "put /etc/hostname forced")
        robot = next(one for one in json.loads(smb.command("export", "user", "list", "--json"))["users"]
                     if one["name"] == "robot")  # fmt: skip
        found = os.stat(smb.root / "data" / "forced")
        assert found.st_uid == robot["uid"]
    smb.command("export", "user", "remove", "robot")


def test_nothing_listens_beyond_loopback(smb: SmbHost) -> None:
    smb.client("IPC$", "pwd")
    pids = processes([str(smb.server_dir)])
    sockets = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(entry))
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                listening.append(words[1])
    assert listening and all(place.startswith("0100007F:") for place in listening), listening


def test_no_secret_in_arguments_environment_or_log(smb: SmbHost) -> None:
    pid = smb.serving()["health"]["pid"]
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    names = {variable.partition(b"=")[0] for variable in environment if variable}
    ours = {b"LD_PRELOAD", b"NSS_WRAPPER_PASSWD", b"NSS_WRAPPER_GROUP", b"FUSEGW_AUDIT_FD"}
    assert names <= {b"PATH", b"LANG"} | ours
    arguments = b"".join(Path(f"/proc/{one}/cmdline").read_bytes() for one in processes(["smbd"]))
    for secret in (nt_hash(PASSWORD), PASSWORD):
        assert secret.encode() not in arguments and secret not in smb.log
    assert (smb.server_dir / "smbpasswd").stat().st_mode & 0o077 == 0
    assert nt_hash(PASSWORD) not in smb.command("export", "user", "list", "--json")


def test_a_killed_smbd_comes_back(own: SmbHost) -> None:
    first = own.serving()["health"]["pid"]
    with Session(own, "data") as session:
        os.kill(first, signal.SIGKILL)
        assert "NT_STATUS" in session.ask("ls")
    health = until(lambda: (found := own.smb["health"])["pid"] not in (None, first) and found)
    assert health["restarts"] == 1 and "SIGKILL" in health["last_error"]
    own.serving()
    own.client("data", "put /etc/services after")
    assert (own.root / "data" / "after").read_bytes() == Path("/etc/services").read_bytes()


def test_changes_leave_other_sessions_alone(own: SmbHost) -> None:
    directory(own, "other")
    with Session(own, "data") as session:
        own.command("export", "add", "other", "--path", "/other")
        own.client("other", "put /etc/hostname x")
        with Session(own, "other") as theirs:
            own.command("export", "edit", "other", "--read-only", "--comment", "now read only")
            assert "NT_STATUS" in theirs.ask("put /etc/hostname y")
        assert own.refusal("other", "rm x") in REFUSED
        own.add_user("eva")
        with Session(own, "other") as theirs:
            own.command("export", "remove", "other")
            assert "NT_STATUS" in theirs.ask("ls")
        assert own.refusal("other", "ls") == "NT_STATUS_BAD_NETWORK_NAME"
        assert "NT_STATUS" not in session.ask("put /etc/services during")
        own.command("export", "remove", "data")  # the control: a session in a share that goes away ends
        assert "NT_STATUS" in session.ask("ls")
    assert (own.root / "data" / "during").read_bytes() == Path("/etc/services").read_bytes()


def test_unmounting_ends_sessions_and_smbd(own: SmbHost) -> None:
    with Session(own, "data") as session:
        own.umount()
        assert "NT_STATUS" in session.ask("ls")
    assert processes(["smbd", str(own.server_dir)]) == []


def test_a_gateway_that_is_told_to_end_ends_smbd_first(own: SmbHost) -> None:
    with Session(own, "data") as session:
        own.kill(signal.SIGTERM)
        assert "NT_STATUS" in session.ask("ls")
    assert processes(["smbd", str(own.server_dir)]) == [] and not own.root.is_mount()
    assert "although it is not free" not in own.log


def test_a_mount_that_stays_in_use_goes_on_serving(own: SmbHost) -> None:
    with (own.root / "data" / "held").open("w"):
        assert own.run("umount", NAME).returncode == 10
        own.serving()
        own.client("data", "ls")


def test_a_killed_gateway_takes_smbd_along(own: SmbHost) -> None:
    with Session(own, "data"):
        pid = own.serving()["health"]["pid"]
        with ended(pid) as wait:
            own.kill()
            wait()
    until(lambda: processes(["smbd", str(own.server_dir)]) == [])
    own.mount()
    own.serving()
    own.client("data", "ls")


def test_what_lies_below_the_mount_is_never_served(own: SmbHost) -> None:
    """Somebody took the mount away: nobody may write into the directory below it."""
    subprocess.run(["umount", "-l", str(own.root)], check=True)
    (own.root / "data").mkdir()
    (own.root / "data").chmod(0o777)
    try:
        done = own.try_client("data", "put /etc/hostname lost")
        assert "NT_STATUS" in done.stdout + done.stderr or done.returncode
        assert list((own.root / "data").iterdir()) == []
    finally:
        with contextlib.suppress(OSError):
            for path in (own.root / "data").iterdir():
                path.unlink()
            (own.root / "data").rmdir()


def test_a_link_in_the_place_of_the_shared_directory_is_not_followed(own: SmbHost) -> None:
    (own.root / "data").rename(own.root / "away")
    (own.root / "data").symlink_to("/etc")
    assert own.refusal("data", "get hostname /dev/null") == "NT_STATUS_ACCESS_DENIED"
    (own.server_dir / "check-share").write_text("#!/bin/sh\nexit 0\n")  # the control
    own.client("data", "get hostname /dev/null")


def test_nt_acls(smb: SmbHost) -> None:
    smb.client("data", "put /etc/hostname acl")
    sddl = smb.command("export", "acl", "show", "data", "/acl").strip()
    assert sddl.startswith("O:S-1-5-21-") and ";;;WD)" in sddl
    private = sddl.partition("D:")[0] + "D:P(A;;FA;;;SY)"
    smb.command("export", "acl", "set", "data", "/acl", private)
    found = smb.command("export", "acl", "show", "data", "/acl")
    assert ";;;SY)" in found and ";;;WD)" not in found
    assert smb.refusal("data", "get acl /dev/null") == "NT_STATUS_ACCESS_DENIED"
    smb.command("export", "acl", "set", "data", "/acl", sddl)
    smb.client("data", "get acl /dev/null; rm acl")
    for path, words, code in (("/none", "no '/none'", 9), ("/../../etc/passwd", "leads out", 3)):
        done = smb.run("export", "acl", "show", "data", path)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert smb.run("export", "acl", "set", "data", "/", "--help me").returncode == 2
    assert smb.run("export", "acl", "set", "data", "/", "D:(A; rm)").returncode == 3


def test_a_share_needs_its_directory(smb: SmbHost) -> None:
    done = smb.run("export", "add", "nowhere", "--path", "/nowhere")
    assert done.returncode == 9 and "no directory '/nowhere'" in done.stderr
    assert smb.run("export", "add", "data", "--path", "/data").returncode == 8
    assert smb.run("export", "edit", "nothing", "--read-only").returncode == 9
    assert smb.run("export", "add", "x", "--path", "/../etc").returncode == 3


def test_shares_of_an_unmounted_volume(own: SmbHost) -> None:
    own.umount()
    own.command("export", "edit", "data", "--comment", "offline")
    own.command("export", "add", "more", "--path", "/data")
    file = own.base / "new-password"
    file.write_text("another")
    file.chmod(0o600)
    own.command("export", "user", "passwd", "max", "--password-file", file)
    shares = json.loads(own.command("export", "list", "--json"))["shares"]
    assert [(one["name"], one["comment"]) for one in shares] == [("data", "offline"), ("more", "")]
    own.mount()
    own.serving()
    assert own.refusal("more", "ls") == "NT_STATUS_LOGON_FAILURE"
    own.write_login("max", "another")
    own.client("more", "ls")
    own.command("export", "remove", "more")


def test_shares_of_the_configuration(own: SmbHost) -> None:
    own.umount()
    text = f'[smb]\nlisten = ["127.0.0.1"]\nport = {own.port}\n'
    own.configure(text + f'[shares.filed]\nvolume = "{NAME}"\npath = "/data"\ncreate_mask = 0o600\n')
    own.mount()
    own.serving()
    own.client("filed", "put /etc/hostname filed")
    assert own.run("export", "edit", "filed", "--read-only").returncode == 3
    assert json.loads(own.command("export", "show", "filed", "--json"))["create_mask"] == "0600"


def test_shares_of_several_volumes_in_one_mount() -> None:
    """Each volume's own users; of two with one name the second is nobody, and never taken for the first."""
    with smb_host() as host:
        host.add("other")
        host.mount_all()
        for volume in (NAME, "other"):
            (host.root / volume / "d").mkdir()
            (host.root / volume / "d" / "file").write_text(volume)
        host.umount()
        host.add_user("max", PASSWORD, "--volume", NAME)
        host.add_user("max", "another", "--volume", "other")
        host.add_user("eva", PASSWORD, "--volume", "other", "--group", "staff")
        host.command("export", "add", "one", "--path", "/d", "--volume", NAME)
        host.command("export", "add", "two", "--path", "/d", "--volume", "other")
        named = ("--user", "max", "--group", "staff")
        host.command("export", "add", "both", "--path", "/d", "--volume", "other", *named)
        host.mount_all()
        host.write_login("max", PASSWORD)
        host.serving()
        host.client("one", "get file /dev/null", user="max")
        assert host.refusal("one", "ls", user="eva") == "NT_STATUS_ACCESS_DENIED"
        for share_name in ("two", "both"):
            host.client(share_name, "get file /dev/null", user="eva")
            assert host.refusal(share_name, "ls", user="max") == "NT_STATUS_ACCESS_DENIED"
        problems = json.loads(host.command("status", "other", "--json"))["share_problems"]
        assert len(problems) == 1 and "user 'max'" in problems[0]


def test_a_standby_serves_what_it_follows(own: SmbHost) -> None:
    """Read only, and shares that come later as well; once promoted it is written through its shares."""
    own.client("data", "put /etc/hostname before")
    own.barrier()
    base = own.base / "standby"
    base.mkdir()
    standby = SmbHost(base, volume_of=own)
    try:
        standby.mount("--follow")
        standby.serving()
        standby.write_login("max", PASSWORD)
        standby.client("data", "get before /dev/null")
        assert standby.refusal("data", "put /etc/hostname there") in REFUSED
        assert standby.run("export", "edit", "data", "--read-only").returncode == 3
        own.command("export", "add", "later", "--path", "/data", "--user", "max")
        own.barrier()
        until(lambda: "later" in standby.smb["shares"])
        standby.client("later", "get before /dev/null")
        standby.command("promote", NAME)
        until(lambda: not standby.try_client("later", "put /etc/hostname there").returncode)
        assert (standby.root / "data" / "there").exists()
    finally:
        standby.end()


def test_a_mount_for_its_owner_alone_serves_no_shares(own: SmbHost) -> None:
    own.umount()
    own.mount("-o", "noallow_other")
    problems = until(lambda: own.status()["share_problems"])
    assert "allow_other" in problems[0] and not own.smb


def test_shares_users_and_acls_come_back_from_the_store(own: SmbHost) -> None:
    own.command("export", "edit", "data", "--comment", "kept")
    own.client("data", "put /etc/hostname owned")
    before = subprocess.run(
        ["getfattr", "-h", "-d", "-m", "-", "-e", "hex", "--absolute-names", "owned"],
        cwd=own.root / "data", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    sid = own.command("export", "show", "data", "--json")
    own.barrier()
    own.kill()
    base = own.base / "elsewhere"
    base.mkdir()
    other = SmbHost(base, volume_of=own)
    try:
        (other.state / "registry.json").unlink()
        other.command("recover", NAME, "--store", f"file://{own.store}")
        other.mount()
        other.serving()
        assert other.command("export", "show", "data", "--json") == sid
        other.write_login("max", PASSWORD)
        other.client("data", "get owned /dev/null")
        after = subprocess.run(
            ["getfattr", "-h", "-d", "-m", "-", "-e", "hex", "--absolute-names", "owned"],
            cwd=other.root / "data", capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert after == before and "security.NTACL" in after
        assert (other.server_dir / "passwd").read_text() == (own.server_dir / "passwd").read_text()
        sids = [
            subprocess.run(
                ["net", f"--configfile={one.server_dir / 'smb.conf'}", "getlocalsid"],
                capture_output=True, text=True, check=True,
            ).stdout for one in (own, other)
        ]  # fmt: skip
        assert sids[0] == sids[1] and "S-1-5-21-" in sids[0]
    finally:
        other.end()
