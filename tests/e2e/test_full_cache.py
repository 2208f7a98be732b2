"""The cache is full of what cannot be stored and many writers wait: nobody else does; deleting makes room."""

import errno
import os
import random
import threading
from pathlib import Path

import pytest

from tests.e2e.outages import covered, until
from tests.mount.gateways import Gateway, drop_kernel_caches

pytestmark = [pytest.mark.mount, pytest.mark.slow]

MIB = 1 << 20
WRITERS = 24
JOIN_S = 60


class Filler:
    """Writes until the volume is full; `code` is the errno that ended it."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.code: int | None = None
        self._chance = random.Random(seed)
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    @property
    def writing(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(JOIN_S)
        assert not self.writing, f"the write of {self.path} never ended"

    def _write(self) -> None:
        try:
            with open(self.path, "wb", buffering=0) as file:
                for _ in range(1000):
                    file.write(self._chance.randbytes(256 << 10))
        except OSError as error:
            self.code = error.errno


def work_elsewhere(place: Path) -> None:
    """Everything people do that is not writing data."""
    (place / "new").mkdir()
    (place / "new" / "empty").touch()
    os.link(place / "new" / "empty", place / "new" / "second")
    (place / "new" / "second").rename(place / "new" / "third")
    os.setxattr(place / "new" / "third", "user.x", b"y")
    (place / "new" / "link").symlink_to("third")
    assert sorted(os.listdir(place / "new")) == ["empty", "link", "third"]
    os.truncate(place / "old 1", 1000)
    (place / "old 2").unlink()
    descriptor = os.open(place, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def test_waiting_writers_hold_up_nobody_and_deleting_helps(gateway: Gateway) -> None:
    gateway.configure('[volumes.tank]\nwrite_wait_s = 5\npack_size = "4M"\n')
    gateway.mount("--cache-size", "64M")
    root = gateway.root
    (root / "elsewhere").mkdir()
    (root / "filled").mkdir()
    for number in range(3):
        (root / "elsewhere" / f"old {number}").write_bytes(os.urandom(2 * MIB))
    old = (root / "elsewhere" / "old 0").read_bytes()
    gateway.command("sync", "--wait")
    with covered(gateway.store):
        fillers = [Filler(root / "filled" / f"{number}", number) for number in range(WRITERS)]
        while gateway.cache_stats()["dirty_bytes"] < 55 * MIB:
            assert any(filler.writing for filler in fillers)
        work_elsewhere(root / "elsewhere")
        assert any(filler.writing for filler in fillers), "nobody was waiting any more"
        for filler in fillers:
            filler.join()
        assert {filler.code for filler in fillers} == {errno.ENOSPC}
        stats = gateway.cache_stats()
        assert stats["used_bytes"] <= stats["budget_bytes"] + 4 * MIB
        for filler in fillers:
            filler.path.unlink()
        # Data that was never stored needs no upload: its packs go, and there is room without the store.
        until(gateway, lambda status: status["backlog_bytes"] < 10 * MIB)
        late = os.urandom(20 * MIB)
        (root / "late").write_bytes(late)
    gateway.command("sync", "--wait")
    gateway.command("cache", "drop")
    drop_kernel_caches()
    assert (root / "late").read_bytes() == late
    assert (root / "elsewhere" / "old 0").read_bytes() == old
    assert (root / "elsewhere" / "old 1").stat().st_size == 1000
    assert os.listdir(root / "filled") == []
    assert gateway.status()["backlog_bytes"] == 0
