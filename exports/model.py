"""Shares and users: what is offered, over which protocol, to whom, and how.

The structs check themselves: one that exists is valid in all its parts (`exports.names`), so whoever writes a
daemon's configuration from it need only quote. They hold no secret but the users' NT hashes, which never
show in a representation. Decoding ignores fields it does not know, those of a newer version.
"""

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import msgspec

from exports import names
from exports.errors import InvalidExport

EXPORT_ID_MAX = (1 << 16) - 1
LIST_MAX = 256
"""Hosts, users or groups of one share."""
SHARES_MAX = 1000
"""Shares of one gateway."""

Protocol = Literal["smb", "nfs"]
Squash = Literal["root", "all", "none"]
Security = Literal["sys", "krb5", "krb5i", "krb5p"]
Encryption = Literal["auto", "required", "desired", "off"]
Case = Literal["insensitive", "sensitive"]
Mode = Annotated[int, msgspec.Meta(ge=0, le=0o777)]
Id = Annotated[int, msgspec.Meta(ge=0, le=names.ID_MAX)]

_NT_HASH = re.compile(r"[0-9A-F]{32}")


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """One share. InvalidExport when a part of it cannot be."""

    name: str
    """Unique in a gateway, without regard to case."""
    volume: str = ""
    """The volume's name; "" until somebody who knows says so."""
    path: str = "/"
    """Of the shared directory in its volume."""
    protocols: tuple[Protocol, ...] = ("smb",)
    read_only: bool = False
    hosts: tuple[str, ...] = ()
    """Addresses, networks and names that may connect; empty: all that reach the daemon."""
    users: tuple[str, ...] = ()
    """SMB: who may connect; with `groups` empty as well, all users that there are."""
    groups: tuple[str, ...] = ()
    guest: bool = False
    """SMB: without a password too, as nobody."""
    force_user: str = ""
    """SMB: everything is done as this user, whoever has connected."""
    force_group: str = ""
    create_mask: Mode = 0o664
    """SMB: permission bits a new file may get."""
    directory_mask: Mode = 0o775
    squash: Squash = "root"
    """NFS: whose user number is taken for `anonymous_uid`."""
    anonymous_uid: Id = names.NOBODY_ID
    anonymous_gid: Id = names.NOBODY_ID
    security: tuple[Security, ...] = ("sys",)
    """NFS: how clients say who they are."""
    forgeable_handles: bool = False
    """NFS: acknowledged that it may differ from others in who may do what, which protects neither."""
    encryption: Encryption = "auto"
    """SMB; auto: required as soon as the daemon listens beyond this host, else desired."""
    signing: bool = True
    """SMB: unsigned sessions are refused."""
    case: Case = "insensitive"
    """SMB: whether `A` and `a` are one name."""
    macos: bool = False
    """SMB: attributes and streams as Apple's clients want them."""
    hidden: bool = False
    """Not shown to clients that list shares."""
    comment: str = ""
    export_id: Annotated[int, msgspec.Meta(ge=0, le=EXPORT_ID_MAX)] = 0
    """NFS: in every handle; never another share's. 0: it was never offered over NFS."""

    def __post_init__(self) -> None:
        names.share_name(self.name)
        names.share_path(self.path)
        names.comment(self.comment)
        _check_list(self.hosts, "hosts", names.host)
        _check_list(self.users, "users", names.who)
        _check_list(self.groups, "groups", names.who)
        for account in filter(None, (self.force_user, self.force_group)):
            names.account(account)
        for what, chosen in (("protocols", self.protocols), ("security", self.security)):
            if not chosen or len(set(chosen)) != len(chosen):
                raise InvalidExport(f"share {self.name!r}: {what} must name at least one, and each once")
        if self.guest and (self.users or self.groups):
            raise InvalidExport(
                f"share {self.name!r}: guests have no name, so a list of users or groups would keep all of "
                "them out; choose one"
            )

    def serves(self, protocol: Protocol) -> bool:
        """Whether it is offered over `protocol`."""
        return protocol in self.protocols


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who connects over SMB with a password. InvalidExport when that cannot be."""

    name: str
    uid: Annotated[int, msgspec.Meta(ge=1, le=names.ID_MAX)]
    """Owner of the files the user makes."""
    gid: Annotated[int, msgspec.Meta(ge=1, le=names.ID_MAX)]
    groups: dict[str, Annotated[int, msgspec.Meta(ge=1, le=names.ID_MAX)]] = {}
    """Further groups, with their numbers."""
    nt_hash: str = ""
    """MD4 of the password, 32 hex digits, as good as the password itself; "" locks the user out."""

    def __post_init__(self) -> None:
        names.account(self.name)
        for group in self.groups:
            names.account(group)
        if len(self.groups) > LIST_MAX:
            raise InvalidExport(f"user {self.name!r} is in {len(self.groups)} groups, at most {LIST_MAX}")
        if names.NOBODY_ID in (self.uid, self.gid, *self.groups.values()):
            raise InvalidExport(f"user {self.name!r}: {names.NOBODY_ID} is nobody's number; choose another")
        if self.nt_hash and not _NT_HASH.fullmatch(self.nt_hash):
            raise InvalidExport(f"user {self.name!r}: its password hash is not 32 hexadecimal digits")

    def __repr__(self) -> str:
        return f"User({self.name!r}, uid={self.uid}, gid={self.gid}, groups={self.groups!r})"


def conflicts(shares: Iterable[Share]) -> dict[str, str]:
    """Of shares in order of precedence those that cannot be served beside one before, by their place
    `VOLUME:NAME`, and why."""
    taken: dict[str, Share] = {}
    ids: dict[int, Share] = {}
    found: dict[str, str] = {}
    for share in shares:
        other = taken.setdefault(share.name.casefold(), share)
        if other is not share:
            found[f"{share.volume}:{share.name}"] = (
                f"volume {other.volume} has a share {other.name!r} too; rename one"
            )
            continue
        if share.export_id and ids.setdefault(share.export_id, share) is not share:
            found[f"{share.volume}:{share.name}"] = (
                f"its NFS export id {share.export_id} is that of share {ids[share.export_id].name!r}"
            )
    return found


def _check_list(entries: tuple[str, ...], what: str, check: Callable[[str], str]) -> None:
    if len(entries) > LIST_MAX:
        raise InvalidExport(f"{what} has {len(entries)} entries, at most {LIST_MAX}")
    for entry in entries:
        check(entry)
