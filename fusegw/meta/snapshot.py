"""The row of a snapshot. Sans I/O."""

import struct
import time

import msgspec

_SNAPSHOT = struct.Struct(">BBHqQQQq")
_SNAPSHOT_ROW = 1
SLOT_MAX = 0x6FFF
"""Node ids have 16 bits for the slot of a snapshot; those above are for other views and directories."""


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """The volume as it was when the snapshot was made."""

    seq: int
    """Orders snapshots; carries the epoch that made it (`numbered`) and never comes back."""
    name: str
    slot: int
    """Its place in node ids, 1 to SLOT_MAX; given out again some time after it is gone."""
    created_ns: int
    """Since 1970."""
    next_inode: int
    """No inode with this number or a higher one existed."""
    files: int
    """`STATE_FILES` then."""
    nbytes: int
    """`STATE_BYTES` then."""
    locked_until_ns: int = 0
    """It must not be deleted before (ns since 1970)."""
    made_by: int = 0
    """`MADE_BY_*`."""
    dying: bool = False
    """Deleted; what only it needs is being freed."""


TIME_LABEL = "@GMT-%Y.%m.%d-%H.%M.%S"
"""How SMB clients name a moment."""
TIME_LABEL_PREFIX = "@GMT-"


def time_label(snapshot: Snapshot) -> bytes:
    """When it was made, as SMB clients name it."""
    return time.strftime(TIME_LABEL, time.gmtime(snapshot.created_ns // 10**9)).encode()


MADE_BY_HAND, MADE_BY_SCHEDULE, MADE_BY_ROLLBACK, MADE_FOR_CLONE = range(4)
"""One for a clone goes with it; when a crash has cut the clone off, with the next mount."""


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The stored form, without its sequence."""
    head = _SNAPSHOT.pack(
        _SNAPSHOT_ROW,
        snapshot.made_by << 1 | snapshot.dying,
        snapshot.slot,
        snapshot.created_ns,
        snapshot.next_inode,
        snapshot.files,
        snapshot.nbytes,
        snapshot.locked_until_ns,
    )
    return head + snapshot.name.encode()


def decode_snapshot(seq: int, row: bytes) -> Snapshot:
    """The snapshot of this sequence in `encode_snapshot`'s bytes."""
    _, kind, slot, created_ns, next_inode, files, nbytes, locked_until_ns = _SNAPSHOT.unpack_from(row)
    return Snapshot(
        seq,
        row[_SNAPSHOT.size :].decode(),
        slot,
        created_ns,
        next_inode,
        files,
        nbytes,
        locked_until_ns,
        kind >> 1,
        bool(kind & 1),
    )
