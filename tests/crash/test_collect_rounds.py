"""Churn with kill -9 while room is made in the store: nothing that lives is lost, and in the end the store
holds little else.

Full size is 10 GiB of files, of which seven of ten go and come again 20 times. Their data repeats itself, as
that of backups does, so that it compresses to about a quarter; what is stored is held against what has to be.
FUSEGW_GC_MIB, FUSEGW_GC_ROUNDS and FUSEGW_GC_SEED choose how much, how often and which.
"""

import hashlib
import os
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusegw.config import VolumePaths
from fusegw.control.protocol import CollectReply, CollectWish, SyncProgress
from fusegw.errors import FusegwError
from fusegw.meta.metadata import Metadata
from tests.model.invariants import check_index
from tests.mount.gateways import NAME, Gateway

pytestmark = [pytest.mark.mount]
SEED = int(os.environ.get("FUSEGW_GC_SEED", "1"))
MIB = 1 << 20
CONFIG = f"""
[volumes.{NAME}]
pack_size = "4M"
gc_interval_s = 0
gc_grace_s = 0
gc_orphan_grace_s = 0
checkpoint_interval_s = 0.5
checkpoint_retention_s = 0
"""
PIECE_BYTES = 4096
COUNTED = ("read_requests", "put_requests", "delete_requests", "read_bytes", "written_bytes", "deleted_bytes")


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    base = Path(tempfile.mkdtemp(prefix="fusegw-collect-"))
    gateway = Gateway(base)
    try:
        yield gateway
    finally:
        gateway.end()
        shutil.rmtree(base)


class Churn:
    """A mounted volume whose files come and go, and collections that are cut off."""

    def __init__(self, gateway: Gateway, nbytes: int, seed: int, *, copies: int) -> None:
        """`copies`: how often each piece of a file's data is there, one after the other."""
        self.gateway = gateway
        self.nbytes = nbytes
        self.typical_bytes = max(40_000, nbytes >> 14)
        self.copies = copies
        self.dice = random.Random(seed)
        self.files: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.figures: Counter[str] = Counter()
        self.took_s = 1.0
        self.killed_while: Counter[str] = Counter()
        self.written = 0
        self.named = 0

    @property
    def living(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())

    def mount(self) -> None:
        self.gateway.mount("--cache-size", "256M")

    def fill(self) -> None:
        """Files up to the size wanted, all in the store."""
        missing = self.nbytes - self.living
        while missing > 0:
            name = f"f{self.named}"
            self.named += 1
            data = self.content(
                int(self.dice.paretovariate(1.1) * self.typical_bytes) % (200 * self.typical_bytes)
            )
            (self.gateway.root / name).write_bytes(data)
            self.files[name], self.sizes[name] = hashlib.blake2b(data).digest(), len(data)
            self.written += len(data)
            missing -= len(data)
        self.gateway.barrier()

    def content(self, nbytes: int) -> bytes:
        """About so many bytes, which nothing else has."""
        noise = self.dice.randbytes(nbytes // self.copies + 1)
        pieces = (noise[at : at + PIECE_BYTES] for at in range(0, len(noise), PIECE_BYTES))
        return b"".join([piece * self.copies for piece in pieces])

    def empty(self) -> None:
        """Seven of ten files are gone, at random."""
        names = sorted(self.files)
        for name in self.dice.sample(names, len(names) * 7 // 10):
            (self.gateway.root / name).unlink()
            del self.files[name], self.sizes[name]
        self.gateway.barrier()

    def collect(self) -> CollectReply:
        begun = time.monotonic()
        report = self.gateway.control().collect(CollectWish(orphans=True), lambda progress: None)
        self.took_s = time.monotonic() - begun
        for name in COUNTED:
            self.figures[name] += getattr(report, name)
        return report

    def collect_and_kill(self, share: float) -> None:
        """The gateway is killed when about that share of a collection is done."""
        ended = threading.Event()
        seen = "before its first answer"

        def tell(progress: SyncProgress) -> None:
            nonlocal seen
            total = progress.collect_total_bytes
            seen = f"at {progress.collected_bytes * 4 // total * 25} % of rewriting" if total else "looking"

        def collect() -> None:
            try:
                self.gateway.control().collect(CollectWish(), tell)
                ended.set()
            except FusegwError:
                self.killed_while[seen] += 1

        thread = threading.Thread(target=collect)
        thread.start()
        ended.wait(share * self.took_s)
        self.gateway.kill()
        thread.join()
        self.mount()

    def verify(self) -> None:
        """Every file reads as it was written, from the store."""
        self.gateway.command("cache", "drop", NAME)
        assert set(os.listdir(self.gateway.root)) == set(self.files)
        for name, digest in self.files.items():
            assert hashlib.blake2b((self.gateway.root / name).read_bytes()).digest() == digest, name

    def settle(self) -> None:
        """Older positions are given up, and what they needed goes."""
        for _ in range(4):
            self.checkpoint()
            self.checkpoint()
            if not self.collect().waiting_packs:
                break

    def checkpoint(self) -> None:
        """One of a state that is younger than all before."""
        control, tick = self.gateway.control(), threading.Event()
        mark = self.gateway.root / "mark"
        mark.touch()
        self.gateway.barrier()
        at = control.status().log_seq
        while (control.status().checkpoint_seq or 0) < at:
            tick.wait(0.1)
            self.gateway.barrier()
        mark.unlink()

    @property
    def amplification(self) -> float:
        """What the store holds of packs, beside the noise in the files."""
        stored = sum(path.stat().st_size for path in self.gateway.store.glob("packs/*/*"))
        return stored * self.copies / self.living

    def check_index(self) -> None:
        """The invariants of the metadata, unmounted; then every record in the store."""
        self.gateway.umount()
        metadata = Metadata(VolumePaths(self.gateway.state, NAME).meta_dir, size_max_bytes=1 << 40)
        try:
            check_index(metadata)
        finally:
            metadata.close()
        self.gateway.command("check", NAME, "--read-data")


def rounds(gateway: Gateway, *, nbytes: int, count: int, copies: int = 1) -> Churn:
    gateway.configure(CONFIG)
    churn = Churn(gateway, nbytes, SEED, copies=copies)
    churn.mount()
    churn.fill()
    churn.empty()
    churn.collect()
    for turn in range(count):
        churn.fill()
        churn.empty()
        churn.collect_and_kill((turn + 0.5) / count)
        churn.verify()
        churn.collect()
    churn.settle()
    churn.verify()
    print(
        f"{nbytes / MIB:,.0f} MiB of files, {count} rounds, {churn.named:,} files written, "
        f"{churn.written / MIB:,.0f} MiB: space amplification {churn.amplification:.2f}; "
        + ", ".join(f"{name} {churn.figures[name]:,}" for name in COUNTED)
    )
    print("killed " + ", ".join(f"{many} x {when}" for when, many in sorted(churn.killed_while.items())))
    assert churn.amplification <= 1.3
    churn.check_index()
    return churn


@pytest.mark.slow
def test_churn_and_kills(gateway: Gateway) -> None:
    rounds(gateway, nbytes=24 * MIB, count=3)


@pytest.mark.soak
@pytest.mark.timeout(14400)
def test_churn_and_kills_at_full_size(gateway: Gateway) -> None:
    nbytes = int(os.environ.get("FUSEGW_GC_MIB", "10240")) * MIB
    count = int(os.environ.get("FUSEGW_GC_ROUNDS", "20"))
    churn = rounds(gateway, nbytes=nbytes, count=count, copies=4)
    assert len(churn.killed_while) > 1
