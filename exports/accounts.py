"""The accounts behind the users of shares, as files of smbd's own: text in, text out, no I/O.

SMB users need Unix accounts. They get theirs from these files, which libnss_wrapper shows to smbd and samba's
tools in the place of the host's: nothing is added to the host's accounts, none of the host's can log in, and
after a recovery the same users have the same numbers on any host.
"""

from collections.abc import Iterable, Sequence

from exports.model import User
from exports.names import NOBODY_ID

_NO_LOGIN = "/nonexistent:/usr/sbin/nologin"
_NO_HASH = "X" * 32
_CHANGED = "LCT-67000000"
"""When the password was changed; with 0 it would have to be changed at once."""


def passwd(users: Iterable[User]) -> str:
    """In the format of /etc/passwd."""
    lines = [f"root:x:0:0::{_NO_LOGIN}", f"nobody:x:{NOBODY_ID}:{NOBODY_ID}::{_NO_LOGIN}"]
    lines += [f"{user.name}:x:{user.uid}:{user.gid}::{_NO_LOGIN}" for user in users]
    return "\n".join(lines) + "\n"


def group(users: Sequence[User]) -> str:
    """In the format of /etc/group."""
    members: dict[str, tuple[int, list[str]]] = {}
    for user in users:
        for name, gid in user.groups.items():
            members.setdefault(name, (gid, []))[1].append(user.name)
    known = {gid for gid, _ in members.values()}
    for user in users:
        # Each has a primary group; one without a name is called after its first user.
        if user.gid not in known and user.name not in members:
            known.add(user.gid)
            members[user.name] = (user.gid, [])
    lines = ["root:x:0:", f"nogroup:x:{NOBODY_ID}:"]
    lines += [f"{name}:x:{gid}:{','.join(names)}" for name, (gid, names) in members.items()]
    return "\n".join(lines) + "\n"


def smbpasswd(users: Iterable[User]) -> str:
    """In the format of smbpasswd(5); users without a hash are disabled."""
    lines = []
    for user in users:
        flags = f"[{'U' if user.nt_hash else 'DU':<11}]"
        lines.append(f"{user.name}:{user.uid}:{_NO_HASH}:{user.nt_hash or _NO_HASH}:{flags}:{_CHANGED}:")
    return "\n".join(lines) + "\n" if lines else ""


def ids(users: Iterable[User]) -> dict[str, int]:
    """Groups by name, with their numbers."""
    return {name: gid for user in users for name, gid in user.groups.items()}
