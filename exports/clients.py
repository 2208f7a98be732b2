"""What to type at a client to use a share: mount lines and commands, with the options we recommend.

Text only, nothing is run. Names in a share have passed `exports.names`; what a shell, an fstab or Windows'
command line would take apart is quoted here all the same. Options are chosen for backups: a client that
waits for the gateway (`hard`) where it may, whole files where the gateway finds what is old by itself.
"""

import ipaddress
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args

import msgspec

from exports import names
from exports.errors import InvalidExport
from exports.model import Protocol, Security, Share

Client = Literal["linux", "windows", "rsync", "robocopy", "veeam", "bacula"]

SMB_PORT, NFS_PORT = 445, 2049
ANYBODY = "USER"


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """How clients find the gateway."""

    address: str
    """Address or host name."""
    domain: str
    """In which SMB's users are."""
    smb_port: int = SMB_PORT
    nfs_port: int = NFS_PORT
    encrypted: bool = True
    """SMB: whether the share asks for encryption."""
    local: bool = False
    """Whether the server listens for this host only, whatever `address` says."""
    user: str = ANYBODY
    """Somebody who may connect over SMB."""

    def __post_init__(self) -> None:
        names.host(self.address)


class Step(msgspec.Struct, frozen=True):
    """One thing to do."""

    what: str
    text: str
    """Command or lines, to be taken as they are but for words in capitals."""


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What to do at a client."""

    share: str
    client: Client
    protocol: Protocol
    address: str
    port: int
    steps: tuple[Step, ...]
    notes: tuple[str, ...]


def advise(share: Share, client: Client, reach: Reach) -> Advice:
    """How `client` uses the share. InvalidExport when it speaks none of the share's protocols."""
    protocol = protocol_of(share, client)
    steps, notes = _CLIENTS[client](_Way(share, protocol, reach))
    return Advice(
        share=share.name,
        client=client,
        protocol=protocol,
        address=reach.address,
        port=reach.smb_port if protocol == "smb" else reach.nfs_port,
        steps=tuple(steps),
        notes=(*notes, *_general(share, protocol, reach)),
    )


def address_of(listen: Sequence[str], host_name: str) -> str:
    """One that clients can use for a daemon that listens at these places; `host_name` is this host's."""
    for place in listen:
        text = place.partition("/")[0]
        try:
            if not ipaddress.ip_address(text).is_unspecified:
                return text
        except ValueError:
            continue
    return "127.0.0.1" if all(map(names.is_loopback, listen)) else host_name


class _Way(msgspec.Struct, frozen=True):
    """A share over one of its protocols."""

    share: Share
    protocol: Protocol
    reach: Reach

    @property
    def mount_point(self) -> str:
        return f"/mnt/{self.share.name}"

    @property
    def source(self) -> str:
        """As Linux names it."""
        if self.protocol == "smb":
            return f"//{self.reach.address}/{self.share.name}"
        address = self.reach.address
        return f"{f'[{address}]' if ':' in address else address}:/{self.share.name}"

    @property
    def unc(self) -> str:
        """As Windows names it."""
        address = self.reach.address
        if ":" in address:
            address = address.replace(":", "-") + ".ipv6-literal.net"
        return rf"\\{address}\{self.share.name}"

    @property
    def login(self) -> str:
        user = self.reach.user
        return user if "\\" in user else rf"{self.reach.domain}\{user}"

    @property
    def credentials(self) -> str:
        return f"/etc/fusegw-{self.share.name}.credentials"

    def options(self) -> str:
        """Of mount(8)."""
        found = ["ro"] if self.share.read_only else []
        if self.protocol == "nfs":
            found += ["vers=4.2", "proto=tcp", f"port={self.reach.nfs_port}", "hard"]
            return ",".join((*found, f"sec={_strongest(self.share)}"))
        found += ["vers=3.1.1", f"port={self.reach.smb_port}", "hard"]
        found += ["guest"] if self.share.guest else [f"credentials={self.credentials}"]
        return ",".join((*found, *(["seal"] if self.reach.encrypted else [])))


_Steps = tuple[list[Step], list[str]]


def _linux(way: _Way) -> _Steps:
    return [*_mount(way), Step("in /etc/fstab, for every boot", _fstab(way))], []


def _rsync(way: _Way) -> _Steps:
    share = way.share
    notes = [
        "--whole-file: rsync would read the old file back to find what is new in it; the gateway finds that "
        "by itself, and stores only what it does not have"
    ]
    if way.protocol == "smb":
        how = "-rt"
        notes.append("owners, permissions and links do not pass SMB; NFS carries them")
    elif share.squash == "none":
        how = "-aH --numeric-ids"
    else:
        how = "-rltpH"
        notes.append(
            f"owners are not kept, since the share has --squash {share.squash}; with --squash none use "
            "-aH --numeric-ids"
        )
    there = shlex.quote(f"{way.mount_point}/SOURCE/")
    pair = f"{there} /SOURCE/" if share.read_only else f"/SOURCE/ {there}"
    command = f"rsync {how} --whole-file {'' if share.read_only else '--delete '}{pair}"
    return [*_mount(way), Step("copy", command)], notes


def _windows(way: _Way) -> _Steps:
    port = "" if way.reach.smb_port == SMB_PORT else f" /TCPPORT:{way.reach.smb_port}"
    who = "" if way.share.guest else f" /user:{_windows_word(way.login)} *"
    command = f"net use Z: {_windows_word(way.unc)}{who} /persistent:yes{port}"
    return [Step("in a command prompt; asks for the password", command)], _windows_notes(way)


