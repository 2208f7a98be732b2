"""Which files of a cache belong to packs of the volume: found without a look at every pack there ever was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import PACK, Pack, numbered
from fusegw.meta.view import View
from fusegw.ship.resume import known_names
from tests.meta.indexes import commit, open_index

PACKS = 500


def pack_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def names(*numbers: int) -> set[str]:
    return {pack_id(number).hex() for number in numbers}


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[Metadata]:
    metadata = open_index(tmp_path / "meta")
    with metadata.change() as change:
        for number in range(PACKS):
            change.put(PACK, numbered(1, number), Pack(pack_id(number), 1, bytes(32), 1, 1, 1, 1, b""))
    commit(metadata)
    yield metadata
    metadata.close()


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Keys of the rows that were read."""
    keys: list[bytes] = []
    stored = View.stored

    def counted(self: View, *arguments: object, **options: object) -> Iterator[tuple[bytes, bytes]]:
        for key, row in stored(self, *arguments, **options):  # type: ignore[arg-type]
            keys.append(key)
            yield key, row

    monkeypatch.setattr(View, "stored", counted)
    return keys


def test_old_and_new_packs_are_known_and_others_are_not(metadata: Metadata) -> None:
    assert known_names(metadata, names(0, 7, PACKS - 1, PACKS, PACKS + 1)) == names(0, 7, PACKS - 1)
    assert known_names(metadata, names(PACKS)) == set()


def test_new_packs_are_found_without_a_look_at_the_old_ones(
    metadata: Metadata, looked_at: list[bytes]
) -> None:
    assert known_names(metadata, names(PACKS - 1, PACKS - 10)) == names(PACKS - 1, PACKS - 10)
    assert len(looked_at) == 10


def test_who_is_not_found_has_all_looked_at(metadata: Metadata, looked_at: list[bytes]) -> None:
    assert known_names(metadata, names(PACKS - 1, PACKS)) == names(PACKS - 1)
    assert len(looked_at) == PACKS
