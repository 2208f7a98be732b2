"""The gateway's identity: written by a mount, shipped with the log, read after a loss, kept by older code."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusegw.clock import SystemClock
from fusegw.errors import Corrupt, UnknownFormat
from fusegw.identity import IDENTITY_ROW, Identity, record_identity, recorded_identity
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import GATEWAY, LOG_TAIL
from fusegw.store.memory import MemoryStore
from tests.faults.support import source, volume
from tests.meta.indexes import commit, open_index

TANK = Identity(volume="tank", number=7, mountpoint="/srv/tank", policy={"pack_size": 1 << 20})


@pytest.fixture
def metadata(tmp_path: Path) -> Any:
    metadata = open_index(tmp_path / "meta")
    yield metadata
    metadata.close()


def put_row(metadata: Metadata, row: bytes) -> None:
    with metadata.change() as change:
        change.put(GATEWAY, IDENTITY_ROW, row)
    commit(metadata)


def row_of(metadata: Metadata) -> dict[str, Any]:
    return msgspec.json.decode(metadata.get(GATEWAY, IDENTITY_ROW) or b"", type=dict[str, Any])


def test_it_is_a_change_that_is_shipped_and_only_when_there_is_one(metadata: Metadata) -> None:
    assert recorded_identity(metadata) is None
    assert record_identity(metadata, TANK)
    assert recorded_identity(metadata) == TANK
    assert metadata.get(LOG_TAIL, metadata.commit_number) is not None
    before = metadata.commit_number
    assert not record_identity(metadata, TANK)
    assert metadata.commit_number == before
    assert record_identity(metadata, msgspec.structs.replace(TANK, mountpoint="/mnt"))
    assert metadata.commit_number == before + 1


def test_what_a_newer_version_added_is_kept(metadata: Metadata) -> None:
    newer = {
        "format": 1, "volume": "tank", "number": 7, "colour": "red",
        "policy": {"pack_size": 5, "hue": 3}, "store": {"tint": "x"},
    }  # fmt: skip
    put_row(metadata, msgspec.json.encode(newer))
    assert record_identity(metadata, TANK)
    row = row_of(metadata)
    assert row["colour"] == "red" and row["store"] == {"tint": "x"}
    assert row["policy"] == {"pack_size": 1 << 20, "hue": 3} and row["mountpoint"] == "/srv/tank"


def test_a_newer_format_is_left_alone_and_not_taken_for_ours(metadata: Metadata) -> None:
    row = b'{"format": 2, "whatever": true}'
    put_row(metadata, row)
    assert not record_identity(metadata, TANK)
    assert metadata.get(GATEWAY, IDENTITY_ROW) == row
    with pytest.raises(UnknownFormat, match="upgrade fusegw"):
        recorded_identity(metadata)


@pytest.mark.parametrize(
    "row", [b'{"format": 1, "volume": "tank"}', b'{"format":1,"volume":"t","number":300}']
)
def test_a_row_that_says_nothing_sound_is_named_and_written_anew(metadata: Metadata, row: bytes) -> None:
    put_row(metadata, row)
    with pytest.raises(Corrupt, match="identity"):
        recorded_identity(metadata)
    assert record_identity(metadata, TANK)
    assert recorded_identity(metadata) == TANK


async def test_it_comes_back_from_the_store_alone(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    here, there = tmp_path / "here", tmp_path / "there"
    mounted = msgspec.structs.replace(source(here, store), identity=TANK)
    async with volume(mounted) as runtime:
        await runtime.volume.barrier()
    async with volume(source(there, store)) as runtime:
        assert recorded_identity(runtime.metadata) == TANK


async def test_a_read_only_mount_records_nothing(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        await runtime.volume.barrier()
    reading = msgspec.structs.replace(source(tmp_path, store), identity=TANK, read_only=True)
    async with volume(reading) as runtime:
        assert recorded_identity(runtime.metadata) is None
