"""The segment format: one object of the volume's log, bytes in, bytes out. `docs/format.md` is its prose.

    header (112) · nonce (12) · sealed payload

Segments are numbered from 1 without gaps and each names the hash of the one before, so the log is one chain
that nobody can reorder, cut into or continue without the volume's keys. There are two kinds:

- *takeover*: a writer begins its reign, the epoch in the header;
- *changes*: rows that changed, in the reign of the epoch in the header. Only the state after a segment with
  FINAL set is one that ever existed; those before it are parts of the same step, each of bounded size.

Promises: a segment opens at its own place in its own volume's log only; nothing decoded is believed beyond
the bounds below. Integers are big-endian.
"""

import re
import struct

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyzstd import compress

from fusegw.errors import Corrupt, UnknownFormat
from fusegw.keys.hierarchy import SALT_SIZE, VOLUME_ID_SIZE, VolumeKeys
from fusegw.meta.schema import HASH_SIZE, Head
from fusegw.packs.compress import decompress
from fusegw.packs.format import NONCE_SIZE, RAW_SIZE_MAX, TAG_SIZE, ZSTD

FORMAT_VERSION = 1
TAKEOVER, CHANGES = 1, 2
FINAL = 1
"""Flag: the state after this segment is a position."""
RECORDS_BYTES_MAX = RAW_SIZE_MAX
"""Records in one segment, before compression."""
SEGMENT_BYTES_MAX = RECORDS_BYTES_MAX + (1 << 20)
LEVEL = 3

_MAGIC = b"FUSEGWL\x00"
_HEADER = struct.Struct(f">8sHBBI{VOLUME_ID_SIZE}sQII{HASH_SIZE}s{SALT_SIZE}s")
HEADER_SIZE = _HEADER.size
_PAYLOAD = struct.Struct(">qI")
_KEY = re.compile(r"log/[0-9]{16}")
_LABEL = b"fusegw segment\x00\x00"


class Segment(msgspec.Struct, frozen=True, gc=False):
    """One decoded segment."""

    seq: int
    epoch: int
    kind: int
    final: bool
    time_ns: int
    """By the writer's clock; for people, never for decisions."""
    body: bytes
    """changes: records; takeover: who the writer is, as text."""

    @property
    def writer(self) -> str:
        """Who took over."""
        return self.body.decode(errors="replace") if self.kind == TAKEOVER else ""


def object_key(seq: int) -> str:
    """The segment's key in the store; keys sort as numbers."""
    return f"log/{seq:016d}"


def digest(data: bytes) -> bytes:
    """What the next segment names this one by."""
    return blake3(data).digest()


def seal(segment: Segment, previous: bytes, keys: VolumeKeys, *, salt: bytes, nonce: bytes) -> bytes:
    """The object's bytes. `salt` (32) and `nonce` (12) are fresh random bytes, never used again."""
    version = keys.current_version
    header = _HEADER.pack(
        _MAGIC, FORMAT_VERSION, segment.kind, FINAL if segment.final else 0, version, keys.volume_id,
        segment.seq, segment.epoch, 0, previous, salt,
    )  # fmt: skip
    payload = _PAYLOAD.pack(segment.time_ns, len(segment.body)) + compress(segment.body, LEVEL)
    sealed = AESGCM(keys.log_key(version, salt)).encrypt(nonce, payload, _LABEL + header)
    return header + nonce + sealed


def number_of(key: str) -> int | None:
    """The number of the segment with that key; None for a key that is none of a segment."""
    return int(key[4:]) if _KEY.fullmatch(key) else None


def unseal(data: bytes, at: Head, keys: VolumeKeys) -> Segment:
    """The segment in `data`, which must be the one after `at`: Corrupt, UnknownFormat."""
    found, previous = opened(data, at.seq + 1, keys)
    what = f"log segment {object_key(found.seq)}"
    if previous != at.hash:
        raise Corrupt(
            f"{what} does not continue segment {at.seq}: it names {previous.hex()[:16]}… as the one before, "
            f"which is {at.hash.hex()[:16]}…; objects of the log were exchanged"
        )
    if found.epoch <= at.epoch if found.kind == TAKEOVER else found.epoch != at.epoch:
        raise Corrupt(f"{what} is of epoch {found.epoch}, which cannot follow epoch {at.epoch}")
    return found


def opened(data: bytes, seq: int, keys: VolumeKeys) -> tuple[Segment, bytes]:
    """Segment `seq` and the hash it names for the one before, which is not looked at: Corrupt,
    UnknownFormat."""
    what = f"log segment {object_key(seq)}"
    if len(data) < HEADER_SIZE + NONCE_SIZE + TAG_SIZE:
        raise Corrupt(f"{what} is cut off at {len(data)} bytes: restore it from another copy")
    (magic, version, kind, flags, key_version, volume_id, number, epoch, reserved, previous, salt) = (
        _HEADER.unpack_from(data)
    )
    if magic != _MAGIC:
        raise UnknownFormat(f"{what} is not a log segment of fusegw: check the store's address")
    if version > FORMAT_VERSION:
        raise UnknownFormat(
            f"{what} has format {version}, this fusegw knows up to {FORMAT_VERSION}: upgrade fusegw"
        )
    if version != FORMAT_VERSION or reserved or kind not in (TAKEOVER, CHANGES) or flags > FINAL:
        raise Corrupt(f"{what} has a damaged header: restore it from another copy")
    if volume_id != keys.volume_id or number != seq:
        raise Corrupt(f"{what} belongs elsewhere: it is segment {number} of volume {volume_id.hex()}")
    body = _opened(data, key_version, salt, keys, what)
    time_ns, size = _PAYLOAD.unpack_from(body)
    body = _decompressed(body, size, what)
    return Segment(seq, epoch, kind, bool(flags & FINAL), time_ns, body), previous


def _opened(data: bytes, key_version: int, salt: bytes, keys: VolumeKeys, what: str) -> bytes:
    view = memoryview(data)
    try:
        key = keys.log_key(key_version, salt)
        body = AESGCM(key).decrypt(
            view[HEADER_SIZE : HEADER_SIZE + NONCE_SIZE],
            view[HEADER_SIZE + NONCE_SIZE :],
            _LABEL + data[:HEADER_SIZE],
        )
    except (InvalidTag, Corrupt):
        raise Corrupt(f"{what} does not open: it is damaged; restore it from another copy") from None
    if len(body) < _PAYLOAD.size:
        raise Corrupt(f"{what} has no payload: restore it from another copy")
    return body


def _decompressed(payload: bytes, size: int, what: str) -> bytes:
    try:
        return decompress(ZSTD, payload[_PAYLOAD.size :], size)
    except Corrupt:
        raise Corrupt(f"{what} has a body that cannot be read: restore it from another copy") from None
