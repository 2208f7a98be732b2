"""What nfs-ganesha does for its clients, as records of the audit log: packets of `nfs_audit.c`.

A packet is `user|client|`, operation, outcome, path and for some a second path, as they are on the host. The
user is a number, since NFS knows no names, as squashed; a connection has none yet.
"""

import logging
from collections.abc import Mapping

from exports.audit import Event, Record
from exports.audit_channel import inside, lost, parts_of

_EVENTS: Mapping[str, Event] = {
    "connect": "connect",
    "write": "write",
    "mkdirat": "mkdir",
    "unlinkat": "delete",
    "renameat": "rename",
    "linkat": "link",
    "symlinkat": "link",
}
_UNINTERESTING = ("No such file or directory", "File exists", "Directory not empty", "Is a directory")

log = logging.getLogger(__name__)


def operation(packet: bytes, directories: Mapping[str, str]) -> Record | None:
    """What ganesha did; None for what is not to be recorded. `directories`: of the shares, by name."""
    parts = parts_of(packet)
    if (gone := lost(parts, "nfs")) is not None:
        return gone
    event = _EVENTS.get(parts[1]) if len(parts) in (4, 5) else None
    if event is None or parts[0].count("|") != 2:
        log.warning("an unknown record of nfs-ganesha: %r", packet[:200])
        return Record(protocol="nfs", event="lost", result="unknown")
    user, client, _ = parts[0].split("|")
    result = parts[2].removeprefix("fail (").removesuffix(")") if parts[2] != "ok" else "ok"
    if result in _UNINTERESTING:
        return None
    path, to = parts[3], parts[4] if len(parts) == 5 else ""
    share = _share(path, directories)
    return Record(
        protocol="nfs",
        event=event,
        share=share,
        user=user,
        client=client,
        path="" if event == "connect" else inside(path, directories.get(share, "")),
        to=inside(to, directories.get(share, "")),
        result=result,
    )


def _share(path: str, directories: Mapping[str, str]) -> str:
    """The one whose directory `path` is in; of several, the innermost."""
    found = [name for name, place in directories.items() if path == place or path.startswith(f"{place}/")]
    return max(found, key=lambda name: len(directories[name]), default="")
