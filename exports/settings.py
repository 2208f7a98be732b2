"""How the servers themselves are set up: the tables `[smb]` and `[nfs]` of a gateway's configuration."""

import re
from typing import Annotated

import msgspec

from exports import names
from exports.errors import InvalidExport

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]

_NETBIOS = re.compile(r"[A-Z0-9](?:[A-Z0-9-]{0,13}[A-Z0-9])?")
_REALM = re.compile(r"[A-Z0-9](?:[A-Z0-9.-]{0,252}[A-Z0-9])?")


class SmbSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[smb]`."""

    listen: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=64)] = ("lo",)
    """Addresses and network interfaces; by default nobody beyond this host can connect."""
    port: Port = 445
    server_name: str = "FUSEGW"
    """NetBIOS name: of the server, and of the domain that its users are in."""
    workgroup: str = "WORKGROUP"
    """With `realm`: the domain's NetBIOS name."""
    realm: str = ""
    """Active Directory domain that this host is a member of; "": none."""
    log_level: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1

    def __post_init__(self) -> None:
        for place in self.listen:
            names.listening(place)
        for what, text in (("server_name", self.server_name), ("workgroup", self.workgroup)):
            if not _NETBIOS.fullmatch(text):
                raise InvalidExport(f"{what} {text!r}: expected 1 to 15 of A-Z, 0-9 and '-'")
        if self.realm and not _REALM.fullmatch(self.realm):
            raise InvalidExport(f"realm {self.realm!r}: expected a domain in capitals, such as EXAMPLE.ORG")

    @property
    def is_local(self) -> bool:
        """Whether only this host can connect."""
        return all(map(names.is_loopback, self.listen))


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All servers of one gateway."""

    smb: SmbSettings = SmbSettings()
