"""How the servers themselves are set up: the tables `[smb]`, `[nfs]` and `[audit]` of the configuration."""

import ipaddress
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


class NfsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[nfs]`."""

    listen: str = "127.0.0.1"
    """One address of this host; `0.0.0.0` or `::` for all. By default nobody beyond this host can connect."""
    port: Port = 2049
    mount_port: Port = 20048
    """Of the MOUNT protocol, which NFSv3 needs."""
    portmapper: bool = False
    """The ports are told to this host's rpcbind, for clients of NFSv3 that ask there."""
    keytab: str = ""
    """The file, by its absolute path, with the key of `nfs/<host name>`; shares with krb5 need it."""

    def __post_init__(self) -> None:
        try:
            ipaddress.ip_address(self.listen)
        except ValueError:
            raise InvalidExport(f"{self.listen!r} is no address of this host to serve NFS at") from None
        if self.port == self.mount_port:
            raise InvalidExport(f"port and mount_port are both {self.port}: NFS needs two ports")
        if self.keytab and not names.plain_path(self.keytab).startswith("/"):
            raise InvalidExport(f"keytab {self.keytab!r}: expected an absolute path")

    @property
    def address(self) -> str:
        """One that a client on this host can use."""
        found = ipaddress.ip_address(self.listen)
        if not found.is_unspecified:
            return self.listen
        return "127.0.0.1" if found.version == 4 else "::1"


class AuditSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[audit]`."""

    enabled: bool = True
    file_size_bytes: Annotated[int, msgspec.Meta(ge=64 << 10, le=1 << 40)] = msgspec.field(
        default=16 << 20, name="file_size"
    )
    """A file of the log that has grown to this is followed by another."""
    files: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 8
    """How many are kept."""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All servers of one gateway."""

    smb: SmbSettings = SmbSettings()
    nfs: NfsSettings = NfsSettings()
    audit: AuditSettings = AuditSettings()
