"""Closing what a crash left open: just the committed records stay, and damage is named."""

import errno
from pathlib import Path

import pytest
from blake3 import blake3
from msgspec.structs import replace

from fusegw.errors import Corrupt, Full
from fusegw.packs.closing import Closing
from fusegw.packs.format import Entry, PackInfo
from fusegw.packs.recover import close_torn
from fusegw.packs.verify import verify_pack
from tests.packs.conftest import World
from tests.packs.fakes import FakeKeys, chunk, chunk_id_of


def torn(world: World, count: int = 10, *, synced: int = 10) -> tuple[PackInfo, list[Entry]]:
    """An open pack of `count` records after a crash, `synced` of which had become durable."""
    writer = world.writer()
    entries: list[Entry] = []
    for n in range(count):
        raw = chunk(n, 3000)
        entries.append((chunk_id_of(raw), writer.append(chunk_id_of(raw), raw)))
        if n + 1 == synced:
            writer.sync()
    info = writer.describe(entries[0][1].pack)
    world.reopen_cache({info.name}, crash=True)
    return info, entries


def close(world: World, info: PackInfo, committed: list[Entry]) -> Closing:
    return close_torn(world.cache, world.keys, info, committed, entropy=world.entropy)


def whole(world: World, closing: Closing) -> list[Entry]:
    """The records of the closed pack, of which every byte is verified."""
    pack = closing.pack
    assert pack is not None
    data = world.path(pack.name).read_bytes()
    assert blake3(data).digest() == pack.hash
    assert len(data) == pack.size == world.cache.size(pack.name)
    entries = verify_pack(data, world.keys, pack_id=pack.pack_id, number=pack.number, chunk_id_of=chunk_id_of)
    assert len(entries) == pack.records
    return entries


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_closed_behind_the_last_committed_record(world: World) -> None:
    info, entries = torn(world)
    closing = close(world, info, entries[:6])
    assert closing.damaged == ()
    assert whole(world, closing) == entries[:6]
    world.reopen_cache({info.name}, crash=True)
    assert whole(world, closing) == entries[:6], "and that is durable"


def test_what_lay_between_committed_records_is_zero(world: World) -> None:
    info, entries = torn(world)
    committed = [entries[7], entries[2], entries[3]]
    closing = close(world, info, committed)
    assert whole(world, closing) == sorted(committed, key=lambda entry: entry[1].record)
    data = world.path(info.name).read_bytes()
    assert not any(data[80 : entries[2][1].offset])
    assert not any(data[entries[4][1].offset : entries[7][1].offset])


def test_a_tail_that_never_reached_the_disk_is_cut_off(world: World) -> None:
    info, entries = torn(world, 10, synced=4)
    assert whole(world, close(world, info, entries[:4])) == entries[:4]


def test_a_tail_of_garbage_is_cut_off(world: World) -> None:
    info, entries = torn(world, 4, synced=4)
    with world.path(info.name).open("ab") as file:
        file.write(b"torn" * 100_000)
    world.reopen_cache({info.name})
    assert whole(world, close(world, info, entries)) == entries


def test_a_pack_that_had_its_footer_already_gets_a_new_one(world: World) -> None:
    """The crash came between closing the pack and committing that it is closed."""
    writer = world.writer()
    entries: list[Entry] = []
    for n in range(5):
        entries.append((chunk_id_of(chunk(n, 900)), writer.append(chunk_id_of(chunk(n, 900)), chunk(n, 900))))
    writer.close_current()
    (before,) = writer.take_closed()
    info = writer.describe(before.number)
    world.reopen_cache({info.name}, crash=True)
    closing = close(world, info, entries)
    assert whole(world, closing) == entries
    assert closing.pack is not None
    assert (closing.pack.size, closing.pack.hash == before.hash) == (before.size, False)


def test_nothing_committed_discards_the_file(world: World) -> None:
    info, _ = torn(world)
    assert close(world, info, []) == Closing(None, ())
    assert not world.path(info.name).exists()
    assert close(world, info, []) == Closing(None, ()), "also when there is none"


