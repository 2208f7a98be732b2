"""The writer of packs: takes chunks, gives back where they lie, makes them durable, closes full packs.

Work is cut so that the common case is cheap. `append` compresses outside any lock, then reserves its place
and seals under one short lock (sealing runs at several GB/s, compression at a twentieth of that, so the lock
is no bottleneck, and records reach memory in the order of the file). Bytes go to the file in runs of 1 MiB,
so the append of a small file makes no system call.

    append ─▶ held in memory ─▶ written (1 MiB runs, or `sync`) ─▶ durable (`sync`) ─▶ closed (pack full, or
                                                                        `close_current`) ─▶ `take_closed`

**Promises.** When `sync` returns, every location handed out before it was called is durable, or was moved to
a durable one that the result names. A key never sees a nonce twice: each record draws 12 random bytes, each
pack a random id and salt. No pack is ever appended to after one of its writes or syncs failed, nor after a
restart. At most `held_max_bytes` of sealed records wait in memory for a sync; `append` syncs by itself before
there are more.

**Failure.** The records of a failed pack that are not durable yet are sealed again into another pack at the
next `sync`. If that fails too, `sync` raises and everything stays held, so a later one can succeed; meanwhile
`append` works until the bound is reached and then raises the same error. What was durable in the failed pack
stays: it is closed there. Old places stay readable until the `sync` after the one that reported the move.

Locks, in the order they are taken: `_sync_lock` (one sync at a time), a pack's file lock, `_lock` (memory).
"""

import threading
from collections.abc import Sequence

from cache import PackCache
from fusegw.clock import Entropy
from fusegw.errors import FusegwError, Invalid
from fusegw.packs.closing import ClosedPack, disk_error
from fusegw.packs.compress import LEVEL_DEFAULT, Compressor
from fusegw.packs.format import (
    CHUNK_ID_SIZE,
    PACK_ID_SIZE,
    PACK_SIZE_MAX,
    RAW_SIZE_MAX,
    RECORD_OVERHEAD,
    SALT_SIZE,
    Entry,
    Location,
    PackCipher,
    PackInfo,
    PackKeys,
)
from fusegw.packs.spool import OpenPack

WRITE_BYTES = 1 << 20
"""Unwritten bytes at which `append` writes them out."""
INFOS_MAX = 4096
"""Packs `describe` remembers, the newest."""

_Packed = tuple[bytes, int, bytes | memoryview, int]
"""Chunk id, codec, payload, raw size."""


