"""The log as a chain in the store: following it segment by segment, and telling its end from a gap.

Segments below the oldest kept checkpoint are pruned, except takeovers; so a gap below a checkpoint is in
order, and any other is damage.
"""

from fusegw.errors import Corrupt, NotFound
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.schema import Head
from fusegw.ship import checkpoint, segment
from fusegw.ship.segment import SEGMENT_BYTES_MAX, Segment
from fusegw.store.base import ObjectStore


class Pruned(Corrupt):
    """The log goes on, but what follows here is not kept any more: begin with a checkpoint."""


class LogReader:
    """Follows the chain of segments from a place in it."""

    def __init__(self, store: ObjectStore, keys: VolumeKeys, at: Head) -> None:
        self._store = store
        self._keys = keys
        self.at = at
        """The newest segment read; its `commit` means nothing here."""
        self.nbytes = 0

    def next(self, *, look_for_gap: bool = True) -> Segment | None:
        """The next segment, None at the end of the log. Blocking. Corrupt names what does not fit,
        Pruned what is not kept any more.

        Whether a later one is there though the next is not takes a listing; without `look_for_gap` that is
        not asked.
        """
        try:
            data = self._store.get(segment.object_key(self.at.seq + 1), size_max=SEGMENT_BYTES_MAX)
        except NotFound:
            if look_for_gap:
                refuse_gap(self._store, self.at.seq)
            return None
        found = segment.unseal(data, self.at, self._keys)
        self.at = Head(found.seq, segment.digest(data), found.epoch, 0)
        self.nbytes += len(data)
        return found


def refuse_gap(store: ObjectStore, seq: int) -> None:
    """Blocking: Corrupt when segment `seq` + 1 is missing though a later one is there, Pruned when a
    checkpoint lies behind the gap."""
    missing = segment.object_key(seq + 1)
    after = next(store.list("log/", start_after=segment.object_key(seq)), None)
    if after is None or after.key <= missing:
        return
    # Keys of checkpoints sort as their positions.
    behind = next(store.list(checkpoint.PREFIX, start_after=f"{checkpoint.PREFIX}{seq + 1:016d}"), None)
    if behind is not None:
        raise Pruned(
            f"log segment {missing} is not in {store.url} any more, {after.key} is, and {behind.key}: "
            "what is older than that checkpoint was given up"
        )
    raise Corrupt(
        f"log segment {missing} is missing from {store.url}, though {after.key} is there; restore it from "
        "another copy of the store"
    )
