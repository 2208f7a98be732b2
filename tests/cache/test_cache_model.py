"""Random operations against a model: the budget holds, pins hold, no wrong bytes, restarts at any point.

The model knows what each pack contains and which bytes were harmed by hand; it does not know what is
cached. What a read returns must be right, or be None, and then fetching must make it right.
"""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cache import OsDisk, PackCache
from cache.blocks import allocated
from tests.cache.disks import StoppedClock, content, pack_name, pack_path

BLOCK = 8192
PACK_MOST = 10 * BLOCK + 300
BUDGET = 32 * BLOCK

numbers = st.integers(0, 7)
offsets = st.integers(0, PACK_MOST - 1)
lengths = st.integers(1, 4 * BLOCK)


class Pack:
    def __init__(self, number: int, generation: int) -> None:
        self.name = pack_name(number + 100 * generation)
        self.data = content(self.name, PACK_MOST - 1500 * number)
        self.fd: int | None = None
        self.written = 0
        self.state = "absent"  # absent → open → sealed → stored
        self.harmed = False


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # In memory where possible: thousands of restarts, each with an fsync, are not for a busy disk.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.directory = Path(tempfile.mkdtemp(prefix="cache-model-", dir=memory))
        self.packs = [Pack(number, 0) for number in range(8)]
        self.generation = 0
        self.claims = 0
        self.open()

    def open(self) -> None:
        pinned = {pack.name for pack in self.packs if pack.state in ("open", "sealed")}
        known = {pack.name for pack in self.packs if pack.state == "stored"}
        self.claims = 0
        self.cache = PackCache(
            self.directory / "cache", BUDGET, pinned=pinned, known=known.intersection,
            monotonic=StoppedClock(), block_bytes=BLOCK, margin_bytes=0,
            disk_reserve_bytes=0, descriptors_max=3,
        )  # fmt: skip

    def teardown(self) -> None:
        self.cache.close()
        shutil.rmtree(self.directory)

    @rule()
    def restart(self) -> None:
        self.cache.close()
        self.open()
        for pack in self.packs:
            if pack.state == "open":
                pack.fd = self.cache.reopen(pack.name)

    @rule(number=numbers, length=lengths)
    def write(self, number: int, length: int) -> None:
        pack = self.packs[number]
        piece = pack.data[pack.written : pack.written + length]
        size = pack.written + len(piece)
        growth = allocated(size) - allocated(pack.written)
        if pack.state not in ("absent", "open") or not self.cache.reserve(growth):
            return
        if pack.state == "absent":
            pack.fd = self.cache.create(pack.name)
            pack.state = "open"
        self.cache.account(pack.name, size, claimed=growth)
        assert pack.fd is not None
        OsDisk().pwrite(pack.fd, piece, pack.written)
        pack.written = size

    @rule(number=numbers)
    def seal(self, number: int) -> None:
        pack = self.packs[number]
        if pack.state == "open":
            self.cache.seal(pack.name, pack.written)
            pack.data = pack.data[: pack.written]
            pack.state = "sealed"

    @rule(number=numbers)
    def store(self, number: int) -> None:
        pack = self.packs[number]
        if pack.state == "sealed":
            self.cache.unpin(pack.name)
            pack.state = "stored"

    @rule(number=numbers)
    def discard(self, number: int) -> None:
        self.cache.discard(self.packs[number].name)
        self.generation += 1
        self.packs[number] = Pack(number, self.generation)

    @rule(nbytes=st.integers(0, 20 * BLOCK), nowait=st.booleans())
    def claim(self, nbytes: int, nowait: bool) -> None:
        if self.cache.reserve_nowait(nbytes) if nowait else self.cache.reserve(nbytes):
            self.claims += nbytes

    @rule(share=st.floats(0, 1))
    def release(self, share: float) -> None:
        part = int(self.claims * share)
        self.cache.release(part)
        self.claims -= part

    @rule(number=numbers, offset=offsets, length=lengths, ahead=st.integers(0, 3 * BLOCK))
    def read(self, number: int, offset: int, length: int, ahead: int) -> None:
        pack = self.packs[number]
        size = pack.written if pack.state in ("absent", "open") else len(pack.data)
        offset = min(offset, size)
        length = min(length, size - offset)
        expected = pack.data[offset : offset + length]
        found = self.cache.read(pack.name, offset, length)
        if pack.state in ("open", "sealed"):
            assert found == expected, "a pinned pack is always readable"
        if found == expected or pack.state != "stored":
            return
        assert found is None or pack.harmed, "wrong bytes from a file nobody touched"
        if found is not None:
            self.cache.invalidate(pack.name, offset, length)
        for start, count in self.cache.missing(pack.name, offset, length + ahead, size=size):
            assert start % BLOCK == 0 and start + count <= size
            self.cache.fill(pack.name, start, pack.data[start : start + count])
        assert pack.harmed or self.cache.read(pack.name, offset, length) in (None, expected)

    @rule(number=numbers, offset=offsets, length=lengths)
    def invalidate(self, number: int, offset: int, length: int) -> None:
        self.cache.invalidate(self.packs[number].name, offset, length)

    @rule()
    def drop(self) -> None:
        self.cache.drop()
        assert self.cache.stats().clean_bytes == 0

    @precondition(lambda self: any(pack.state == "stored" for pack in self.packs))
    @rule(number=numbers, how=st.sampled_from(["delete", "truncate", "flip"]), at=offsets)
    def harm(self, number: int, how: str, at: int) -> None:
        pack = self.packs[number]
        path = pack_path(self.directory / "cache", pack.name)
        if pack.state != "stored" or not path.exists():
            return
        pack.harmed = True
        if how == "delete":
            path.unlink()
        elif how == "truncate":
            os.truncate(path, min(at, path.stat().st_size))
        elif at < path.stat().st_size:
            with path.open("r+b") as file:
                file.seek(at)
                file.write(bytes([pack.data[at] ^ 0x40]))

    @invariant()
    def the_budget_holds(self) -> None:
        stats = self.cache.stats()
        assert stats.used_bytes == stats.pinned_bytes + stats.clean_bytes
        assert stats.used_bytes + stats.reserved_bytes <= BUDGET
        assert stats.dirty_bytes == stats.pinned_bytes + stats.reserved_bytes
        assert stats.reserved_bytes == self.claims
        pinned = [allocated(pack.written) for pack in self.packs if pack.state in ("open", "sealed")]
        assert (stats.pinned_bytes, stats.pinned_files) == (sum(pinned), len(pinned))
        assert stats.clean_bytes <= stats.blocks * BLOCK

    @invariant()
    def the_disk_agrees(self) -> None:
        paths = [pack_path(self.directory / "cache", pack.name) for pack in self.packs]
        on_disk = sum(path.stat().st_blocks * 512 for path in paths if path.exists())
        assert on_disk <= BUDGET + PACK_MOST
        if not any(pack.harmed for pack in self.packs):
            # The file system may count a block of its own per file for the list of extents.
            used = self.cache.stats().used_bytes
            assert used <= on_disk <= used + 4096 * len(self.packs)


TestCacheModel = CacheMachine.TestCase
TestCacheModel.settings = settings(
    max_examples=40,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
