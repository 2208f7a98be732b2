"""What smbd tells of its users, as records of the audit log.

Two sources. Its module full_audit tells of everything that is done in shares, in packets (`smb_preload.c`):
`who`, `operation`, `outcome`, `what`, each ended by a zero. Who is not let in is known to smbd's own messages
only, of which `refusal` understands some; names in them are escaped by smbd, or those of our accounts.
"""

import logging
import re
from collections.abc import Mapping

from exports.audit import Event, Record
from exports.audit_channel import inside, lost, parts_of

PREFIX = "%u|%I|%S"
"""full_audit:prefix; there is no `|` in any of these."""
SUCCESSES = ("connect", "disconnect", "openat", "mkdirat", "unlinkat", "renameat", "linkat", "fset_nt_acl")
FAILURES = (
    *("connect", "openat", "create_file", "mkdirat", "unlinkat", "renameat", "linkat", "fset_nt_acl"),
)

_EVENTS: Mapping[str, Event] = {
    "connect": "connect",
    "disconnect": "disconnect",
    "openat": "write",
    "mkdirat": "mkdir",
    "unlinkat": "delete",
    "renameat": "rename",
    "linkat": "link",
    "fset_nt_acl": "permissions",
    "create_file": "refused",
}
_REFUSALS = ("NT_STATUS_ACCESS_DENIED", "NT_STATUS_MEDIA_WRITE_PROTECTED", "NT_STATUS_PRIVILEGE_NOT_HELD")
_REFUSED = (
    "Permission denied",
    "Operation not permitted",
    "Read-only file system",
    "No space left on device",
)
_LOGIN = re.compile(
    r"Auth: \[[^]]*\] user \[[^]]*\]\\\[(?P<user>[^]]*)\] at \[[^]]*\] with \[[^]]*\] "
    r"status \[(?P<status>NT_STATUS_\w+)\] workstation \[[^]]*\] "
    r"remote host \[(?:ipv[46]:)?(?P<client>[^]]*):\d+\]"
)
_NOT_PERMITTED = re.compile(
    r"create_connection_session_info: (?:guest user|user '(?P<user>[^']*)') \(from session setup\) "
    r"not permitted to access this share \((?P<share>[^)]*)\)"
)
_DENIED = re.compile(r"Denied connection from .* \((?P<client>[0-9A-Fa-f.:]+)\)")

log = logging.getLogger(__name__)


def operation(packet: bytes, directories: Mapping[str, str]) -> Record | None:
    """What full_audit says; None for what is not to be recorded. `directories`: of the shares, by name."""
    parts = parts_of(packet)
    if (gone := lost(parts, "smb")) is not None:
        return gone
    who = parts[0].split("|")
    event = _EVENTS.get(parts[1]) if len(parts) == 4 else None
    if event is None or len(who) != 3:
        log.warning("an unknown record of smbd: %r", packet[:200])
        return Record(protocol="smb", event="lost", result="unknown")
    (user, client, share), result, what = who, parts[2], parts[3]
    if result != "ok":
        result = result.removeprefix("fail (").removesuffix(")")
        if not _is_refusal(parts[1], result):
            return None
    directory = directories.get(share, "")
    path, to = _paths(event, what, directory)
    return Record(
        protocol="smb",
        event=event,
        share=share,
        user=user,
        client=client,
        path="" if event in ("connect", "disconnect") else path,
        to=to,
        result=result,
    )


def refusal(line: str) -> Record | None:
    """Who was not let in, in a line of smbd's; None for any other line."""
    if line.startswith("Auth: "):
        return _login(line)
    if (match := _NOT_PERMITTED.fullmatch(line)) is not None:
        user, share = match["user"] or "", match["share"]
        return Record(protocol="smb", event="refused", user=user, share=share, result="user not allowed")
    if (match := _DENIED.fullmatch(line)) is not None:
        return Record(protocol="smb", event="refused", client=match["client"], result="host not allowed")
    return None


def _login(line: str) -> Record:
    match = _LOGIN.match(line)
    if match is None:
        return Record(protocol="smb", event="login", result="failed", user=line[:200])
    return Record(
        protocol="smb", event="login", user=match["user"], client=match["client"], result=match["status"]
    )


def _is_refusal(operation: str, result: str) -> bool:
    """Whether a failure is to be recorded; that a name does not exist yet is asked all the time."""
    if operation == "create_file":
        return result in _REFUSALS
    return operation != "openat" or result in _REFUSED


def _paths(event: Event, what: str, directory: str) -> tuple[str, str]:
    """The path, and the new one where there are two."""
    if event == "write":
        what = what.partition("|")[2]
    elif event == "refused":
        what = what.split("|", 3)[-1]
    elif event in ("rename", "link"):
        # Names may hold a `|`; both are absolute, so there is mostly one place only that can part them.
        old, mark, new = what.partition(f"|{directory}/")
        if mark and mark not in f"|{new}":
            return inside(old, directory), f"/{new}"
    elif event == "permissions":
        what = what.removesuffix(" []")
    return inside(what, directory), ""