class PackWriter:
    """Writes the packs of one volume in one epoch. Thread-safe; every method but `append_nowait`, `peek`,
    `describe` and `take_closed` may wait for the disk and belongs into a worker thread."""

    def __init__(
        self,
        cache: PackCache,
        keys: PackKeys,
        *,
        epoch: int,
        entropy: Entropy,
        size_max_bytes: int = 32 << 20,
        held_max_bytes: int = 16 << 20,
    ) -> None:
        if not 0 < size_max_bytes <= PACK_SIZE_MAX:
            raise Invalid(f"pack size {size_max_bytes} is not allowed: expected 1 to {PACK_SIZE_MAX} bytes")
        self._cache = cache
        self._keys = keys
        self._epoch = epoch
        self._entropy = entropy
        self._size_max = size_max_bytes
        self._held_max = held_max_bytes
        self._compressor = Compressor()
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._count = 0
        self._current: OpenPack | None = None
        self._full: list[OpenPack] = []
        self._failed: list[OpenPack] = []
        self._moved: list[OpenPack] = []
        self._reported: list[OpenPack] = []
        self._packs: dict[int, OpenPack] = {}
        self._infos: dict[int, PackInfo] = {}
        self._moves: dict[Location, Location] = {}
        self._closed: list[ClosedPack] = []
        self._damaged: list[Entry] = []
        self._trouble: tuple[str, OSError] | None = None

    def append(
        self, chunk_id: bytes, raw: bytes | memoryview, *, claimed: int = 0, level: int = LEVEL_DEFAULT
    ) -> Location:
        """Compress and seal a chunk; readable at once by `peek`, durable after `sync`.

        claimed: bytes of the cache's budget the caller reserved for it; the writer gives them back. level:
        of compression, as `Compressor.compress` takes it.
        Raises Full or FusegwError, and takes nothing, when the bound of held bytes is reached and they
        cannot be made durable.
        """
        return self.append_many([(chunk_id, raw)], claimed=claimed, level=level)[0]

    def append_many(
        self,
        items: Sequence[tuple[bytes, bytes | memoryview]],
        *,
        claimed: int = 0,
        level: int = LEVEL_DEFAULT,
    ) -> list[Location]:
        """`append` for several chunks, all or none; together they should stay far below `held_max_bytes`."""
        batch = [self._compress(chunk_id, raw, level) for chunk_id, raw in items]
        size = sum([len(payload) + RECORD_OVERHEAD for _, _, payload, _ in batch])
        while (locations := self._add(batch, size, claimed)) is None:
            self._make_room(size)
        self._work_off()
        return locations

    def append_nowait(
        self, chunk_id: bytes, raw: bytes | memoryview, *, claimed: int = 0, level: int = LEVEL_DEFAULT
    ) -> Location | None:
        """As `append` without touching the disk; None when that cannot be done: then `append`."""
        packed = self._compress(chunk_id, raw, level)
        locations = self._add([packed], len(packed[2]) + RECORD_OVERHEAD, claimed)
        return None if locations is None else locations[0]

    def peek(self, location: Location) -> bytes | None:
        """The sealed bytes of a record that is in memory still; None: look in the pack's file."""
        with self._lock:
            pack = self._packs.get(location.pack)
            return None if pack is None else pack.peek(location.record)

    def describe(self, number: int) -> PackInfo:
        """Id, salt and key version of one of the last 4,096 packs this writer opened."""
        return self._infos[number]

    def holds(self, number: int) -> bool:
        """Whether a pack is open, being given up, or closed and not taken yet."""
        with self._lock:
            return number in self._packs or any(pack.number == number for pack in self._closed)

    def held_bytes(self) -> int:
        """Sealed bytes in memory that are not durable yet."""
        with self._lock:
            return self._held_bytes()

    def sync(self) -> dict[Location, Location]:
        """Make everything appended before this call durable; returns moved places, old → new (normally none).

        Raises Full (the disk is full) or FusegwError (it fails); then everything is still held and may be
        synced later, and no location handed out since the last good sync may be relied on.
        """
        with self._sync_lock:
            self._save()
            with self._lock:
                moves, self._moves = self._moves, {}
                for pack in self._reported:
                    del self._packs[pack.info.number]
                self._reported, self._moved = self._moved, []
        return moves

    def close_current(self) -> None:
        """Close the open pack, if it holds anything, and those that failed. Raises as `sync`.

        Moves are reported by the next `sync`.
        """
        with self._sync_lock:
            with self._lock:
                if self._current is not None and self._current.entries:
                    self._full.append(self._current)
                    self._current = None
            self._save()
            if self._failed:
                raise self._error()

    def take_closed(self) -> list[ClosedPack]:
        """Packs closed since the last call, oldest first."""
        with self._lock:
            closed, self._closed = self._closed, []
        return closed

    def take_damaged(self) -> list[Entry]:
        """Durable records that could not be read back when their pack was closed after a disk failure."""
        with self._lock:
            damaged, self._damaged = self._damaged, []
        return damaged

    # Taking records.

    def _compress(self, chunk_id: bytes, raw: bytes | memoryview, level: int) -> _Packed:
        if len(chunk_id) != CHUNK_ID_SIZE or not 0 < len(raw) <= RAW_SIZE_MAX:
            raise Invalid(
                f"chunk of {len(raw)} bytes with an id of {len(chunk_id)}: "
                f"expected 1 to {RAW_SIZE_MAX} bytes, and {CHUNK_ID_SIZE}"
            )
        codec, payload = self._compressor.compress(raw, level)
        return chunk_id, codec, payload, len(raw)

    def _add(self, batch: Sequence[_Packed], size: int, claimed: int) -> list[Location] | None:
        """None when `size` more sealed bytes would exceed the bound of what is held."""
        with self._lock:
            held = self._held_bytes()
            if held and held + size > self._held_max:
                return None
            locations = []
            for chunk_id, codec, payload, raw_size in batch:
                pack = self._pack_for(len(payload) + RECORD_OVERHEAD)
                locations.append(pack.add(chunk_id, codec, payload, raw_size, claimed=claimed))
                claimed = 0
            return locations

    def _pack_for(self, stored: int) -> OpenPack:
        """(locked) The current pack if it has room, else a new one."""
        pack = self._current
        if pack is not None:
            if pack.fits(stored, self._size_max):
                return pack
            self._full.append(pack)
        self._count += 1
        info = PackInfo(
            self._epoch << 40 | self._count,
            self._entropy.token(PACK_ID_SIZE),
            self._keys.current_version,
            self._entropy.token(SALT_SIZE),
        )
        cipher = PackCipher(self._keys, info.key_version, info.pack_id, info.salt)
        pack = self._current = OpenPack(info, cipher, self._cache, self._entropy, self._lock)
        self._packs[info.number] = pack
        self._infos[info.number] = info
        if len(self._infos) > INFOS_MAX:
            del self._infos[next(iter(self._infos))]
        return pack

    def _held_bytes(self) -> int:
        """(locked)"""
        held = self._current.held_bytes if self._current is not None else 0
        for pack in self._full:
            held += pack.held_bytes
        for pack in self._failed:
            held += pack.held_bytes
        return held

    def _work_off(self) -> None:
        """Write and sync what has gathered, unless another thread is at it; failures come up at `sync`."""
        with self._lock:
            pack, held = self._current, self._held_bytes()
        if pack is not None and pack.unwritten_bytes >= WRITE_BYTES:
            try:
                pack.write_out(wait=False)
            except OSError as error:
                self._fail(pack, error)
        if held > self._held_max // 2 and not self._failed and self._sync_lock.acquire(blocking=False):
            try:
                self._save()
            except FusegwError:
                pass
            finally:
                self._sync_lock.release()

    def _make_room(self, size: int) -> None:
        with self._sync_lock:
            with self._lock:
                if self._held_bytes() + size <= self._held_max:
                    return
            self._save()

    # Making durable. All with the sync lock.

    def _save(self) -> None:
        """Make all held records durable, at the second try elsewhere; raises when some are still held."""
        self._flush()
        if any(pack.held for pack in self._failed):
            self._copy_held()
            self._flush()
        self._end_failed()
        if any(pack.held for pack in self._failed):
            raise self._error()

    def _flush(self) -> None:
        """Finish the full packs and sync the current one; what fails is failed."""
        with self._lock:
            full, current = list(self._full), self._current
        for pack in full:
            try:
                closed, moves = pack.finish()
            except OSError as error:
                self._fail(pack, error)
                continue
            with self._lock:
                self._full.remove(pack)
                del self._packs[pack.info.number]
                self._closed.append(closed)
                self._settle(moves)
        if current is not None:
            try:
                moves = current.sync()
            except OSError as error:
                self._fail(current, error)
                return
            with self._lock:
                self._settle(moves)
            if current.failure is not None:
                self._fail(current, current.failure)

    def _settle(self, moves: dict[Location, Location]) -> None:
        """(locked) Copies became durable: their originals need not be held any more."""
        for origin in moves:
            self._packs[origin.pack].moved(origin.record)
        self._moves.update(moves)

    def _fail(self, pack: OpenPack, error: OSError) -> None:
        with self._lock:
            if pack in self._failed:
                return
            if pack is self._current:
                self._current = None
            elif pack in self._full:
                self._full.remove(pack)
            else:
                return
            pack.fail(error)
            self._failed.append(pack)
            self._trouble = f"writing pack {pack.info.name}", error
            claimed = pack.take_claims()
        self._cache.release(claimed)

    def _copy_held(self) -> None:
        """Seal the held records of failed packs again, as copies in the current pack."""
        with self._lock:
            for failed in self._failed:
                for record, sealed in failed.held.items():
                    chunk_id, place = failed.entries[record]
                    payload = failed.cipher.open(sealed, chunk_id, place)
                    pack = self._pack_for(place.stored)
                    pack.add(chunk_id, place.codec, payload, place.raw, origin=place)

    def _end_failed(self) -> None:
        """Close or discard the failed packs that hold nothing any more; what the disk refuses is retried."""
        for pack in [pack for pack in self._failed if not pack.held]:
            try:
                closing = pack.abandon()
            except OSError as error:
                self._trouble = f"closing pack {pack.info.name}", error
                continue
            with self._lock:
                self._failed.remove(pack)
                self._moved.append(pack)
                self._damaged.extend(closing.damaged)
                if closing.pack is not None:
                    self._closed.append(closing.pack)

    def _error(self) -> FusegwError:
        """What kept the failed packs from becoming durable."""
        assert self._trouble is not None
        return disk_error(*self._trouble)
