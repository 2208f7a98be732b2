"""`fusegw status`, `sync`, `cache` and `ls-volumes` over a running stand-in: tables, JSON, failures."""

import pytest

from fusegw.cli import output
from tests.cli.hosts import Host


@pytest.fixture
def mounted(host: Host) -> Host:
    assert host.init().code == 0
    assert host.spawn("mount", "tank", host.mountpoint).code == 0
    return host


def test_with_a_mounted_volume(mounted: Host) -> None:
    shown = mounted.run("status")
    assert shown.code == 0
    for text in (
        str(mounted.mountpoint),
        "3.0 MiB",
        "1 min 30 s",
        "degraded: 503 SlowDown",
        "1,234 (1 open)",
    ):
        assert text in shown.out
    document = mounted.run("status", "--json").json()
    for name in ("pid", "volume", "mountpoint", "backlog_bytes", "oldest_unshipped_s", "store_url", "epoch"):
        assert document[name] is not None, name
    assert document["store_health"] == {
        "state": "degraded",
        "last_error": "503 SlowDown",
        "since_unix_s": 1.0,
    }
    stats = mounted.run("cache", "stats", "--json").json()
    for name in ("used_bytes", "budget_bytes", "dirty_bytes", "hits", "misses", "evictions"):
        assert isinstance(stats[name], int), name
    assert stats["volume"] == "tank"
    shown = mounted.run("cache", "stats", "tank")
    for text in ("1.0 GiB of 10.0 GiB", "75.0 %", "2.00"):
        assert text in shown.out
    assert mounted.run("cache", "drop", "--json").json() == {"volume": "tank", "freed_bytes": 1 << 20}
    assert "1.0 MiB freed" in mounted.run("cache", "drop").out
    assert mounted.run("sync", "--json").json() == {
        "volume": "tank",
        "complete": False,
        "backlog_bytes": 3 << 20,
    }
    assert "3.0 MiB on the way" in mounted.run("sync").out
    assert "everything is in the store" in mounted.run("sync", "--wait").out
    volumes = mounted.run("ls-volumes", "--json").json()["volumes"]
    assert volumes[0]["mounted"] is True  # type: ignore[index]
    assert str(mounted.mountpoint) in mounted.run("ls-volumes").out


def test_a_failed_sync_says_why(host: Host) -> None:
    host.init()
    host.spawn("mount", "tank", host.mountpoint, STUB_SYNC_FAILS="1")
    done = host.run("sync", "--wait", "--json")
    assert (done.code, done.out) == (4, "")
    assert done.err == "fusegw: error: the store has been away for 60 s\n"


def test_with_an_unmounted_volume(host: Host) -> None:
    host.init()
    document = host.run("status", "--json").json()
    assert document == {
        "volume": "tank",
        "mounted": False,
        "unsent": [],
        "pid": None,
        "missing": None,
        "store_url": f"file://{host.store}/tank",
    }
    done = host.run("status")
    assert done.code == 0 and "no" in done.out.split()
    for command in (("cache", "stats"), ("cache", "drop"), ("sync",), ("sync", "--wait")):
        done = host.run(*command)
        assert done.code == 9 and "volume 'tank' is not mounted" in done.err, done
        assert done.out == "" and done.err.count("\n") == 1


def test_without_a_volume(host: Host) -> None:
    done = host.run("status")
    assert done.code == 9 and "create one with fusegw init" in done.err
    assert host.run("ls-volumes", "--json").json() == {"volumes": []}
    assert host.run("ls-volumes").code == 0
    assert not host.state.exists()


def test_with_a_wrong_name(host: Host) -> None:
    host.init()
    assert host.run("status", "pond").code == 9
    assert host.run("status", "a pond").code == 3
    assert host.run("status", "../tank").code == 9, "a path, on no mount"


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 30, "1.0 GiB"),
        (5 * 2**60, "5120.0 PiB"),
        (1.5 * 2**20, "1.5 MiB"),
    ],
)
def test_sizes_for_people(nbytes: float, text: str) -> None:
    assert output.size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations_for_people(seconds: float | None, text: str) -> None:
    assert output.duration(seconds) == text
