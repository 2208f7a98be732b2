"""Node ids and handles: what the kernel calls an inode of the volume, and what it has open of one.

A node id is the volume's number (8 bits) | a slot (16 bits) | the inode (40 bits), so that one process can
show several volumes and all their snapshots. Slot 0 is the present; those up to `SLOT_MAX` are snapshots;
with `VERSION_BIT` the same snapshots once more, as clients that ask for a time see them (a directory can be
in one place only, and they have theirs); the highest are the directories that hold the snapshots. The root of
the mount is 1, as FUSE demands: the root of the volume that is mounted alone, or the directory of all
volumes, whose roots then keep their own number and inode. A node id that was not made here (a stale or forged
NFS handle) is ESTALE. Handles are made alike.
"""

import errno

from fusegw.meta.schema import INODE_MAX, ROOT_INODE
from fusegw.meta.snapshot import SLOT_MAX, Snapshot

ROOT_NODE = 1
VOLUME_SHIFT = 56
SLOT_SHIFT = 40
WITHIN_SLOT = (1 << SLOT_SHIFT) - 1
"""The part of a node id or handle that is the inode."""
SLOT_BITS = VOLUME_SHIFT - SLOT_SHIFT
SLOT_MASK = (1 << SLOT_BITS) - 1
VERSION_BIT = 0x8000
SNAPSHOTS_SLOT = 0xF000
"""The directory of the snapshots by name."""
VERSIONS_SLOT = 0xF001
"""The directory of the snapshots by time."""
HANDLES_SLOT = 0xF100
"""Behind this one are those of handles that were opened after a rollback."""
HANDLE_TURNS = 0xE00
_EPOCH_SHIFT = 40
_SPREAD = 0x9E3779B1
_GENERATION = (1 << 32) - 1

assert SLOT_MAX | VERSION_BIT < SNAPSHOTS_SLOT and not SLOT_MAX & VERSION_BIT


class NodeIds:
    """The translation for one slot of one volume."""

    def __init__(self, volume_number: int, *, slot: int = 0, alone: bool = True) -> None:
        """`alone`: the root in the slot is the root of the mount."""
        self.base = (volume_number << SLOT_BITS | slot) << SLOT_SHIFT
        """What all its nodes and handles have above the inode."""
        self.root_node = ROOT_NODE if alone else self.base | ROOT_INODE

    def node_of(self, ino: int) -> int:
        """What the kernel is told."""
        return self.root_node if ino == ROOT_INODE else self.base | ino

    def inode_of(self, node: int) -> int:
        """What the kernel means; OSError ESTALE for a number that names nothing here."""
        ino = node ^ self.base
        if ROOT_INODE < ino <= INODE_MAX:
            return ino
        if node == self.root_node:
            return ROOT_INODE
        raise OSError(errno.ESTALE, f"node {node:#x} belongs to another volume or to none")


def generation_of(snapshot: Snapshot) -> int:
    """What tells nodes of the snapshot from those of others that had its slot before: its sequence, of which
    the kernel would keep the lowest 32 bits alone, and they begin anew in each epoch."""
    return (snapshot.seq + (snapshot.seq >> _EPOCH_SHIFT) * _SPREAD) & _GENERATION
