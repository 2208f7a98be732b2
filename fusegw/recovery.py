"""Bringing a gateway back from nothing but the store and a secret: the order of `fusegw recover`.

First all that only looks: what this host knows, the store, the secret. Then the index is built beside its
place (`Until` says up to where), and with it known what the gateway was: its number, its settings. What comes
last makes it true: the index takes its place → a takeover segment begins the new epoch, so that the gateway
before this one is fenced → the registry. A crash before the registry leaves nothing this host knows, and the
next recovery begins anew; an error leaves nothing at all. An index that is found there, unknown to the
registry, is set aside with what it never shipped.

An older state (`Until`) is registered as fixed: no takeover, never written, never brought up to date. A
standby is registered as any volume, without a takeover: its mounts say that they follow.
"""

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from fusegw.clock import Clock, Entropy
from fusegw.config import Tuning, VolumePaths, check_volume_name
from fusegw.daemon.lock import volume_lock
from fusegw.errors import Corrupt, Exists, Invalid, UnknownFormat
from fusegw.identity import Identity, recorded_identity
from fusegw.index import Source, open_index, retire_index
from fusegw.keys.header import VolumeHeader
from fusegw.keys.secret import Secret
from fusegw.keys.volume import OpenedVolume, read_volume, unlock
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import STATE_BYTES, STATE_FILES, Head
from fusegw.policy import chosen, with_store_policy
from fusegw.registry import Registry, VolumeEntry
from fusegw.ship.recover import Progress, Recovered, Until, recover
from fusegw.store.base import ObjectStore
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from fusegw.store.probe import check_create_only
from fusegw.store.retry import RetryPolicy

