"""Where a volume's secret comes from: a file, the environment, a service manager's credential, or a prompt.

Looked at in this order, the first that is there counts: `--passphrase-file` or `--key-file`;
FUSEGW_PASSPHRASE_FILE; FUSEGW_PASSPHRASE (wiped from the environment at once, so that no child sees it);
`passphrase_file` or `key_file` of the volume's configuration; `$CREDENTIALS_DIRECTORY/fusegw-passphrase`
(systemd); a prompt on the terminal. Never an argument: those are seen by everybody in the process list. For
a unified mount a volume's own configuration goes first; the others serve all volumes that have none.

A passphrase file or prompt may also hold the recovery key. One line end at the end of a passphrase file is
not part of it; a key file is taken byte for byte.
"""

import ctypes
import os
import stat
import sys
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from fusegw.cli import output
from fusegw.config import VolumeConfig
from fusegw.errors import Denied, FusegwError, Invalid, NotFound
from fusegw.keys.secret import KEYFILE_SIZE_MAX, Secret

CREDENTIAL = "fusegw-passphrase"

_Function = TypeVar("_Function", bound=Callable[..., Any])


class SecretFiles(msgspec.Struct, frozen=True):
    """What the command line says about one secret."""

    passphrase_file: Path | None = None
    key_file: Path | None = None


def secret_options(function: _Function) -> _Function:
    """Add `--passphrase-file` and `--key-file` to a command; it gets `passphrase_file` and `key_file`."""
    function = click.option(
        "--key-file", type=_FILE, help="Open with this key file instead of a passphrase."
    )(function)
    return click.option(
        "--passphrase-file", type=_FILE, help="Read the passphrase from here.  [FUSEGW_PASSPHRASE_FILE]"
    )(function)


def present_secret(
    files: SecretFiles, config: VolumeConfig, environ: MutableMapping[str, str], *, volume: str
) -> Secret:
    """The secret that opens `volume`. Invalid when there is none and nobody to ask."""
    found = _from_sources(files, config, environ)
    if found is not None:
        return found
    if not _can_ask():
        raise Invalid(_NOTHING.format(f"volume {volume!r}"))
    return Secret.typed(_ask(f"Passphrase (or recovery key) of volume {volume}: "))


def member_secrets(
    files: SecretFiles, configs: Mapping[str, VolumeConfig], environ: MutableMapping[str, str]
) -> dict[str, Secret | FusegwError]:
    """The secret of each volume of a unified mount, or why there is none: what its own table names, else what
    is there for all of them, else what somebody types.
    """
    common: Secret | FusegwError | None
    try:
        common = _from_sources(files, VolumeConfig(), environ)
    except FusegwError as error:
        common = error
    return {name: _member_secret(common, config, name) for name, config in configs.items()}


def _member_secret(
    common: Secret | FusegwError | None, config: VolumeConfig, volume: str
) -> Secret | FusegwError:
    try:
        found = _from_files(_configured(config)) or common
    except FusegwError as error:
        return error
    if found is not None:
        return found
    if not _can_ask():
        return Invalid(_NOTHING.format(f"volume {volume!r}"))
    return Secret.typed(_ask(f"Passphrase (or recovery key) of volume {volume}: "))


def first_secret(
    files: SecretFiles, config: VolumeConfig, environ: MutableMapping[str, str], *, volume: str
) -> Secret:
    """The secret a new volume gets, from the same places; asked for twice."""
    found = _from_sources(files, config, environ)
    if found is None:
        if not _can_ask():
            raise Invalid(_NOTHING.format(f"new volume {volume!r}"))
        found = Secret.passphrase(_ask_twice(f"Passphrase of new volume {volume}: "))
    return _not_recovery(found)


def replacing_secret(files: SecretFiles, environ: MutableMapping[str, str]) -> Secret:
    """A further secret for an existing volume: the files named, FUSEGW_NEW_PASSPHRASE, or asked for twice."""
    text = _take(environ, "FUSEGW_NEW_PASSPHRASE")
    found = _from_files(files)
    if found is None and text:
        found = Secret.typed(text)
    if found is None:
        if not _can_ask():
            raise Invalid(
                "no new secret: give --new-passphrase-file, --new-key-file or FUSEGW_NEW_PASSPHRASE, "
                "or run this on a terminal"
            )
        found = Secret.passphrase(_ask_twice("New passphrase: "))
    return _not_recovery(found)


_NOTHING = (
    "no passphrase for {}: give --passphrase-file, --key-file, FUSEGW_PASSPHRASE_FILE, FUSEGW_PASSPHRASE or "
    "passphrase_file in the configuration, or run this on a terminal"
)
_FILE = click.Path(path_type=Path, dir_okay=False)


def _from_sources(
    files: SecretFiles, config: VolumeConfig, environ: MutableMapping[str, str]
) -> Secret | None:
    """The first source that is there, without asking anybody."""
    text = _take(environ, "FUSEGW_PASSPHRASE")
    found = _from_files(files)
    if found is None and (named := environ.get("FUSEGW_PASSPHRASE_FILE")):
        found = _from_files(SecretFiles(passphrase_file=Path(named)))
    if found is None and text:
        found = Secret.typed(text)
    if found is None:
        found = _from_files(_configured(config))
    if found is None and (directory := environ.get("CREDENTIALS_DIRECTORY")):
        credential = Path(directory) / CREDENTIAL
        found = _from_files(SecretFiles(passphrase_file=credential)) if credential.exists() else None
    return found


def _configured(config: VolumeConfig) -> SecretFiles:
    return SecretFiles(
        Path(config.passphrase_file) if config.passphrase_file else None,
        Path(config.key_file) if config.key_file else None,
    )


def _take(environ: MutableMapping[str, str], name: str) -> str:
    """The variable's value, which is gone afterwards: for children, and from /proc/PID/environ."""
    if not environ.get(name):
        return ""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    address = libc.getenv(os.fsencode(name))
    if address:
        ctypes.memset(address, ord("x"), len(ctypes.string_at(address)))
    return environ.pop(name)


def _from_files(files: SecretFiles) -> Secret | None:
    if files.passphrase_file is not None and files.key_file is not None:
        raise Invalid("both a passphrase file and a key file are given: choose one")
    if files.passphrase_file is not None:
        return Secret.typed(read_private(files.passphrase_file, "passphrase file"))
    if files.key_file is not None:
        return Secret.keyfile(read_private(files.key_file, "key file"))
    return None


def read_private(path: Path, what: str) -> bytes:
    """All of a small file; says so when others could read it too."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(KEYFILE_SIZE_MAX + 1)
    except FileNotFoundError:
        raise NotFound(f"{what} {path} does not exist") from None
    except OSError as error:
        raise Denied(f"{what} {path} cannot be read: {error.strerror}") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        output.warning(f"{what} {path} can be read by others: chmod 600 it")
    return data


def _not_recovery(secret: Secret) -> Secret:
    if secret.kind == "recovery":
        raise Invalid("that is a recovery key: choose a passphrase that does not look like one")
    return secret


def _can_ask() -> bool:
    return sys.stdin.isatty()


def _ask(text: str) -> str:
    answer = click.prompt(text, hide_input=True, prompt_suffix="", err=True)
    assert isinstance(answer, str)
    return answer


def _ask_twice(text: str) -> str:
    answer = _ask(text)
    if _ask("The same once more: ") != answer:
        raise Invalid("the two passphrases differ: nothing was done")
    return answer
