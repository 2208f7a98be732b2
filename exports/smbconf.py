"""smb.conf, from what is offered: text in, text out, no I/O.

Every value has passed `exports.names`, so that none holds a line break, a quote, a backslash at its end or a
`%` macro; lists are quoted name by name. A share is rendered whole or not at all: the section names are
checked to be unique by whoever makes the offer.

What is set for the file system below: no leases or share modes of the kernel (a FUSE file system grants
them but cannot break them), no preallocation, byte-range locks shared with other users of the mount, every
flush of a client a flush of ours.
"""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from exports import smb_audit
from exports.model import Share
from exports.server import Placed
from exports.settings import SmbSettings

GUEST = "nobody"
_CHECK = '[ "$(realpath -e -- "$directory")" = "$directory" ] && exec mountpoint -q -- "$mount"'


class Places:
    """Files and directories of the SMB server; nothing else spells these paths."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.configuration = directory / "smb.conf"
        self.passwd = directory / "passwd"
        self.group = directory / "group"
        self.smbpasswd = directory / "smbpasswd"
        self.check = directory / "check-share"
        self.private = directory / "private"
        self.state = directory / "state"
        self.lock = directory / "lock"
        self.cache = directory / "cache"
        self.rpc = directory / "rpc"
        self.winbind = directory / "winbind"

    @property
    def directories(self) -> tuple[Path, ...]:
        """Those that must exist, 0700."""
        return self.directory, self.private, self.state, self.lock, self.cache, self.rpc, self.winbind


def render(settings: SmbSettings, shares: Sequence[Placed], places: Places, *, audited: bool = False) -> str:
    """The whole file."""
    lines = ["# Written by fusegw from its shares; changes are lost.", "[global]"]
    lines += [f"    {name} = {value}" for name, value in _global(settings, shares, places)]
    for placed in shares:
        lines += ["", f"[{placed.share.name}]"]
        lines += [f"    {name} = {value}" for name, value in _share(settings, placed, places, audited)]
    return "\n".join(lines) + "\n"


def render_check(shares: Sequence[Placed]) -> str:
    """The program that smbd asks, as root, before it lets anybody into a share: is its file system mounted,
    and its directory where it was, not what a link of the same name leads to?"""
    cases = [
        f"{_key(one.share)}) mount={shlex.quote(one.mountpoint)} directory={shlex.quote(one.directory)} ;;"
        for one in shares
    ]
    return "\n".join(("#!/bin/sh", 'case "$1" in', *cases, "*) exit 1 ;;", "esac", _CHECK, ""))


def rules(settings: SmbSettings, placed: Placed, places: Places) -> frozenset[tuple[str, str]]:
    """What is true for whoever is in the share already, apart from who may be."""
    apart = ("comment", "browseable", "valid users")
    return frozenset(line for line in _share(settings, placed, places) if line[0] not in apart)


def allowed(placed: Placed) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Users, and groups of a domain, that may connect with a password."""
    return placed.members, tuple(name for name in placed.share.groups if "\\" in name)


def _global(settings: SmbSettings, shares: Sequence[Placed], places: Places) -> Iterator[tuple[str, str]]:
    yield "server string", "fusegw"
    yield "netbios name", settings.server_name
    yield "workgroup", settings.workgroup
    yield from _membership(settings, places)
    yield "interfaces", " ".join(settings.listen)
    yield "bind interfaces only", "yes"
    yield "smb ports", str(settings.port)
    yield "disable netbios", "yes"
    yield "multicast dns register", "no"
    yield "server min protocol", "SMB2_10"
    yield "server signing", "mandatory" if any(one.share.signing for one in shares) else "auto"
    encryptions = {_encryption(settings, one.share) for one in shares}
    yield "server smb encrypt", "required" if encryptions == {"required"} else "if_required"
    yield "map to guest", "bad user" if any(one.share.guest for one in shares) else "never"
    yield "guest account", GUEST
    yield "restrict anonymous", "2"
    # Passwords are set by fusegw alone; a change through SMB would be lost.
    yield "check password script", "/bin/false"
    for name, place in (
        ("private dir", places.private),
        ("state directory", places.state),
        ("lock directory", places.lock),
        ("pid directory", places.lock),
        ("cache directory", places.cache),
        ("ncalrpc dir", places.rpc),
    ):
        yield name, str(place)
    yield "usershare max shares", "0"
    yield "load printers", "no"
    yield "printing", "bsd"
    yield "printcap name", "/dev/null"
    yield "disable spoolss", "yes"
    yield "host msdfs", "no"
    # Failed logins are told of in any case.
    yield "log level", f"{settings.log_level} auth_audit:{max(2, settings.log_level)}"
    yield "debug timestamp", "no"
    yield "wide links", "no"
    yield "allow insecure wide links", "no"


