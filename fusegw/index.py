"""The index of a volume, opened: found as it is in the store, or rebuilt from there, and in a new epoch.

Order for writing: the index on this host is compared with the store's log; then a takeover segment begins the
new epoch. When the log went on without the index, it catches up first, and as often as another writer is
faster: that costs what the other one wrote meanwhile, so a busy writer does not keep a new one off. Where
there is no index, or one that cannot catch up, it is rebuilt from the store. Nothing in the store is changed
before the comparison. An index with changes that never reached the store is set aside with the packs it
needs, never deleted.
"""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from cache.disk import Disk, OsDisk
from fusegw.clock import Clock, Entropy
from fusegw.config import UNSENT_PREFIX, Tuning
from fusegw.errors import Busy, Corrupt, FusegwError, Invalid, NotFound
from fusegw.identity import Identity, record_identity
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import STATE, STATE_SCHEMA, STATE_VOLUME_ID
from fusegw.schedule import SnapshotSchedule
from fusegw.ship.accession import catch_up_and_take_over
from fusegw.ship.chain import Pruned, refuse_gap
from fusegw.ship.recover import recover
from fusegw.ship.resume import unstored_names
from fusegw.ship.segment import SEGMENT_BYTES_MAX, digest, object_key
from fusegw.ship.takeover import Superseded, admit, continued, take_over
from fusegw.store.base import ObjectStore
from fusegw.vfs.fresh import create_volume_root
from fusegw.vfs.reading import DECODED_BYTES_MAX

log = logging.getLogger(__name__)
_REBUILDS = 5
"""Of the index, before the mount gives up."""


class _Empty(Invalid):
    """The index holds no volume."""


class Source(msgspec.Struct, frozen=True):
    """What a volume is made from."""

    store: ObjectStore
    keys: VolumeKeys
    meta_dir: Path
    cache_dir: Path
    """This volume's own."""
    cache_size_bytes: int
    tuning: Tuning
    clock: Clock
    entropy: Entropy
    free_bytes: Callable[[], int]
    """How much more the store can take."""
    disk: Disk = msgspec.field(default_factory=OsDisk)
    codecs: trio.CapacityLimiter | None = None
    """Threads that cut, compress and seal, if they are shared with other volumes."""
    decoded_bytes_max: int = DECODED_BYTES_MAX
    """Chunks kept decoded for readers."""
    unmount_wait_s: float = 300.0
    """Longest time an orderly end waits for uploads that get on."""
    writer: str = "a gateway"
    """Who this is, for other gateways to read in the log."""
    identity: Identity | None = None
    """What a read-write mount records of the gateway in the volume; None: nothing."""
    snapshots: SnapshotSchedule | None = None
    """What the configuration says of snapshots made by themselves; None: what the volume says counts."""
    read_only: bool = False
    """Change neither the index nor the store; whoever uses the volume must not ask for changes."""
    fixed_at: int | None = None
    """The index is an older state, as of this segment of the log, and stays so; `read_only` then."""
    follow: bool = False
    """With `read_only`: the index is brought to where the store's log goes; the store is not changed."""


def open_index(source: Source) -> Metadata:
    """Blocking: the index, for writing in a new epoch, or as it is for reading.

    Busy (in use, or others keep taking over), Invalid (never written and read-only; another volume's; the
    store went back in time), Corrupt, UnknownFormat, or what the store raises.
    """
    if source.follow:
        return _opened_to_follow(source)
    if source.read_only:
        return _opened(source)
    for _ in range(_REBUILDS):
        _rebuild_if_missing(source)
        metadata = _opened(source)
        try:
            _begin_reign(metadata, source)
            _create_if_new(metadata, source)
            if source.identity is not None:
                record_identity(metadata, source.identity)
        except Superseded as error:
            log.warning("the index on this host is not the newest, rebuilding it from the store: %s", error)
            _retire(metadata, source)
        except BaseException:
            metadata.close()
            raise
        else:
            return metadata
    raise Busy(f"other gateways keep taking over the volume in {source.store.url}: use one gateway only")


def _begin_reign(metadata: Metadata, source: Source) -> None:
    """A new epoch, at the end of the log. Superseded when the index cannot be brought there; Busy."""
    store, keys = source.store, source.keys
    writer, clock, entropy = source.writer, source.clock, source.entropy
    try:
        head = admit(metadata, store, keys, metadata.head)
        take_over(metadata, store, keys, head, writer=writer, clock=clock, entropy=entropy)
    except Superseded as error:
        metadata.renew()
        if _has_unsent(metadata) or unstored_names(metadata):
            raise
        log.info("the log went on without the index on this host, catching up: %s", error)
        catch_up_and_take_over(metadata, store, keys, writer=writer, clock=clock, entropy=entropy)
    finally:
        metadata.renew()


def _opened_to_follow(source: Source) -> Metadata:
    """The index at a position of the store's log; rebuilt when it is at none, or what follows was given up.

    What was being written when this host was the writer is set aside, never shown.
    """
    metadata = _opened_or_rebuilt(source)
    try:
        why, is_old = _unfit(metadata, source)
        if why is None:
            return metadata
        log.warning("the index on this host cannot follow the log, rebuilding it from the store: %s", why)
        # Beside the old one, which stays when the store does not yield another.
        rebuilt = source.meta_dir.with_name(source.meta_dir.name + ".rebuilt")
        shutil.rmtree(rebuilt, ignore_errors=True)
        try:
            _recover(source, rebuilt)
        except Corrupt as error:
            if not is_old:
                raise
            log.error("that does not work, going on with the older state that is here: %s", error)
            return metadata
    except BaseException:
        metadata.close()
        raise
    _retire(metadata, source)
    rebuilt.rename(source.meta_dir)
    return _opened(source)


