"""Churn with kill -9 while room is made in the store: nothing that lives is lost, and in the end the store
holds little else.

FUSEGW_GC_MIB, FUSEGW_GC_ROUNDS and FUSEGW_GC_SEED choose how much, how often and which.
"""

import hashlib
import json
import os
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusegw.config import VolumePaths
from fusegw.control.protocol import CollectWish
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

    def __init__(self, gateway: Gateway, nbytes: int, seed: int) -> None:
        self.gateway = gateway
        self.nbytes = nbytes
        self.dice = random.Random(seed)
        self.files: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.figures: Counter[str] = Counter()
        self.took_s = 1.0
        self.cut_off = 0
        self.named = 0

    def mount(self) -> None:
        self.gateway.mount("--cache-size", "64M")

    def fill(self) -> None:
        """Files up to the size wanted, all in the store."""
        while sum(self.sizes.values()) < self.nbytes:
            name = f"f{self.named}"
            self.named += 1
            data = self.dice.randbytes(int(self.dice.paretovariate(1.1) * 40_000) % (8 * MIB) + 1)
            (self.gateway.root / name).write_bytes(data)
            self.files[name], self.sizes[name] = hashlib.blake2b(data).digest(), len(data)
        self.gateway.barrier()

    def empty(self) -> None:
        """Seven of ten files are gone, at random."""
        names = sorted(self.files)
        for name in self.dice.sample(names, len(names) * 7 // 10):
            (self.gateway.root / name).unlink()
            del self.files[name], self.sizes[name]
        self.gateway.barrier()

    def collect(self) -> dict[str, Any]:
        begun = time.monotonic()
        report: dict[str, Any] = json.loads(self.gateway.command("gc", NAME, "--json", "--orphans"))
        self.took_s = time.monotonic() - begun
        for name in COUNTED:
            self.figures[name] += report[name]
        return report

    def collect_and_kill(self, share: float) -> None:
        """The gateway is killed when about that share of a collection is done."""
        wait_s = threading.Event()
        failures: list[FusegwError] = []

        def collect() -> None:
            try:
                self.gateway.control().collect(CollectWish(), lambda progress: None)
            except FusegwError as error:
                failures.append(error)

        thread = threading.Thread(target=collect)
        thread.start()
        wait_s.wait(share * self.took_s)
        self.gateway.kill()
        thread.join()
        self.cut_off += len(failures)
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
            if not self.collect()["waiting_packs"]:
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
        stored = sum(path.stat().st_size for path in self.gateway.store.glob("packs/*/*"))
        return stored / sum(self.sizes.values())

    def check_index(self) -> None:
        """The invariants of the metadata, unmounted; then every record in the store."""
        self.gateway.umount()
        metadata = Metadata(VolumePaths(self.gateway.state, NAME).meta_dir, size_max_bytes=1 << 40)
        try:
            check_index(metadata)
        finally:
            metadata.close()
        self.gateway.command("check", NAME, "--read-data")


def rounds(gateway: Gateway, *, nbytes: int, count: int) -> Churn:
    gateway.configure(CONFIG)
    churn = Churn(gateway, nbytes, SEED)
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
        f"{nbytes / MIB:.0f} MiB, {count} rounds, {churn.cut_off} collections cut off: space amplification "
        f"{churn.amplification:.2f}; " + ", ".join(f"{name} {churn.figures[name]:,}" for name in COUNTED)
    )
    assert churn.amplification <= 1.3
    churn.check_index()
    return churn


@pytest.mark.slow
def test_churn_and_kills(gateway: Gateway) -> None:
    rounds(gateway, nbytes=24 * MIB, count=3)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_churn_and_kills_at_full_size(gateway: Gateway) -> None:
    nbytes = int(os.environ.get("FUSEGW_GC_MIB", "2048")) * MIB
    churn = rounds(gateway, nbytes=nbytes, count=int(os.environ.get("FUSEGW_GC_ROUNDS", "8")))
    assert churn.cut_off
