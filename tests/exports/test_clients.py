"""What a client is told to type comes apart at the client into what was meant."""

import shlex
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exports import names
from exports.clients import Advice, Client, Reach, address_of, advise
from exports.errors import InvalidExport
from exports.model import Share

REACH = Reach(address="gw.example.org", domain="FUSEGW", user="max")


def told(client: Client, reach: Reach = REACH, **share: Any) -> Advice:
    return advise(Share(**({"name": "backups"} | share)), client, reach)


def command(advice: Advice, word: str) -> str:
    (found,) = [step.text for step in advice.steps if step.text.startswith(word)]
    return found


def test_linux_over_smb_and_nfs() -> None:
    smb = told("linux")
    assert command(smb, "mkdir") == (
        "mkdir -p /mnt/backups && mount -t cifs -o "
        "vers=3.1.1,port=445,hard,credentials=/etc/fusegw-backups.credentials,seal "
        "//gw.example.org/backups /mnt/backups"
    )
    nfs = told("linux", protocols=("smb", "nfs"))
    assert (nfs.protocol, nfs.port) == ("nfs", 2049)
    assert command(nfs, "mkdir") == (
        "mkdir -p /mnt/backups && mount -t nfs -o vers=4.2,proto=tcp,port=2049,hard,sec=sys "
        "gw.example.org:/backups /mnt/backups"
    )


def test_windows_and_robocopy() -> None:
    assert command(told("windows"), "net use") == (
        r"net use Z: \\gw.example.org\backups /user:FUSEGW\max * /persistent:yes"
    )
    reach = msgspec.structs.replace(REACH, smb_port=8445)
    other = told("robocopy", reach, name="my backups", read_only=True)
    assert command(other, "net use") == (
        r'net use "\\gw.example.org\my backups" /user:FUSEGW\max * /persistent:yes /TCPPORT:8445'
    )
    assert command(other, "robocopy").startswith(
        r'robocopy "\\gw.example.org\my backups\SOURCE" C:\SOURCE /E '
    )
    assert any("24H2" in note for note in other.notes)


def test_owners_only_where_root_is_root() -> None:
    squashed = told("rsync", protocols=("nfs",))
    assert "rsync -rltpH --whole-file --delete /SOURCE/" in command(squashed, "rsync")
    assert "rsync -aH --numeric-ids" in command(told("rsync", protocols=("nfs",), squash="none"), "rsync")
    assert "--delete" not in command(told("rsync", read_only=True), "rsync")


def test_a_client_that_speaks_none_of_the_protocols() -> None:
    with pytest.raises(InvalidExport, match="--protocol nfs --protocol smb"):
        told("windows", protocols=("nfs",))


def test_where_clients_find_the_gateway() -> None:
    assert address_of(("lo",), "gw") == "127.0.0.1"
    assert address_of(("eth1", "192.0.2.10/24"), "gw") == "192.0.2.10"
    assert address_of(("0.0.0.0",), "gw") == address_of(("eth1", "lo"), "gw") == "gw"
    assert any(
        "only this host" in note for note in told("linux", Reach(address="gw", domain="D", local=True)).notes
    )
    with pytest.raises(InvalidExport):
        Reach(address="gw; reboot", domain="D")


def _share_names() -> st.SearchStrategy[str]:
    def is_name(text: str) -> bool:
        try:
            return bool(names.share_name(text))
        except InvalidExport:
            return False

    return st.text(min_size=1, max_size=12).filter(is_name) | st.from_regex(
        r"[a-zä][\w .-]{0,20}[\w-]", fullmatch=True
    ).filter(is_name)


@given(_share_names(), st.sampled_from(get_args(Client)), st.booleans(), st.booleans())
def test_a_name_is_one_word_to_every_shell(name: str, client: Client, guest: bool, nfs: bool) -> None:
    advice = told(client, name=name, guest=guest, protocols=("smb", "nfs") if nfs else ("smb",))
    for step in advice.steps:
        lines = step.text.splitlines()
        for line in lines:
            words = line.split(" ") if step.what.startswith("in /etc/fstab") else []
            assert len(words) in (0, 6)
        if step.text.startswith("mkdir"):
            words = shlex.split(step.text)
            assert words[:4] == ["mkdir", "-p", f"/mnt/{name}", "&&"] and words[-1] == f"/mnt/{name}"
            assert words[-2].endswith(f"/{name}") and len(words) == 11
        elif step.text.startswith("net use"):
            assert f"\\{name}" in step.text and (" " not in name or f'{name}"' in step.text)
