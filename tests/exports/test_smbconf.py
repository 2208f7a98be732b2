"""smb.conf as samba itself reads it: nothing that a share may say alters another share or runs a command."""

import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from exports import accounts
from exports.errors import ExportError, InvalidExport, ToolFailed
from exports.model import Share, User
from exports.server import Placed
from exports.settings import SmbSettings
from exports.smbconf import Places, render, render_check
from exports.tools import SambaTools

PLACES = Places(Path("/run/x"))
"""For what samba does not see; it wants the directories to be there."""
PIECES = [
    "a",
    "Z",
    "9",
    " ",
    ".",
    "-",
    "_",
    "'",
    ";",
    "#",
    "[",
    "]",
    "=",
    ",",
    "(",
    ")",
    "&",
    "|",
    "<",
    "*",
    "?",
]
PIECES += [
    "ü",
    "日",
    "😀",
    "\\",
    "%",
    "$",
    '"',
    "`",
    "\n",
    "\r",
    "\t",
    "%U",
    "%$(HOME)",
    "include",
    "../",
    "//",
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def placed(share: Share) -> Placed:
    return Placed(
        share=share,
        mountpoint="/mnt",
        directory="/mnt" + share.path.rstrip("/"),
        read_only=share.read_only,
        members=share.users,
    )


@st.composite
def shares(draw: st.DrawFn) -> Share:
    """Whatever the model lets through."""
    fields = {
        "name": "s" + draw(TEXT),
        "path": "/" + draw(TEXT),
        "comment": draw(TEXT),
        "users": draw(st.lists(st.sampled_from(["max", "DOM\\eva", "x" + draw(TEXT)]), max_size=2)),
        "hosts": draw(st.lists(st.sampled_from(["192.0.2.1", "h.example", "y" + draw(TEXT)]), max_size=2)),
        "macos": draw(st.booleans()),
    }
    try:
        return msgspec.convert(fields, Share)
    except (msgspec.ValidationError, ExportError):
        plain = {"name": f"plain{draw(st.integers(0, 10**6))}", "comment": "x"}
        return msgspec.convert(plain, Share)


def places(directory: Path) -> Places:
    """Those of a server, made."""
    made = Places(directory)
    for place in made.directories:
        place.mkdir(exist_ok=True)
    return made


def as_samba_reads(text: str, directory: Path) -> dict[str, dict[str, str]]:
    """The sections, with their parameters."""
    file = directory / "smb.conf"
    file.write_text(text)
    command = ["testparm", "--suppress-prompt", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sections: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in done.stdout.splitlines():
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], {})
        elif " = " in line:
            name, _, value = line.strip().partition(" = ")
            current[name] = value
    return sections


@pytest.mark.samba
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(shares(), min_size=8, max_size=16, unique_by=lambda share: share.name.casefold()))
def test_each_share_says_what_it_should_and_nothing_else(tmp_path: Path, given_shares: list[Share]) -> None:
    victim = Share(name="victim", users=("max",), read_only=True)
    assume(all(share.name.casefold() != "victim" for share in given_shares))
    everything, there = [*given_shares, victim], places(tmp_path)
    found = as_samba_reads(render(SmbSettings(), [placed(one) for one in everything], there), tmp_path)
    assert set(found) == {"global", *(share.name for share in everything)}
    for share in everything:
        section = found[share.name]
        assert section["path"] == ("/mnt" + share.path).rstrip("/")
        assert section.get("comment", "") == share.comment.strip()  # smbd takes no blanks at the ends
        assert section["root preexec"] == f"{there.check} {share.name.encode().hex()}"
        assert not {"preexec", "postexec", "root postexec", "include", "magic script"} & set(section)
    alone = as_samba_reads(render(SmbSettings(), [placed(victim)], there), tmp_path)
    assert found["victim"] == alone["victim"]


@pytest.mark.samba
@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("comment", "x\n[evil]\npath = /"),
        ("path", "/a\nroot postexec = touch /evil"),
        ("name", "s]\nroot preexec = touch /evil\n[t"),
    ],
)
def test_without_the_checks_of_the_model_it_would(tmp_path: Path, field: str, text: str) -> None:
    share = placed(Share(name="s"))
    msgspec.structs.force_setattr(share.share, field, text)
    if field == "path":
        msgspec.structs.force_setattr(share, "directory", text)
    found = as_samba_reads(render(SmbSettings(), [share], places(tmp_path)), tmp_path)
    assert "evil" in str(found.values()) or "evil" in found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT)
