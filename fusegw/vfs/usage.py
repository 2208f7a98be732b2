"""How much data the volume holds: the running sum of all inodes' allocation, kept with the changes that
move it."""

from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.schema import STATE, STATE_BYTES, Inode


class Usage:
    """Logical bytes of one volume. Loop thread only."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self.reload()

    def reload(self) -> None:
        """The index was changed from outside: take over what it says."""
        self.nbytes = self._metadata.number(STATE_BYTES)

    def moved(self, change: Change, before: Inode, after: Inode | None) -> None:
        """An inode's row went from `before` to `after` (None: gone)."""
        delta = (after.allocated if after is not None else 0) - before.allocated
        if delta:
            self.nbytes += delta
            change.put(STATE, STATE_BYTES, self.nbytes.to_bytes(8, "big"))
