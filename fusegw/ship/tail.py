"""An index that goes along with the store's log: each step brings it from one shipped position to the next.

The next whole position is read, authenticated and applied in one transaction, so what the index holds is a
position that existed, whatever happens. Nothing is written to the store.
"""

from itertools import islice

from fusegw.errors import Invalid, NotFound, Unavailable
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.metadata import Metadata
from fusegw.meta.rebuild import Changed, Rebuild
from fusegw.meta.schema import Head
from fusegw.ship import segment
from fusegw.ship.chain import LogReader
from fusegw.ship.segment import CHANGES, SEGMENT_BYTES_MAX
from fusegw.store.base import ObjectStore

BEHIND_MAX = 10_000
"""Segments that are counted."""


class Tail:
    """The index and its place in the log. Blocking; one call at a time."""

    def __init__(self, metadata: Metadata, store: ObjectStore, keys: VolumeKeys, head: Head) -> None:
        self._metadata = metadata
        self._store = store
        self._keys = keys
        self.position = head
        """Where the index is."""
        self._reader = LogReader(store, keys, head)

    @property
    def tip(self) -> Head:
        """The newest segment that was read: beyond `position` while a step's last part is not there yet."""
        return self._reader.at

    def advance(self, *, look_for_gap: bool) -> Changed | None:
        """Bring the index to the next position; None when the store has none yet.

        With `look_for_gap` it is made sure that the log ends here: that nothing later is there, and that the
        store still has the newest segment that was read.

        Corrupt (Pruned), UnknownFormat, Full, Invalid (the store went back), and what the store raises: then
        it is where it was.
        """
        try:
            while (found := self._reader.next(look_for_gap=look_for_gap)) is not None:
                if found.final:
                    return self._apply(found)
            if look_for_gap:
                self._refuse_if_set_back()
        except BaseException:
            self._reader = LogReader(self._store, self._keys, self.position)
            raise
        return None

    def behind(self) -> int:
        """Segments in the store that are not in the index, `BEHIND_MAX` at most."""
        after = segment.object_key(self.position.seq)
        return sum(1 for _ in islice(self._store.list("log/", start_after=after), BEHIND_MAX))

    def _refuse_if_set_back(self) -> None:
        """The newest segment of a log is never given up."""
        at = self._reader.at
        if not at.seq:
            return
        key = segment.object_key(at.seq)
        try:
            if segment.digest(self._store.get(key, size_max=SEGMENT_BYTES_MAX)) == at.hash:
                return
            found = "has another one"
        except NotFound:
            found = "does not have it any more"
        raise Invalid(
            f"log segment {key} (epoch {at.epoch}, hash {at.hash.hex()}) was read from {self._store.url}, "
            f"which {found}: the store was set back, emptied or exchanged"
        )

    def _apply(self, last: segment.Segment) -> Changed:
        """A step of several parts is read twice, once to see its end: memory holds one part at a time."""
        changed = Changed()
        step = Rebuild(self._metadata, changed)
        try:
            if last.kind == CHANGES:
                parts = LogReader(self._store, self._keys, self.position)
                while parts.at.seq + 1 < last.seq:
                    part = parts.next()
                    if part is None:
                        raise Unavailable(f"segment {parts.at.seq + 1} of the log was there a moment ago")
                    step.apply(part.body, f"log segment {segment.object_key(part.seq)}")
                step.apply(last.body, f"log segment {segment.object_key(last.seq)}")
            step.finish(self._reader.at)
        finally:
            step.abandon()
        self.position = self._reader.at
        return changed
