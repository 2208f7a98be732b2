"""`fusegw drill` beside a running gateway, on damaged stores, without a gateway, and interrupted."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusegw.clock import SystemClock, SystemEntropy
from fusegw.drill.place import private_directory
from fusegw.drill.run import Drill, Report
from fusegw.store.opening import open_store
from tests.cli.hosts import CHEAP, Host
from tests.plugins.s3servers import S3Server

TREE = {f"dir{n % 3}/file{n}": os.urandom(20_000 + n) for n in range(30)}


@pytest.fixture
def mounted(host: Host) -> Iterator[Host]:
    assert host.init().code == 0
    host.config("[volumes.tank]\nship_interval_s = 0.2\n")
    assert host.real("mount", "tank", host.mountpoint, "--cache-size", "128M").code == 0
    for name, data in TREE.items():
        path = host.mountpoint / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    assert host.run("sync", "--wait").code == 0
    yield host


@pytest.mark.mount
def test_a_drill_beside_a_running_gateway_changes_nothing(mounted: Host) -> None:
    stored, state = mounted.tree(mounted.store), sorted(mounted.state.rglob("*"))
    before = mounted.run("status", "--json").json()
    stats = mounted.run("cache", "stats", "--json").json()
    done = mounted.run("drill", "--json", "--all")
    assert done.code == 0, done
    report = done.json()
    assert report["whole"] is True and report["files_checked"] == report["files"] == len(TREE)
    assert report["rpo_by"] == "gateway" and report["rpo_s"] == 0
    assert report["bytes_checked"] == sum(map(len, TREE.values()))
    assert mounted.tree(mounted.store) == stored
    assert sorted(mounted.state.rglob("*")) == state
    after = mounted.run("status", "--json").json()
    assert [after[key] for key in ("pid", "epoch", "log_seq", "fenced")] == [
        before[key] for key in ("pid", "epoch", "log_seq", "fenced")
    ]
    assert mounted.run("cache", "stats", "--json").json() == stats
    (mounted.mountpoint / "later").write_bytes(b"later")
    assert mounted.run("sync", "--wait").code == 0
    assert mounted.real("umount", "tank").code == 0


@pytest.mark.mount
def test_damage_is_exit_code_11_with_the_object_and_the_files(mounted: Host) -> None:
    pack = next(path for path in (mounted.store / "tank" / "packs").rglob("*") if path.is_file())
    data = pack.read_bytes()
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    pack.write_bytes(damaged)
    done = mounted.run("drill", "--all")
    assert done.code == 11 and pack.name in done.err and "/dir" in done.err, done
    assert "DAMAGED" in done.out and pack.name in done.out
    pack.write_bytes(data)
    assert mounted.run("drill", "--all").code == 0, "the control"
    pack.unlink()
    done = mounted.run("drill", "--sample", "1", "--json")
    assert done.code == 11 and pack.name in done.err, done
    assert done.json()["whole"] is False
    pack.write_bytes(data)
    segments = sorted((mounted.store / "tank" / "log").iterdir())
    cut = segments[-1].read_bytes()
    segments[-1].write_bytes(cut[:-1])
    done = mounted.run("drill")
    assert done.code == 11 and segments[-1].name in done.err, done
    segments[-1].write_bytes(cut)
    assert mounted.real("umount", "tank").code == 0
    # Without a gateway the index of this host knows what must be there.
    assert mounted.run("drill", "--json").json()["rpo_by"] == "index"
    assert mounted.real("mount", "tank", mounted.mountpoint, "-o", "ro", "--cache-size", "128M").code == 0
    assert mounted.run("drill", "--json").json()["rpo_by"] == "store"
    assert mounted.real("umount", "tank").code == 0
    last = sorted((mounted.store / "tank" / "log").iterdir())[-1]
    last.unlink()
    done = mounted.run("drill")
    assert done.code == 11 and last.name in done.err, done


@pytest.mark.mount
def test_a_seed_that_is_given_is_reported_and_a_wrong_secret_is_refused(mounted: Host) -> None:
    assert mounted.run("drill", "--seed", "77", "--sample", "5", "--json").json()["seed"] == 77
    assert "seed" in mounted.run("drill", "--sample", "50%").out
    wrong = mounted.write(mounted.base / "wrong", "wrong")
    assert mounted.run("drill", "--passphrase-file", wrong).code == 6
    assert mounted.real("umount", "tank").code == 0


@pytest.mark.mount
def test_a_drill_from_s3(host: Host, moto_server: S3Server) -> None:
    options = moto_server.options()
    where = ("--store", options.url, "--endpoint-url", moto_server.endpoint_url, "--region", "us-east-1")
    assert host.run("init", "tank", *where, "--recovery-key-file", host.recovery, *CHEAP).code == 0
    keys = {"AWS_ACCESS_KEY_ID": moto_server.access_key, "AWS_SECRET_ACCESS_KEY": moto_server.secret_key}
    assert host.real("mount", "tank", host.mountpoint, "--cache-size", "128M", **keys).code == 0
    (host.mountpoint / "file").write_bytes(os.urandom(3 << 20))
    assert host.run("sync", "--wait").code == 0
    done = host.real("drill", "--all", "--json", **keys)
    assert done.code == 0 and done.json()["bytes_checked"] == 3 << 20, done
    store = open_store(options, clock=SystemClock(), entropy=SystemEntropy())
    pack = next(store.list("packs/")).key
    store.delete([pack])
    store.close()
    done = host.real("drill", "--all", **keys)
    assert done.code == 11 and pack in done.err and "/file" in done.err, done
    assert host.real("umount", "tank").code == 0


def test_what_makes_no_sense_is_refused(host: Host) -> None:
    assert host.init().code == 0
    for arguments in (("--sample", "0"), ("--sample", "101%"), ("--sample", "few"), ("--limit", "0")):
        assert host.run("drill", *arguments).code == 3, arguments
    assert host.run("drill", "--directory", host.base / "nowhere").code == 2
    done = host.run("drill")
    assert done.code == 11 and "no log" in done.err, "never mounted: there is nothing to recover"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_nothing_behind(
    host: Host, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    seen: list[Path] = []

    def run(drill: Drill, on_progress: Callable[..., None]) -> Report:
        with private_directory(drill.base, drill.name) as directory:
            seen.append(directory)
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 10)
        raise AssertionError("the signal came to nothing")

    assert host.init().code == 0
    monkeypatch.setattr("fusegw.cli.drill.run", run)
    before = signal.getsignal(signal.SIGTERM)
    assert host.run("drill").code == 130
    assert not seen[0].exists()
    assert signal.getsignal(signal.SIGTERM) == before
