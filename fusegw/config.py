"""What the operator sets: the TOML file, its defaults, and the settings one gateway process runs with.

A configuration file (default /etc/fusegw/config.toml) looks like this; every key is optional::

    [gateway]
    state_dir = "/var/lib/fusegw"       # metadata, locks, sockets, logs
    cache_dir = "/var/cache/fusegw"
    cache_size = "10G"

    [volumes.tank]
    store = "s3://bucket/prefix"        # or a table: store = { url = "s3://…", endpoint_url = "https://…" }
    passphrase_file = "/etc/fusegw/tank.pass"
    cache_size = "50G"

    [smb]
    listen = ["192.0.2.10"]             # loopback alone, unless said otherwise
    [shares.backups]
    volume = "tank"
    path = "/backups"

Unknown keys are errors that name the key, its table and the nearest known one: a typo must never silently
mean the default. What counts, in this order: command line, environment, file, default. The command line
and the environment are read by `fusegw.cli`; this module knows the file, the defaults and the result.

Sizes are integers (bytes) or text such as "512K", "10G", "1.5TiB"; all suffixes are powers of 1024.
Relative paths in the file are taken from the file's own directory.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from exports.errors import InvalidExport
from exports.model import Share
from exports.settings import AuditSettings, NfsSettings, ServerSettings, SmbSettings
from fusegw.cost import Prices
from fusegw.errors import FusegwError, Invalid
from fusegw.schedule import SnapshotSchedule
from fusegw.sizes import parse_size
from fusegw.store.options import StoreOptions

if TYPE_CHECKING:  # the commands that need no key must not wait for the cryptography
    from fusegw.keys.secret import Secret

CONFIG_FILE = Path("/etc/fusegw/config.toml")
STATE_DIR = Path("/var/lib/fusegw")
CACHE_DIR = Path("/var/cache/fusegw")
CACHE_SIZE_BYTES = 10 << 30
FOLLOW_INTERVAL_MAX_S = 2.5

UNIFIED_SOURCE = "fusegw@volumes"
"""First column of /proc/mounts and of fstab for a unified mount; no volume can bear this name."""
UNSENT_PREFIX = "unsent-"
"""Of directories beside the index; the rest of the name is a time in ns since 1970."""

_INNER: dict[str, type[msgspec.Struct]] = {"snapshots": SnapshotSchedule, "prices": Prices}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_Table = TypeVar("_Table", bound=msgspec.Struct)


def check_volume_name(name: str) -> str:
    """`name` itself when it can name a volume (it becomes a directory and a socket); Invalid otherwise."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"{name!r} cannot name a volume: expected 1 to 64 of letters, digits, '.', '_', '-', "
            "the first one a letter or a digit"
        )
    return name


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Numbers that trade speed against memory, requests and freshness; none of them changes the format."""

    pack_size_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 30)] = msgspec.field(
        default=32 << 20, name="pack_size"
    )
    """A pack is closed and shipped when it has grown to this."""
    chunk_size_bytes: Annotated[int, msgspec.Meta(ge=16 << 10, le=8 << 20)] = msgspec.field(
        default=512 << 10, name="chunk_size"
    )
    """Average length of a chunk; changing it ends deduplication against what was cut before."""
    compression_level: Annotated[int, msgspec.Meta(ge=0, le=19)] = 0
    """Level of zstd; 0 means as much as the processors have time for (2 to 6)."""
    codec_threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    """Threads that cut, compress and seal; 0 means one per processor."""
    upload_parallelism: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Packs in flight to the store at one time."""
    ship_interval_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 5.0
    """A pack that is not full is closed and shipped when its first record is this old."""
    follow_interval_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    """A standby looks for news this often; 0 means twice in `ship_interval_s`, but at least every 2.5 s."""
    checkpoint_interval_s: Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)] = 86400.0
    """A checkpoint of the metadata this old is followed by another when there were changes."""
    checkpoint_log_size_bytes: Annotated[int, msgspec.Meta(ge=1 << 10, le=1 << 40)] = msgspec.field(
        default=64 << 20, name="checkpoint_log_size"
    )
    """Growth of the log, as stored, at which a checkpoint is due (and half the last one's size)."""
    checkpoint_retention_s: Annotated[float, msgspec.Meta(ge=0, le=100 * 366 * 86400)] = 7 * 86400.0
    """Positions of this long can be recovered; what is older is given up."""
    scrub_daily_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    """Share of the stored data that is read back and verified in a day, beside new packs once; 0: nothing."""
    gc_interval_s: Annotated[float, msgspec.Meta(ge=0, le=366 * 86400)] = 3600.0
    """Between two passes of collection in the background; 0: only by `fusegw gc`."""
    gc_daily_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] = msgspec.field(
        default=24 << 30, name="gc_daily"
    )
    """Data in sparse packs that the background rewrites in a day at most."""
    gc_dead_share: Annotated[float, msgspec.Meta(ge=0, le=0.9)] = 0.2
    """Share of the stored bytes that may be dead before sparse packs are rewritten."""
    gc_grace_s: Annotated[float, msgspec.Meta(ge=0, le=366 * 86400)] = 86400.0
    """From the time that no kept state needs a pack any more to its deletion: for readers that are behind."""
    gc_orphan_interval_s: Annotated[float, msgspec.Meta(ge=0, le=366 * 86400)] = 7 * 86400.0
    """Between two looks for objects that no metadata knows."""
    gc_orphan_grace_s: Annotated[float, msgspec.Meta(ge=0, le=10 * 366 * 86400)] = 14 * 86400.0
    """Such an object is deleted when it was first seen so long ago."""
    commit_interval_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.25
    """Time between two group commits of metadata when nobody asks for one."""
    high_watermark: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    """Share of the cache budget that may be data not yet stored before writers are slowed down."""
    write_wait_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 10.0
    """Longest time one write waits for room before it fails with ENOSPC (the kernel's locks wait with it)."""
    read_ahead_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 30)] = msgspec.field(
        default=16 << 20, name="read_ahead"
    )
    """Bytes fetched ahead of a sequential reader; 0 switches it off."""
    metadata_limit_bytes: Annotated[int, msgspec.Meta(ge=16 << 20, le=1 << 40)] = msgspec.field(
        default=64 << 30, name="metadata_limit"
    )
    """Size of the metadata file at which new names and data get ENOSPC (deleting still works)."""

    @property
    def follow_pause_s(self) -> float:
        """Seconds between two looks of a standby."""
        return self.follow_interval_s or min(self.ship_interval_s / 2, FOLLOW_INTERVAL_MAX_S)


class HookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to tell when everything is in the store."""

    command: tuple[str, ...] = ()
    """A program by its absolute path, and its arguments; no shell."""
    url: str | None = None
    """Gets a POST."""

    @property
    def any(self) -> bool:
        return bool(self.command or self.url)


class VolumeConfig(Tuning, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[volumes.NAME]` table."""

    store: StoreOptions | None = None
    """Overrides what `fusegw init` recorded, for example after the endpoint has moved."""
    passphrase_file: str | None = None
    key_file: str | None = None
    cache_size_bytes: int | None = msgspec.field(default=None, name="cache_size")
    allow_other: bool | None = None
    read_only: bool = False
    follow: bool = False
    in_unified_mount: bool = True
    """`fusegw mount DIR` shows it among the others."""
    snapshots_visible: bool = False
    """The root lists `.snapshots`, which can be entered in any case."""
    snapshots: SnapshotSchedule | None = None
    """Those made by themselves; None: what the volume says counts."""
    prices: Prices | None = None
    """What its store charges; None: as `[prices]` of the file says."""
    on_stored: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    """A command that is told when everything is in the store: the program's path and its arguments."""
    on_stored_url: str | None = None
    """A web address that is told the same."""

    def hooks(self) -> HookSettings:
        """Whom to tell."""
        return HookSettings(command=self.on_stored, url=self.on_stored_url)

    def tuning(self) -> Tuning:
        """The tuning part alone."""
        return Tuning(**{field: getattr(self, field) for field in Tuning.__struct_fields__})


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[gateway]` table."""

    state_dir: str | None = None
    cache_dir: str | None = None
    cache_size_bytes: int | None = msgspec.field(default=None, name="cache_size")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole configuration file."""

    gateway: GatewayConfig = GatewayConfig()
    volumes: dict[str, VolumeConfig] = {}
    prices: Prices = Prices()
    servers: ServerSettings = ServerSettings()
    """Of shares: the tables that are named for protocols."""
    shares: tuple[Share, ...] = ()
    """The `[shares.NAME]` tables."""
    said: dict[str, frozenset[str]] = {}
    """Keys that the table of a volume names, whatever it says of them."""

    def volume(self, name: str, recorded: Mapping[str, Any] = {}) -> VolumeConfig:
        """The table of volume `name`; what it does not name is as `recorded` says, or the default."""
        said = self.said.get(name, frozenset())
        fresh = {
            field.name: recorded[field.encode_name]
            for field in msgspec.structs.fields(VolumeConfig)
            if field.encode_name in recorded and field.encode_name not in said
        }
        return msgspec.structs.replace(self.volumes.get(name, VolumeConfig()), **fresh)


def load_config(path: Path | None) -> Config:
    """The file at `path` (None: the default place, where a missing file means all defaults).

    Invalid names the file, the table and the key.
    """
    source = path or CONFIG_FILE
    try:
        text = source.read_bytes().decode()
    except FileNotFoundError:
        if path is None:
            return Config()
        raise Invalid(f"{source}: no such configuration file; check --config or FUSEGW_CONFIG") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{source}: cannot be read as a configuration file: {error}") from None
    return parse_config(text, source)


def parse_config(text: str, source: Path) -> Config:
    """The configuration in `text`; `source` is the file it came from, for messages and relative paths."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{source}: not valid TOML: {error}") from None
    try:
        _check_keys(data, ("gateway", "volumes", "prices", *ServerSettings.__struct_fields__, "shares"), "")
        base = source.absolute().parent
        table = _anchored(_table(data.get("gateway", {}), "gateway"), base)
        gateway = _decode(table, GatewayConfig, "gateway")
        volumes = {
            check_volume_name(name): _volume(_table(table, f"volumes.{name}"), f"volumes.{name}", base)
            for name, table in _table(data.get("volumes", {}), "volumes").items()
        }
        prices = _decode(_table(data.get("prices", {}), "prices"), Prices, "prices")
        servers = ServerSettings(
            smb=_decode(_table(data.get("smb", {}), "smb"), SmbSettings, "smb"),
            nfs=_decode(_table(data.get("nfs", {}), "nfs"), NfsSettings, "nfs"),
            audit=_decode(_table(data.get("audit", {}), "audit"), AuditSettings, "audit"),
        )
        shares = tuple(
            _share(_table(table, f"shares.{name}"), name)
            for name, table in _table(data.get("shares", {}), "shares").items()
        )
    except Invalid as error:
        raise Invalid(f"{source}: {error}") from None
    said = {name: frozenset(table) for name, table in data.get("volumes", {}).items()}
    return Config(gateway=gateway, volumes=volumes, prices=prices, servers=servers, shares=shares, said=said)


def _volume(table: dict[str, Any], where: str, base: Path) -> VolumeConfig:
    table = _anchored(table, base)
    store = table.get("store")
    if isinstance(store, str):
        table["store"] = {"url": store}
    elif store is not None:
        options = _anchored(_table(store, f"{where}.store"), base)
        table["store"] = options
        _decode(options, StoreOptions, f"{where}.store")
    if isinstance(table.get("snapshots"), str):
        table["snapshots"] = {"keep": table["snapshots"]}
    for key in [inner for inner in _INNER if inner in table]:
        inner = f"{where}.{key}"
        _decode(_table(table[key], inner), _INNER[key], inner)
    volume = _decode(table, VolumeConfig, where)
    _check_hooks(volume, where)
    return volume


def _share(table: dict[str, Any], name: str) -> Share:
    where = f"shares.{name}"
    _check_keys(table, [key for key in Share.__struct_fields__ if key not in ("name", "export_id")], where)
    if "volume" not in table:
        raise Invalid(f"{where}: say which volume it is in (volume = ...)")
    check_volume_name(str(table["volume"]))
    try:
        return msgspec.convert(table | {"name": name}, Share)
    except (msgspec.ValidationError, InvalidExport) as error:
        raise Invalid(f"{where}: {error}") from None


def _check_hooks(volume: VolumeConfig, where: str) -> None:
    command, url = volume.on_stored, volume.on_stored_url
    if command and (not command[0].startswith("/") or any("\0" in word for word in command)):
        raise Invalid(
            f"{where}.on_stored: expected the absolute path of a program and its arguments, such as "
            f'["/usr/local/bin/notify", "stored"], found {list(command)!r}'
        )
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            # Not shown: what is wrong with it may be a password.
            raise Invalid(f"{where}.on_stored_url: expected http://HOST/… or https://HOST/…, without a user")


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(f"{where}: expected a table ([{where}]), found {value!r}")
    return dict(value)


def _anchored(table: dict[str, Any], base: Path) -> dict[str, Any]:
    """`table` with the paths in it made absolute from `base`, the directory of the file they stand in."""
    paths = ("state_dir", "cache_dir", "passphrase_file", "key_file", "ca_bundle")
    return table | {
        key: str(base / Path(table[key]).expanduser()) for key in paths if isinstance(table.get(key), str)
    }


def _check_keys(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    complaints = []
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
            complaints.append(f"unknown key {f'{where}.{key}' if where else key!s} ({hint})")
    if complaints:
        raise Invalid("; ".join(complaints))


def _decode(table: dict[str, Any], kind: type[_Table], where: str) -> _Table:
    """`table` as a `kind`: every key known, sizes read, types and bounds checked; Invalid says `where`."""
    _check_keys(table, kind.__struct_encode_fields__, where)
    for field in msgspec.structs.fields(kind):
        value = table.get(field.encode_name)
        if field.name.endswith("_bytes") and isinstance(value, str):
            try:
                table[field.encode_name] = parse_size(value)
            except Invalid as error:
                raise Invalid(f"{where}.{field.encode_name}: {error}") from None
    try:
        return msgspec.convert(table, kind)
    except Invalid as error:
        raise Invalid(f"{where}: {error}") from None
    except msgspec.ValidationError as error:
        message = str(error).replace(" - at `$.", f" - at `{where}.").replace("`$`", f"`{where}`")
        raise Invalid(message if where in message else f"{where}: {message}") from None


class VolumePaths(msgspec.Struct, frozen=True):
    """Where one volume's local state lies; nothing else in the project spells these paths."""

    state_dir: Path
    name: str

    @property
    def volume_dir(self) -> Path:
        """0700; everything of this volume that must survive a restart."""
        return self.state_dir / "volumes" / self.name

    @property
    def meta_dir(self) -> Path:
        """The LMDB environment."""
        return self.volume_dir / "meta"

    def unsent_dirs(self) -> list[Path]:
        """What mounts set aside: indexes ahead of the store, and their packs; oldest first."""
        return sorted(self.volume_dir.glob(UNSENT_PREFIX + "*"))

    @property
    def traffic_file(self) -> Path:
        """What was asked of the store since this host knows the volume."""
        return self.volume_dir / "traffic.json"

    @property
    def lock_file(self) -> Path:
        """flock'ed by the mount and by offline tools; its text names the holder."""
        return self.volume_dir / "lock"

    @property
    def socket_file(self) -> Path:
        """The control socket of the running gateway."""
        return self.state_dir / "run" / f"{self.name}.sock"

    @property
    def log_file(self) -> Path:
        """The log of the gateway that serves this volume alone, as a daemon."""
        return self.state_dir / "log" / f"{self.name}.log"

    @property
    def unified_log_file(self) -> Path:
        """The log of the gateway that serves it among others."""
        return self.state_dir / "log" / f"{UNIFIED_SOURCE}.log"


def cache_of(cache_dir: Path, volume_id: str, number: int, fixed_at: int | None) -> Path:
    """Where below the root of all caches the volume with `volume_id` (32 hex digits) has its own."""
    return cache_dir / (volume_id if fixed_at is None else f"{volume_id}-{number}")


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the mount is shown to this host."""

    allow_other: bool = False
    """Other users than the one who mounts may look in (permission bits decide)."""
    read_only: bool = False
    """The kernel refuses changes by itself."""
    fsname: str = "fusegw"
    """First column of /proc/mounts."""
    kernel_options: tuple[str, ...] = ()
    """Further options handed to the kernel as they are (nodev, nosuid, noatime, …)."""


class VolumeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One volume of a gateway; complete, absolute and checked.

    The volume's lock is held and `paths.volume_dir`, the socket's and the cache's directories exist (0700)
    when the gateway gets this. The store must hold the volume with `volume_id`.
    """

    volume: str
    volume_number: int
    """1 to 255, from the registry: the first 8 bits of every node id."""
    volume_id: bytes
    """16 bytes, as recorded by `fusegw init`."""
    store: StoreOptions
    secret: "Secret"
    paths: VolumePaths
    cache_dir: Path
    """Root of all caches."""
    cache_size_bytes: int
    mountpoint: Path
    """Where the root of this volume is seen."""
    allow_other: bool = False
    """Other users than the one who mounts may look in."""
    read_only: bool = False
    """Nothing is written, neither to the metadata nor to the store; no new epoch is taken."""
    follow: bool = False
    """A standby: what another gateway ships is shown as it comes; only with `read_only`, until promoted."""
    snapshots_visible: bool = False
    """The root lists `.snapshots`, which can be entered in any case."""
    tuning: Tuning = Tuning()
    hooks: HookSettings = HookSettings()
    snapshots: SnapshotSchedule | None = None
    unsafe_no_fencing: bool = False
    """`fusegw init` was told that this store cannot refuse a second create; do not ask again."""
    fixed_at: int | None = None
    """An older state, as of this segment of the log; `read_only` then."""

    @property
    def own_cache_dir(self) -> Path:
        """The cache of this volume; an older state has one of its own, beside that of the volume itself."""
        return cache_of(self.cache_dir, self.volume_id.hex(), self.volume_number, self.fixed_at)


class MissingVolume(msgspec.Struct, frozen=True):
    """One that has to be left out of a unified mount."""

    paths: VolumePaths
    error: FusegwError


def server_dir(state_dir: Path, number: int) -> Path:
    """Where the servers of one mount have their directories; `number` of the volume, 0 for a unified one."""
    return state_dir / "shares" / str(number)


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """All that `fusegw.gateway.run` needs: one mount and what is in it."""

    mountpoint: Path
    volumes: tuple[VolumeSettings, ...]
    """In order of their numbers."""
    log_file: Path
    """The log of the gateway when it runs as a daemon; its directory exists."""
    options: MountOptions = MountOptions()
    unified: bool = False
    """The volumes are directories of the mount; otherwise there is one, and its root is the mount's."""
    missing: tuple[MissingVolume, ...] = ()
    """Volumes that belong into a unified mount and cannot be shown."""
    servers: ServerSettings = ServerSettings()
    shares: tuple[Share, ...] = ()
    """Those that the configuration wants; the volumes know of more."""

    @property
    def servers_dir(self) -> Path:
        """Where the servers of shares have their directories: short, since they make sockets there."""
        first = self.volumes[0]
        return server_dir(first.paths.state_dir, 0 if self.unified else first.volume_number)
