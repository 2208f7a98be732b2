"""Checkpoints in the store: which there are, whether they count, writing one, reading one.

A checkpoint counts when its manifest is authentic, all its parts are there, and it fits the log: the segment
of its position is there with the hash it names, or the one after that names this hash as the one before.

Writing puts the parts in order and the manifest last; each attempt has a folder of its own, so no object is
ever written twice. A crash at any step leaves a folder that counts for nothing, until a later pass
(`fusegw.ship.retention`) takes it away.
"""

from collections.abc import Callable, Generator

import msgspec

from fusegw.clock import Entropy
from fusegw.errors import Corrupt, Exists, NotFound, UnknownFormat
from fusegw.keys.hierarchy import SALT_SIZE, VolumeKeys
from fusegw.meta.dump import dump, row_counts
from fusegw.meta.schema import Head
from fusegw.meta.view import View
from fusegw.packs.format import NONCE_SIZE
from fusegw.ship import checkpoint, segment
from fusegw.ship.checkpoint import MANIFEST, OBJECT_BYTES_MAX, PARTS_MAX, Manifest, Name, PartEntry
from fusegw.store.base import ObjectStore


class Folder(msgspec.Struct, frozen=True):
    """What the store holds under one checkpoint's name."""

    name: Name
    sizes: dict[int, int]
    """Bytes of each object by its number."""

    @property
    def finished(self) -> bool:
        """Whether there is a manifest; it is the last to be written and the first to be deleted."""
        return MANIFEST in self.sizes


class Written(msgspec.Struct, frozen=True):
    """A checkpoint that counts."""

    name: Name
    manifest: Manifest


def folders(store: ObjectStore) -> list[Folder]:
    """Blocking: all that looks like a checkpoint, the newest position first."""
    found: dict[Name, dict[int, int]] = {}
    for entry in store.list(checkpoint.PREFIX):
        place = checkpoint.Name.of_key(entry.key)
        if place is not None:
            found.setdefault(place[0], {})[place[1]] = entry.size
    return [Folder(name, found[name]) for name in sorted(found, reverse=True)]


def examine(store: ObjectStore, keys: VolumeKeys, folder: Folder) -> Written:
    """Blocking: the checkpoint in `folder`, if it counts; Corrupt or UnknownFormat name what is wrong."""
    name = folder.name
    what = checkpoint.describe(name, MANIFEST)
    if not folder.finished:
        raise Corrupt(f"{what} is missing: the checkpoint was never finished, or the manifest was lost")
    manifest = checkpoint.unseal_manifest(_get(store, name, MANIFEST, OBJECT_BYTES_MAX), name, keys)
    for number, part in enumerate(manifest.parts, 1):
        if folder.sizes.get(number) != part.size:
            found = f"{folder.sizes[number]} bytes" if number in folder.sizes else "not there"
            raise Corrupt(f"{checkpoint.describe(name, number)} is {found}, {part.size} bytes expected")
    _refuse_misfit(store, keys, checkpoint.head_of(name, manifest), what)
    return Written(name, manifest)


def read_part(store: ObjectStore, keys: VolumeKeys, written: Written, number: int) -> bytes:
    """Blocking: the records in part `number`; Corrupt when it is not what the manifest names."""
    entry = written.manifest.parts[number - 1]
    data = _get(store, written.name, number, entry.size)
    if checkpoint.digest(data) != entry.hash:
        raise Corrupt(f"{checkpoint.describe(written.name, number)} is not what its manifest names")
    return checkpoint.unseal_part(data, written.name, number, keys)


def write(
    view: View,
    head: Head,
    store: ObjectStore,
    keys: VolumeKeys,
    entropy: Entropy,
    *,
    still_ours: Callable[[], None],
    part_bytes: int = checkpoint.PART_BYTES,
) -> Generator[Written | None, None, None]:
    """Blocking, step by step: write what `view` shows, the state after segment `head`. Yields None after each
    object but the last, then the checkpoint.

    `still_ours` raises when this gateway must not write any more; it is asked before the manifest is put.
    Corrupt when the index or the log is damaged.
    """
    time_ns = _sealed_at(store, keys, head)
    name = Name(head.seq, entropy.token(checkpoint.RANDOM_SIZE))
    parts: list[PartEntry] = []
    raw_bytes = 0

    def secrets() -> dict[str, bytes]:
        return {"salt": entropy.token(SALT_SIZE), "nonce": entropy.token(NONCE_SIZE)}

    for number, records in enumerate(dump(view, part_bytes), 1):
        if number > PARTS_MAX:
            raise Corrupt(f"the metadata does not fit into {PARTS_MAX} parts of a checkpoint")
        data = checkpoint.seal_part(records, name, number, keys, **secrets())
        raw_bytes += len(records)
        parts.append(PartEntry(len(data), checkpoint.digest(data)))
        _put(store, checkpoint.object_key(name, number), data)
        yield None
    manifest = Manifest(head.epoch, head.hash, time_ns, parts, raw_bytes, row_counts(view))
    data = checkpoint.seal_manifest(manifest, name, keys, **secrets())
    still_ours()
    _put(store, checkpoint.object_key(name, MANIFEST), data)
    yield Written(name, manifest)


def _sealed_at(store: ObjectStore, keys: VolumeKeys, head: Head) -> int:
    """When the segment of `head` was sealed; Corrupt unless it is in the store, as we know it."""
    data = store.get(segment.object_key(head.seq), size_max=segment.SEGMENT_BYTES_MAX)
    if segment.digest(data) != head.hash:
        raise Corrupt(f"log segment {segment.object_key(head.seq)} is not the one that was put there")
    found, _ = segment.opened(data, head.seq, keys)
    return found.time_ns


def _refuse_misfit(store: ObjectStore, keys: VolumeKeys, at: Head, what: str) -> None:
    key = segment.object_key(at.seq)
    try:
        if segment.digest(store.get(key, size_max=segment.SEGMENT_BYTES_MAX)) == at.hash:
            return
    except (NotFound, Corrupt):
        pass  # the one after it tells as well
    try:
        after = store.get(segment.object_key(at.seq + 1), size_max=segment.SEGMENT_BYTES_MAX)
        segment.unseal(after, at, keys)
    except (NotFound, Corrupt, UnknownFormat):
        raise Corrupt(
            f"{what} does not fit the log: {key} is not the segment with hash {at.hash.hex()}"
        ) from None


def _get(store: ObjectStore, name: Name, number: int, size_max: int) -> bytes:
    try:
        return store.get(checkpoint.object_key(name, number), size_max=size_max)
    except NotFound:
        raise Corrupt(f"{checkpoint.describe(name, number)} is missing") from None


def _put(store: ObjectStore, key: str, data: bytes) -> None:
    try:
        store.put(key, data, create_only=True)
    except Exists:
        # The reply to an earlier try was lost.
        if store.get(key, size_max=len(data)) != data:
            raise Corrupt(f"object {key} holds other bytes than were put there") from None
