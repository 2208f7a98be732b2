"""How far back the store still tells of the volume: what only older positions need may be deleted.

A position can be recovered from a checkpoint at or before it and the log after that, or from the log alone
as long as its beginning is there. So nothing before the oldest folder of a checkpoint can, once one
checkpoint counts and the log's unbroken beginning up to there has nothing but takeovers in it.
"""

from fusegw.errors import Corrupt, NotFound, UnknownFormat
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.ship import segment
from fusegw.ship.checkpoints import Folder, examine, folders
from fusegw.ship.segment import SEGMENT_BYTES_MAX, TAKEOVER
from fusegw.store.base import ObjectStore


def oldest_kept(store: ObjectStore, keys: VolumeKeys) -> int:
    """Blocking: the segment before which no position can be recovered any more; 0 when even the first ones
    can, or when that cannot be told. Raises what the store raises.

    A folder without a manifest counts as a checkpoint here: somebody may be writing it.
    """
    there = folders(store)
    if not any(_counts(store, keys, folder) for folder in there):
        return 0
    oldest = min(folder.name.seq for folder in there)
    return 0 if _tells_of_changes(store, keys, oldest) else oldest


def _counts(store: ObjectStore, keys: VolumeKeys, folder: Folder) -> bool:
    try:
        examine(store, keys, folder)
    except (Corrupt, UnknownFormat):
        return False
    return True


def _tells_of_changes(store: ObjectStore, keys: VolumeKeys, below: int) -> bool:
    """Whether the log's unbroken beginning up to segment `below` tells of anything, or cannot be read."""
    for seq in range(1, below):
        try:
            data = store.get(segment.object_key(seq), size_max=SEGMENT_BYTES_MAX)
            found, _ = segment.opened(data, seq, keys)
        except NotFound:
            return False
        except (Corrupt, UnknownFormat):
            return True
        if found.kind != TAKEOVER:
            return True
    return False
