"""`fusegw salvage` after a gateway was replaced: with its volume unmounted, and mounted again."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusegw.daemon.lock import present_holder
from tests.cli.hosts import Host
from tests.mount.gateways import ended

LATE = os.urandom(300_000)
pytestmark = pytest.mark.mount


@pytest.fixture
def fenced(host: Host) -> Iterator[Host]:
    """Killed with a file that was never sent, then another gateway took the volume over."""
    assert host.init().code == 0
    host.config("[volumes.tank]\nship_interval_s = 3600\ncommit_interval_s = 0.05\n")
    assert host.real("mount", "tank", host.mountpoint, "--cache-size", "128M").code == 0
    (host.mountpoint / "old").write_bytes(b"old" * 1000)
    assert host.run("sync", "--wait").code == 0
    write_through(host.mountpoint / "late", LATE)
    holder = present_holder(host.paths())
    assert holder is not None
    with ended(holder.pid) as wait:
        os.kill(holder.pid, 9)
        wait()
    other = host.base / "other"
    other.mkdir()
    shutil.copy(host.state / "registry.json", other)
    place = host.base / "other-mnt"
    place.mkdir()
    elsewhere = {"FUSEGW_STATE_DIR": str(other), "FUSEGW_CACHE_DIR": str(host.base / "other-cache")}
    assert host.real("mount", "tank", place, "--cache-size", "128M", **elsewhere).code == 0
    assert not (place / "late").exists()
    assert host.real("umount", "tank", **elsewhere).code == 0
    yield host


def write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def test_a_replaced_gateways_file_comes_out_before_and_after_its_next_mount(fenced: Host) -> None:
    stored = fenced.tree(fenced.store)
    done = fenced.run("salvage", "tank", "--list")
    assert done.code == 0 and "/late" in done.out and "/old" not in done.out, done
    first = fenced.base / "first"
    done = fenced.run("salvage", "tank", first, "--json")
    assert done.code == 0, done
    (one,) = done.json()["sources"]  # type: ignore[misc, attr-defined]
    assert one["whole"] is True and one["source"] == "meta"
    assert (first / "meta" / "late").read_bytes() == LATE
    assert not (first / "meta" / "old").exists()
    assert fenced.tree(fenced.store) == stored

    done = fenced.real("mount", "tank", fenced.mountpoint, "--cache-size", "128M")
    assert done.code == 0 and "fusegw salvage tank DIRECTORY" in done.err, done
    assert "fusegw salvage tank DIRECTORY" in fenced.paths().log_file.read_text()
    status = fenced.run("status", "--json").json()
    (place,) = status["unsent"]  # type: ignore[misc]
    assert "never stored" in fenced.run("status").out
    assert not (fenced.mountpoint / "late").exists()
    second = fenced.base / "second"
    assert fenced.run("salvage", "tank", second, "--discard").code == 3, "it would have to ask"
    assert not second.exists()
    done = fenced.run("salvage", "tank", second, "--discard", "--yes", "--from", Path(str(place)).name)
    assert done.code == 0, done
    assert (second / Path(str(place)).name / "late").read_bytes() == LATE
    assert fenced.run("status", "--json").json()["unsent"] == []
    done = fenced.run("salvage", "tank", fenced.base / "third")
    assert done.code == 0 and "once it is unmounted" in done.out and not (fenced.base / "third").exists()
    assert fenced.run("salvage", "tank", "--list", "--from", "meta").code == 10
    assert fenced.run("salvage", "tank", "--list", "--from", "unsent-1").code == 9
    assert fenced.real("umount", "tank").code == 0


def test_a_damaged_spool_file_is_named_and_nothing_is_discarded(fenced: Host) -> None:
    assert fenced.real("mount", "tank", fenced.mountpoint, "--cache-size", "128M").code == 0
    assert fenced.real("umount", "tank").code == 0
    (place,) = fenced.paths().unsent_dirs()
    (pack,) = [path for path in place.iterdir() if path.name != "meta"]
    data = bytearray(pack.read_bytes())
    data[200] ^= 1
    pack.write_bytes(data)
    done = fenced.run("salvage", "tank", fenced.base / "out", "--discard", "--yes")
    assert done.code == 11 and "/late" in done.err and pack.name in done.err, done
    assert place.exists()
    assert done.err.count("\n") == 1


def test_a_wrong_secret_writes_nothing(fenced: Host) -> None:
    wrong = fenced.write(fenced.base / "wrong", "wrong")
    done = fenced.run("salvage", "tank", fenced.base / "out", "--passphrase-file", wrong)
    assert done.code == 6 and not (fenced.base / "out").exists(), done
    (fenced.base / "out").mkdir()
    (fenced.base / "out" / "file").touch()
    assert fenced.run("salvage", "tank", fenced.base / "out").code == 8
