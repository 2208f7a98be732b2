"""What every command has in common: where configuration, state and cache are, and which volume is meant.

`common_options` gives a command `--config`, `--state-dir`, `--cache-dir` and `--debug`; they may stand
before or after the command's name, and after it they win. The environment is read here too, once, into
`Session`.
"""

import functools
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from fusegw.config import (
    CACHE_DIR,
    STATE_DIR,
    Config,
    VolumeConfig,
    VolumePaths,
    check_volume_name,
    load_config,
)
from fusegw.control.client import ControlClient
from fusegw.daemon.service import Gateway
from fusegw.errors import Invalid, NotFound
from fusegw.registry import Registry
from fusegw.store.options import StoreOptions

if TYPE_CHECKING:  # the commands that need no key must not wait for the cryptography
    from fusegw.keys.secret import Secret

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Locations(msgspec.Struct, frozen=True, kw_only=True):
    """Three paths an operator may set; None where nothing was said."""

    config_file: Path | None = None
    state_dir: Path | None = None
    cache_dir: Path | None = None

    def over(self, other: "Locations") -> "Locations":
        """These, and those of `other` where nothing is said here."""
        return Locations(
            config_file=self.config_file or other.config_file,
            state_dir=self.state_dir or other.state_dir,
            cache_dir=self.cache_dir or other.cache_dir,
        )


class Site:
    """The configuration in force and the state directory it leads to."""

    def __init__(self, locations: Locations) -> None:
        self.config: Config = load_config(locations.config_file)
        gateway = self.config.gateway
        self.state_dir = (locations.state_dir or Path(gateway.state_dir or STATE_DIR)).absolute()
        self.cache_dir = (locations.cache_dir or Path(gateway.cache_dir or CACHE_DIR)).absolute()
        self.registry = Registry(self.state_dir)

    def paths(self, name: str) -> VolumePaths:
        """Where volume `name` keeps its local state."""
        return VolumePaths(self.state_dir, name)

    def volume(self, name: str | None) -> str:
        """`name`, if there is such a volume; without a name the only one there is. NotFound, Invalid."""
        if name is not None:
            self.registry.get(check_volume_name(name))
            return name
        known = list(self.registry.volumes())
        if not known:
            raise NotFound(f"no volume in state directory {self.state_dir}; create one with fusegw init")
        if len(known) > 1:
            raise Invalid(f"there are several volumes ({', '.join(known)}): say which")
        return known[0]

    def volume_config(self, name: str) -> VolumeConfig:
        """How volume `name` is to be served: as configured, else as recorded when it was recovered."""
        entry = self.registry.get(name)
        config = self.config.volume(name, entry.policy)
        return config if entry.fixed_at is None else msgspec.structs.replace(config, read_only=True)

    def store_options(self, name: str) -> StoreOptions:
        """How to reach the store of volume `name`: as configured, else as recorded by `fusegw init`."""
        return self.config.volume(name).store or self.registry.get(name).store

    def client(self, name: str) -> ControlClient:
        """The running gateway of volume `name`."""
        return ControlClient(self.paths(name).socket_file)


class Session:
    """One run of the command line: what was said about it as a whole, and the environment it may read.

    `environ` is the process's own: a secret found there is removed. `gateway` runs a mounted volume.
    """

    def __init__(self, environ: MutableMapping[str, str], gateway: Gateway) -> None:
        self.environ = environ
        self.gateway = gateway
        self.debug = False
        self.secrets: dict[str, Secret] = {}
        """By volume, those that were given already: nobody is asked for one twice."""
        self._locations = Locations(
            config_file=self.path_variable("FUSEGW_CONFIG"),
            state_dir=self.path_variable("FUSEGW_STATE_DIR"),
            cache_dir=self.path_variable("FUSEGW_CACHE_DIR"),
        )

    def path_variable(self, name: str) -> Path | None:
        """The path in environment variable `name`; None when it is unset or empty."""
        value = self.environ.get(name)
        return Path(value) if value else None

    def say(self, locations: Locations, *, debug: bool) -> None:
        """Take what the command line says; later calls win."""
        self._locations = locations.over(self._locations)
        self.debug = self.debug or debug

    def site(self, override: Locations | None = None) -> Site:
        """The configuration, read now. `override` wins over everything said before."""
        return Site((override or Locations()).over(self._locations))


def common_options(function: _Function) -> _Function:
    """Add the options every command takes, and pass the `Session` as first argument."""

    @click.option("--config", "config_file", type=_FILE, help="Configuration file.  [FUSEGW_CONFIG]")
    @click.option("--state-dir", type=_DIRECTORY, help="Metadata, locks, sockets, logs.  [FUSEGW_STATE_DIR]")
    @click.option("--cache-dir", type=_DIRECTORY, help="Root of the caches.  [FUSEGW_CACHE_DIR]")
    @click.option("--debug", is_flag=True, help="Log more; show where an unexpected error came from.")
    @click.pass_context
    @functools.wraps(function)
    def wrapper(
        context: click.Context,
        /,
        *args: Any,
        config_file: Path | None,
        state_dir: Path | None,
        cache_dir: Path | None,
        debug: bool,
        **options: Any,
    ) -> Any:
        session = context.ensure_object(Session)
        said = Locations(config_file=config_file, state_dir=state_dir, cache_dir=cache_dir)
        session.say(said, debug=debug)
        return function(session, *args, **options)

    return wrapper  # type: ignore[return-value]


def complete_volume(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of known volumes, for the shell's completion; none when the state cannot be read."""
    session = context.find_object(Session)
    try:
        known = session.site().registry.volumes() if session else {}
    except Exception:
        return []
    return [name for name in known if name.startswith(incomplete)]


_FILE = click.Path(path_type=Path, dir_okay=False)
_DIRECTORY = click.Path(path_type=Path, file_okay=False)

volume_argument = click.argument("name", required=False, metavar="[NAME]", shell_complete=complete_volume)
"""The volume; may be left out where there is only one."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
