"""Samba's tools, all of them through one place on the library `sh`.

A call is bounded in time, gets an environment that is given to it whole, no terminal and no standard input
but what is handed to it. No secret is ever an argument: arguments are seen by everybody in the process list.
What goes wrong becomes `ToolFailed` with the tool's own last words.
"""

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import sh

from exports.errors import InvalidExport, ToolFailed
from exports.supervisor import MINIMAL_ENVIRONMENT

TIMEOUT_S = 20.0
OUTPUT_CHARS_MAX = 64 << 10
WRAPPER_LIBRARIES = ("/usr/lib/*/libnss_wrapper.so", "/usr/lib64/libnss_wrapper.so")
_COMPLAINT = re.compile(
    r"unknown parameter|ignoring|invalid|error|bad |not a valid|can't|cannot|failed|missing|"
    r"found in service",
    re.IGNORECASE,
)
_SDDL = re.compile(r"(?:[OG]:[A-Z0-9-]+|[DS]:[A-Z]*(?:\([A-Za-z0-9;-]*\))*)+")
_SID = re.compile(r"S-1-5-21(?:-[0-9]+){3}")


def accounts_library() -> str:
    """The library that shows our accounts. ToolFailed when it is not installed: the loader would only warn,
    and the host's accounts would be used."""
    found = sorted(path for pattern in WRAPPER_LIBRARIES for path in glob.glob(pattern))
    if not found:
        raise ToolFailed("libnss_wrapper.so is not installed: install libnss-wrapper")
    return found[0]


def accounts_environment(passwd: Path, group: Path) -> dict[str, str]:
    """What smbd and the tools need to see our accounts for the host's. ToolFailed."""
    return {
        "LD_PRELOAD": accounts_library(),
        "NSS_WRAPPER_PASSWD": str(passwd),
        "NSS_WRAPPER_GROUP": str(group),
    }


class SambaTools:
    """The tools, with one configuration. All methods block and raise ToolFailed."""

    def __init__(self, configuration: Path, environment: Mapping[str, str]) -> None:
        self._configuration = configuration
        self._environment = {**MINIMAL_ENVIRONMENT, **environment}

    def check(self, candidate: Path) -> None:
        """Whether samba understands every line of the configuration `candidate`; InvalidExport says which
        it does not. testparm may end with 0 all the same, so it is what it says that counts."""
        arguments = ["--suppress-prompt", "--debuglevel=1", str(candidate)]
        _, said = self._run("testparm", arguments, ok=(0, 1))
        complaints = [line.strip() for line in said.splitlines() if _COMPLAINT.search(line)]
        if complaints:
            raise InvalidExport(f"samba does not accept the configuration of the shares: {complaints[0]}")

    def set_sid(self, sid: str) -> None:
        """Make `sid` that of the server and of its users' domain."""
        if not _SID.fullmatch(sid):
            raise InvalidExport(f"{sid!r} is no SID of a server")
        for what in ("setlocalsid", "setdomainsid"):
            self._configured("net", [what, sid])

    def reload(self) -> None:
        """Have smbd and its sessions read the configuration again; sessions stay."""
        self._configured("smbcontrol", ["smbd", "reload-config"])

    def close_share(self, name: str) -> None:
        """End what is connected to this share, and only that."""
        self._configured("smbcontrol", ["smbd", "close-share", name])

    def acl(self, share: str, path: Path) -> str:
        """The NT ACL of a file or directory in a share, as SDDL."""
        out, _ = self._configured("samba-tool", ["ntacl", "get", "--as-sddl", *_through(share), str(path)])
        return out.strip()

    def set_acl(self, share: str, path: Path, sddl: str) -> None:
        """Set it, and the mode and POSIX ACL that come nearest to it."""
        if not _SDDL.fullmatch(sddl):
            raise InvalidExport(f"{sddl!r} is no ACL in SDDL, such as O:S-1-5-…G:S-1-5-…D:(A;;FA;;;WD)")
        self._configured("samba-tool", ["ntacl", "set", *_through(share), sddl, str(path)])

    def is_member(self) -> bool:
        """Whether this host's membership of its Active Directory domain works."""
        try:
            self._configured("net", ["ads", "testjoin"])
        except ToolFailed:
            return False
        return True

    def _configured(self, program: str, arguments: Sequence[str]) -> tuple[str, str]:
        return self._run(program, [*arguments, f"--configfile={self._configuration}"])

    def _run(self, program: str, arguments: Sequence[str], *, ok: Sequence[int] = (0,)) -> tuple[str, str]:
        """Standard output and standard error of a call that ended with one of `ok`."""
        try:
            command = sh.Command(program, search_paths=self._environment["PATH"].split(":"))
            done = command(
                *arguments,
                _env=self._environment,
                _cwd="/",
                _in="",
                _tty_in=False,
                _tty_out=False,
                _timeout=TIMEOUT_S,
                _ok_code=list(ok),
                _return_cmd=True,
                _new_session=True,
            )
        except sh.CommandNotFound:
            raise ToolFailed(f"{program} is not installed: install samba (see docs/operations.md)") from None
        except sh.TimeoutException:
            raise ToolFailed(f"{program} has not ended within {TIMEOUT_S:g} s") from None
        except sh.ErrorReturnCode as error:
            words = _said(error.stderr or error.stdout)
            raise ToolFailed(f"{program} {arguments[0]} ended with {error.exit_code}{words}") from None
        except OSError as error:
            raise ToolFailed(f"{program} cannot be run: {error.strerror}") from None
        return _text(done.stdout), _text(done.stderr)


def _through(share: str) -> tuple[str, str]:
    """As smbd would, with the settings of this share."""
    return "--use-s3fs", f"--service={share}"


def _text(data: bytes) -> str:
    return data.decode(errors="replace")[:OUTPUT_CHARS_MAX]


def _said(data: bytes) -> str:
    lines = [" ".join(line.split()) for line in _text(data).splitlines() if line.strip()]
    text = "".join(character for character in lines[-1] if character.isprintable()) if lines else ""
    return f": {text}" if text else ""
