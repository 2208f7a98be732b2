"""nfs-ganesha's side of the shares: what stands in ganesha.conf, how ganesha is started.

Pure. All NFS shares of a gateway are one security domain: a file handle is a few numbers that
a client can make up, and ganesha asks of it only that the export it names is open to the client. `forgeable`
tells when that undoes what the shares say.
"""

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import msgspec

from exports import names
from exports.errors import InvalidExport
from exports.ganesha_syntax import Block, Text, Value, text_of
from exports.server import Placed
from exports.settings import NfsSettings
from exports.supervisor import Command

PROGRAM = "/usr/bin/ganesha.nfsd"
MODULE = "/usr/lib/*/ganesha/libfsalvfs.so"
LEASE_S = 15
"""How long a client of NFSv4 may be silent and keep its locks."""
GRACE_S = 15
"""After a start only what clients had before may be locked and opened by NFSv4, if there were clients."""
CLOSE_S = 30
"""Files that no client has open by NFSv4 are closed this often."""
EPOCHS = 1 << 32

_SQUASH = {"root": "Root_Squash", "all": "All_Squash", "none": "No_Root_Squash"}


class Served(msgspec.Struct, frozen=True):
    """A share as it is to be served."""

    placed: Placed
    addresses: tuple[str, ...]
    """The share's hosts, names as the addresses they stand for; without hosts empty, else not."""

    @property
    def export_id(self) -> int:
        """In every handle."""
        return self.placed.share.export_id


def configuration(settings: NfsSettings, state: Path, shares: Iterable[Served]) -> str:
    """ganesha.conf. InvalidExport, and nothing may be changed, when a share cannot be written into it."""
    exports = tuple(_export(settings, served) for served in shares)
    for key in ("Export_Id", "Pseudo"):
        if len({str(block.values[key]).casefold() for block in exports}) != len(exports):
            raise InvalidExport(f"two NFS shares have the same {key}")
    return text_of((*_server(settings, state), *exports))


def forgeable(shares: Iterable[Placed]) -> str | None:
    """Why these shares must not be served over NFS side by side; None if they may. Those with
    `forgeable_handles` may differ from the others."""
    first: Placed | None = None
    for placed in shares:
        if placed.share.forgeable_handles:
            continue
        first = first or placed
        differ = [what for what, of in _DOMAIN.items() if of(placed) != of(first)]
        if differ:
            return (
                f"NFS shares {first.share.name!r} and {placed.share.name!r} differ in "
                f"{' and '.join(differ)}, and that protects neither: NFS handles can be forged, so whoever "
                "may use one share of a mount can reach the files of all; make them alike, serve them from "
                "separate mounts, or add --acknowledge-forgeable-handles"
            )
    return None


def command(settings: NfsSettings, state: Path, *, mountpoint: Path, fsid: int) -> Command:
    """How ganesha is started; `-E` and an epoch, greater at each start, go after it.

    `fsid` is in every handle: the same for the same mount for ever, another one for others, not 0.
    """
    return Command(
        name="nfs-ganesha",
        argv=(PROGRAM, "-F", "-f", str(config_file(state)), "-p", str(pid_file(state)), "-L", "STDOUT"),
        directory=state,
        environment={
            "LD_PRELOAD": str(preload_library()),
            "FUSEGW_NFS_MOUNTPOINT": str(mountpoint),
            "FUSEGW_NFS_FSID": f"{fsid:016x}",
            "FUSEGW_NFS_LISTEN": settings.listen,
            "FUSEGW_NFS_PORTMAPPER": str(int(settings.portmapper)),
            # ganesha would take a name on the system's bus, where another one may be served from.
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={state / 'no-bus'}",
        },
    )


def config_file(state: Path) -> Path:
    """ganesha.conf, in the server's directory `state`."""
    return state / "ganesha.conf"


def pid_file(state: Path) -> Path:
    """Where ganesha writes its number."""
    return state / "ganesha.pid"


def preload_library() -> Path | None:
    """What ganesha is preloaded with; None when it was not built."""
    found = find_spec("exports._nfs_preload")
    return None if found is None or found.origin is None else Path(found.origin)


