"""What may stand in a share: names, hosts, paths, comments, each checked before it reaches any configuration.

The daemons' files have quoting, continuation lines, comments and macros of their own (`%` and `\\` in
smb.conf, `$` in ganesha.conf). Text that holds what either of them could interpret is refused, and what
passes is quoted as well where it is written. A check gives the text back or raises InvalidExport, which
names what was found and what is allowed.
"""

import ipaddress
import re
import unicodedata

from exports.errors import InvalidExport

SHARE_NAME_CHARS_MAX = 80
PATH_BYTES_MAX = 1023
COMMENT_CHARS_MAX = 200
ID_MAX = (1 << 31) - 1
NOBODY_ID = 65534

_SHARE_NAME = re.compile(r"[^\W_](?:[\w .-]*[\w-])?")
_RESERVED_SHARES = frozenset({"global", "homes", "printers", "ipc", "admin", "print", "netlogon", "sysvol"})
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
_RESERVED_ACCOUNTS = frozenset({"root", "nobody", "nogroup"})
_DOMAIN_ACCOUNT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,62})\\[\w](?:[\w .-]{0,62}[\w-])?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_INTERFACE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
_INTERPRETED = frozenset('"%$\\`')


def share_name(name: str) -> str:
    """A share's name: the section in smb.conf, the path below / in NFSv4."""
    if (
        not _SHARE_NAME.fullmatch(name)
        or len(name) > SHARE_NAME_CHARS_MAX
        or not _is_plain(name)
        or name.casefold() in _RESERVED_SHARES
    ):
        raise InvalidExport(
            f"{name!r} cannot name a share: expected 1 to {SHARE_NAME_CHARS_MAX} of letters, digits, ' ', "
            "'.', '_', '-', the first one a letter or digit, the last one no ' ' or '.', and none of "
            + ", ".join(sorted(_RESERVED_SHARES))
        )
    return name


def share_path(path: str) -> str:
    """A directory in a volume: absolute, without `.`, `..` or empty parts."""
    parts = path.split("/")[1:]
    if not path.startswith("/") or (path != "/" and any(part in ("", ".", "..") for part in parts)):
        raise InvalidExport(
            f"{path!r} is no path in a volume: expected / or /a/b, without '.' and '..' in it"
        )
    return plain_path(path)


def plain_path(path: str) -> str:
    """A path that no daemon's configuration reads anything into."""
    if not _is_plain(path) or _INTERPRETED & set(path) or path != path.strip():
        raise InvalidExport(
            f"{path!r} cannot be shared: its name has a character that smbd or ganesha would interpret "
            f"(control characters, {' '.join(sorted(_INTERPRETED))}, blanks at the ends); rename it"
        )
    if len(path.encode()) > PATH_BYTES_MAX:
        raise InvalidExport(
            f"a path of {len(path.encode())} bytes cannot be shared: at most {PATH_BYTES_MAX}"
        )
    return path


def comment(text: str) -> str:
    """One line for people."""
    if not _is_plain(text) or _INTERPRETED & set(text) or len(text) > COMMENT_CHARS_MAX:
        raise InvalidExport(
            f"{text!r} cannot be a comment: expected at most {COMMENT_CHARS_MAX} printable characters, none "
            "of " + " ".join(sorted(_INTERPRETED))
        )
    return text.strip()


def host(text: str) -> str:
    """An address, a network or a host name; addresses in their normal form."""
    try:
        return str(ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text))
    except ValueError:
        pass
    labels = text.split(".")
    if len(text) > 253 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit() or _is_word(text):
        raise InvalidExport(
            f"{text!r} is no host: expected an address (192.0.2.7), a network (192.0.2.0/24, without host "
            "bits) or a name (backup.example)"
        )
    return text.lower()


def listening(text: str) -> str:
    """Where a daemon listens: an address, a network, or the name of a network interface."""
    try:
        return str(ipaddress.ip_interface(text)) if "/" in text else str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if not _INTERFACE.fullmatch(text):
        raise InvalidExport(f"{text!r} is no place to listen: expected an address or a network interface")
    return text


def is_loopback(text: str) -> bool:
    """Whether what listens there can be reached from this host only."""
    try:
        return ipaddress.ip_interface(text).ip.is_loopback
    except ValueError:
        return text == "lo"


def account(name: str) -> str:
    """The name of a user or group that is ours."""
    if not _ACCOUNT.fullmatch(name) or name in _RESERVED_ACCOUNTS or name.endswith("."):
        raise InvalidExport(
            f"{name!r} cannot name a user or group: expected 1 to 32 of a-z, 0-9, '_', '.', '-', the first "
            f"one a letter or '_', and none of {', '.join(sorted(_RESERVED_ACCOUNTS))}"
        )
    return name


def who(name: str) -> str:
    r"""A user or group that may connect: ours, or DOMAIN\name of a directory."""
    if "\\" not in name:
        return account(name)
    if not _DOMAIN_ACCOUNT.fullmatch(name) or not _is_plain(name):
        raise InvalidExport(f"{name!r} is no user or group of a domain: expected DOMAIN\\name")
    return name


def _is_word(text: str) -> bool:
    """Whether samba's lists of hosts read it as something else than a name."""
    return text.lower() in ("all", "none", "local", "fail", "except", "unknown", "paranoid")


def _is_plain(text: str) -> bool:
    """Whether it is printable, without characters that hide, and looks the same to everybody."""
    return text.isprintable() and unicodedata.is_normalized("NFC", text)
