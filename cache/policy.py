"""Which clean block goes first: S3-FIFO over blocks, in compact arrays.

New blocks enter a small queue (a tenth of what is resident, at least 64 blocks or half, so that what
was read ahead is still there when its reader arrives). Leaving it, a block that was read
again goes to the main queue, any other is evicted and leaves a 32-bit trace in a ghost table; a
block whose trace is found when it comes back enters the main queue at once. The main queue is a
FIFO with second chances (a count of 0–3, lowered at each round). So a scan, however long, passes
through the small queue and leaves the main queue alone.

One backup reader asks for each block several times in a row (a block holds several records, a
record is read in several requests). Such a burst counts as one use: a block among the last
`window` blocks used earns nothing by further hits. Without it every scan would look hot.

Memory: 17 bytes per resident block, 4 per block of capacity for the ghost table, and about 550 bytes per
pack for its record: 40 bytes per MiB cached with blocks of 1 MiB and packs of 32 MiB.

No I/O and no lock of its own; the cache's lock guards it.
"""

from array import array
from collections import deque

_SMALL = 0
_MAIN = 1
FIRST_SLOT = 2
"""Slots 0 and 1 are the heads of the two queues, so 0 and 1 never name a block."""

_FREQUENCY = 0x03
_IN_MAIN = 0x04
_RECENT = 0x08

_WAYS = 4
_SMALL_BLOCKS = 64


class S3Fifo:
    """The order of eviction for up to about `capacity_blocks` blocks (a hint: it sizes the ghost table)."""

    def __init__(self, capacity_blocks: int, *, window: int | None = None) -> None:
        """`window` blocks used last earn nothing by hits (default: a sixteenth of the capacity, 2 to 64)."""
        self._marks = bytearray(FIRST_SLOT)
        self._keys = array("Q", [0, 0])
        self._next = array("I", [_SMALL, _MAIN])
        self._previous = array("I", [_SMALL, _MAIN])
        self._free = array("I")
        self._counts = [0, 0]
        self._window = max(2, min(64, capacity_blocks // 16)) if window is None else window
        self._recent: deque[int] = deque()
        self._buckets = max(1, capacity_blocks // _WAYS)
        self._ghost = array("I", bytes(4 * _WAYS * self._buckets))

    def __len__(self) -> int:
        """Resident blocks."""
        return self._counts[_SMALL] + self._counts[_MAIN]

    def insert(self, key: int, fingerprint: int, *, proven: bool = False) -> int:
        """A block became resident; returns its slot. `key` < 2**64 comes back from `evict`.

        `proven` puts it into the main queue at once.
        """
        if self._free:
            slot = self._free.pop()
        else:
            slot = len(self._keys)
            self._keys.append(0)
            self._next.append(0)
            self._previous.append(0)
            self._marks.append(0)
        self._keys[slot] = key
        self._marks[slot] = 0
        self._link(slot, _MAIN if self._recall(fingerprint) or proven else _SMALL)
        self._remember(slot)
        return slot

    def restore(self, keys: range) -> range:
        """Blocks that survived a restart join the main queue (they had earned a place); their slots."""
        first, count = len(self._keys), len(keys)
        slots = range(first, first + count)
        last = self._previous[_MAIN]
        self._keys.extend(keys)
        self._marks.extend(bytes([_IN_MAIN]) * count)
        self._next.extend(slots[1:])
        self._next.append(_MAIN)
        self._previous.append(last)
        self._previous.extend(slots[:-1])
        self._next[last] = first
        self._previous[_MAIN] = slots[-1]
        self._counts[_MAIN] += count
        return slots

    def touch(self, slot: int) -> None:
        """The block in `slot` was read."""
        marks = self._marks[slot]
        if not marks & _RECENT:
            if marks & _FREQUENCY < _FREQUENCY:
                self._marks[slot] = marks + 1
            self._remember(slot)

    def remove(self, slot: int) -> None:
        """The block is gone for a reason of its own (invalid, discarded)."""
        self._unlink(slot)
        self._free.append(slot)

    def evict(self) -> int | None:
        """Choose a block and forget it: its key, or None if nothing is resident.

        The caller reports the eviction by `bury` when the block is really gone.
        """
        while True:
            small, main = self._counts
            resident = small + main
            if not resident:
                return None
            if small and (not main or small >= max(resident // 10, min(_SMALL_BLOCKS, resident // 2))):
                slot = self._next[_SMALL]
                if not self._marks[slot] & _FREQUENCY:
                    break
                self._unlink(slot)
                self._marks[slot] &= ~_FREQUENCY
                self._link(slot, _MAIN)
            else:
                slot = self._next[_MAIN]
                if not self._marks[slot] & _FREQUENCY:
                    break
                self._unlink(slot)
                self._marks[slot] -= 1
                self._link(slot, _MAIN)
        key = self._keys[slot]
        self.remove(slot)
        return key

    def bury(self, fingerprint: int) -> None:
        """Leave a trace of an evicted block, in place of the oldest trace of its bucket."""
        ghost, base = self._ghost, fingerprint % self._buckets * _WAYS
        ghost[base + 1 : base + _WAYS] = ghost[base : base + _WAYS - 1]
        ghost[base] = self._trace(fingerprint)

    def _recall(self, fingerprint: int) -> bool:
        base = fingerprint % self._buckets * _WAYS
        trace = self._trace(fingerprint)
        for place in range(base, base + _WAYS):
            if self._ghost[place] == trace:
                self._ghost[place] = 0
                return True
        return False

    def _trace(self, fingerprint: int) -> int:
        return (fingerprint >> 32) or 1

    def _remember(self, slot: int) -> None:
        """Open the burst of `slot`; the oldest open burst ends."""
        self._marks[slot] |= _RECENT
        self._recent.append(slot)
        if len(self._recent) > self._window:
            # The slot may hold another block by now: then that one may earn a use a little early.
            self._marks[self._recent.popleft()] &= ~_RECENT

    def _link(self, slot: int, queue: int) -> None:
        last = self._previous[queue]
        self._next[last] = slot
        self._previous[slot] = last
        self._next[slot] = queue
        self._previous[queue] = slot
        self._counts[queue] += 1
        if queue == _MAIN:
            self._marks[slot] |= _IN_MAIN

    def _unlink(self, slot: int) -> None:
        before, after = self._previous[slot], self._next[slot]
        self._next[before] = after
        self._previous[after] = before
        self._counts[_MAIN if self._marks[slot] & _IN_MAIN else _SMALL] -= 1
