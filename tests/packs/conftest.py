"""A cache on a disk that can be troubled, with a writer and readers on it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache import PackCache
from fusegw.packs.reader import PackReader
from fusegw.packs.writer import PackWriter
from tests.packs.fakes import FakeKeys, SeededEntropy, TroubledDisk, WatchedStore, chunk_id_of

BLOCK = 4096


class World:
    """What a gateway would hold of one volume's packs."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.disk = TroubledDisk()
        self.store = WatchedStore()
        self.keys = FakeKeys()
        self.entropy = SeededEntropy()
        self.epoch = 0
        self.cache = self._open_cache(64 << 20, set())

    def writer(self, **options: Any) -> PackWriter:
        self.epoch += 1
        return PackWriter(self.cache, self.keys, epoch=self.epoch, entropy=self.entropy, **options)

    def reader(self, writer: PackWriter | None = None, **options: Any) -> PackReader:
        peek = (lambda place: None) if writer is None else writer.peek
        return PackReader(
            self.cache, self.store, self.keys, **{"chunk_id_of": chunk_id_of, "peek": peek, **options}
        )

    def reopen_cache(self, pinned: set[str], *, budget_bytes: int = 64 << 20, crash: bool = False) -> None:
        self.cache.close()
        if crash:
            self.disk.crash(self.top)
        self.disk.failing.clear()
        self.cache = self._open_cache(budget_bytes, pinned)

    def path(self, name: str) -> Path:
        return self.top / "packs" / name[:2] / name

    def _open_cache(self, budget_bytes: int, pinned: set[str]) -> PackCache:
        return PackCache(
            self.top, budget_bytes, pinned=pinned, known=pinned.intersection, monotonic=lambda: 0.0,
            block_bytes=BLOCK, margin_bytes=0, disk_reserve_bytes=0, disk=self.disk,
        )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    top = tmp_path / "cache"
    top.mkdir()
    built = World(top)
    yield built
    built.cache.close()
