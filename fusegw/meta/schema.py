"""The schema: every table of the metadata index, its key, its value, its sentinels and invariants, in one
place.

| table      | key                     | value                                          |
|------------|-------------------------|------------------------------------------------|
| state      | name                    | volume-wide numbers and identity (`STATE_*`)   |
| inode      | inode                   | `Inode`                                        |
| dirent     | (directory, name)       | `Dirent`                                       |
| position   | (directory, cookie)     | name; the order of readdir                     |
| xattr      | (inode, name)           | value                                          |
| extent     | (inode, file offset)    | `Extent`                                       |
| chunk      | chunk number            | `Chunk`                                        |
| chunk_id   | first 8 bytes of id     | chunk number; the dedup index                  |
| pack       | pack number             | `Pack`                                         |
| reap       | inode                   | unlinked inodes whose data is still to be freed|
| gateway    | name                    | what the gateway is besides its files          |
| damaged    | id's first 8 bytes and  | when it was found (ns since 1970): the chunk's |
|            | chunk number            | bytes are damaged or lost in the store         |
| condemned  | pack number             | `Condemned`: its object is to be deleted       |
| snapshot   | sequence                | `Snapshot`                                     |
| history    | table code, key, 0,     | what the row was when that snapshot was made;  |
|            | snapshot's sequence     | empty: there was none (`fusegw.meta.history`)  |
| quota      | quota number            | `Quota`: what a directory tree may use         |
| quota_used | quota number            | `Used`: what it uses                           |
| pack_local | pack number             | `PackLocal`                                    |
| local      | name                    | `LOCAL_*`                                      |
| log_tail   | commit number           | `Commit`: what the log does not have yet       |
| log_sealed | segment number          | `Sealed`: the segment on its way to the store  |
| orphan     | pack id                 | `Orphan`: an object that no row knows          |

The last five describe this gateway only; every other row travels with the volume's log.

Invariants: the extents of a file cover [0, size) exactly, holes included (`chunk` 0); `Inode.allocated` is
the sum of its non-hole extents; `Chunk.count` is the number of extents that refer to it, those in the history
included, and a chunk without references has no row; `Pack.live` and `Pack.live_bytes` count the chunks that
lie in it; every dirent has its position row and the other way round; a directory's `entries` counts its
dirents and `nlink` is 2 plus its subdirectories; cookies 0–2 are never given out and a cookie never comes
back in the same directory; a chunk in `damaged` has its row and is not in the dedup index, so that the next
write of the same data stores it anew, and then under this same number; a condemned pack has its row, is in
the store (or was) and no chunk lies in it, ever again; `Used` is the sum over all inodes whose `Inode.quota`
is this quota or one below it, and a number in `Inode.quota` that has no row counts for the volume alone.

Chunk and pack numbers carry the epoch that made them (`numbered`), so no number is ever used twice.
"""

import struct
from typing import Any

import msgspec

from fusegw.meta.codec import (
    Table,
    decode_u40,
    decode_u40_name,
    decode_u40_u40,
    decode_u40_u64,
    decode_u64,
    encode_u40,
    encode_u40_name,
    encode_u40_u40,
    encode_u40_u64,
    encode_u64,
    identity,
)
from fusegw.meta.inode import FIRST_COOKIE as FIRST_COOKIE
from fusegw.meta.inode import TIME_NS_MAX as TIME_NS_MAX
from fusegw.meta.inode import TIME_NS_MIN as TIME_NS_MIN
from fusegw.meta.inode import Inode as Inode
from fusegw.meta.inode import decode_inode, encode_inode
from fusegw.meta.quota import Quota as Quota
from fusegw.meta.quota import Used as Used
from fusegw.meta.quota import decode_quota, decode_used, encode_quota, encode_used
from fusegw.meta.rows import EPOCH_SHIFT as EPOCH_SHIFT
from fusegw.meta.rows import HOLE as HOLE
from fusegw.meta.rows import Chunk as Chunk
from fusegw.meta.rows import Dirent as Dirent
from fusegw.meta.rows import Extent as Extent
from fusegw.meta.rows import (
    decode_chunk,
    decode_dirent,
    decode_extent,
    encode_chunk,
    encode_dirent,
    encode_extent,
)
from fusegw.meta.rows import numbered as numbered
from fusegw.meta.snapshot import Snapshot as Snapshot
from fusegw.meta.snapshot import decode_snapshot, encode_snapshot

