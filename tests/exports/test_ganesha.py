"""ganesha.conf as text: what is in it, that nothing in a share gets out of its quotes, what is refused."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exports import ganesha
from exports.errors import InvalidExport
from exports.ganesha import Served, forgeable, next_epoch
from exports.ganesha_syntax import Block, Text, parse, text_of
from exports.settings import NfsSettings
from tests.exports.ganeshas import placed

STATE = Path("/var/lib/fusegw/shares/1/nfs")
SETTINGS = NfsSettings()

NASTY = st.text(st.sampled_from("ab/ .'\"#;{}=,\\%$`*!\n\r\t\0ü\N{GRINNING FACE}\u202e"), max_size=30)


def export(text: str, index: int = 0) -> Block:
    return [block for block in parse(text) if block.name == "EXPORT"][index]


def served(*addresses: str, directory: str = "/mnt/tank", **more: Any) -> Served:
    return Served(placed(Path(directory), **more), addresses)


def test_an_export_says_what_the_share_says() -> None:
    share = served(
        "192.0.2.7", "2001:db8::/32", name="a b", squash="all", anonymous_uid=7, hosts=("h",), read_only=True
    )
    block = export(ganesha.configuration(SETTINGS, STATE, [share]))
    assert block.values["Pseudo"] == Text("/a b")
    assert block.values["Access_Type"] == "NONE"
    assert (block.values["Squash"], block.values["Anonymous_Uid"]) == ("All_Squash", "7")
    assert block.values["Attr_Expiration_Time"] == "0"
    client, fsal = block.blocks
    assert client.values == {"Clients": ("192.0.2.7", "2001:db8::/32"), "Access_Type": "RO"}
    assert fsal.values == {"Name": "VFS"}


def test_kerberos_is_written_and_needs_a_keytab() -> None:
    share = served(security=("krb5i", "krb5p"))
    with pytest.raises(InvalidExport, match="keytab"):
        ganesha.configuration(SETTINGS, STATE, [share])
    text = ganesha.configuration(NfsSettings(keytab="/etc/krb5 nfs.keytab"), STATE, [share])
    kerberos = next(block for block in parse(text) if block.name == "NFS_KRB5")
    assert kerberos.values["KeytabPath"] == Text("/etc/krb5 nfs.keytab")
    assert kerberos.values["Active_krb5"] == "true"
    assert export(text).values["SecType"] == ("krb5i", "krb5p")


def test_the_server_listens_where_it_is_told_and_on_loopback_otherwise() -> None:
    for settings, address in ((SETTINGS, "127.0.0.1"), (NfsSettings(listen="2001:db8::1"), "2001:db8::1")):
        core = parse(ganesha.configuration(settings, STATE, [served()]))[0]
        assert core.values["Bind_addr"] == address
        assert core.values["Enable_UDP"] == "false"


@given(name=NASTY, directory=NASTY.map("/mnt/".__add__), comment=NASTY, host=NASTY)
def test_no_text_reaches_beyond_its_share(name: str, directory: str, comment: str, host: str) -> None:
    """Whatever is put into one share: it is refused, or the other one and the server stay as they are."""
    other = served(name="other", export_id=1)
    alone = parse(ganesha.configuration(SETTINGS, STATE, [other]))
    try:
        nasty = served(host, name=name, directory=directory, comment=comment, hosts=(host,), export_id=2)
        text = ganesha.configuration(SETTINGS, STATE, [nasty, other])
    except ValueError:
        return
    *server, mine, others = parse(text)
    assert (*server, others) == alone
    assert mine.values["Pseudo"] == Text(f"/{name}")
    assert mine.values["Path"] == Text(directory)
    assert [block.name for block in mine.blocks] == ["CLIENT", "FSAL"]


@given(value=NASTY)
def test_what_would_be_read_otherwise_is_not_written(value: str) -> None:
    """Quoting is checked by reading, also of texts that no share can hold."""
    try:
        text = text_of((Block("EXPORT", {"Path": Text(value)}),))
    except InvalidExport:
        assert set(value) & set('"\\\r\n')
    else:
        assert parse(text) == (Block("EXPORT", {"Path": Text(value)}),)


@pytest.mark.parametrize(
    "text",
    [
        'EXPORT { Path = "/a"; ',
        'EXPORT { Path = "/a" }',
        'EXPORT { Path = "/a"; Path = "/b"; }',
        'EXPORT { Pathh = "/a"; }',
        "EXPORT { EXPORT { } }",
        "CLIENT { Clients = 10.0.0.1; }",
        '%include "/etc/passwd"',
        'EXPORT { Path = "/a"; } # more',
        "EXPORT { SecType = sys krb5; }",
        "EXPORT { SecType = ; }",
        '"EXPORT" { }',
    ],
)
def test_what_is_not_ours_is_not_read(text: str) -> None:
    with pytest.raises(InvalidExport):
        parse(text)


def test_two_shares_are_two_exports() -> None:
    for twin in (served(name="share", export_id=2), served(name="else", export_id=257)):
        with pytest.raises(InvalidExport, match="the same"):
            ganesha.configuration(SETTINGS, STATE, [served(name="SHARE"), twin])
    with pytest.raises(InvalidExport, match="no export id"):
        ganesha.configuration(SETTINGS, STATE, [served(export_id=0)])


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"hosts": ("10.0.0.1",)}, "hosts"),
        ({"squash": "all"}, "squash"),
        ({"anonymous_uid": 1}, "squash"),
        ({"security": ("krb5",)}, "security"),
        ({"read_only": True}, "read-only"),
    ],
)
def test_shares_that_differ_in_who_may_do_what_need_an_acknowledgement(more: Any, what: str) -> None:
    one, other = placed(Path("/mnt/a"), "one"), placed(Path("/mnt/b"), "other", **more)
    why = forgeable((one, other))
    assert why is not None and what in why and "forged" in why
    assert forgeable((one, placed(Path("/mnt/b"), "other"))) is None
    assert forgeable((one, placed(Path("/mnt/b"), "other", forgeable_handles=True, **more))) is None


@given(last=st.integers(0, (1 << 32) - 1), now=st.integers(0, (1 << 32) - 1))
def test_an_epoch_is_never_that_of_the_start_before(last: int, now: int) -> None:
    epoch = next_epoch(last, now)
    assert epoch != last and 0 <= epoch < 1 << 32
    assert epoch > last or last == (1 << 32) - 1


@pytest.mark.parametrize(
    "wrong",
    [{"listen": "all"}, {"port": 111, "mount_port": 111}, {"keytab": "krb5.keytab"}, {"listen": "lo"}],
)
def test_settings_that_cannot_be(wrong: Any) -> None:
    with pytest.raises(InvalidExport):
        NfsSettings(**wrong)
