"""A volume of any size made of its rows alone: what the index holds after that many files were written,
without a byte of their data.

The rows go into the index of a volume that exists, is not mounted and is still empty, by the way that a
recovery takes (`fusegw.meta.load`): table by table in order, in bounded memory. Names and places are those of
`tests.e2e.test_recovery_time.make`. The volume's log knows nothing of them, so the index is the only place
where they are: such a volume can be mounted, listed and written, and not recovered; its data is missing.
"""

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import lmdb
import msgspec

from fusegw.meta.codec import Table, encode_u64
from fusegw.meta.load import Load
from fusegw.meta.metadata import Metadata
from fusegw.meta.records import encode_put
from fusegw.meta.schema import (
    CHUNK,
    DIRENT,
    EXTENT,
    FIRST_COOKIE,
    INODE,
    PACK,
    ROOT_INODE,
    STATE,
    STATE_BYTES,
    STATE_FILES,
    STATE_NEXT_INODE,
    STATE_STORED,
    STATE_UNIQUE,
    TABLES,
    Chunk,
    Dirent,
    Extent,
    Inode,
    Pack,
    numbered,
)
from fusegw.packs.format import HEADER_SIZE, RAW, RECORD_OVERHEAD
from fusegw.vfs.directories import DIRECTORY_SIZE
from tests.e2e.test_recovery_time import PER_DIRECTORY, directory_name, file_name

K = TypeVar("K")
V = TypeVar("V")

FILE_BYTES = 1_000_000
"""Of each file, all of them one chunk that occurs once: ten million files are 10 TB."""
STORED_BYTES = FILE_BYTES + RECORD_OVERHEAD
PER_PACK = (32 << 20) // STORED_BYTES
BORN_NS = 1_767_225_600_000_000_000
_FIRST = ROOT_INODE + 1
_PART = 10_000
_DIRECTORY, _FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644


class TableSize(msgspec.Struct, frozen=True):
    """What a table takes: its rows, and the bytes of its pages."""

    rows: int
    nbytes: int


def path_of(number: int) -> str:
    """Where file `number` lies below the root."""
    return f"{directory_name(number // PER_DIRECTORY).decode()}/{file_name(number).decode()}"


def fill(place: Path, count: int) -> None:
    """Put `count` files, whole directories of them, into the empty index in `place`."""
    assert count % PER_DIRECTORY == 0
    metadata = Metadata(place, size_max_bytes=1 << 40)
    load = Load(metadata)
    try:
        epoch = metadata.head.epoch
        for rows in (
            _inodes(count, epoch),
            _dirents(count),
            _extents(count, epoch),
            _chunks(count, epoch),
            _packs(count, epoch),
        ):
            part: list[bytes] = []
            for row in rows:
                part.append(row)
                if len(part) == _PART:
                    load.add(b"".join(part), "generated rows")
                    part = []
            load.add(b"".join(part), "generated rows")
        load.finish(metadata.head)
        metadata.renew()
        _count(metadata, count)
    finally:
        load.abandon()
        metadata.close()


def sizes(place: Path) -> dict[str, TableSize]:
    """By table name, what the index in `place` is made of; it need not be unmounted."""
    environment = lmdb.open(str(place), readonly=True, create=False, max_dbs=32, readahead=False)
    try:
        found = {}
        with environment.begin() as transaction:
            for table in TABLES:
                figures = transaction.stat(environment.open_db(table.name.encode(), txn=transaction))
                pages = sum(figures[kind] for kind in ("branch_pages", "leaf_pages", "overflow_pages"))
                found[table.name] = TableSize(figures["entries"], pages * figures["psize"])
        return found
    finally:
        environment.close()


def _directory(number: int) -> int:
    """The inode of a directory: its files follow it."""
    return _FIRST + number * (PER_DIRECTORY + 1)


def _put(table: Table[K, V], key: K, value: V) -> bytes:
    raw_key = table.encode_key(key)
    return encode_put(table.code, raw_key, table.encode(raw_key, value))


def _inodes(count: int, epoch: int) -> Iterator[bytes]:
    for first in range(0, count, PER_DIRECTORY):
        ino, now = _directory(first // PER_DIRECTORY), BORN_NS + first
        yield _put(
            INODE,
            ino,
            Inode(
                ino, epoch, _DIRECTORY, 2, 0, 0, DIRECTORY_SIZE, 0, now, now, now,
                parent=ROOT_INODE, next_cookie=FIRST_COOKIE + PER_DIRECTORY, entries=PER_DIRECTORY,
            ),
        )  # fmt: skip
        for file in range(ino + 1, ino + 1 + PER_DIRECTORY):
            now = BORN_NS + file
            yield _put(
                INODE,
                file,
                Inode(file, epoch, _FILE, 1, 0, 0, FILE_BYTES, FILE_BYTES, now, now, now),
            )


def _dirents(count: int) -> Iterator[bytes]:
    directories = count // PER_DIRECTORY
    for number in range(directories):
        entry = Dirent(_directory(number), FIRST_COOKIE + number, stat.S_IFDIR >> 12)
        yield _put(DIRENT, (ROOT_INODE, directory_name(number)), entry)
    for number in range(directories):
        parent = _directory(number)
        for nth in range(PER_DIRECTORY):
            entry = Dirent(parent + 1 + nth, FIRST_COOKIE + nth, stat.S_IFREG >> 12)
            yield _put(DIRENT, (parent, file_name(number * PER_DIRECTORY + nth)), entry)


def _extents(count: int, epoch: int) -> Iterator[bytes]:
    for number in range(count):
        parent, nth = divmod(number, PER_DIRECTORY)
        extent = Extent(FILE_BYTES, numbered(epoch, number + 1), 0)
        yield _put(EXTENT, (_directory(parent) + 1 + nth, 0), extent)


def _chunks(count: int, epoch: int) -> Iterator[bytes]:
    for number in range(count):
        pack, record = divmod(number, PER_PACK)
        chunk_id = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=32).digest()
        chunk = Chunk(
            chunk_id,
            numbered(epoch, pack + 1),
            record,
            HEADER_SIZE + record * STORED_BYTES,
            STORED_BYTES,
            FILE_BYTES,
            RAW,
            1,
        )
        yield _put(CHUNK, numbered(epoch, number + 1), chunk)


def _packs(count: int, epoch: int) -> Iterator[bytes]:
    for first in range(0, count, PER_PACK):
        number, live = first // PER_PACK, min(PER_PACK, count - first)
        digest = hashlib.blake2b(b"pack" + number.to_bytes(8, "big"), digest_size=32).digest()
        stored = live * STORED_BYTES
        pack = Pack(digest[:16], 1, digest, HEADER_SIZE + stored + (4 << 10), live, live, stored, digest)
        yield _put(PACK, numbered(epoch, number + 1), pack)


def _count(metadata: Metadata, count: int) -> None:
    """What the root and the volume's numbers say of it."""
    directories = count // PER_DIRECTORY
    root = metadata.get(INODE, ROOT_INODE)
    assert root is not None
    numbers = {
        STATE_NEXT_INODE: _directory(directories),
        STATE_FILES: 1 + directories + count,
        STATE_BYTES: count * FILE_BYTES,
        STATE_UNIQUE: count * FILE_BYTES,
        STATE_STORED: count * STORED_BYTES,
    }
    root = msgspec.structs.replace(
        root, nlink=2 + directories, entries=directories, next_cookie=FIRST_COOKIE + directories
    )
    metadata.write(
        [
            (INODE, ROOT_INODE, root),
            *((STATE, name, encode_u64(value)) for name, value in numbers.items()),
        ]
    )