def _robocopy(way: _Way) -> _Steps:
    (connect,), notes = _windows(way)
    connect = msgspec.structs.replace(connect, text=connect.text.replace("net use Z: ", "net use ", 1))
    there = _windows_word(rf"{way.unc}\SOURCE")
    pair = rf"{there} C:\SOURCE" if way.share.read_only else rf"C:\SOURCE {there}"
    mirror = "/E" if way.share.read_only else "/MIR"
    command = f"robocopy {pair} {mirror} /COPY:DAT /DCOPY:DAT /XJ /MT:8 /R:3 /W:10"
    notes = [
        *notes,
        "/COPY:DATSO takes owners and ACLs along, which means something only to users whom the gateway "
        "knows; /Z (restartable) slows every file down and is not needed in a reliable network",
    ]
    return [connect, Step("copy", command)], notes


def _veeam(way: _Way) -> _Steps:
    kind, folder = ("SMB share", way.unc) if way.protocol == "smb" else ("NFS share", way.source)
    lines = [
        f"Backup Repositories > Add Repository > Network attached storage > {kind}",
        f"Shared folder:       {folder}",
    ]
    if way.protocol == "smb":
        lines.append(f"Credentials:         {way.login}")
    lines += [
        "Repository, Advanced: decompress backup file data blocks before storing; per-machine backup files",
        "Job, Storage, Advanced: compression none or dedupe-friendly, encryption off",
    ]
    notes = ["compressed or encrypted by the client, data that did not change look new to the gateway"]
    port, usual = (way.reach.smb_port, SMB_PORT) if way.protocol == "smb" else (way.reach.nfs_port, NFS_PORT)
    if port != usual:
        notes.append(f"Veeam expects port {usual}: set it in [{way.protocol}] (it is {port})")
    return [Step("in the console", "\n".join(lines))], notes


def _bacula(way: _Way) -> _Steps:
    device = "\n".join(
        (
            "Device {",
            f'  Name = "{way.share.name}"',
            "  Media Type = File",
            f'  Archive Device = "{way.mount_point}"',
            "  LabelMedia = yes",
            "  Random Access = yes",
            "  AutomaticMount = yes",
            "  RemovableMedia = no",
            "  AlwaysOpen = no",
            "}",
        )
    )
    steps = [
        *_mount(way),
        Step("in bacula-sd.conf", device),
        Step("in the Pool of bacula-dir.conf", "Maximum Volume Bytes = 50G\nLabel Format = Vol-"),
    ]
    notes = ["leave Compression out of the FileSet: the gateway compresses, and finds more that it has"]
    if way.protocol == "nfs" and way.share.squash == "all":
        notes.append("all clients are the share's anonymous user: its directory must let that one write")
    return steps, notes


_CLIENTS: Mapping[Client, Callable[[_Way], _Steps]] = {
    "linux": _linux,
    "windows": _windows,
    "rsync": _rsync,
    "robocopy": _robocopy,
    "veeam": _veeam,
    "bacula": _bacula,
}
_PREFERENCE: Mapping[Client, tuple[Protocol, ...]] = {
    "linux": ("nfs", "smb"),
    "windows": ("smb",),
    "rsync": ("nfs", "smb"),
    "robocopy": ("smb",),
    "veeam": ("nfs", "smb"),
    "bacula": ("nfs", "smb"),
}


def protocol_of(share: Share, client: Client) -> Protocol:
    """The one that `client` uses. InvalidExport when it speaks none of the share's."""
    for protocol in _PREFERENCE[client]:
        if share.serves(protocol):
            return protocol
    over = " --protocol ".join((*share.protocols, *_PREFERENCE[client]))
    raise InvalidExport(
        f"share {share.name!r} is not offered over {' or '.join(_PREFERENCE[client])}, which {client} needs: "
        f"fusegw export edit {shlex.quote(share.name)} --protocol {over}"
    )


def _mount(way: _Way) -> Iterator[Step]:
    if way.protocol == "smb" and not way.share.guest:
        domain, _, user = way.login.rpartition("\\")
        yield Step(
            f"in {way.credentials}, which root alone may read (chmod 600)",
            f"username={user}\ndomain={domain}\npassword=PASSWORD",
        )
    place = shlex.quote(way.mount_point)
    kind = "cifs" if way.protocol == "smb" else "nfs"
    command = f"mount -t {kind} -o {shlex.quote(way.options())} {shlex.quote(way.source)} {place}"
    yield Step("mount", f"mkdir -p {place} && {command}")


def _fstab(way: _Way) -> str:
    kind = "cifs" if way.protocol == "smb" else "nfs"
    words = (way.source, way.mount_point, kind, f"{way.options()},_netdev,nofail", "0", "0")
    return " ".join(word.replace(" ", "\\040") for word in words)


def _strongest(share: Share) -> str:
    return max(share.security, key=get_args(Security).index)


def _windows_word(text: str) -> str:
    return f'"{text}"' if " " in text else text


def _windows_notes(way: _Way) -> list[str]:
    if way.reach.smb_port == SMB_PORT:
        return []
    return [
        f"port {way.reach.smb_port}: only Windows 11 24H2, Windows Server 2025 and newer connect to another "
        f"port than {SMB_PORT}"
    ]


def _general(share: Share, protocol: Protocol, reach: Reach) -> Iterator[str]:
    if reach.local:
        yield f"only this host can connect: see listen in [{protocol}] of the configuration file"
    if share.hosts:
        yield f"only from: {', '.join(share.hosts)}"
    if protocol == "smb" and reach.user == ANYBODY and not share.guest:
        yield "USER: one of fusegw export user list"
    if protocol == "smb" and share.guest:
        yield "no password is asked; Windows refuses guests unless its policy allows insecure guest logons"
    if protocol == "nfs" and _strongest(share) != "sys":
        yield "Kerberos: the client needs a keytab of its own and rpc.gssd"
