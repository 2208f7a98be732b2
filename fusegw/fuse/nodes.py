"""Node ids: what the kernel calls an inode of the volume.

A node id is the volume's number (8 bits) | a snapshot's slot (16 bits, 0 for the present) | the inode (40
bits), so that one process can show several volumes and all their snapshots. The root of the mount is 1, as
FUSE demands: the root of the volume that is mounted alone, or the directory of all volumes, whose roots then
keep their own number and inode. A node id that was not made here (a stale or forged NFS handle) is ESTALE.
"""

import errno

from fusegw.meta.schema import INODE_MAX, ROOT_INODE

ROOT_NODE = 1
VOLUME_SHIFT = 56
WITHIN_VOLUME = (1 << VOLUME_SHIFT) - 1
"""The part of a node id that the volume itself understands."""


class NodeIds:
    """The translation for the present state of one volume."""

    def __init__(self, volume_number: int, *, alone: bool = True) -> None:
        """`alone`: the volume's root is the root of the mount."""
        self._present = volume_number << VOLUME_SHIFT
        self.root_node = ROOT_NODE if alone else self._present | ROOT_INODE

    def node_of(self, ino: int) -> int:
        """What the kernel is told."""
        return self.root_node if ino == ROOT_INODE else self._present | ino

    def inode_of(self, node: int) -> int:
        """What the kernel means; OSError ESTALE for a number that names nothing here."""
        ino = node ^ self._present
        if ROOT_INODE < ino <= INODE_MAX:
            return ino
        if node == self.root_node:
            return ROOT_INODE
        raise OSError(errno.ESTALE, f"node {node:#x} belongs to another volume or to none")
