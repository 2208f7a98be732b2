"""The table of pack files, and how room on disk is found and freed.

One lock guards everything here: the table, the records, the policy, the ledger, the handles. It is
held for microseconds and given up during disk I/O (free space is looked up under it, at most about
once a second). Blocks that I/O is under way for are BUSY meanwhile, so nobody else frees, fills or
reads them. `make_room`, `free` and `shrink` are called with the lock held and return with it held, but
give it up in between, as `Condition.wait` does: look again at whatever was read before.
"""

import os
import re
import threading
from array import array

from cache.blocks import ABSENT, BUSY, Handle, PackFile, allocated, runs
from cache.disk import Disk
from cache.handles import Handles
from cache.ledger import Ledger
from cache.policy import FIRST_SLOT, S3Fifo
from cache.stats import Counters

EVICTION_BATCH_BLOCKS = 64
"""Most blocks taken out of the policy before the lock is given up to punch them."""

_BLOCK_BITS = 20
_NAME = re.compile("[0-9a-f]{32}")


def is_pack_name(name: str) -> bool:
    """True for 32 lower-case hex digits."""
    return _NAME.fullmatch(name) is not None


class Space:
    """Pack files of one directory `root`, cut into blocks of `block_bytes`."""

    def __init__(
        self,
        disk: Disk,
        root: str,
        block_bytes: int,
        *,
        ledger: Ledger,
        policy: S3Fifo,
        handles: Handles,
        counters: Counters,
    ) -> None:
        self.disk = disk
        self.block_bytes = block_bytes
        self.ledger = ledger
        self.policy = policy
        self.handles = handles
        self.counters = counters
        self.lock = threading.Lock()
        self.files: dict[str, PackFile] = {}
        self._root = root
        self._settled = threading.Condition(self.lock)
        self._in_flight = 0
        self._by_serial: dict[int, PackFile] = {}
        self._serial = 0

    def directory(self, name: str) -> str:
        return os.path.join(self._root, name[:2])

    def path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"

    # Records. All with the lock held.

    def add(self, name: str) -> PackFile:
        if not is_pack_name(name):
            raise ValueError(f"{name!r} is not the name of a pack: expected 32 lower-case hex digits")
        self._serial += 1
        file = PackFile(name, self._serial, self.block_bytes)
        self.files[name] = self._by_serial[file.serial] = file
        return file

    def remove(self, file: PackFile) -> None:
        """Nothing of the file is left."""
        file.dying = True
        del self.files[file.name], self._by_serial[file.serial]

    def pin(self, file: PackFile, size: int) -> None:
        """A file just added holds `size` bytes that are not in the store."""
        file.pinned = True
        file.size = size
        self.ledger.pinned += allocated(size)

    def end_writing(self, file: PackFile) -> list[int]:
        """Take the descriptor back from the writer; returns descriptors to close."""
        if not file.writing or file.handle is None:
            return []
        file.writing = False
        return self.handles.release(file.handle)

    def unpin(self, file: PackFile) -> list[int]:
        """The pinned file is clean from now on; returns descriptors to close."""
        file.pinned = False
        self.ledger.pinned -= allocated(file.size)
        self.ledger.clean += allocated(file.size)
        file.extend(file.blocks_in(file.size))
        for block in range(len(file.slots)):
            self.admit(file, block)
        return self.end_writing(file)

    def admit(self, file: PackFile, block: int, *, proven: bool = False) -> None:
        """`block`, already charged, is clean and whole from now on."""
        key = file.serial << _BLOCK_BITS | block
        file.slots[block] = self.policy.insert(key, file.fingerprint(block), proven=proven)
        file.present += 1

    def restore(self, file: PackFile, size: int, stretches: list[tuple[int, int]]) -> None:
        """A file just added holds the blocks [first, end) of each stretch of a stored pack."""
        file.size = size
        file.extend(stretches[-1][1])
        base = file.serial << _BLOCK_BITS
        for first, end in stretches:
            file.slots[first:end] = array("I", self.policy.restore(range(base | first, base | end)))
            file.present += end - first
            self.ledger.clean += (end - first - 1) * self.block_bytes + file.charge(end - 1)

    def take(self, file: PackFile, first: int, end: int) -> list[int]:
        """Take the clean blocks in [first, end) out of the policy, to be freed: they are BUSY now."""
        taken = []
        for block in range(first, min(end, len(file.slots))):
            slot = file.slots[block]
            if slot >= FIRST_SLOT:
                self.policy.remove(slot)
                self._mark_busy(file, block)
                taken.append(block)
        return taken

    def claim(self, name: str, offset: int, end: int) -> tuple[PackFile | None, list[int]]:
        """The absent blocks that bytes [offset, end) fill, charged and BUSY now; (None, []) if none."""
        file = self.files.get(name)
        if file is None:
            file = self.add(name)
        elif file.pinned or file.dying or (end > file.size and file.short_block() is not None):
            return None, []
        file.size = max(file.size, end)
        stop = file.blocks_in(end) if end == file.size else end // self.block_bytes
        file.extend(stop)
        blocks = [block for block in range(offset // self.block_bytes, stop) if file.slots[block] == ABSENT]
        if not blocks:
            return None, []
        for block in blocks:
            file.slots[block] = BUSY
            self.ledger.clean += file.charge(block)
        file.busy += len(blocks)
        self._in_flight += 1
        return file, blocks

    def settle(self, file: PackFile, blocks: list[int]) -> None:
        """BUSY `blocks` were filled."""
        for block in blocks:
            self.admit(file, block)
        file.busy -= len(blocks)
        self._end_flight()

    def abandon(self, file: PackFile, blocks: list[int]) -> None:
        """BUSY `blocks` could not be filled: free what arrived of them."""
        self._in_flight -= 1
        self.free({file: blocks})

    def wait(self) -> None:
        """Wait for an operation under way elsewhere to end. Only while there is one."""
        self._settled.wait()

    # Room. With the lock held; gives it up meanwhile.

    def end_at_least(self, name: str, end: int) -> bool:
        """Free a last block that was short, since the pack is longer; False if that failed."""
        file = self.files.get(name)
        short = file.short_block() if file is not None and end > file.size else None
        if file is None or short is None:
            return True
        taken = self.take(file, short, short + 1)
        return bool(taken) and self.free({file: taken}) > 0

    def make_room(self, more: int, *, ahead: int = 0) -> bool:
        """True when `more` bytes fit now; evicts for them, and then at least `ahead` bytes at once."""
        while True:
            if self.ledger.stale():
                self.ledger.look()
            excess = self.ledger.excess(more)
            if excess <= 0:
                return True
            if self.ledger.hopeless(more) or not self._evict(max(excess, ahead)):
                return False

    def shrink(self, more: int = 0) -> None:
        """Evict until `more` bytes fit under the limit itself, as far as anything is clean."""
        while True:
            if self.ledger.stale():
                self.ledger.look()
            overrun = self.ledger.overrun() + more
            if overrun <= 0 or not self._evict(overrun):
                return

    def drop(self) -> int:
        """Free every clean block; returns the bytes freed."""
        freed, goal = 0, self.ledger.clean
        while freed < goal:
            victims = self._victims(goal)
            if victims:
                got = self.free(victims)
                if not got:
                    break
                freed += got
            elif self._in_flight:
                self.wait()
                goal = min(goal, freed + self.ledger.clean)
            else:
                break
        return freed

    def free(self, victims: dict[PackFile, list[int]], *, evicted: bool = False) -> int:
        """Free BUSY blocks by punching, or by unlinking a file of which nothing else is left.

        Returns the bytes freed. Blocks the disk would not free stay clean, and charged.
        """
        for file, blocks in victims.items():
            file.dying = not file.pinned and not file.present and file.busy == len(blocks)
        self._in_flight += 1
        self.lock.release()
        try:
            done = {file for file, blocks in victims.items() if self._free_on_disk(file, blocks)}
        finally:
            self.lock.acquire()
        freed = 0
        for file, blocks in victims.items():
            file.busy -= len(blocks)
            if file not in done:
                file.dying = False
                for block in blocks:
                    self.admit(file, block, proven=True)
                continue
            for block in blocks:
                file.slots[block] = ABSENT
                freed += file.charge(block)
                if evicted:
                    self.policy.bury(file.fingerprint(block))
            if file.dying:
                self.remove(file)
        self.ledger.clean -= freed
        if evicted:
            self.counters.evictions += sum(len(blocks) for file, blocks in victims.items() if file in done)
            self.counters.evicted_bytes += freed
        self._end_flight()
        # Two threads may each have freed a part and left the whole to nobody.
        empty = [file for file, blocks in victims.items() if blocks and file in done and not file.dying]
        for file in empty:
            if not (file.dying or file.pinned or file.present or file.busy):
                self.free({file: []})
        return freed

    # Descriptors. Without the lock.

    def open_handle(self, file: PackFile, flags: int = os.O_RDWR) -> Handle:
        """The handle of `file` for one more user; OSError when it cannot be opened."""
        with self.lock:
            handle = self.handles.acquire(file)
        if handle is not None:
            return handle
        fd = self._open(file.name, flags)
        with self.lock:
            if file.dying:
                handle, surplus = None, [fd]
            else:
                handle, surplus = self.handles.install(file, fd)
        self.close(surplus)
        if handle is None:
            raise FileNotFoundError(f"{file.name} has just been evicted")
        return handle

    def _open(self, name: str, flags: int) -> int:
        try:
            return self.disk.open(self.path(name), flags)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
        # Somebody removed the directory.
        self.disk.make_dir(self.directory(name))
        return self.disk.open(self.path(name), flags)

    def release_handle(self, handle: Handle) -> None:
        with self.lock:
            surplus = self.handles.release(handle)
        self.close(surplus)

    def close(self, descriptors: list[int]) -> None:
        for fd in descriptors:
            self.disk.close(fd)

    def _evict(self, goal: int) -> bool:
        """Free up to `goal` bytes in one batch, or wait for others; False when that brings nothing."""
        victims = self._victims(goal)
        if victims:
            return self.free(victims, evicted=True) > 0
        if self._in_flight:
            self.wait()
            return True
        return False

    def _victims(self, goal: int) -> dict[PackFile, list[int]]:
        """Up to `goal` bytes or one batch of blocks, by the policy, BUSY now."""
        victims: dict[PackFile, list[int]] = {}
        for _ in range(EVICTION_BATCH_BLOCKS):
            chosen = self.policy.evict() if goal > 0 else None
            if chosen is None:
                break
            file = self._by_serial[chosen >> _BLOCK_BITS]
            block = chosen & (1 << _BLOCK_BITS) - 1
            self._mark_busy(file, block)
            victims.setdefault(file, []).append(block)
            goal -= file.charge(block)
        return victims

    def _mark_busy(self, file: PackFile, block: int) -> None:
        file.slots[block] = BUSY
        file.present -= 1
        file.busy += 1
        file.epoch += 1

    def _free_on_disk(self, file: PackFile, blocks: list[int]) -> bool:
        """Without the lock: False when the disk refused."""
        try:
            if file.dying:
                self._unlink(file)
            elif blocks:
                handle = self.open_handle(file)
                try:
                    for first, end in runs(sorted(blocks)):
                        start = first * self.block_bytes
                        self.disk.punch(handle.fd, start, (end - first) * self.block_bytes)
                finally:
                    self.release_handle(handle)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True

    def _unlink(self, file: PackFile) -> None:
        try:
            self.disk.unlink(self.path(file.name))
        finally:
            with self.lock:
                surplus = self.handles.retire(file)
            self.close(surplus)

    def _end_flight(self) -> None:
        self._in_flight -= 1
        self._settled.notify_all()
