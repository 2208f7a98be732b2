"""The first rows of a new index: the volume's identity and an empty root directory."""

import stat

from fusegw.clock import Clock
from fusegw.meta.codec import encode_u64
from fusegw.meta.metadata import Change
from fusegw.meta.schema import (
    INODE,
    ROOT_INODE,
    SCHEMA_VERSION,
    STATE,
    STATE_BYTES,
    STATE_FILES,
    STATE_NEXT_INODE,
    STATE_SCHEMA,
    STATE_VOLUME_ID,
    Inode,
)
from fusegw.vfs.directories import DIRECTORY_SIZE


def create_volume_root(
    change: Change, *, volume_id: bytes, epoch: int, clock: Clock, uid: int, gid: int, mode: int
) -> Inode:
    """Put the rows of an empty volume: its state and its root, owned by uid:gid with permission bits
    `mode`.
    """
    now = clock.time_ns()
    root = Inode(
        ROOT_INODE, epoch, stat.S_IFDIR | mode & 0o7777, 2, uid, gid, DIRECTORY_SIZE, 0, now, now, now,
        parent=ROOT_INODE,
    )  # fmt: skip
    change.put(STATE, STATE_VOLUME_ID, volume_id)
    for name, value in (
        (STATE_SCHEMA, SCHEMA_VERSION),
        (STATE_NEXT_INODE, ROOT_INODE + 1),
        (STATE_FILES, 1),
        (STATE_BYTES, 0),
    ):
        change.put(STATE, name, encode_u64(value))
    change.put(INODE, ROOT_INODE, root)
    return root