def _membership(settings: SmbSettings, places: Places) -> Iterator[tuple[str, str]]:
    if not settings.realm:
        yield "server role", "standalone server"
        yield "passdb backend", f"smbpasswd:{places.smbpasswd}"
        yield "winbindd socket directory", str(places.winbind)
        return
    yield "server role", "member server"
    yield "realm", settings.realm
    yield "security", "ads"
    yield "kerberos method", "secrets and keytab"
    # Numbers made from the SIDs alone are the same on every host, also after a recovery.
    yield "idmap config * : backend", "autorid"
    yield "idmap config * : range", "1000000-1999999999"
    yield "idmap config * : rangesize", "1000000"


def _share(
    settings: SmbSettings, placed: Placed, places: Places, audited: bool = False
) -> Iterator[tuple[str, str]]:
    share = placed.share
    yield "path", placed.directory
    if share.comment:
        yield "comment", share.comment
    yield "read only", _yes(placed.read_only)
    yield "browseable", _yes(not share.hidden)
    # Neither an unmounted directory nor where a link leads to is ever served in its place.
    yield "root preexec", f"{places.check} {_key(share)}"
    yield "root preexec close", "yes"
    yield from _access(placed)
    yield "server smb encrypt", _encryption(settings, share)
    if share.case == "sensitive":
        yield "case sensitive", "yes"
    for what, name in (("force user", share.force_user), ("force group", share.force_group)):
        if name:
            yield what, name
    yield "create mask", f"{share.create_mask:04o}"
    yield "directory mask", f"{share.directory_mask:04o}"
    yield from _file_system(placed, audited=audited)


def _access(placed: Placed) -> Iterator[tuple[str, str]]:
    share = placed.share
    if share.hosts:
        yield "hosts allow", " ".join(share.hosts)
        # Without this, loopback is always allowed.
        yield "hosts deny", "0.0.0.0/0 ::/0"
    if share.guest:
        yield "guest ok", "yes"
        return
    users, groups = allowed(placed)
    if users or groups:
        yield "valid users", " ".join([f'"{name}"' for name in users] + [f'"+{name}"' for name in groups])
    else:
        yield "available", "no"


def _file_system(placed: Placed, *, audited: bool) -> Iterator[tuple[str, str]]:
    share = placed.share
    above = (*(("full_audit",) if audited else ()), *(("fruit",) if share.macos else ()))
    below = ("shadow_copy2",) if placed.versions else ()
    yield "vfs objects", " ".join((*above, "streams_xattr", "acl_xattr", *below))
    if placed.versions:
        yield from _previous_versions(placed)
    if audited:
        yield "full_audit:prefix", smb_audit.PREFIX
        yield "full_audit:success", " ".join(smb_audit.SUCCESSES)
        yield "full_audit:failure", " ".join(smb_audit.FAILURES)
    if share.macos:
        yield "fruit:metadata", "stream"
        yield "fruit:posix_rename", "yes"
        yield "fruit:veto_appledouble", "no"
        yield "fruit:delete_empty_adfiles", "yes"
        yield "fruit:wipe_intentionally_left_blank_rfork", "yes"
    yield "ea support", "yes"
    yield "store dos attributes", "yes"
    for name in ("archive", "hidden", "system", "readonly"):
        yield f"map {name}", "no"
    yield "kernel share modes", "no"
    yield "kernel oplocks", "no"
    yield "posix locking", "yes"
    yield "strict allocate", "no"
    yield "strict sync", "yes"


def _previous_versions(placed: Placed) -> Iterator[tuple[str, str]]:
    """What is below `versions/TIME` is what was below `tree` then, the share's directory included."""
    yield "shadow:mountpoint", placed.tree
    yield "shadow:snapdir", placed.versions
    yield "shadow:format", "@GMT-%Y.%m.%d-%H.%M.%S"
    yield "shadow:localtime", "no"
    yield "shadow:sort", "desc"


def _encryption(settings: SmbSettings, share: Share) -> str:
    if share.encryption == "auto":
        return "if_required" if settings.is_local else "required"
    return share.encryption


def _key(share: Share) -> str:
    """A word that stands for the share in the shell."""
    return share.name.encode().hex()


def _yes(value: bool) -> str:
    return "yes" if value else "no"
