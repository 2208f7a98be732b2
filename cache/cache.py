"""A bounded local cache of packs, and the spool for packs not yet in the store.

One sparse file per pack, `<directory>/packs/<first 2 hex>/<32 hex>`. Packs are immutable once sealed, so a
range is either here or not; presence is kept per block (1 MiB) in memory and found again at a start by
looking where the files have holes. Eviction punches holes, and unlinks a file with no block left. There
is no index on disk that could disagree with the files. Contents are sealed records; the caller
authenticates what it reads, and `invalidate`s what does not open: then it is fetched again.

**Pinned and clean.** A pack file under construction or not yet in the store is pinned: never evicted.
`unpin` makes its blocks clean, that is, evictable. Pins are not kept on disk: at a start the caller says
which names are pinned, because only its metadata knows what is in the store.

**Accounting.** `cache.ledger` defines it, call by call: pinned + clean + reserved ≤ budget, so used bytes
(pinned + clean) never exceed the budget as long as writers claim room first.

**Calls and disk I/O.** No I/O: `reserve_nowait`, `release`, `missing`, `size`, `fill_ratio`. All others may
do disk I/O and belong into worker threads. Whoever needs room evicts in the calling thread, in batches.
All methods are thread-safe. Damage below a running cache (files deleted, truncated, changed, disk full) is
a miss or wrong bytes, never an exception, except where a method says OSError.
"""

import errno
import os
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path

from cache.blocks import PackFile, allocated, runs
from cache.disk import Buffer, Disk, OsDisk
from cache.handles import Handles
from cache.ledger import Ledger
from cache.lock import lock_directory
from cache.policy import FIRST_SLOT, S3Fifo
from cache.rebuild import Known, probe, rebuild
from cache.space import Space
from cache.stats import CacheStats, Counters

_EVICT_AHEAD_BLOCKS = 16
_READ_ATTEMPTS = 3