def test_the_check_of_a_share_runs_nothing_of_its_path(tmp_path: Path, name: str) -> None:
    """With other programs for `realpath` and `mountpoint`, which write down what they are called with."""
    try:
        here = {"mountpoint": f"/m{name}", "directory": f"/d{name}"}
        share = Placed(share=Share(name="s"), read_only=True, **here)
    except InvalidExport:
        return
    called = tmp_path / "called"
    called.unlink(missing_ok=True)
    for program, body in (("realpath", 'printf "%s\\n" "$3"'), ("mountpoint", f'printf "%s" "$3" >{called}')):
        (tmp_path / program).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / program).chmod(0o755)
    script = tmp_path / "check"
    script.write_text(render_check([share]))
    done = subprocess.run(["/bin/sh", script, b"s".hex()], env={"PATH": str(tmp_path)}, cwd=tmp_path)
    assert done.returncode == 0 and called.read_text() == f"/m{name}"
    assert subprocess.run(["/bin/sh", script, "00"], env={"PATH": str(tmp_path)}).returncode == 1


def value(text: str, name: str) -> str:
    return next(
        line.split(" = ", 1)[1] for line in text.splitlines() if line.strip().startswith(f"{name} = ")
    )


def section(text: str, name: str) -> str:
    return text.split(f"[{name}]")[1].split("\n[")[0]


def test_encryption_is_required_as_soon_as_others_can_connect() -> None:
    share = [placed(Share(name="a"))]
    for listen, expected in ((("lo",), "if_required"), (("127.0.0.1", "192.0.2.1"), "required")):
        text = render(SmbSettings(listen=listen), share, PLACES)
        assert value(section(text, "a"), "server smb encrypt") == expected
        assert value(section(text, "global"), "server smb encrypt") == expected
    both = [placed(Share(name="a")), placed(Share(name="b", encryption="off"))]
    text = render(SmbSettings(listen=("0.0.0.0",)), both, PLACES)
    assert value(section(text, "global"), "server smb encrypt") == "if_required"
    assert value(section(text, "b"), "server smb encrypt") == "off"


def test_a_share_for_nobody_is_not_available() -> None:
    assert "available = no" in render(SmbSettings(), [placed(Share(name="a"))], PLACES)
    members = msgspec.structs.replace(placed(Share(name="a")), members=("max",))
    assert 'valid users = "max"' in render(SmbSettings(), [members], PLACES)


def test_only_what_is_asked_for_is_opened() -> None:
    text = render(SmbSettings(), [placed(Share(name="a", users=("max",)))], PLACES)
    assert value(text, "map to guest") == "never" and "guest ok" not in text
    assert value(text, "interfaces") == "lo" and value(text, "bind interfaces only") == "yes"
    assert value(text, "server signing") == "mandatory" and "fruit" not in text
    assert "fruit" in render(SmbSettings(), [placed(Share(name="a", macos=True))], PLACES)


@pytest.mark.samba
def test_a_line_that_samba_does_not_know_is_refused(tmp_path: Path) -> None:
    tools = SambaTools(tmp_path / "smb.conf", {})
    share = placed(Share(name="a", macos=True))
    good = render(SmbSettings(realm="EXAMPLE.ORG"), [share], places(tmp_path))
    (tmp_path / "good").write_text(good)
    tools.check(tmp_path / "good")
    for line in ("strict synk = yes", "strict sync = perhaps", "server min protocol = SMB9"):
        (tmp_path / "bad").write_text(f"{good}    {line}\n")
        with pytest.raises(InvalidExport, match="samba does not accept"):
            tools.check(tmp_path / "bad")


def test_what_goes_wrong_with_a_tool_is_told(tmp_path: Path) -> None:
    (tmp_path / "smbcontrol").write_text("#!/bin/sh\necho 'no such process' >&2\nexit 7\n")
    (tmp_path / "smbcontrol").chmod(0o755)
    tools = SambaTools(tmp_path / "smb.conf", {"PATH": str(tmp_path)})
    with pytest.raises(ToolFailed, match="smbcontrol smbd ended with 7: no such process"):
        tools.reload()
    with pytest.raises(ToolFailed, match="net is not installed"):
        tools.set_sid("S-1-5-21-1-2-3")
    with pytest.raises(InvalidExport):
        tools.set_sid("S-1-5-21-1-2-3; rm")


def test_a_tool_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exports.tools.TIMEOUT_S", 0.3)
    (tmp_path / "smbcontrol").write_text("#!/bin/sh\nexec /bin/sleep 1000\n")
    (tmp_path / "smbcontrol").chmod(0o755)
    with pytest.raises(ToolFailed, match="has not ended within"):
        SambaTools(tmp_path / "smb.conf", {"PATH": str(tmp_path)}).reload()


def test_accounts() -> None:
    one = User(name="max", uid=20000, gid=20000, groups={"staff": 20001}, nt_hash="A" * 32)
    two = User(name="eva", uid=20002, gid=20001)
    assert "max:x:20000:20000::/nonexistent:/usr/sbin/nologin" in accounts.passwd([one, two])
    assert accounts.group([one, two]).splitlines()[2:] == ["staff:x:20001:max", "max:x:20000:"]
    lines = accounts.smbpasswd([one, two]).splitlines()
    assert lines[0].split(":")[3:5] == ["A" * 32, "[U          ]"]
    assert lines[1].split(":")[3:5] == ["X" * 32, "[DU         ]"]
