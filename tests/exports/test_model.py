"""What a share may say, and what is refused before any daemon's configuration sees it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exports import names
from exports.errors import InvalidExport
from exports.model import Share, User, conflicts
from exports.nthash import md4, nt_hash

EVIL = ["\n", "\r", "\0", '"', "%", "$", "\\", "`", "\x85", "\u2028", "\u202e", "\t"]


@pytest.mark.parametrize("name", ["a", "Backups 2026", "Übersicht", "x.y-z_1", "日本語"])
def test_names_that_may_be(name: str) -> None:
    assert Share(name=name).name == name


@pytest.mark.parametrize(
    "name",
    ["", " a", "a ", "a.", "[global]", "global", "Homes", "a/b", "a$", "../x", "-x", "a" * 81, "u\u0308"],
)
def test_names_that_may_not(name: str) -> None:
    with pytest.raises(InvalidExport, match="cannot name a share"):
        Share(name=name)


@pytest.mark.parametrize("path", ["a", "", "//", "/a/", "/a//b", "/../b", "/a/..", "/.", "/a/./b", "/a "])
def test_paths_that_may_not(path: str) -> None:
    with pytest.raises(InvalidExport):
        Share(name="x", path=path)


@pytest.mark.parametrize("character", EVIL)
def test_what_a_configuration_could_interpret_is_refused_everywhere(character: str) -> None:
    for fields in (
        {"name": f"a{character}b"},
        {"path": f"/a{character}b"},
        {"comment": f"a{character}b"},
        {"hosts": (f"a{character}b",)},
        {"users": (f"a{character}",)},
        {"groups": (f"a{character}b{character}",)},
        {"force_user": f"a{character}b"},
        {"force_group": f"a{character}b"},
    ):
        with pytest.raises(ValueError):
            msgspec.convert({"name": "x"} | fields, Share)


@pytest.mark.parametrize(
    "host", ["192.0.2.7", "192.0.2.0/24", "2001:db8::/32", "::1", "backup.example", "nas"]
)
def test_hosts_that_may_be(host: str) -> None:
    assert Share(name="x", hosts=(host,)).hosts == (host,)


@pytest.mark.parametrize(
    "host", ["192.0.2.7/24", "1.2.3", "a b", "*", "ALL", "except", "@net", "a_b", "-x", "192.0.2.", "a,b", ""]
)
def test_hosts_that_may_not(host: str) -> None:
    with pytest.raises(InvalidExport, match="no host"):
        Share(name="x", hosts=(host,))


@pytest.mark.parametrize("name", ["root", "nobody", "Max", "+a", "@a", "&a", "a b", "", "a.", "x" * 33])
def test_accounts_that_may_not(name: str) -> None:
    with pytest.raises(InvalidExport, match="cannot name"):
        Share(name="x", users=(name,))


def test_accounts_of_a_domain() -> None:
    share = Share(name="x", users=("EXAMPLE\\max",), groups=("EXAMPLE\\Domain Users",))
    assert share.groups == ("EXAMPLE\\Domain Users",)
    for name in ("EXAMPLE\\", "\\max", "A\\b\\c", "A\\ b"):
        with pytest.raises(InvalidExport):
            Share(name="x", users=(name,))


def test_guests_and_lists_exclude_each_other() -> None:
    with pytest.raises(InvalidExport, match="guests"):
        Share(name="x", guest=True, users=("max",))


def test_protocols_each_once() -> None:
    for protocols in ((), ("smb", "smb")):
        with pytest.raises(InvalidExport, match="protocols"):
            Share(name="x", protocols=protocols)  # type: ignore[arg-type]


@given(st.text(max_size=40), st.text(max_size=40))
def test_what_passes_is_one_printable_line(name: str, path: str) -> None:
    try:
        share = Share(name=name, path="/" + path, comment=path)
    except InvalidExport:
        return
    for text in (share.name, share.path, share.comment):
        assert text.isprintable() and not set(EVIL) & set(text)
    assert ".." not in share.path.split("/")


def test_the_same_name_or_export_id_twice_cannot_be_served() -> None:
    one = Share(name="Data", volume="a", protocols=("nfs",), export_id=257)
    other = Share(name="data", volume="b")
    third = Share(name="more", volume="c", protocols=("nfs",), export_id=257)
    assert set(conflicts([one, other, third])) == {"b:data", "c:more"}
    assert conflicts([one]) == {}


def test_a_user_does_not_show_the_hash() -> None:
    user = User(name="max", uid=20000, gid=20000, nt_hash=nt_hash("secret"))
    assert user.nt_hash not in repr(user) + str(user)


@pytest.mark.parametrize(
    "fields", [{"uid": 0}, {"gid": 0}, {"uid": 65534}, {"groups": {"x": 0}}, {"nt_hash": "x"}]
)
def test_users_that_may_not(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "max", "uid": 20000, "gid": 20000} | fields, User)


def test_places_to_listen() -> None:
    assert [names.is_loopback(names.listening(one)) for one in ("127.0.0.1", "::1", "lo")] == [True] * 3
    assert not names.is_loopback(names.listening("eth0")) and not names.is_loopback("0.0.0.0")
    for text in ("a b", "eth0;x", "", "-i", "*"):
        with pytest.raises(InvalidExport):
            names.listening(text)


@pytest.mark.parametrize(
    ("message", "digest"),
    [  # RFC 1320, A.5
        (b"", "31d6cfe0d16ae931b73c59d7e0c089c0"),
        (b"abc", "a448017aaf21d8525fc10ae87aa6729d"),
        (b"1234567890" * 8, "e33b4ddc9c38f2199c3e7b164fcc0536"),
    ],
)
def test_md4(message: bytes, digest: str) -> None:
    assert md4(message).hex() == digest


def test_nt_hash_of_a_known_password() -> None:
    assert nt_hash("password") == "8846F7EAEE8FB117AD06BDD830B7586C"