def next_epoch(last: int, now_s: int) -> int:
    """Of the next start. It is the write verifier: if two starts had the same, a client would not send again
    what the first one lost. Of the wall clock too, so that it grows though `last` was lost with a host."""
    return max(last + 1, now_s) % EPOCHS


def is_address(host: str) -> bool:
    """Whether it is an address or a network, not a name."""
    try:
        ipaddress.ip_network(host)
    except ValueError:
        return False
    return True


_DOMAIN: Mapping[str, Callable[[Placed], object]] = {
    "hosts": lambda placed: sorted(placed.share.hosts),
    "squash": lambda placed: (placed.share.squash, placed.share.anonymous_uid, placed.share.anonymous_gid),
    "security": lambda placed: sorted(placed.share.security),
    "read-only": lambda placed: placed.share.read_only,
}
"""What a share says of who may do what, and with which words."""


def _server(settings: NfsSettings, state: Path) -> tuple[Block, ...]:
    """What is read at the start only. No block LOG: read again, it crashes ganesha 4.3 now and then."""
    kerberos: dict[str, Value] = {"Active_krb5": "false"}
    if settings.keytab:
        kerberos = {
            "Active_krb5": "true",
            "PrincipalName": "nfs",
            "KeytabPath": _path(settings.keytab),
            "CCacheDir": _path(state / "krb5"),
        }
    return (
        Block(
            "NFS_CORE_PARAM",
            {
                "NFS_Port": str(settings.port),
                "MNT_Port": str(settings.mount_port),
                "Bind_addr": settings.listen,
                "Protocols": ("3", "4"),
                # Locks of NFSv3 would need rpc.statd; clients mount with nolock.
                "Enable_NLM": "false",
                "Enable_RQUOTA": "false",
                "Enable_UDP": "false",
                "mount_path_pseudo": "true",
            },
        ),
        Block(
            "NFSV4",
            {
                "Grace_Period": str(GRACE_S),
                "Lease_Lifetime": str(LEASE_S),
                "Minor_Versions": ("0", "1", "2"),
                "RecoveryRoot": _path(state),
                "Only_Numeric_Owners": "true",
                "Delegations": "false",
            },
        ),
        Block("NFS_KRB5", kerberos),
        # Directories are changed beside ganesha; our own positions in them are stable, its would not be.
        # And it would keep open what it once opened, and with that the data of files removed elsewhere.
        Block("MDCACHE", {"Dir_Chunk": "0", "FD_LWMark_Percent": "0", "LRU_Run_Interval": f"{CLOSE_S}"}),
    )


def _export(settings: NfsSettings, served: Served) -> Block:
    share, addresses = served.placed.share, served.addresses
    if not share.export_id:
        raise InvalidExport(f"share {share.name!r} has no export id")
    if any(kind != "sys" for kind in share.security) and not settings.keytab:
        raise InvalidExport(f"share {share.name!r} wants Kerberos, and no keytab is configured for NFS")
    if share.hosts and not addresses:
        raise InvalidExport(f"share {share.name!r}: none of its hosts has an address")
    access = "RO" if served.placed.read_only else "RW"
    clients = Block("CLIENT", {"Clients": _addresses(addresses), "Access_Type": access})
    return Block(
        "EXPORT",
        {
            "Export_Id": str(share.export_id),
            "Path": _path(served.placed.directory),
            "Pseudo": Text("/" + names.share_name(share.name)),
            "Access_Type": "NONE" if addresses else access,
            "Squash": _SQUASH[share.squash],
            "Anonymous_Uid": str(share.anonymous_uid),
            "Anonymous_Gid": str(share.anonymous_gid),
            "SecType": share.security if len(share.security) > 1 else share.security[0],
            "Protocols": ("3", "4"),
            "Transports": "TCP",
            # Files are changed beside ganesha, by the other protocols and on the host.
            "Attr_Expiration_Time": "0",
            "Delegations": "None",
        },
        (*((clients,) if addresses else ()), Block("FSAL", {"Name": "VFS"})),
    )


def _addresses(addresses: tuple[str, ...]) -> Value:
    for address in addresses:
        ipaddress.ip_network(address)
    return addresses if len(addresses) > 1 else "".join(addresses)


def _path(path: Path | str) -> Text:
    return Text(names.plain_path(str(path)))