SCHEMA_VERSION = 4
ROOT_INODE = 1
INODE_MAX = (1 << 40) - 2
"""The number behind the last one still fits into a key: it ends scans."""
COOKIE_MAX = (1 << 40) - 2
"""Of readdir positions, as for inode numbers."""
CHUNK_KEY_SIZE = 8
EPOCH_MAX = (1 << 24) - 1
PACK_NUMBER_END = (1 << 64) - 1
COUNT_MAX = (1 << 32) - 1

STATE_SCHEMA = b"schema"
STATE_VOLUME_ID = b"volume-id"
STATE_NEXT_INODE = b"next-inode"
STATE_FILES = b"files"
STATE_BYTES = b"bytes"
"""Sum of `Inode.allocated` over all inodes: the logical data of the volume."""
STATE_UNIQUE = b"unique"
"""Sum of `Chunk.raw` over all chunks: the data after deduplication."""
STATE_STORED = b"stored"
"""Sum of `Chunk.stored` over all chunks: the data after compression, sealed."""
STATE_NEXT_QUOTA = b"next-quota"
"""Number of the next quota."""
STATE_COLLECTED = b"collected"
"""When the last pass of collection ended that left condemned packs, ns since 1970."""

STATE_ROLLBACK = b"rollback"
"""While a rollback is unfinished: the sequences of the snapshot it returns to and of that made before."""

LOCAL_HEAD = b"head"
"""`Head`: the place in the log up to which this index is in the store."""
LOCAL_SCRUB = b"scrub"
"""`Scrubbed`: how far packs were read back from the store in the background."""
LOCAL_KEPT = b"kept"
"""What the store must have of log and checkpoints: `fusegw.ship.kept`."""
LOCAL_ORPHANS_LOOKED = b"orphans-looked"
"""When the store was last listed for objects that no row knows, ns since 1970, u64."""


class Pack(msgspec.Struct, frozen=True, gc=False):
    """A pack as the volume knows it; size, records and digest are 0 and empty until it is closed."""

    pack_id: bytes
    key_version: int
    salt: bytes
    size: int
    records: int
    live: int
    """Chunks that lie in it."""
    live_bytes: int
    """Their stored bytes."""
    digest: bytes
    """BLAKE3 of the whole pack as sealed; empty while open."""


PACK_OPEN = 1
PACK_CLOSED = 2
"""States of `PackLocal`: being written; complete and waiting for the store."""


class PackLocal(msgspec.Struct, frozen=True, gc=False):
    """Where this gateway stands with a pack that is not in the store yet; a stored pack has no such row."""

    state: int
    opened_ns: int
    """When its first record was written; the age of what is not in the store."""
    first_chunk: int
    """No chunk with a lower number lies in it."""


class Condemned(msgspec.Struct, frozen=True, gc=False):
    """A stored pack without chunks. Its object stays until no kept position of the log needs it."""

    since_ns: int
    """When it was condemned; from `seq` on: when that was known to be in the store (ns since 1970)."""
    seq: int = 0
    """Positions from this segment on do not need it; 0 until what condemned it is in the store."""


class Orphan(msgspec.Struct, frozen=True, gc=False):
    """An object under a pack's name that no row knew when it was first seen."""

    since_ns: int
    """When that was (ns since 1970)."""
    seq: int
    """The newest segment of the log then."""
    size: int
    """Bytes."""


HASH_SIZE = 32


class Head(msgspec.Struct, frozen=True, gc=False):
    """A place in the log: the newest segment it includes, and which commits of this index that covers."""

    seq: int = 0
    """0 before the first segment."""
    hash: bytes = bytes(HASH_SIZE)
    """BLAKE3-256 of that segment as stored."""
    epoch: int = 0
    """Of the last takeover up to there."""
    commit: int = 0
    """Number of the newest commit that is in the log whole."""


class Scrubbed(msgspec.Struct, frozen=True, gc=False):
    """How far the scrub has come; pack numbers ascend."""

    cursor: int = 0
    """Stored packs below it were read in this pass."""
    fresh: int = 0
    """Packs below it were read once after they were stored, or are older than the first scrub."""
    pass_bytes: int = 0
    """Read in this pass."""
    passes: int = 0
    """That came to their end."""
    ended_ns: int = 0
    """When the last one did (ns since 1970)."""