class PackCache:
    """The cache in one directory, which it locks. Names of packs are 32 lower-case hex digits."""

    def __init__(
        self,
        directory: Path,
        budget_bytes: int,
        *,
        pinned: Collection[str],
        known: Known,
        monotonic: Callable[[], float],
        block_bytes: int = 1 << 20,
        disk: Disk | None = None,
        disk_reserve_bytes: int | None = None,
        margin_bytes: int | None = None,
        descriptors_max: int = 128,
    ) -> None:
        """Open the cache: files in `pinned` are pinned, others that `known` knows clean, the rest is deleted.

        `known` is asked once, for all there are, and not at all when there are none. `monotonic` gives
        seconds. `disk_reserve_bytes` of the file system stay free (default: 64 MiB or 1 % of it, whichever is
        more). `margin_bytes` of the budget take no claims (default: one block, at most 1/16 of the budget).
        Raises CacheInUse and CacheUnsuitable.
        """
        if block_bytes < 4096 or block_bytes & (block_bytes - 1):
            raise ValueError(f"block_bytes must be a power of two of at least 4096, not {block_bytes}")
        self.disk: Disk = disk or OsDisk()
        """For the writer of pack files: its system calls go the same way."""
        top = str(directory)
        self._lock_file = lock_directory(self.disk, top)
        self._block_bytes = block_bytes
        self._ahead_bytes = min(_EVICT_AHEAD_BLOCKS * block_bytes, budget_bytes // 32)
        self._counters = Counters()
        try:
            if disk_reserve_bytes is None:
                disk_reserve_bytes = max(64 << 20, self.disk.total_bytes(top) // 100)
            self._ledger = Ledger(
                budget_bytes,
                margin_bytes=min(block_bytes, budget_bytes // 16) if margin_bytes is None else margin_bytes,
                disk_reserve_bytes=disk_reserve_bytes,
                free_bytes=lambda: self.disk.free_bytes(top),
                monotonic=monotonic,
            )
            self._space = Space(
                self.disk,
                os.path.join(top, "packs"),
                block_bytes,
                ledger=self._ledger,
                policy=S3Fifo(budget_bytes // block_bytes),
                handles=Handles(descriptors_max),
                counters=self._counters,
            )
            probe(self.disk, top, block_bytes)
            rebuild(self._space, pinned=pinned, known=known)
            with self._space.lock:
                self._space.shrink()
        except BaseException:
            self._lock_file.close()
            raise

    def close(self) -> None:
        """Close all descriptors and let go of the directory. No other method may be called afterwards."""
        with self._space.lock:
            descriptors = self._space.handles.clear()
        self._space.close(descriptors)
        self._lock_file.close()

    # Pack files being written.

    def create(self, name: str) -> int:
        """A descriptor for a new, empty, pinned pack file, valid until `seal` or `discard`.

        Raises FileExistsError if the name is taken, other OSError when the disk refuses.
        """
        with self._space.lock:
            if name in self._space.files:
                raise FileExistsError(errno.EEXIST, "pack is in the cache already", name)
            file = self._space.add(name)
            file.pinned = file.writing = True
        try:
            return self._space.open_handle(file, os.O_RDWR | os.O_CREAT | os.O_EXCL).fd
        except OSError:
            with self._space.lock:
                self._space.remove(file)
            raise

    def reopen(self, name: str) -> int:
        """A descriptor to complete a pinned pack file found at the start, valid until `seal` or `discard`.

        Raises FileNotFoundError if it is not here, ValueError if it is not pinned or has a writer.
        """
        with self._space.lock:
            if name not in self._space.files:
                raise FileNotFoundError(errno.ENOENT, "pack is not in the cache", name)
            file = self._pinned(name)
            if file.writing:
                raise ValueError(f"pack {name} has a writer already")
            file.writing = True
        try:
            return self._space.open_handle(file).fd
        except OSError:
            with self._space.lock:
                file.writing = False
            raise

    def sync_directory(self, name: str) -> None:
        """On return the name of that pack file survives power loss. Raises OSError."""
        self.disk.fsync_dir(self._space.directory(name))

    def size(self, name: str) -> int | None:
        """Bytes of a pinned pack file; None if it is not here or not pinned."""
        with self._space.lock:
            file = self._space.files.get(name)
            return file.size if file is not None and file.pinned else None

    def account(self, name: str, size: int, *, claimed: int = 0) -> None:
        """Call before the pinned file grows to (or after it shrank to) `size` bytes.

        Gives back `claimed` bytes of claims in the same step. Raises ValueError if it is not pinned.
        """
        with self._space.lock:
            file = self._pinned(name)
            if size > file.size:
                self._space.shrink(allocated(size) - allocated(file.size) - claimed)
            self._ledger.pinned += allocated(size) - allocated(file.size)
            self._ledger.reserved = max(0, self._ledger.reserved - claimed)
            file.size = size

    def seal(self, name: str, size: int) -> None:
        """The pinned file is complete with `size` bytes; its writer's descriptor is invalid from now on."""
        self.account(name, size)
        with self._space.lock:
            surplus = self._space.end_writing(self._pinned(name))
        self._space.close(surplus)

    def unpin(self, name: str) -> None:
        """The pack is in the store: its blocks may be evicted now. No error if it is not pinned."""
        with self._space.lock:
            file = self._space.files.get(name)
            if file is None or not file.pinned:
                return
            surplus = self._space.unpin(file)
            if not file.present:
                self._space.free({file: []})
        self._space.close(surplus)

    def discard(self, name: str) -> None:
        """Forget the pack, pinned or not, and free its space. No error if it is not here."""
        with self._space.lock:
            file = self._space.files.get(name)
            while file is not None and file.busy:
                self._space.wait()
                file = self._space.files.get(name)
            if file is None or file.dying:
                return
            surplus = self._space.unpin(file) if file.pinned else []
            self._space.free({file: self._space.take(file, 0, len(file.slots))})
        self._space.close(surplus)

    # Reading.

    def read(self, name: str, offset: int, length: int, *, counted: bool = True) -> bytes | None:
        """Exactly those bytes, not authenticated; None when any of them is not here.

        `counted`: it is a hit or a miss; False after a miss of the same bytes that made them come.
        """
        end = offset + length
        for _ in range(_READ_ATTEMPTS):
            with self._space.lock:
                file = self._space.files.get(name)
                if file is None or not self._present(file, offset, end):
                    break
                epoch = file.epoch
                handle = self._space.handles.acquire(file)
            try:
                if handle is None:
                    handle = self._space.open_handle(file)
            except FileNotFoundError:
                self.invalidate(name, 0, file.size)
                break
            except OSError:
                break
            try:
                data = self.disk.pread(handle.fd, length, offset)
            except OSError:
                data = b""
            with self._space.lock:
                surplus = self._space.handles.release(handle)
                undisturbed = file.epoch == epoch
                if undisturbed and counted and len(data) == length:
                    self._counters.hits += 1
                    self._counters.hit_bytes += length
            self._space.close(surplus)
            if undisturbed:
                if len(data) == length:
                    return data
                self.invalidate(name, offset, length)
                break
        if counted:
            with self._space.lock:
                self._counters.misses += 1
                self._counters.miss_bytes += length
        return None

    def read_nowait(self, name: str, offset: int, length: int) -> bytes | None:
        """Those bytes if the kernel has them in memory and the file is open, at once; else None.

        Not authenticated. A hit when it has them, and nothing otherwise: then `read` follows.
        """
        with self._space.lock:
            file = self._space.files.get(name)
            if file is None or not self._present(file, offset, offset + length):
                return None
            epoch = file.epoch
            handle = self._space.handles.acquire(file)
        if handle is None:
            return None
        try:
            data = self.disk.pread_nowait(handle.fd, length, offset)
        finally:
            self._space.release_handle(handle)
        if data is None:
            return None
        with self._space.lock:
            if file.epoch != epoch:
                return None
            self._counters.hits += 1
            self._counters.hit_bytes += length
        return data

    def read_pinned(self, name: str, size: int) -> bytes | None:
        """The first `size` bytes of a pinned pack file, for its upload: no hit and no miss.

        None when the file is not here, not pinned, or does not have them.
        """
        with self._space.lock:
            file = self._space.files.get(name)
            if file is None or not file.pinned or file.size < size:
                return None
            handle = self._space.handles.acquire(file)
        try:
            if handle is None:
                handle = self._space.open_handle(file)
        except OSError:
            return None
        try:
            data = self.disk.pread(handle.fd, size, 0)
        except OSError:
            return None
        finally:
            self._space.release_handle(handle)
        return data if len(data) == size else None

    def missing(
        self, name: str, offset: int, length: int, *, size: int | None = None
    ) -> list[tuple[int, int]]:
        """(offset, length) of the ranges to fetch and `fill` before those bytes can be read; [] if none.

        Ranges begin at a block and end at one or at the pack's end, neighbours merged, ascending. `size` is
        the pack's size; without it a range may go beyond the end of the pack. Nothing is missing of a
        pinned file: what it does not hold, nobody has.
        """
        step, end = self._block_bytes, offset + length
        with self._space.lock:
            file = self._space.files.get(name)
            absent = [] if file is not None and file.pinned else list(range(offset // step, -(-end // step)))
            if file is not None:
                # A request past the end we know shows that the end was not the end (a torn fill).
                torn = file.short_block() if max(end, size or 0) > file.size else None
                absent = [block for block in absent if file.slot(block) < FIRST_SLOT or block == torn]
        ranges = [(first * step, last * step) for first, last in runs(absent)]
        return [(start, min(stop, size or stop) - start) for start, stop in ranges]

    def fill(self, name: str, offset: int, data: Buffer) -> None:
        """Keep fetched bytes of a stored pack; evicts for them.

        `offset` is the start of a block (else ValueError). A last part shorter than a block is taken for the
        end of the pack, or left out if the pack is known to be longer. Does nothing when there is no room,
        when the disk refuses, or when the pack is pinned.
        """
        if offset % self._block_bytes:
            raise ValueError(f"fill at {offset}: must be a multiple of {self._block_bytes}")
        view, end = memoryview(data), offset + len(data)
        with self._space.lock:
            if not view or not self._space.end_at_least(name, end):
                return
            if not self._space.make_room(allocated(len(view))):
                return
            file, blocks = self._space.claim(name, offset, end)
            flags = os.O_RDWR if file is not None and file.present else os.O_RDWR | os.O_CREAT
        if file is None:
            return
        try:
            handle = self._space.open_handle(file, flags)
            try:
                for first, last in runs(blocks):
                    start, stop = first * self._block_bytes, min(last * self._block_bytes, end)
                    self.disk.pwrite(handle.fd, view[start - offset : stop - offset], start)
            finally:
                self._space.release_handle(handle)
        except OSError:
            with self._space.lock:
                self._space.abandon(file, blocks)
            return
        with self._space.lock:
            self._space.settle(file, blocks)
            self._counters.fills += len(blocks)

    def invalidate(self, name: str, offset: int, length: int) -> None:
        """These bytes are bad: forget the blocks they lie in.

        A pinned file keeps them: there may be no other copy.
        """
        first, end = offset // self._block_bytes, -(-(offset + length) // self._block_bytes)
        with self._space.lock:
            file = self._space.files.get(name)
            if file is not None and not file.pinned:
                taken = self._space.take(file, first, end)
                if taken:
                    self._space.free({file: taken})

    # Budget.

    def reserve_nowait(self, nbytes: int) -> bool:
        """Claim room for `nbytes` of accepted data without I/O, in about a microsecond.

        False when that takes I/O, or cannot be had: then call `reserve` in a worker thread.
        """
        with self._space.lock:
            if self._ledger.stale() or self._ledger.excess(nbytes) > 0:
                return False
            self._ledger.reserved += nbytes
            return True

    def reserve(self, nbytes: int) -> bool:
        """Claim room for `nbytes` of accepted data; evicts, a little ahead of the need.

        False when what cannot be evicted fills the budget, or the disk below is nearly full.
        """
        with self._space.lock:
            if not self._space.make_room(nbytes, ahead=self._ahead_bytes):
                return False
            self._ledger.reserved += nbytes
            return True

    def release(self, nbytes: int) -> None:
        """Give back a claim for data that needs no room of its own any more."""
        with self._space.lock:
            self._ledger.reserved = max(0, self._ledger.reserved - nbytes)

    def fill_ratio(self) -> float:
        """Pinned and reserved bytes as a share of what claims may fill: slow writers down as it nears 1."""
        with self._space.lock:
            return self._ledger.dirty_ratio()

    def pinned_bytes(self) -> int:
        """On disk, of pack files under construction or not yet in the store."""
        return self._ledger.pinned

    def drop(self) -> int:
        """Evict every clean block; returns the bytes freed."""
        with self._space.lock:
            return self._space.drop()

    def stats(self) -> CacheStats:
        """A consistent picture of now."""
        space, ledger = self._space, self._ledger
        with space.lock:
            if ledger.stale():
                ledger.look()
            return CacheStats(
                used_bytes=ledger.used,
                budget_bytes=ledger.budget,
                dirty_bytes=ledger.pinned + ledger.reserved,
                pinned_bytes=ledger.pinned,
                reserved_bytes=ledger.reserved,
                clean_bytes=ledger.clean,
                files=len(space.files),
                pinned_files=sum(file.pinned for file in space.files.values()),
                blocks=len(space.policy),
                disk_free_bytes=ledger.disk_free,
                **asdict(self._counters),
            )

    def _present(self, file: PackFile, offset: int, end: int) -> bool:
        """With the lock: True when all these bytes are here; tells the policy of the use."""
        if end > file.size:
            return False
        if file.pinned:
            return True
        slots = file.slots[offset // self._block_bytes : -(-end // self._block_bytes)]
        for slot in slots:
            if slot < FIRST_SLOT:
                return False
        for slot in slots:
            self._space.policy.touch(slot)
        return True

    def _pinned(self, name: str) -> PackFile:
        """With the lock."""
        file = self._space.files.get(name)
        if file is None or not file.pinned:
            raise ValueError(f"pack {name} is not pinned: create it first")
        return file
