"""The command line of mount(8): its `-o` options as fstab and people write them, and its helper's arguments.

Four sorts: ours (`cache_size=10G`), those for the kernel (`nodev`), those that mount(8) and systemd keep for
themselves (`_netdev`, `x-…`), which mean nothing here, and all others, which are errors that name them:
an option that is silently ignored is a promise broken later.
"""

import difflib
import getopt
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from fusegw.config import UNIFIED_SOURCE
from fusegw.errors import Invalid
from fusegw.sizes import parse_size

KERNEL_OPTIONS = frozenset(
    {"dev", "nodev", "suid", "nosuid", "exec", "noexec", "sync", "dirsync", "noatime", "nodiratime"}
)
IGNORED = frozenset(
    {
        *(
            "defaults",
            "rw",
            "auto",
            "noauto",
            "user",
            "nouser",
            "users",
            "owner",
            "group",
            "nofail",
            "_netdev",
        ),
        *("async", "atime", "diratime", "relatime", "norelatime", "strictatime", "nostrictatime", "lazytime"),
        *("nolazytime", "mand", "nomand", "loud", "silent", "default_permissions"),
    }
)
_PREFIXES = ("x-", "X-", "comment=", "user=")
_PATHS = ("config", "state_dir", "cache_dir", "passphrase_file", "key_file")
_HELPER_USAGE = "expected SOURCE DIRECTORY [-sfnv] [-o OPTIONS]"
_FLAGS = ("ro", "follow", "allow_other", "noallow_other", "nonempty", "debug")


class ParsedOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `-o` said; None or False where it said nothing."""

    config: Path | None = None
    state_dir: Path | None = None
    cache_dir: Path | None = None
    passphrase_file: Path | None = None
    key_file: Path | None = None
    cache_size_bytes: int | None = None
    read_only: bool = False
    follow: bool = False
    allow_other: bool | None = None
    nonempty: bool = False
    debug: bool = False
    kernel_options: tuple[str, ...] = ()


def parse_options(texts: Iterable[str]) -> ParsedOptions:
    """The meaning of all `-o` arguments together; of two alike the last counts. Invalid: unknown ones."""
    fields: dict[str, object] = {}
    kernel: list[str] = []
    unknown: list[str] = []
    for option in (part for text in texts for part in text.split(",") if part):
        key, equals, value = option.partition("=")
        if equals and key in _PATHS:
            fields[key] = _path(key, value)
        elif equals and key == "cache_size":
            fields["cache_size_bytes"] = parse_size(value)
        elif option in ("ro", "rw"):
            fields["read_only"] = option == "ro"
        elif option in ("allow_other", "noallow_other"):
            fields["allow_other"] = option == "allow_other"
        elif option in ("follow", "nonempty", "debug"):
            fields[option] = True
        elif option in KERNEL_OPTIONS:
            kernel.append(option)
        elif option not in IGNORED and not option.startswith(_PREFIXES):
            unknown.append(option)
    if unknown:
        raise Invalid("; ".join(map(_complaint, unknown)))
    return msgspec.structs.replace(ParsedOptions(kernel_options=tuple(kernel)), **fields)


def mount_arguments(arguments: Sequence[str]) -> list[str]:
    """The `fusegw` command line that does what mount(8) asks of a helper; empty when nothing is to be done
    (-f).

    Expects SOURCE DIRECTORY [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]; SOURCE is a volume's name, or
    `fusegw#NAME` in mount.fuse's old style, or `fusegw@volumes` for all of them in one mount. -s (be
    lenient), -n (no mtab) and -v change nothing here.
    Invalid for anything else.
    """
    try:
        flags, places = getopt.gnu_getopt(list(arguments), "sfnvo:t:N:")
    except getopt.GetoptError as error:
        raise Invalid(f"{error.msg}; {_HELPER_USAGE}") from None
    if len(places) != 2:
        raise Invalid(f"{len(places)} names given; {_HELPER_USAGE}")
    if any(flag == "-N" for flag, _ in flags):
        raise Invalid("mounting into another namespace (-N) is not supported; run mount in it by nsenter")
    if any(flag == "-f" for flag, _ in flags):
        return []
    options = ["-o" + value for flag, value in flags if flag == "-o"]
    source, directory = places
    name = source.removeprefix("fusegw#")
    return ["mount", *options, "--", *([] if name == UNIFIED_SOURCE else [name]), directory]


def _path(key: str, value: str) -> Path:
    if not value:
        raise Invalid(f"mount option {key}= needs a path")
    return Path(value)


def _complaint(option: str) -> str:
    if option.startswith("remount"):
        return "mount option 'remount' is not supported: unmount and mount again"
    ours = [f"{key}=" for key in (*_PATHS, "cache_size")]
    key, equals, _ = option.partition("=")
    near = difflib.get_close_matches(key + equals, [*ours, *_FLAGS, *KERNEL_OPTIONS, *IGNORED], n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"fusegw's own: {', '.join([*ours, *_FLAGS])}"
    return f"unknown mount option {key!r} ({hint})"
