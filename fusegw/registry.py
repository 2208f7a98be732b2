"""Which volumes this gateway knows: name, number, identity, and where their objects lie.

The registry is `<state>/registry.json`, replaced atomically (temporary file, fsync, rename, fsync of the
directory and of those above) under an flock of `<state>/registry.lock`. A volume's number (1 to 255) becomes
the first byte of all its node ids, which NFS clients keep: a number once given is never given to another
volume, not even after its volume is forgotten. A recovered volume brings its number along, and keeps it where
nobody has it. It holds no secret.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fusegw.durable import replace_file, sync_way_to
from fusegw.errors import Corrupt, Denied, Exists, Full, FusegwError, NotFound, UnknownFormat
from fusegw.store.options import StoreOptions

FORMAT_VERSION = 1
NUMBER_MAX = 255


class VolumeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One volume as `fusegw init` or `fusegw recover` recorded it."""

    number: int
    volume_id: str
    """32 hex digits."""
    store: StoreOptions
    created_unix_s: int
    unsafe_no_fencing: bool = False
    """The operator accepted a store that cannot refuse a second create."""
    policy: dict[str, bool | int | float | str] = {}
    """Keys of `[volumes.NAME]` as the gateway before this one had them; the configuration goes before."""
    fixed_at: int | None = None
    """An older state, as of this segment of the log: only to be read, and never brought up to date."""


class _Contents(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    format_version: int = FORMAT_VERSION
    next_number: int = 1
    """All below were given here."""
    volumes: dict[str, VolumeEntry] = {}
    forgotten: dict[int, str] = {}
    """Whose a number was (32 hex digits): should that volume come back, it may have it again."""


class Registry:
    """The registry of one state directory; nothing is kept in memory between calls."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._file = state_dir / "registry.json"

    def volumes(self) -> dict[str, VolumeEntry]:
        """All volumes by name, in order of their numbers; empty before the first `init`."""
        return dict(sorted(self._load().volumes.items(), key=lambda item: item[1].number))

    def get(self, name: str) -> VolumeEntry:
        """The entry of `name`; NotFound lists what there is."""
        volumes = self._load().volumes
        if name not in volumes:
            known = f"it has {', '.join(sorted(volumes))}" if volumes else "it has none"
            raise NotFound(
                f"no volume {name!r} in state directory {self._state_dir} ({known}); create it with "
                "fusegw init, or check --state-dir"
            )
        return volumes[name]

    @contextmanager
    def reserve(
        self, name: str, *, number: int | None = None, volume_id: bytes = b"", again: bool = False
    ) -> Iterator["Reservation"]:
        """Hold the registry for the time it takes to create volume `name`; Exists when there is one.

        `number` is the one it would like to have; it gets another when that was given to somebody else
        than `volume_id` here. With `again` the volume may be here, and keeps the number it has.
        Nothing is recorded unless `Reservation.commit` is called before the block ends.
        """
        with self._locked():
            contents = self._load()
            if name in contents.volumes and not again:
                raise Exists(f"volume {name!r} is already in {self._file}; choose another name")
            # Once as it is: a full or read-only disk must show before the volume exists in its store.
            self._store(contents)
            yield Reservation(
                name, self._number(contents, name, number, volume_id.hex()), contents, self._store
            )

    def remove(self, name: str) -> None:
        """Take `name` out, durable on return; its number is given to no other volume. NotFound."""
        with self._locked():
            contents = self._load()
            entry = contents.volumes.pop(name, None)
            if entry is None:
                raise NotFound(f"no volume {name!r} in {self._file}")
            contents.next_number = max(contents.next_number, entry.number + 1)
            if entry.fixed_at is None:
                contents.forgotten[entry.number] = entry.volume_id
            self._store(contents)

    def _number(self, contents: _Contents, name: str, wanted: int | None, volume_id: str) -> int:
        """The number `name` has, or the one it would like, or the next that nobody has."""
        if name in contents.volumes:
            return contents.volumes[name].number
        taken = {entry.number for entry in contents.volumes.values()}
        if (
            wanted is not None
            and wanted not in taken
            and (wanted >= contents.next_number or contents.forgotten.get(wanted) == volume_id)
        ):
            return wanted
        number = next((one for one in range(contents.next_number, NUMBER_MAX + 1) if one not in taken), None)
        if number is None:
            raise Full(f"{self._file} has given all {NUMBER_MAX} volume numbers; use another --state-dir")
        contents.next_number = number + 1
        return number

    def _load(self) -> _Contents:
        try:
            data = self._file.read_bytes()
        except FileNotFoundError:
            return _Contents()
        except OSError as error:
            raise Denied(f"{self._file} cannot be read: {error.strerror}") from None
        try:
            version = msgspec.json.decode(data, type=dict[str, object]).get("format_version")
            if version != FORMAT_VERSION:
                raise UnknownFormat(
                    f"{self._file} has format version {version!r}, this fusegw knows {FORMAT_VERSION}; "
                    "upgrade fusegw"
                )
            return msgspec.json.decode(data, type=_Contents)
        except msgspec.DecodeError as error:
            raise Corrupt(f"{self._file} is damaged ({error}); restore it from a copy") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._state_dir / "registry.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Denied(f"state directory {self._state_dir} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _store(self, contents: _Contents) -> None:
        try:
            replace_file(self._file, msgspec.json.format(msgspec.json.encode(contents), indent=2) + b"\n")
            sync_way_to(self._state_dir)
        except OSError as error:
            raise FusegwError(f"{self._file} cannot be written: {error.strerror}") from error


class Reservation:
    """A name and a number that nobody else can take while `Registry.reserve` is open."""

    def __init__(
        self, name: str, number: int, contents: _Contents, store: Callable[[_Contents], None]
    ) -> None:
        self._name = name
        self._contents = contents
        self._store = store
        self.number = number

    def commit(
        self,
        *,
        volume_id: bytes,
        store: StoreOptions,
        created_unix_s: int,
        unsafe_no_fencing: bool,
        policy: Mapping[str, bool | int | float | str] = {},
        fixed_at: int | None = None,
    ) -> VolumeEntry:
        """Record the volume; durable on return."""
        entry = VolumeEntry(
            number=self.number,
            volume_id=volume_id.hex(),
            store=store,
            created_unix_s=created_unix_s,
            unsafe_no_fencing=unsafe_no_fencing,
            policy=dict(policy),
            fixed_at=fixed_at,
        )
        self._contents.volumes[self._name] = entry
        self._store(self._contents)
        return entry
