"""Block arithmetic and the record of one pack file: no I/O, no locks.

A pack file is cut into blocks of `block_bytes`; the last one may be short. `PackFile.slots` holds
one number per block: ABSENT, BUSY (being filled or freed right now) or the policy's slot number
(≥ 2) of a clean block. A pinned file has no slots: all of it is present.
"""

from array import array
from collections.abc import Iterator, Sequence

ALLOCATION_BYTES = 4096
"""Unit in which space on disk is counted."""

ABSENT = 0
BUSY = 1

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def allocated(length: int) -> int:
    """`length` bytes as they count on disk."""
    return (length + ALLOCATION_BYTES - 1) & -ALLOCATION_BYTES


def runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending block numbers as (first, end) stretches without a gap."""
    start = 0
    for position in range(1, len(blocks) + 1):
        if position == len(blocks) or blocks[position] != blocks[position - 1] + 1:
            yield blocks[start], blocks[position - 1] + 1
            start = position


class PackFile:
    """What the cache knows of one pack file. The cache's lock guards every field."""

    __slots__ = (
        "block_bytes", "busy", "dying", "epoch", "handle", "name", "pinned", "present", "serial", "size",
        "slots", "writing",
    )  # fmt: skip

    def __init__(self, name: str, serial: int, block_bytes: int) -> None:
        self.name = name
        self.serial = serial
        """Identifies the record in the policy's keys; never reused while the cache is open."""
        self.block_bytes = block_bytes
        self.size = 0
        """Pinned: its accounted size. Clean: the highest end seen so far, at most the pack's size."""
        self.slots = array("I")
        self.present = 0
        """Clean blocks."""
        self.busy = 0
        """BUSY blocks."""
        self.pinned = False
        self.writing = False
        """A writer holds the descriptor of `handle`."""
        self.dying = False
        """Being unlinked: nothing may be read from it or filled into it any more."""
        self.epoch = 0
        """Goes up before any of its bytes are freed; a read that sees it change did not happen."""
        self.handle: Handle | None = None

    def slot(self, block: int) -> int:
        return self.slots[block] if block < len(self.slots) else ABSENT

    def extend(self, blocks: int) -> None:
        """Have room for that many block numbers."""
        if blocks > len(self.slots):
            self.slots.extend([ABSENT] * (blocks - len(self.slots)))

    def blocks_in(self, end: int) -> int:
        """How many blocks the first `end` bytes touch."""
        return -(-end // self.block_bytes)

    def charge(self, block: int) -> int:
        """Bytes on disk of one whole block of this file."""
        return allocated(min(self.block_bytes, self.size - block * self.block_bytes))

    def short_block(self) -> int | None:
        """The present block that is only whole if the file really ends at `size`."""
        if self.pinned or self.size % self.block_bytes == 0:
            return None
        last = self.size // self.block_bytes
        return last if self.slot(last) != ABSENT else None

    def fingerprint(self, block: int) -> int:
        """64 bits that stand for this block also after the record is gone."""
        return (int(self.name[:16], 16) + (block + 1) * _GOLDEN) & _MASK


class Handle:
    """An open descriptor and how many calls use it right now."""

    __slots__ = ("fd", "file", "retired", "users")

    def __init__(self, fd: int, file: PackFile) -> None:
        self.fd = fd
        self.file = file
        self.users = 0
        self.retired = False
        """Its file is gone: close it with the last user."""
