"""How much would be lost with the gateway at any moment, and whether its status tells the truth about it.

While files are written without pause the status is sampled; now and then the index is recovered from the
store alone, and everything that was written before the oldest change the status knew of must be there.
"""

import os
import random
import statistics
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.config import VolumePaths
from fusegw.control.client import ControlClient
from fusegw.keys.secret import Secret
from fusegw.keys.volume import read_volume, unlock
from fusegw.meta.schema import DIRENT, INODE, ROOT_INODE
from fusegw.packs.format import object_key
from fusegw.registry import Registry
from fusegw.store.opening import open_store
from tests.mount.gateways import NAME, PASSPHRASE, Gateway
from tests.ship.truth import packs_of, recovered

pytestmark = pytest.mark.mount

SAMPLE_S = 0.25
PAUSE_S = 0.1


class Written(NamedTuple):
    """A file, its size, and when the last byte of that was acknowledged (seconds since 1970)."""

    name: str
    size: int
    at: float


class Load:
    """`with Load(root) as load:` writes some 2 MB a second: small files, a journal that stays open and grows
    by small pieces, and now and then a larger file."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.written: list[Written] = []

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        chance = random.Random(7)
        with open(self._root / "journal", "wb", buffering=0) as journal:
            number = length = 0
            while not self._stop.wait(PAUSE_S):
                number += 1
                length += journal.write(chance.randbytes(5000))
                self._wrote("journal", length)
                size = 1_500_000 if number % 10 == 0 else chance.randrange(60_000)
                (self._root / f"{number}").write_bytes(chance.randbytes(size))
                self._wrote(f"{number}", size)

    def _wrote(self, name: str, size: int) -> None:
        self.written.append(Written(name, size, time.time()))


class Store:
    """What is in a gateway's store, seen without the gateway."""

    def __init__(self, gateway: Gateway) -> None:
        options = Registry(gateway.state).get(NAME).store
        self._store = open_store(options, clock=SystemClock(), entropy=SystemEntropy())
        self._keys = unlock(read_volume(self._store), Secret.passphrase(PASSPHRASE)).keys
        self._base = gateway.base
        self._count = 0
        self._known_packs: set[bytes] = set()

    def check(self, expected: list[Written]) -> None:
        """AssertionError for the first file that the store alone does not give back."""
        self._count += 1
        index = recovered(self._store, self._keys, self._base / f"recovered-{self._count}")
        try:
            for file in expected:
                entry = index.get(DIRENT, (ROOT_INODE, os.fsencode(file.name)))
                inode = entry and index.get(INODE, entry.ino)
                assert inode is not None, f"{file} is not in the store"
                assert inode.size >= file.size, f"{file} has {inode.size} bytes in the store"
                for pack in packs_of(index, inode.ino):
                    if pack.pack_id not in self._known_packs:
                        assert self._store.head(object_key(pack.pack_id)).size == pack.size
                        self._known_packs.add(pack.pack_id)
        finally:
            index.close()


def oldest(client: ControlClient) -> tuple[float, float]:
    """What the status says of the oldest change that is not in the store: its age, and since when at the
    latest everything before is there."""
    now = time.time()
    age = client.status().oldest_unshipped_s or 0.0
    return age, now - age


def newest_of_each(written: list[Written], before: float) -> list[Written]:
    return list({file.name: file for file in written if file.at <= before}.values())


def watch(gateway: Gateway, seconds: float, check_s: float) -> list[float]:
    """Sampled ages under load; what the status says is compared with the store on the way and at the end."""
    client = ControlClient(VolumePaths(gateway.state, NAME).socket_file)
    store = Store(gateway)
    ages: list[float] = []
    with Load(gateway.root) as load:
        end = time.monotonic() + seconds
        due = time.monotonic() + check_s
        while time.monotonic() < end:
            age, before = oldest(client)
            ages.append(age)
            if time.monotonic() >= due:
                store.check(newest_of_each(load.written, before))
                due = time.monotonic() + check_s
            time.sleep(SAMPLE_S)
    gateway.command("sync", "--wait")
    _, before = oldest(client)
    expected = newest_of_each(load.written, before)
    assert len(expected) == len({file.name for file in load.written})
    store.check(expected)
    return ages


def test_the_status_tells_what_would_be_lost(gateway: Gateway) -> None:
    gateway.configure("[volumes.tank]\nship_interval_s = 0.5\n")
    gateway.mount()
    watch(gateway, 4, 1)


def test_a_status_that_tells_too_little_is_seen(gateway: Gateway) -> None:
    """The control: whoever says that everything is there is not believed."""
    gateway.configure("[volumes.tank]\nship_interval_s = 3600\n")
    gateway.mount()
    gateway.command("sync", "--wait")
    client = ControlClient(VolumePaths(gateway.state, NAME).socket_file)
    with Load(gateway.root) as load:
        while len(load.written) < 8:
            time.sleep(PAUSE_S)
    age, before = oldest(client)
    assert age > 0
    store = Store(gateway)
    store.check(newest_of_each(load.written, before))
    with pytest.raises(AssertionError, match="is not in the store"):
        store.check(newest_of_each(load.written, time.time()))


@pytest.mark.soak
@pytest.mark.rgw
@pytest.mark.timeout(900)
def test_the_recovery_point_under_steady_load(rgw_gateway: Gateway) -> None:
    ship_interval_s = 5.0
    rgw_gateway.configure(f"[volumes.tank]\nship_interval_s = {ship_interval_s}\n")
    rgw_gateway.mount()
    ages = watch(rgw_gateway, 120, 20)
    percentiles = statistics.quantiles(ages, n=100)
    p50, p95 = percentiles[49], percentiles[94]
    print(
        f"\noldest change not in the store, {len(ages)} samples: p50 {p50:.1f} s, p95 {p95:.1f} s, "
        f"max {max(ages):.1f} s; ship interval {ship_interval_s:g} s"
    )
    assert p95 <= 2 * ship_interval_s
