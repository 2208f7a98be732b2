"""One pack under construction: records in memory until they are durable, written in runs, closed once.

Two locks. The writer's lock guards everything in memory; it is passed in, and "(locked)" marks the methods
that want it held: they make no system call. The file lock serialises what touches the file; it is taken
first where both are needed. Bytes reach the file strictly in order, so the hash of the whole pack grows with
the file, from the very bytes that were sealed.

A record is *held* (its sealed bytes kept in memory) until an fdatasync has covered it. When a write or a sync
fails the pack takes no more records, and the held ones are sealed again elsewhere; they stay readable
here, as *moved*, until the writer lets the pack go. A record that was itself such a copy and did not become
durable here is forgotten: its original is still held.
"""

import threading

from blake3 import blake3

from cache import PackCache
from fusegw.clock import Entropy
from fusegw.packs.closing import ClosedPack, Closing, closed_pack, complete, seal_end
from fusegw.packs.format import (
    HEADER_SIZE,
    NONCE_SIZE,
    RECORD_OVERHEAD,
    RECORDS_MAX,
    TRAILER_SIZE,
    Entry,
    Location,
    PackCipher,
    PackInfo,
    footer_size,
)

_JOIN_ABOVE = 16
"""Pieces of one write: more are copied together first, which is cheaper than hashing and writing each."""


class OpenPack:
    """A pack that may still get records."""

    def __init__(
        self, info: PackInfo, cipher: PackCipher, cache: PackCache, entropy: Entropy, lock: threading.Lock
    ) -> None:
        self.info = info
        self.cipher = cipher
        self.entries: list[Entry] = []
        self.held: dict[int, bytes] = {}
        """Sealed records not durable yet, by record number."""
        self.held_bytes = 0
        self.unwritten_bytes = 0
        self.failure: OSError | None = None
        self._cache = cache
        self._entropy = entropy
        self._lock = lock
        self._end = HEADER_SIZE
        self._origins: dict[int, Location] = {}
        self._moved: dict[int, bytes] = {}
        self._claimed = 0
        self._written = 0
        self._durable = 0
        self._file_lock = threading.Lock()
        self._fd: int | None = None
        self._file_end = 0
        self._named = False
        self._hash = blake3()

    # In memory.

    def fits(self, stored: int, size_max: int) -> bool:
        """(locked) Whether `stored` more bytes keep the pack within `size_max`; one record always does."""
        count = len(self.entries)
        size = self._end + stored + footer_size(count + 1) + TRAILER_SIZE
        return count == 0 or (count < RECORDS_MAX and size <= size_max)

    def add(
        self,
        chunk_id: bytes,
        codec: int,
        payload: bytes | memoryview,
        raw_size: int,
        *,
        claimed: int = 0,
        origin: Location | None = None,
    ) -> Location:
        """(locked) Seal one more record. `origin` is the place of the failed record it is a copy of."""
        number, stored = len(self.entries), len(payload) + RECORD_OVERHEAD
        location = Location(self.info.number, number, self._end, stored, raw_size, codec)
        self.held[number] = self.cipher.seal(payload, chunk_id, location, self._entropy.token(NONCE_SIZE))
        self.entries.append((chunk_id, location))
        self._end += stored
        self.held_bytes += stored
        self.unwritten_bytes += stored
        self._claimed += claimed
        if origin is not None:
            self._origins[number] = origin
        return location

    def peek(self, record: int) -> bytes | None:
        """(locked) The sealed bytes of a record that is still in memory."""
        return self.held.get(record) or self._moved.get(record)

    def moved(self, record: int) -> None:
        """(locked) The held record is durable elsewhere."""
        sealed = self._moved[record] = self.held.pop(record)
        self.held_bytes -= len(sealed)

    def fail(self, error: OSError) -> None:
        """(locked) No more records: a write or sync of this pack failed."""
        self.failure = error
        for record in self._origins:
            self.held_bytes -= len(self.held.pop(record))
        self._origins.clear()

    def take_claims(self) -> int:
        """(locked) Budget claimed for bytes this pack has not accounted for."""
        claimed, self._claimed = self._claimed, 0
        return claimed

    # On disk. OSError from here means: fail the pack.

    def write_out(self, *, wait: bool = True) -> None:
        """Hand what is unwritten to the disk; not `wait`: do nothing if another thread is at it."""
        if self._file_lock.acquire(blocking=wait):
            try:
                self._write_out()
            finally:
                self._file_lock.release()

    def sync(self) -> dict[Location, Location]:
        """Make durable all that reached the file; returns original and new place of the copies among it."""
        self.write_out()
        with self._lock:
            written = self._written
        if written > self._durable and self._fd is not None:
            self._sync_file(self._fd)
        with self._lock:
            return self._settle(written)

    def finish(self) -> tuple[ClosedPack, dict[Location, Location]]:
        """Write footer and trailer and make all durable, as `sync`; the caller adds no more records."""
        with self._file_lock:
            self._write_out()
            if self.failure is not None:
                raise self.failure
            fd = self._open_file()
            tail = seal_end(self.cipher, self.entries, self._file_end, self._entropy)
            self._put(fd, [tail], 0)
            self._sync_file(fd)
            self._cache.seal(self.info.name, self._file_end)
            with self._lock:
                moves = self._settle(len(self.entries))
            return closed_pack(self.info, self._file_end, len(self.entries), self._hash.digest()), moves

    def abandon(self) -> Closing:
        """Close the failed pack at its last durable record, or discard it; afterwards nothing is held."""
        with self._file_lock:
            if self._fd is None:
                return Closing(None, ())
            if self._durable == 0:
                self._cache.discard(self.info.name)
                self._fd = None
                return Closing(None, ())
            durable = self.entries[: self._durable]
            return complete(self._cache, self.cipher, self.info, self._fd, durable, self._entropy)

    def _write_out(self) -> None:
        with self._lock:
            first, last, end = self._written, len(self.entries), self._end
            if first == last or self.failure is not None:
                return
            pieces = [self.held[record] for record in range(first, last)]
        try:
            fd = self._open_file()
            if self._file_end == 0:
                pieces.insert(0, self.cipher.header)
            with self._lock:
                claimed = self.take_claims()
            self._put(fd, pieces, claimed)
        except OSError as error:
            self.failure = error
            raise
        with self._lock:
            self._written = last
            self.unwritten_bytes = self._end - end

    def _open_file(self) -> int:
        if self._fd is None:
            self._fd = self._cache.create(self.info.name)
        return self._fd

    def _put(self, fd: int, pieces: list[bytes], claimed: int) -> None:
        if len(pieces) > _JOIN_ABOVE:
            pieces = [b"".join(pieces)]
        end = self._file_end + sum(map(len, pieces))
        self._cache.account(self.info.name, end, claimed=claimed)
        self._cache.disk.pwritev(fd, pieces, self._file_end)
        for piece in pieces:
            self._hash.update(piece)
        self._file_end = end

    def _sync_file(self, fd: int) -> None:
        self._cache.disk.fdatasync(fd)
        if not self._named:
            self._cache.sync_directory(self.info.name)
            self._named = True

    def _settle(self, durable: int) -> dict[Location, Location]:
        """(locked) The first `durable` records survive power loss."""
        moves = {}
        for record in range(self._durable, durable):
            self.held_bytes -= len(self.held.pop(record))
            origin = self._origins.pop(record, None)
            if origin is not None:
                moves[origin] = self.entries[record][1]
        self._durable = max(durable, self._durable)
        return moves
