"""nfs-ganesha's side of the shares: what stands in ganesha.conf, how ganesha is started.

Pure but for `find`. All NFS shares of a gateway are one security domain: a file handle is a few numbers that
a client can make up, and ganesha asks of it only that the export it names is open to the client. `forgeable`
tells when that undoes what the shares say.
"""

import ipaddress
import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import msgspec

from exports import names
from exports.errors import InvalidExport, ToolFailed
from exports.ganesha_syntax import Block, Text, Value, text_of
from exports.model import Share
from exports.supervisor import Command

PROGRAM = "ganesha.nfsd"
PORT, MOUNT_PORT = 2049, 20048
LEASE_S = 15
"""How long a client of NFSv4 may be silent and keep its locks."""
GRACE_S = 15
"""After a start only what clients had before may be locked and opened by NFSv4, if there were clients."""
EPOCH_MAX = (1 << 32) - 1

_SQUASH = {"root": "Root_Squash", "all": "All_Squash", "none": "No_Root_Squash"}
_PRELOAD = "exports._nfs_preload"


class NfsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for all NFS shares of a gateway. InvalidExport when it cannot be."""

    address: str = "127.0.0.1"
    """Where ganesha listens: one address of this host; `0.0.0.0` or `::` for all."""
    port: int = PORT
    mount_port: int = MOUNT_PORT
    """Of the MOUNT protocol that NFSv3 needs."""
    portmapper: bool = False
    """The ports are told to this host's rpcbind, for clients of NFSv3 that ask there."""
    keytab: Path | None = None
    """Of the principal `nfs/<host name>`; needed by shares with krb5."""
    forgeable_handles: bool = False
    """Shares may differ in who may do what, although handles can be forged."""

    def __post_init__(self) -> None:
        try:
            ipaddress.ip_address(self.address)
        except ValueError:
            raise InvalidExport(f"{self.address!r} is no address that NFS could be served at") from None
        if self.port == self.mount_port or not all(0 < one < 1 << 16 for one in (self.port, self.mount_port)):
            raise InvalidExport("NFS needs two different ports, for NFS and for MOUNT")
        if self.keytab is not None:
            names.plain_path(str(self.keytab))


class Offer(msgspec.Struct, frozen=True):
    """A share as it is to be served."""

    share: Share
    directory: Path
    """On this host, within the mount."""
    addresses: tuple[str, ...]
    """`share.hosts`, names as the addresses they stand for; without hosts empty, else not."""


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """What ganesha has to know of the mount it serves."""

    mountpoint: Path
    fsid: int
    """In every handle; the same for the same mount for ever, another one for others; not 0."""
    state_dir: Path
    """ganesha's own: its configuration, and who its clients are."""


def configuration(settings: NfsSettings, gateway: Gateway, offers: Iterable[Offer]) -> str:
    """ganesha.conf. InvalidExport, and nothing may be changed, when a share cannot be written into it."""
    exports = tuple(_export(settings, offer) for offer in offers)
    for key in ("Export_Id", "Pseudo"):
        if len({str(block.values[key]).casefold() for block in exports}) != len(exports):
            raise InvalidExport(f"two NFS shares have the same {key}")
    return text_of((*_server(settings, gateway), *exports))


def forgeable(shares: Iterable[Share]) -> str | None:
    """Why these shares must not be served over NFS side by side unless that is acknowledged; None if they
    may."""
    first: Share | None = None
    for share in shares:
        first = first or share
        differ = [what for what, of in _DOMAIN.items() if of(share) != of(first)]
        if differ:
            return (
                f"NFS shares {first.name!r} and {share.name!r} differ in {' and '.join(differ)}, and that "
                "protects neither: handles of NFS can be forged, so whoever may use one share of a mount can "
                "reach the files of all; make them alike, serve them from separate mounts, or acknowledge it"
            )
    return None


