"""Random work on a disk with random faults, then power loss: what a sync acknowledged is there, and right."""

import errno
import random
from pathlib import Path

import pytest
from blake3 import blake3

from fusegw.errors import FusegwError
from fusegw.packs.format import Location
from fusegw.packs.recover import close_torn
from fusegw.packs.verify import verify_pack
from tests.packs.conftest import World
from tests.packs.fakes import chunk, chunk_id_of, ref_of

STEPS = ["open", "pwritev", "pwrite", "fdatasync", "fsync_dir", "ftruncate"]


class Model:
    """What a correct writer would have promised so far."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.writer = world.writer(size_max_bytes=40_000, held_max_bytes=60_000)
        self.reader = world.reader(self.writer)
        self.pending: dict[Location, bytes] = {}
        """Handed out, by their current place; not acknowledged."""
        self.durable: dict[Location, bytes] = {}
        self.closed: dict[int, bytes] = {}
        self.count = 0

    def append(self) -> None:
        sizes = [self.chance.randrange(1, 9000) for _ in range(self.chance.randrange(1, 4))]
        batch = [chunk(self.count + n, size) for n, size in enumerate(sizes)]
        self.count += len(batch)
        try:
            places = self.writer.append_many([(chunk_id_of(raw), raw) for raw in batch])
        except FusegwError:
            return
        self.pending.update(zip(places, batch, strict=True))

    def sync(self) -> None:
        try:
            moves = self.writer.sync()
        except FusegwError:
            return
        assert set(moves) <= set(self.pending), "only what was not acknowledged may move"
        self.durable |= {moves.get(place, place): raw for place, raw in self.pending.items()}
        self.pending = {}

    def close(self) -> None:
        try:
            self.writer.close_current()
        except FusegwError:
            pass

    def fault(self) -> None:
        faults = self.world.disk.failing if self.chance.random() < 0.3 else self.world.disk.fail_once
        faults[self.chance.choice(STEPS)] = self.chance.choice([errno.EIO, errno.ENOSPC])

    def mend(self) -> None:
        self.world.disk.failing.clear()
        self.world.disk.fail_once.clear()

    def read(self) -> None:
        known = [*self.pending.items(), *self.durable.items()]
        picked = self.chance.sample(known, min(5, len(known)))
        refs = [ref_of(self.writer, chunk_id_of(raw), place) for place, raw in picked]
        assert self.reader.read(refs) == [raw for _, raw in picked]

    def take(self) -> None:
        for pack in self.writer.take_closed():
            data = self.world.path(pack.name).read_bytes()
            assert blake3(data).digest() == pack.hash
            entries = verify_pack(
                data, self.world.keys, pack_id=pack.pack_id, number=pack.number, chunk_id_of=chunk_id_of
            )
            places = {place for _, place in entries}
            assert {place for place in self.durable if place.pack == pack.number} <= places
            self.closed[pack.number] = data

    def run(self, steps: int) -> None:
        rare = [self.close, self.fault, self.mend, self.take]
        for _ in range(steps):
            self.chance.choice([self.append] * 6 + [self.sync] * 2 + [self.read] * 2 + rare)()
        assert self.writer.take_damaged() == []

    def power_loss(self) -> None:
        """Close what was open, as a start would, and read every acknowledged chunk."""
        self.mend()
        self.take()
        infos = {place.pack: self.writer.describe(place.pack) for place in self.durable}
        self.world.reopen_cache({info.name for info in infos.values()}, crash=True)
        for number, info in infos.items():
            if number in self.closed:
                assert Path(self.world.path(info.name)).read_bytes() == self.closed[number]
                continue
            mine = [(chunk_id_of(raw), place) for place, raw in self.durable.items() if place.pack == number]
            closing = close_torn(self.world.cache, self.world.keys, info, mine, entropy=self.world.entropy)
            assert closing.damaged == ()
        refs = [ref_of(self.writer, chunk_id_of(raw), place) for place, raw in self.durable.items()]
        assert self.world.reader().read(refs) == list(self.durable.values())


@pytest.mark.parametrize("seed", range(40))
def test_what_was_acknowledged_survives(world: World, seed: int) -> None:
    model = Model(world, seed)
    model.run(150)
    model.power_loss()


def test_control_a_writer_that_does_not_sync_fails_here(world: World) -> None:
    world.disk.deaf = True
    model = Model(world, 1)
    model.run(150)
    assert model.durable
    with pytest.raises(Exception):  # noqa: B017 - lost files show in many ways
        model.power_loss()
