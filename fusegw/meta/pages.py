"""Is the file of an index as long as it must be? Asked before LMDB maps it: reading a mapped page that the
file does not have ends the process.

LMDB may leave a file shorter than the number of pages it gave out, since a page that was taken and given back
in one transaction is never written; so a file that seems short is walked, from the root of its newest state
to every page that holds something. Layout: LMDB 0.9, 64-bit.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from fusegw.errors import Corrupt

_META_PAGE = struct.Struct("<QHHI IIQQ")
"""Header of the page, then magic, version, address, size of the map; two databases and these follow:"""
_META_END = struct.Struct("<QQ")
"""Last page given out, transaction."""
_DATABASE = struct.Struct("<IHHQQQQQ")
_PAGE = struct.Struct("<QHHHH")
"""Number, padding, flags, end of the offsets of nodes, begin of the nodes."""
_NODE = struct.Struct("<HHHH")
_MAGIC = 0xBEEFC0DE
_BRANCH = 0x01
_BIG, _SUBTREE = 0x01, 0x02
_NO_PAGE = (1 << 64) - 1
_META_SIZE = _META_PAGE.size + 2 * _DATABASE.size + _META_END.size
_TRIES = 10
REMEDY = "restore it from a copy, or move the directory away and mount to have it built anew from the store"


class _Meta:
    """What one of the two meta pages says."""

    def __init__(self, data: bytes) -> None:
        self.magic = _META_PAGE.unpack_from(data)[4]
        databases = [
            _DATABASE.unpack_from(data, _META_PAGE.size + number * _DATABASE.size) for number in range(2)
        ]
        self.page_size = databases[0][0]
        self.roots = [database[7] for database in databases]
        self.last, self.transaction = _META_END.unpack_from(data, _META_SIZE - _META_END.size)


def refuse_cut_off(file: Path) -> None:
    """Blocking: Corrupt when something of the newest state lies behind the end of `file`. A file that LMDB
    itself would refuse passes, and so does one that does not exist."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if (size := os.fstat(descriptor).st_size) < 2 * mmap.PAGESIZE:
            raise _cut_off(file, size)
        for _ in range(_TRIES):
            meta = _newest(descriptor)
            if meta is None or not _is_cut_off(descriptor, meta):
                return
            again = _newest(descriptor)
            if again is not None and again.transaction == meta.transaction:
                raise _cut_off(file, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _cut_off(file: Path, size: int) -> Corrupt:
    return Corrupt(f"the file of the metadata index, {file}, is cut off at {size} bytes: {REMEDY}")


def _newest(descriptor: int) -> _Meta | None:
    first = os.pread(descriptor, _META_SIZE, 0)
    if len(first) < _META_SIZE:
        return None
    metas = [_Meta(first)]
    second = os.pread(descriptor, _META_SIZE, metas[0].page_size)
    if len(second) == _META_SIZE:
        metas.append(_Meta(second))
    metas = [meta for meta in metas if meta.magic == _MAGIC and meta.page_size >= 512]
    return max(metas, key=lambda meta: meta.transaction, default=None)


def _is_cut_off(descriptor: int, meta: _Meta) -> bool:
    pages = os.fstat(descriptor).st_size // meta.page_size
    if pages > meta.last:
        return False
    seen: set[int] = set()
    waiting = [root for root in meta.roots if root != _NO_PAGE]
    while waiting:
        number = waiting.pop()
        if number >= pages:
            return True
        if number not in seen:
            seen.add(number)
            page = os.pread(descriptor, meta.page_size, number * meta.page_size)
            for below, count in _below(page):
                if below + max(count, 1) > pages:
                    return True
                if not count:
                    waiting.append(below)
    return False


def _below(page: bytes) -> Iterator[tuple[int, int]]:
    """What a page leads to: (page of a tree, 0), or (first, number) of the pages of a large value. Nodes that
    make no sense are LMDB's to refuse."""
    _, _, flags, lower, _ = _PAGE.unpack_from(page)
    for at in range(_PAGE.size, min(lower, len(page) - 1), 2):
        node = int.from_bytes(page[at : at + 2], "little")
        if node + _NODE.size > len(page):
            continue
        low, high, node_flags, key_size = _NODE.unpack_from(page, node)
        value = node + _NODE.size + key_size
        if flags & _BRANCH:
            yield low | high << 16 | node_flags << 32, 0
        elif node_flags & _BIG and value + 8 <= len(page):
            size = low | high << 16
            yield int.from_bytes(page[value : value + 8], "little"), -(-(size + _PAGE.size) // len(page))
        elif node_flags & _SUBTREE and value + _DATABASE.size <= len(page):
            root = _DATABASE.unpack_from(page, value)[7]
            if root != _NO_PAGE:
                yield root, 0