POLICY = RetryPolicy(elapsed_max_s=20.0)
"""For one request; somebody waits, and may call again."""


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be recovered, and to where."""

    name: str
    """On this host: the volume's own, or any other one for an older state."""
    store: StoreOptions
    paths: VolumePaths
    cache_dir: Path
    """Root of all caches."""
    until: Until | None = None
    """None: the newest state, and this host becomes the writer, or its standby."""
    follow: bool = False
    """This host stands by: nothing is taken over, the writer goes on."""
    anchor: Head | None = None
    unsafe_no_fencing: bool = False
    metadata_limit_bytes: int = Tuning().metadata_limit_bytes

    @property
    def writes(self) -> bool:
        """Whether this host becomes the writer."""
        return self.until is None and not self.follow


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What was recovered."""

    entry: VolumeEntry
    found: Recovered
    """The position it was recovered to."""
    head: Head
    """Where the log stands now: at the takeover, where an older state stays, or where a standby begins."""
    identity: Identity | None
    """What the gateway before this one recorded of itself."""
    files: int
    nbytes: int
    """Sum of the file sizes, without holes."""
    seconds: float
    remarks: tuple[str, ...]
    """What could not be taken over as it was, for people."""


def recover_gateway(
    wanted: Recovery,
    registry: Registry,
    *,
    secret: Callable[[], Secret],
    clock: Clock,
    entropy: Entropy,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Restored:
    """Blocking: the volume, known on this host, its index at the position wanted, this host its writer unless
    it is to follow.

    Exists (known here already), Invalid (another volume there; the anchor is not in its history; no fencing),
    NotFound (no volume, no log, no such position), WrongKey, Denied, Unavailable, Corrupt, UnknownFormat,
    Busy: no volume is left behind on this host, and the store is as it was (a probe object came and went),
    unless the takeover was reached.
    """
    check_volume_name(wanted.name)
    with closing(open_store(wanted.store, clock=clock, entropy=entropy, policy=POLICY)) as store:
        stored = read_volume(store)
        _refuse_if_known(wanted, stored.header, registry.volumes())
        opened = unlock(stored, secret())
        if wanted.writes:
            opened.check_writable(name=wanted.name)
            if not wanted.unsafe_no_fencing:
                check_create_only(store, entropy, advice="or accept that with --unsafe-no-fencing")
        return _Recovering(wanted, registry, store, opened, clock, entropy).run(on_progress)


class _Recovering:
    """One recovery, once the keys are open."""

    def __init__(
        self,
        wanted: Recovery,
        registry: Registry,
        store: ObjectStore,
        opened: OpenedVolume,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._wanted = wanted
        self._registry = registry
        self._store = store
        self._opened = opened
        self._clock = clock
        self._entropy = entropy
        self._place = wanted.paths.volume_dir / "recovered"
        """Where the index is built."""
        self._remarks: list[str] = []

    def run(self, on_progress: Callable[[Progress], None]) -> Restored:
        begun = self._clock.monotonic()
        with _nothing_left(self._wanted, self._registry), volume_lock(self._wanted.paths):
            known = self._registry.volumes()
            _refuse_if_known(self._wanted, self._opened.header, known)
            found = self._build(on_progress)
            if self._wanted.anchor is not None and not found.anchor_checked:
                self._remarks.append(
                    "the anchor is older than what the store still holds of the log: it could not be checked"
                )
            metadata = self._metadata(self._place)
            try:
                files, nbytes = metadata.number(STATE_FILES), metadata.number(STATE_BYTES)
                identity = self._identity(metadata)
            finally:
                metadata.close()
            entry, head = self._make_true(identity, found, again=self._wanted.name in known)
        return Restored(
            entry=entry,
            found=found,
            head=head,
            identity=identity,
            files=files,
            nbytes=nbytes,
            seconds=self._clock.monotonic() - begun,
            remarks=tuple(self._remarks),
        )

    def _build(self, on_progress: Callable[[Progress], None]) -> Recovered:
        shutil.rmtree(self._place, ignore_errors=True)
        try:
            return recover(
                self._place,
                self._store,
                self._opened.keys,
                metadata_limit_bytes=self._wanted.metadata_limit_bytes,
                clock=self._clock,
                until=self._wanted.until,
                anchor=self._wanted.anchor,
                on_progress=on_progress,
            )
        except Invalid as error:
            if self._wanted.anchor is None:
                raise
            raise Invalid(
                f"{self._store.url} does not contain the anchor: {error}; nothing was changed. Look for a "
                "copy of the store that is not older than the anchor, or leave out --anchor to take this one"
            ) from None

    def _make_true(
        self, identity: Identity | None, found: Recovered, *, again: bool
    ) -> tuple[VolumeEntry, Head]:
        wanted, opened = self._wanted, self._opened
        number = identity.number if identity is not None and wanted.until is None else None
        with self._registry.reserve(
            wanted.name, number=number, volume_id=opened.header.volume_id, again=again
        ) as reservation:
            if number is not None and number != reservation.number:
                self._remarks.append(
                    f"its number was {number}, which another volume has on this host: it gets "
                    f"{reservation.number}, and its inode numbers are others than before"
                )
            store = self._store_options(identity)
            head = found.head
            with closing(
                open_store(store, clock=self._clock, entropy=self._entropy, policy=POLICY)
            ) as writing:
                source = self._source(writing)
                retire_index(source)
                self._place.rename(wanted.paths.meta_dir)
                if wanted.writes:
                    head = _taken_over(source)
            entry = reservation.commit(
                volume_id=opened.header.volume_id,
                store=store,
                created_unix_s=opened.header.created_ns // 10**9,
                unsafe_no_fencing=wanted.unsafe_no_fencing,
                policy=self._policy(identity),
                fixed_at=None if wanted.until is None else found.head.seq,
            )
        return entry, head

    def _metadata(self, place: Path) -> Metadata:
        return Metadata(place, size_max_bytes=self._wanted.metadata_limit_bytes, clock=self._clock)

    def _source(self, store: ObjectStore) -> Source:
        return Source(
            store=store,
            keys=self._opened.keys,
            meta_dir=self._wanted.paths.meta_dir,
            cache_dir=self._wanted.cache_dir / self._opened.header.volume_id.hex(),
            cache_size_bytes=0,
            tuning=Tuning(metadata_limit_bytes=self._wanted.metadata_limit_bytes),
            clock=self._clock,
            entropy=self._entropy,
            free_bytes=lambda: 0,
            writer=f"fusegw recover on {socket.gethostname()} (pid {os.getpid()})",
        )

    def _identity(self, metadata: Metadata) -> Identity | None:
        try:
            return recorded_identity(metadata)
        except (Corrupt, UnknownFormat) as error:
            self._remarks.append(
                f"number and settings of the gateway before this one are not taken over: {error}"
            )
            return None

    def _store_options(self, identity: Identity | None) -> StoreOptions:
        if identity is None:
            return self._wanted.store
        try:
            return with_store_policy(self._wanted.store, identity.store)
        except msgspec.ValidationError as error:
            self._remarks.append(f"how objects were written before is not taken over: {error}")
            return self._wanted.store

    def _policy(self, identity: Identity | None) -> dict[str, bool | int | float | str]:
        if identity is None:
            return {}
        policy = chosen(identity.policy, superuser=os.geteuid() == 0)
        size = int(policy.get("cache_size", 0))
        if size > (free := _free_bytes(self._wanted.cache_dir)):
            del policy["cache_size"]
            self._remarks.append(
                f"its cache_size was {size >> 20} MiB, but {self._wanted.cache_dir} has {free >> 20} MiB "
                "free: the default is used until you set another"
            )
        return policy


def _taken_over(source: Source) -> Head:
    metadata = open_index(source)
    try:
        return metadata.head
    finally:
        metadata.close()


def _refuse_if_known(wanted: Recovery, header: VolumeHeader, known: Mapping[str, VolumeEntry]) -> None:
    """Raise unless the volume may be recovered under this name."""
    name, volume_id = wanted.name, header.volume_id.hex()
    entry = known.get(name)
    if wanted.until is not None and name == header.name:
        raise Invalid(
            f"{name!r} is the name of the volume itself: give the older state another one, such as "
            f"{name[:59]}-old"
        )
    if wanted.until is None and name != header.name:
        raise Invalid(
            f"{wanted.store.url} holds volume {header.name!r}, not {name!r}: recover it under its own name, "
            "or check the address"
        )
    if entry is not None and entry.volume_id != volume_id:
        raise Exists(
            f"volume {name!r} of this host is another one (in {entry.store.url}): use another --state-dir"
        )
    if wanted.until is not None:
        if entry is not None and entry.fixed_at is None:
            raise Exists(f"volume {name!r} is on this host already: give the older state another name")
        return
    for other, one in known.items():
        if other != name and one.volume_id == volume_id and one.fixed_at is None:
            raise Exists(f"the volume is on this host already, as {other!r}: mount that")
    if entry is not None and _has_index(wanted.paths.meta_dir):
        raise Exists(
            f"volume {name!r} is on this host already: fusegw mount goes on with it, and rebuilds its index "
            f"if it must. To take it from the store alone, first move {wanted.paths.volume_dir} away"
        )


@contextmanager
def _nothing_left(wanted: Recovery, registry: Registry) -> Iterator[None]:
    """When the block fails, what it made of a volume that this host did not know is gone again."""
    paths = wanted.paths
    made = [place for place in (paths.volume_dir, *paths.volume_dir.parents[:2]) if not place.exists()]
    had_index = _has_index(paths.meta_dir)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for name in ("recovered", "recovered.recovering"):
                shutil.rmtree(paths.volume_dir / name, ignore_errors=True)
            if made and not had_index and wanted.name not in registry.volumes():
                shutil.rmtree(paths.meta_dir, ignore_errors=True)
                paths.lock_file.unlink(missing_ok=True)
                for place in made:
                    place.rmdir()
        raise


def _has_index(meta_dir: Path) -> bool:
    return meta_dir.is_dir() and any(meta_dir.iterdir())


def _free_bytes(directory: Path) -> int:
    """Room on the disk where `directory` is, or is going to be."""
    while not directory.exists():
        directory = directory.parent
    figures = os.statvfs(directory)
    return figures.f_bavail * figures.f_frsize