class Commit(msgspec.Struct, frozen=True, gc=False):
    """One commit of this index as log records."""

    since_ns: int
    """When the oldest change in it was made (ns since 1970)."""
    records: bytes
    """`fusegw.meta.records`."""


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """A segment whose exact bytes are fixed: it is sent as it is, however often that takes."""

    head: Head
    """The head once it is in the store."""
    data: bytes


_PACK = struct.Struct(">16sI32sIIIQ")
_PACK_LOCAL = struct.Struct(">BqQ")
_CONDEMNED = struct.Struct(">qQ")
_ORPHAN = struct.Struct(">qQQ")
_HEAD = struct.Struct(f">QIQ{HASH_SIZE}s")
_SCRUBBED = struct.Struct(">QQQQq")
_SINCE = struct.Struct(">q")


def _encode_pack(pack: Pack) -> bytes:
    head = _PACK.pack(
        pack.pack_id, pack.key_version, pack.salt, pack.size, pack.records, pack.live, pack.live_bytes
    )
    return head + pack.digest


def _decode_pack(number: int, row: bytes) -> Pack:
    pack_id, key_version, salt, size, records, live, live_bytes = _PACK.unpack_from(row)
    return Pack(pack_id, key_version, salt, size, records, live, live_bytes, row[_PACK.size :])


def encode_head(head: Head) -> bytes:
    """The stored form of a head."""
    return _HEAD.pack(head.seq, head.epoch, head.commit, head.hash)


def decode_head(row: bytes) -> Head:
    """The head in `encode_head`'s bytes."""
    seq, epoch, commit, digest = _HEAD.unpack_from(row)
    return Head(seq, digest, epoch, commit)


def encode_scrubbed(scrubbed: Scrubbed) -> bytes:
    """The stored form of a scrub's state."""
    return _SCRUBBED.pack(*msgspec.structs.astuple(scrubbed))


def decode_scrubbed(row: bytes) -> Scrubbed:
    """The state in `encode_scrubbed`'s bytes."""
    return Scrubbed(*_SCRUBBED.unpack_from(row))


STATE: Table[bytes, bytes] = Table(
    "state",
    code=1,
    encode_key=identity,
    decode_key=identity,
    encode_value=identity,
    decode_value=lambda _, row: row,
)
INODE: Table[int, Inode] = Table(
    "inode",
    code=2,
    kept=True,
    encode_key=encode_u40,
    decode_key=decode_u40,
    encode_value=encode_inode,
    decode_value=decode_inode,
)
DIRENT: Table[tuple[int, bytes], Dirent] = Table(
    "dirent",
    code=3,
    kept=True,
    encode_key=encode_u40_name,
    decode_key=decode_u40_name,
    encode_value=encode_dirent,
    decode_value=lambda _, row: decode_dirent(row),
)
POSITION: Table[tuple[int, int], bytes] = Table(
    "position",
    code=4,
    kept=True,
    encode_key=encode_u40_u40,
    decode_key=decode_u40_u40,
    encode_value=identity,
    decode_value=lambda _, row: row,
)
XATTR: Table[tuple[int, bytes], bytes] = Table(
    "xattr",
    code=5,
    kept=True,
    encode_key=encode_u40_name,
    decode_key=decode_u40_name,
    encode_value=identity,
    decode_value=lambda _, row: row,
)
EXTENT: Table[tuple[int, int], Extent] = Table(
    "extent",
    code=6,
    kept=True,
    encode_key=encode_u40_u64,
    decode_key=decode_u40_u64,
    encode_value=encode_extent,
    decode_value=lambda _, row: decode_extent(row),
)
CHUNK: Table[int, Chunk] = Table(
    "chunk",
    code=7,
    encode_key=encode_u64,
    decode_key=decode_u64,
    encode_value=encode_chunk,
    decode_value=lambda _, row: decode_chunk(row),
)
CHUNK_ID: Table[bytes, int] = Table(
    "chunk_id",
    code=8,
    encode_key=identity,
    decode_key=identity,
    encode_value=encode_u64,
    decode_value=lambda _, row: decode_u64(row),
)
PACK: Table[int, Pack] = Table(
    "pack",
    code=9,
    encode_key=encode_u64,
    decode_key=decode_u64,
    encode_value=_encode_pack,
    decode_value=_decode_pack,
)
PACK_LOCAL: Table[int, PackLocal] = Table(
    "pack_local",
    encode_key=encode_u64,
    decode_key=decode_u64,
    encode_value=lambda p: _PACK_LOCAL.pack(p.state, p.opened_ns, p.first_chunk),
    decode_value=lambda _, row: PackLocal(*_PACK_LOCAL.unpack(row)),
)
REAP: Table[int, int] = Table(
    "reap",
    code=10,
    encode_key=encode_u40,
    decode_key=decode_u40,
    encode_value=encode_u64,
    decode_value=lambda _, row: decode_u64(row),
)

