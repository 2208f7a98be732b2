"""The registry of volumes: numbers, atomic replacement, damage."""

import os
import stat
import threading
from pathlib import Path

import pytest

from fusegw.errors import Corrupt, Exists, Full, FusegwError, NotFound, UnknownFormat
from fusegw.registry import NUMBER_MAX, Registry, VolumeEntry
from fusegw.store.options import StoreOptions

STORE = StoreOptions(url="file:///store")


def add(registry: Registry, name: str, volume_id: bytes = b"\x01" * 16) -> VolumeEntry:
    with registry.reserve(name) as reservation:
        return reservation.commit(volume_id=volume_id, store=STORE, created_unix_s=7, unsafe_no_fencing=False)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "state")


def test_looking_creates_nothing(registry: Registry, tmp_path: Path) -> None:
    assert registry.volumes() == {}
    with pytest.raises(NotFound, match=r"no volume 'tank'.*it has none"):
        registry.get("tank")
    assert list(tmp_path.iterdir()) == []


def test_what_is_committed_is_found_again(registry: Registry, tmp_path: Path) -> None:
    entry = add(registry, "tank", b"\xab" * 16)
    assert entry.number == 1 and entry.volume_id == "ab" * 16
    assert Registry(tmp_path / "state").get("tank") == entry
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "registry.json").stat().st_mode) == 0o600


def test_names_are_taken_once(registry: Registry) -> None:
    add(registry, "tank")
    with pytest.raises(Exists, match="'tank' is already"), registry.reserve("tank"):
        raise AssertionError("reserved twice")


def test_an_unused_reservation_gives_name_and_number_back(registry: Registry) -> None:
    with pytest.raises(ZeroDivisionError), registry.reserve("tank"):
        raise ZeroDivisionError
    assert registry.volumes() == {}
    assert add(registry, "tank").number == 1


def test_the_number_of_a_forgotten_volume_is_not_given_again(registry: Registry, tmp_path: Path) -> None:
    add(registry, "a")
    add(registry, "b")
    file = tmp_path / "state" / "registry.json"
    text = file.read_text()
    cut = text.index('"b":')
    # An administrator who strikes the entry out by hand.
    file.write_text(text[:cut].rstrip().removesuffix(",") + "}}")
    assert list(registry.volumes()) == ["a"]
    assert add(registry, "c").number == 3


def test_numbers_run_out(registry: Registry, tmp_path: Path) -> None:
    add(registry, "a")
    file = tmp_path / "state" / "registry.json"
    file.write_text(file.read_text().replace('"next_number": 2', f'"next_number": {NUMBER_MAX}'))
    assert add(registry, "last").number == NUMBER_MAX
    with pytest.raises(Full, match="all 255"):
        add(registry, "more")


def bring(registry: Registry, name: str, number: int) -> int:
    """Recover a volume that had `number` where it was."""
    with registry.reserve(name, number=number) as reservation:
        entry = reservation.commit(
            volume_id=bytes(16),
            store=STORE,
            created_unix_s=7,
            unsafe_no_fencing=False,
            policy={"read_ahead": 0},
        )
    return entry.number


def test_a_recovered_volume_keeps_its_number(registry: Registry) -> None:
    assert bring(registry, "far", 200) == 200
    assert bring(registry, "last", NUMBER_MAX) == NUMBER_MAX
    assert bring(registry, "near", 2) == 2
    assert [add(registry, name).number for name in ("a", "b", "c")] == [1, 3, 4]
    assert registry.get("far").policy == {"read_ahead": 0}


def test_a_number_that_was_given_here_is_not_given_to_a_recovered_volume(registry: Registry) -> None:
    add(registry, "a")
    assert bring(registry, "b", 1) == 2
    assert bring(registry, "c", 9) == 9
    assert bring(registry, "d", 9) == 3


def test_the_same_volume_once_more_keeps_what_number_it_has(registry: Registry) -> None:
    add(registry, "a")
    with registry.reserve("a", number=7, again=True) as reservation:
        reservation.commit(
            volume_id=bytes(16), store=STORE, created_unix_s=8, unsafe_no_fencing=True, fixed_at=12
        )
    entry = registry.get("a")
    assert (entry.number, entry.created_unix_s, entry.fixed_at) == (1, 8, 12)


def test_damage_is_not_taken_for_an_empty_registry(registry: Registry, tmp_path: Path) -> None:
    add(registry, "tank")
    file = tmp_path / "state" / "registry.json"
    whole = file.read_bytes()
    for damaged in (b"", whole[:-20], whole.replace(b'"number"', b'"numbr"'), b"[]"):
        file.write_bytes(damaged)
        with pytest.raises(Corrupt, match=r"registry\.json is damaged"):
            registry.volumes()
        with pytest.raises(Corrupt):
            add(registry, "other")
        assert file.read_bytes() == damaged
    file.write_bytes(whole.replace(b'"format_version": 1', b'"format_version": 2'))
    with pytest.raises(UnknownFormat, match="upgrade"):
        registry.volumes()


def test_a_failed_write_leaves_the_old_registry(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(registry, "tank")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FusegwError, match="No space left"):
        add(registry, "other")
    monkeypatch.undo()
    assert list(registry.volumes()) == ["tank"]


def test_two_at_once_get_different_numbers(registry: Registry) -> None:
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda one=one: numbers.append(add(registry, f"v{one}").number))
        for one in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))
    assert len(registry.volumes()) == 8


def test_a_number_of_the_past_is_for_its_volume_alone(registry: Registry) -> None:
    first = add(registry, "tank")
    add(registry, "pond")
    registry.remove("tank")
    assert list(registry.volumes()) == ["pond"]
    with pytest.raises(NotFound):
        registry.remove("tank")
    for volume_id, number in ((b"somebody else's ", 3), (bytes.fromhex(first.volume_id), first.number)):
        with registry.reserve("again", number=first.number, volume_id=volume_id) as reservation:
            assert reservation.number == number