def test_a_missing_file_is_damage(world: World) -> None:
    info, entries = torn(world, 5, synced=5)
    world.path(info.name).unlink()
    world.reopen_cache({info.name})
    assert close(world, info, entries) == Closing(None, tuple(entries))


@pytest.mark.parametrize("victim", [0, 2, 4])
def test_a_damaged_record_is_named_and_left_out(world: World, victim: int) -> None:
    info, entries = torn(world, 5, synced=5)
    flip(world.path(info.name), entries[victim][1].offset + 17)
    closing = close(world, info, entries)
    assert closing.damaged == (entries[victim],)
    assert whole(world, closing) == entries[:victim] + entries[victim + 1 :]


def test_a_damaged_header_is_written_anew(world: World) -> None:
    info, entries = torn(world, 5, synced=5)
    flip(world.path(info.name), 3)
    closing = close(world, info, entries)
    assert closing.damaged == ()
    assert whole(world, closing) == entries


def test_a_file_cut_short_names_what_is_gone(world: World) -> None:
    info, entries = torn(world, 10, synced=6)
    closing = close(world, info, entries)
    assert closing.damaged == tuple(entries[6:])
    assert whole(world, closing) == entries[:6]


@pytest.mark.parametrize("wrong", ["key", "salt", "volume"])
def test_a_file_of_which_nothing_opens_is_not_touched(world: World, wrong: str) -> None:
    """A wrong key must not destroy a pack that another key would open."""
    info, entries = torn(world, 5, synced=5)
    before = world.path(info.name).read_bytes()
    keys, given = FakeKeys(), info
    if wrong == "key":
        given = PackInfo(info.number, info.pack_id, 2, info.salt)
    elif wrong == "salt":
        given = PackInfo(info.number, info.pack_id, 1, bytes(32))
    else:
        keys.volume_id = bytes(16)
    closing = close_torn(world.cache, keys, given, entries, entropy=world.entropy)
    assert closing == Closing(None, tuple(entries))
    assert world.path(info.name).read_bytes() == before
    assert whole(world, close(world, info, entries)) == entries


def test_locations_that_cannot_be_are_damage(world: World) -> None:
    info, entries = torn(world, 3, synced=3)
    chunk_id, place = entries[1]
    for absurd in (replace(place, offset=1 << 40), replace(place, stored=1 << 32), replace(place, offset=0)):
        closing = close(world, info, [entries[0], (chunk_id, absurd)])
        assert closing.damaged == ((chunk_id, absurd),)
        assert whole(world, closing) == [entries[0]]
        world.reopen_cache({info.name})


@pytest.mark.parametrize("step", ["open", "ftruncate", "pwrite", "fdatasync", "fsync_dir"])
def test_a_failing_disk_is_an_error_and_the_next_try_succeeds(world: World, step: str) -> None:
    info, entries = torn(world, 5, synced=5)
    world.disk.fail_once[step] = errno.ENOSPC
    with pytest.raises(Full, match=info.name):
        close(world, info, entries)
    assert whole(world, close(world, info, entries)) == entries


def test_a_record_the_disk_cannot_read_is_damage(world: World) -> None:
    info, entries = torn(world, 5, synced=5)
    world.disk.fail_once["pread"] = errno.EIO
    closing = close(world, info, entries)
    assert closing.damaged == (entries[0],)
    assert whole(world, closing) == entries[1:]


def test_an_unknown_key_version_is_corrupt(world: World) -> None:
    class Forgetful(FakeKeys):
        def pack_key(self, version: int, salt: bytes, pack_id: bytes) -> bytes:
            raise Corrupt(f"the volume has no master key of version {version}")

    info, entries = torn(world, 2, synced=2)
    with pytest.raises(Corrupt, match="version 1"):
        close_torn(world.cache, Forgetful(), info, entries, entropy=world.entropy)
    assert whole(world, close(world, info, entries)) == entries