GATEWAY: Table[bytes, bytes] = Table(
    "gateway",
    code=11,
    encode_key=identity,
    decode_key=identity,
    encode_value=identity,
    decode_value=lambda _, row: row,
)
DAMAGED: Table[bytes, int] = Table(
    "damaged",
    code=12,
    encode_key=identity,
    decode_key=identity,
    encode_value=encode_u64,
    decode_value=lambda _, row: decode_u64(row),
)
CONDEMNED: Table[int, Condemned] = Table(
    "condemned",
    code=13,
    encode_key=encode_u64,
    decode_key=decode_u64,
    encode_value=lambda c: _CONDEMNED.pack(c.since_ns, c.seq),
    decode_value=lambda _, row: Condemned(*_CONDEMNED.unpack(row)),
)
SNAPSHOT: Table[int, Snapshot] = Table(
    "snapshot",
    code=14,
    encode_key=encode_u64,
    decode_key=decode_u64,
    encode_value=encode_snapshot,
    decode_value=decode_snapshot,
)
HISTORY: Table[bytes, bytes] = Table(
    "history",
    code=15,
    encode_key=identity,
    decode_key=identity,
    encode_value=identity,
    decode_value=lambda _, row: row,
)
QUOTA: Table[int, Quota] = Table(
    "quota",
    code=16,
    encode_key=encode_u64,
    decode_key=decode_u64,
    encode_value=encode_quota,
    decode_value=lambda _, row: decode_quota(row),
)
QUOTA_USED: Table[int, Used] = Table(
    "quota_used",
    code=17,
    encode_key=encode_u64,
    decode_key=decode_u64,
    encode_value=encode_used,
    decode_value=lambda _, row: decode_used(row),
)
LOCAL: Table[bytes, bytes] = Table(
    "local",
    encode_key=identity,
    decode_key=identity,
    encode_value=identity,
    decode_value=lambda _, row: row,
)
LOG_TAIL: Table[int, Commit] = Table(
    "log_tail",
    encode_key=encode_u64,
    decode_key=decode_u64,
    encode_value=lambda c: _SINCE.pack(c.since_ns) + c.records,
    decode_value=lambda _, row: Commit(_SINCE.unpack_from(row)[0], row[_SINCE.size :]),
)
LOG_SEALED: Table[int, Sealed] = Table(
    "log_sealed",
    encode_key=encode_u64,
    decode_key=decode_u64,
    encode_value=lambda s: encode_head(s.head) + s.data,
    decode_value=lambda _, row: Sealed(decode_head(row), row[_HEAD.size :]),
)
ORPHAN: Table[bytes, Orphan] = Table(
    "orphan",
    encode_key=identity,
    decode_key=identity,
    encode_value=lambda o: _ORPHAN.pack(o.since_ns, o.seq, o.size),
    decode_value=lambda _, row: Orphan(*_ORPHAN.unpack(row)),
)

LOGGED_TABLES: tuple[Table[Any, Any], ...] = (
    STATE, INODE, DIRENT, POSITION, XATTR, EXTENT, CHUNK, CHUNK_ID, PACK, REAP, GATEWAY,
    DAMAGED, CONDEMNED, SNAPSHOT, HISTORY, QUOTA, QUOTA_USED,
)  # fmt: skip
"""What describes the volume, in the order of checkpoints."""
TABLES: tuple[Table[Any, Any], ...] = (*LOGGED_TABLES, PACK_LOCAL, LOCAL, LOG_TAIL, LOG_SEALED, ORPHAN)


def chunk_key(chunk_id: bytes) -> bytes:
    """The dedup index's key of a chunk id; the whole id is compared with the chunk's row, so that two ids
    with the same key cost a deduplication at most."""
    return chunk_id[:CHUNK_KEY_SIZE]


def damaged_key(chunk_id: bytes, number: int) -> bytes:
    """The key of a damaged chunk: those with the same data are neighbours."""
    return chunk_key(chunk_id) + encode_u64(number)