def command(
    settings: NfsSettings, gateway: Gateway, *, program: Path, preload: Path, epoch: int
) -> Command:
    """How ganesha is started; `epoch` is greater than at every start before."""
    state = gateway.state_dir
    log_level = "NIV_EVENT"
    argv = (str(program), "-F", "-f", str(config_file(gateway)), "-p", str(state / "pid"))
    return Command(
        name="nfs-ganesha",
        argv=(*argv, "-L", "STDOUT", "-N", log_level, "-E", str(epoch)),
        directory=state,
        environment={
            "LD_PRELOAD": str(preload),
            "FUSEGW_NFS_MOUNTPOINT": str(gateway.mountpoint),
            "FUSEGW_NFS_FSID": f"{gateway.fsid:016x}",
            "FUSEGW_NFS_PORTMAPPER": str(int(settings.portmapper)),
            # ganesha would take a name on the system's bus, where another one may be served from.
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={state / 'no-bus'}",
        },
    )


def config_file(gateway: Gateway) -> Path:
    """Where its configuration lies."""
    return gateway.state_dir / "ganesha.conf"


def find() -> tuple[Path, Path]:
    """ganesha's program and the library it is preloaded with; ToolFailed when one is missing."""
    program = shutil.which(PROGRAM, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        raise ToolFailed(
            "NFS shares need nfs-ganesha: install the packages nfs-ganesha and nfs-ganesha-vfs (and keep "
            "their own service from starting: systemctl mask nfs-ganesha)"
        )
    found = find_spec(_PRELOAD)
    if found is None or found.origin is None:
        raise ToolFailed(
            "fusegw was installed without its library for nfs-ganesha, which is built from "
            "exports/nfs_preload.c: install it again, with a C compiler at hand"
        )
    return Path(program), Path(found.origin)


def next_epoch(last: int, now_s: int) -> int:
    """Of the next start. It is the write verifier: if two starts had the same, a client would not send again
    what the first one lost. Of the wall clock too, so that it grows though `last` was lost with a host."""
    epoch = max(last + 1, now_s)
    if epoch > EPOCH_MAX:
        raise InvalidExport(f"nfs-ganesha cannot be started with the epoch {epoch}: check the clock")
    return epoch


_DOMAIN: Mapping[str, Callable[[Share], object]] = {
    "hosts": lambda share: sorted(share.hosts),
    "squash": lambda share: (share.squash, share.anonymous_uid, share.anonymous_gid),
    "security": lambda share: sorted(share.security),
    "read-only": lambda share: share.read_only,
}


def _server(settings: NfsSettings, gateway: Gateway) -> tuple[Block, ...]:
    state = gateway.state_dir
    kerberos: dict[str, Value] = {"Active_krb5": "false"}
    if settings.keytab is not None:
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
                "Bind_addr": settings.address,
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
        Block("MDCACHE", {"Dir_Chunk": "0"}),
    )


def _export(settings: NfsSettings, offer: Offer) -> Block:
    share = offer.share
    if not share.export_id:
        raise InvalidExport(f"share {share.name!r} has no export id")
    if any(kind != "sys" for kind in share.security) and settings.keytab is None:
        raise InvalidExport(f"share {share.name!r} wants Kerberos, and no keytab is configured for NFS")
    if share.hosts and not offer.addresses:
        raise InvalidExport(f"share {share.name!r}: none of its hosts has an address")
    access = "RO" if share.read_only else "RW"
    clients = Block("CLIENT", {"Clients": _addresses(offer.addresses), "Access_Type": access})
    return Block(
        "EXPORT",
        {
            "Export_Id": str(share.export_id),
            "Path": _path(offer.directory),
            "Pseudo": Text("/" + names.share_name(share.name)),
            "Access_Type": "NONE" if offer.addresses else access,
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
        (*((clients,) if offer.addresses else ()), Block("FSAL", {"Name": "VFS"})),
    )


def _addresses(addresses: tuple[str, ...]) -> Value:
    for address in addresses:
        ipaddress.ip_network(address)
    return addresses if len(addresses) > 1 else "".join(addresses)


def _path(path: Path) -> Text:
    return Text(names.plain_path(str(path)))
