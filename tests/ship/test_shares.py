"""Shares and users of a volume: kept as changes that are shipped, read after a loss, left by older code."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from exports.model import Share, User
from exports.nthash import nt_hash
from fusegw.clock import SystemClock
from fusegw.errors import Exists, Full, Invalid, NotFound, UnknownFormat
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import GATEWAY, LOG_TAIL
from fusegw.shares import COMMON_ROW, EXPORT_IDS_MAX, VolumeShares, free_id, new_sid
from fusegw.store.memory import MemoryStore
from tests.faults.support import source, volume
from tests.meta.indexes import commit, open_index

NUMBER = 7
MAX = User(name="max", uid=20000, gid=20000, groups={"staff": 20001}, nt_hash=nt_hash("secret"))


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[Metadata]:
    metadata = open_index(tmp_path / "meta")
    yield metadata
    metadata.close()


@pytest.fixture
def shares(metadata: Metadata) -> VolumeShares:
    return VolumeShares(metadata, volume="tank", number=NUMBER)


def test_a_share_comes_back_as_it_was(metadata: Metadata, shares: VolumeShares) -> None:
    kept = shares.put_share(Share(name="Backups", path="/b", protocols=("smb", "nfs"), comment="x"))
    assert (kept.volume, kept.export_id) == ("tank", NUMBER << 8 | 1)
    commit(metadata)
    assert shares.shares() == {"Backups": kept}
    assert metadata.get(LOG_TAIL, metadata.commit_number) is not None
    shares.remove_share("Backups")
    assert shares.shares() == {}
    with pytest.raises(NotFound):
        shares.remove_share("Backups")


def test_an_export_id_is_never_given_twice(shares: VolumeShares) -> None:
    first = shares.put_share(Share(name="a", protocols=("nfs",)))
    assert shares.put_share(Share(name="a", protocols=("nfs",), read_only=True)).export_id == first.export_id
    assert shares.put_share(Share(name="b")).export_id == 0
    shares.remove_share("a")
    assert shares.put_share(Share(name="a", protocols=("nfs",))).export_id == first.export_id + 1
    for number in range(EXPORT_IDS_MAX - 2):
        shares.put_share(Share(name="c", protocols=("nfs",)))
        shares.remove_share("c")
        assert number >= 0
    with pytest.raises(Full, match="export ids"):
        shares.put_share(Share(name="d", protocols=("nfs",)))


def test_under_another_number_the_volume_has_other_export_ids(
    metadata: Metadata, shares: VolumeShares
) -> None:
    shares.put_share(Share(name="a", protocols=("nfs",)))
    assert VolumeShares(metadata, volume="tank", number=9).shares()["a"].export_id == 9 << 8 | 1


def test_names_differ_by_more_than_case(shares: VolumeShares) -> None:
    shares.put_share(Share(name="Data"))
    with pytest.raises(Exists, match="'Data'"):
        shares.put_share(Share(name="data"))


def test_users_come_back(metadata: Metadata, shares: VolumeShares) -> None:
    shares.put_user(MAX)
    commit(metadata)
    assert shares.users() == {"max": MAX}
    shares.remove_user("max")
    assert shares.users() == {}
    with pytest.raises(NotFound):
        shares.remove_user("max")


def test_the_sid(shares: VolumeShares) -> None:
    assert shares.sid is None
    sid = new_sid(bytes(range(12)))
    shares.put_sid(sid)
    assert shares.sid == sid == "S-1-5-21-66051-67438087-134810123"
    with pytest.raises(Invalid):
        shares.put_sid("S-1-5-21-1-2")


def test_what_a_newer_version_added_is_kept(metadata: Metadata, shares: VolumeShares) -> None:
    row = {"format": 1, "name": "a", "path": "/a", "quota": 5}
    with metadata.change() as change:
        change.put(GATEWAY, b"share/a", msgspec.json.encode(row))
    shares.put_share(Share(name="a", path="/b"))
    data = metadata.get(GATEWAY, b"share/a") or b""
    found = msgspec.json.decode(data)
    assert (found["quota"], found["path"]) == (5, "/b")


def test_a_newer_format_is_neither_served_nor_touched(metadata: Metadata, shares: VolumeShares) -> None:
    with metadata.change() as change:
        for key in (b"share/a", b"user/max", b"share/damaged"):
            change.put(GATEWAY, key, b'{"format": 2, "name": "a"}' if b"dam" not in key else b"{")
    assert (shares.shares(), shares.users()) == ({}, {})
    assert len(shares.problems) == 3 and all("upgrade" in line for line in shares.problems)
    with pytest.raises(UnknownFormat):
        shares.put_share(Share(name="a"))
    with pytest.raises(UnknownFormat):
        shares.put_user(MAX)


def test_a_row_that_is_no_valid_share_is_not_served(metadata: Metadata, shares: VolumeShares) -> None:
    with metadata.change() as change:
        change.put(GATEWAY, b"share/a", b'{"format": 1, "name": "a\\nroot preexec = x"}')
    assert shares.shares() == {}
    assert "cannot name a share" in shares.problems[0]


def test_rows_of_others_are_left_alone(metadata: Metadata, shares: VolumeShares) -> None:
    with metadata.change() as change:
        change.put(GATEWAY, b"identity", b"{}")
        change.put(GATEWAY, COMMON_ROW, b"[]")
    assert (shares.shares(), shares.users(), shares.problems, shares.sid) == ({}, {}, [], None)


def test_free_numbers() -> None:
    assert free_id(set()) == 20000
    assert free_id({20000, 20002}) == 20001


async def test_they_are_in_the_store_and_come_back_from_it(tmp_path: Path) -> None:
    store = MemoryStore(clock=SystemClock())
    async with volume(source(tmp_path, store)) as runtime:
        one = VolumeShares(runtime.metadata, volume="tank", number=NUMBER)
        kept = one.put_share(Share(name="a", protocols=("smb", "nfs")))
        one.put_user(MAX)
        await runtime.volume.barrier()
    async with volume(source(tmp_path / "elsewhere", store)) as runtime:
        other = VolumeShares(runtime.metadata, volume="tank", number=NUMBER)
        assert (other.shares(), other.users()) == ({"a": kept}, {"max": MAX})