def _opened_or_rebuilt(source: Source) -> Metadata:
    """The index, which holds a volume; one that was built before there was one is built once more."""
    for _ in range(2):
        _rebuild_if_missing(source)
        try:
            return _opened(source)
        except _Empty:
            shutil.rmtree(source.meta_dir)
    raise Invalid(
        f"{source.store.url} holds nothing of the volume yet: mount it for writing, and try again when that "
        "gateway has shipped something (fusegw sync --wait)"
    )


def _unfit(metadata: Metadata, source: Source) -> tuple[str | None, bool]:
    """Why the index cannot follow the store's log, None when it can; and whether it is an old state of the
    log nevertheless."""
    head, store = metadata.head, source.store
    if _has_unsent(metadata) or unstored_names(metadata):
        return "it has changes that are not in the store", False
    key = object_key(head.seq)
    try:
        if digest(store.get(key, size_max=SEGMENT_BYTES_MAX)) != head.hash:
            return f"the store has another {key}", False
    except NotFound:
        if not continued(store, head, source.keys) and not _is_pruned(store, head.seq):
            return f"the store does not have {key}", False
    if _is_pruned(store, head.seq):
        return "the log after it was given up", True
    return None, False


def _is_pruned(store: ObjectStore, seq: int) -> bool:
    """Whether a checkpoint must be used to go on from segment `seq`. For other gaps the follower tells."""
    try:
        refuse_gap(store, seq)
    except Pruned:
        return True
    except Corrupt:
        pass
    return False


def _opened(source: Source) -> Metadata:
    metadata = Metadata(
        source.meta_dir, size_max_bytes=source.tuning.metadata_limit_bytes, clock=source.clock
    )
    try:
        found = metadata.get(STATE, STATE_VOLUME_ID)
        if found is None and source.fixed_at is not None:
            raise Invalid(
                f"the metadata in {source.meta_dir} is empty: recover this state once more, with "
                f"fusegw recover --at {source.fixed_at}"
            )
        if found is None and source.read_only:
            raise _Empty(f"the metadata in {source.meta_dir} is empty: mount the volume for writing first")
        if found is not None and found != source.keys.volume_id:
            raise Invalid(
                f"the metadata in {source.meta_dir} belongs to volume {found.hex()}, the store holds volume "
                f"{source.keys.volume_id.hex()}; check the store's address and the state directory"
            )
    except BaseException:
        metadata.close()
        raise
    return metadata


def retire_index(source: Source) -> None:
    """Blocking: take the index on this host out of the way, if there is one; what only it has is kept."""
    if _has_index(source):
        _retire(_opened(source), source)


def _has_index(source: Source) -> bool:
    return source.meta_dir.is_dir() and any(source.meta_dir.iterdir())


def _rebuild_if_missing(source: Source) -> None:
    """A host that has no index (a new one, or one that lost it) gets it from the log, if there is one."""
    if _has_index(source):
        return
    if next(source.store.list("log/"), None) is None:
        if next(source.store.list("packs/"), None) is not None:
            raise NotFound(
                f"{source.store.url} holds packs but no log, and {source.meta_dir} is empty: nothing says "
                "which files they belong to; restore log/ in the store, or the state directory, from a copy"
            )
    else:
        _recover(source, source.meta_dir)


def _recover(source: Source, place: Path) -> None:
    found = recover(
        place,
        source.store,
        source.keys,
        metadata_limit_bytes=source.tuning.metadata_limit_bytes,
        clock=source.clock,
    )
    log.info(
        "rebuilt the index at segment %d (epoch %d) of the log, from checkpoint %s and %d segments",
        *(found.head.seq, found.head.epoch, found.checkpoint, found.segments),
    )


def _create_if_new(metadata: Metadata, source: Source) -> None:
    if metadata.number(STATE_SCHEMA):
        return
    with metadata.change() as change:
        create_volume_root(
            change,
            volume_id=source.keys.volume_id,
            epoch=metadata.head.epoch,
            clock=source.clock,
            uid=os.geteuid(),
            gid=os.getegid(),
            mode=0o755,
        )
    metadata.freeze()
    metadata.save()
    metadata.saved()


def _has_unsent(metadata: Metadata) -> bool:
    return metadata.commit_number > metadata.head.commit


def _retire(metadata: Metadata, source: Source) -> None:
    """Take the index out of the way; with changes that only it has, it is kept, and their packs with it."""
    unsent = _has_unsent(metadata)
    packs = unstored_names(metadata)
    metadata.close()
    if not unsent:
        shutil.rmtree(source.meta_dir)
        return
    place = source.meta_dir.with_name(f"{UNSENT_PREFIX}{source.clock.time_ns()}")
    try:
        place.mkdir(mode=0o700)
        # The packs first: while the index is in its place, a mount that is cut off here sets aside again.
        for name in packs:
            file = source.cache_dir / "packs" / name[:2] / name
            if file.exists():
                shutil.move(file, place / name)
        os.sync()
        source.meta_dir.rename(place / "meta")
    except OSError as error:
        raise FusegwError(
            f"changes of this host that never reached the store cannot be set aside in {place}: {error}; "
            "free space there, or check its disk, and try again"
        ) from None
    log.error(
        "changes of this host that never reached the store are kept in %s; to write their files out: "
        "fusegw salvage %s DIRECTORY",
        place,
        source.meta_dir.parent.name,
    )
