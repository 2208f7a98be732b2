"""What comes out when a pack is finished, and how one that failed or was torn is finished after all.

`complete` trusts nothing but tags: it reads a pack file again, keeps the records that open, fills whatever
lies between them with zeros, cuts the file off behind the last one and adds footer and trailer. Every byte of
the result is then covered by a tag or known to be zero.
"""

import errno
from collections.abc import Sequence

import msgspec
from blake3 import blake3

from cache import PackCache
from fusegw.clock import Entropy
from fusegw.errors import Corrupt, Full, FusegwError
from fusegw.packs.format import (
    HEADER_SIZE,
    NONCE_SIZE,
    RECORD_SIZE_MAX,
    Entry,
    PackCipher,
    PackInfo,
    encode_trailer,
)


class ClosedPack(msgspec.Struct, frozen=True):
    """A pack that will not change any more: durable on the local disk, ready for the store."""

    number: int
    pack_id: bytes
    key_version: int
    salt: bytes
    size: int
    """Bytes of the whole file."""
    records: int
    """Rows of its footer."""
    hash: bytes
    """BLAKE3 of the whole file, taken from the bytes as sealed."""

    @property
    def name(self) -> str:
        """Its file in the cache."""
        return self.pack_id.hex()


class Closing(msgspec.Struct, frozen=True):
    """What became of a torn pack."""

    pack: ClosedPack | None
    """None when no record is left in it."""
    damaged: tuple[Entry, ...]
    """Records that should be in it and do not open."""


def closed_pack(info: PackInfo, size: int, records: int, digest: bytes) -> ClosedPack:
    """`info`, now closed."""
    return ClosedPack(info.number, info.pack_id, info.key_version, info.salt, size, records, digest)


def disk_error(what: str, error: OSError) -> FusegwError:
    """The error of the gateway for one of the local disk while `what` was done."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Full(f"{what}: the disk of the cache is full ({error}); free space on it")
    return FusegwError(f"{what}: the disk of the cache failed ({error}); check it, and the kernel's log")


def seal_end(cipher: PackCipher, entries: Sequence[Entry], offset: int, entropy: Entropy) -> bytes:
    """Footer and trailer of a pack whose records end at `offset`."""
    footer = cipher.seal_footer(entries, offset, entropy.token(NONCE_SIZE))
    return footer + encode_trailer(len(footer))


def complete(
    cache: PackCache, cipher: PackCipher, info: PackInfo, fd: int, entries: Sequence[Entry], entropy: Entropy
) -> Closing:
    """Close the pinned pack file `fd` with those of `entries` that open. Raises OSError.

    When none does, the file stays as it is: not one tag proves that these are the pack and the key.
    """
    disk, name = cache.disk, info.name
    digest = blake3(cipher.header)
    end, fills = HEADER_SIZE, [(0, cipher.header)]
    good: list[Entry] = []
    damaged: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: entry[1].offset):
        place = entry[1]
        sealed = _read_intact(cache, cipher, fd, entry) if place.offset >= end else None
        if sealed is None:
            damaged.append(entry)
            continue
        if place.offset > end:
            zeros = bytes(place.offset - end)
            fills.append((end, zeros))
            digest.update(zeros)
        digest.update(sealed)
        good.append(entry)
        end = place.offset + place.stored
    if not good:
        cache.seal(name, cache.size(name) or 0)
        return Closing(None, tuple(damaged))
    tail = seal_end(cipher, good, end, entropy)
    size = end + len(tail)
    cache.account(name, size)
    disk.ftruncate(fd, end)
    for offset, data in [*fills, (end, tail)]:
        disk.pwrite(fd, data, offset)
    disk.fdatasync(fd)
    cache.sync_directory(name)
    cache.seal(name, size)
    return Closing(closed_pack(info, size, len(good), digest.update(tail).digest()), tuple(damaged))


def _read_intact(cache: PackCache, cipher: PackCipher, fd: int, entry: Entry) -> bytes | None:
    """The sealed record, None when it cannot be read or does not open."""
    chunk_id, place = entry
    if place.stored > RECORD_SIZE_MAX:
        return None
    try:
        sealed = cache.disk.pread(fd, place.stored, place.offset)
        cipher.open(sealed, chunk_id, place)
    except (OSError, Corrupt):
        return None
    return sealed
