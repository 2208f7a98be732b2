"""`fusegw check` beside a running gateway and without one, on damaged stores, with repair and reports."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.hosts import Host

TREE = {f"dir{n % 3}/file{n}": os.urandom(20_000 + n) for n in range(12)}


@pytest.fixture
def mounted(host: Host) -> Iterator[Host]:
    assert host.init().code == 0
    host.config("[volumes.tank]\nship_interval_s = 0.2\n")
    assert host.real("mount", "tank", host.mountpoint, "--cache-size", "128M").code == 0
    write(host)
    yield host


def write(host: Host, below: str = ".") -> None:
    for name, data in TREE.items():
        path = host.mountpoint / below / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert host.run("sync", "--wait").code == 0


def packs(host: Host) -> list[Path]:
    return [path for path in (host.store / "tank" / "packs").rglob("*") if path.is_file()]


def read_all(host: Host) -> bool:
    assert host.run("cache", "drop").code == 0
    for path in host.mountpoint.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                wanted = TREE["/".join(path.parts[-2:])]
                if os.pread(descriptor, len(wanted), 0) != wanted:
                    return False
            except OSError:
                return False
            finally:
                os.close(descriptor)
    return True


@pytest.mark.mount
def test_a_whole_volume_passes_with_and_without_its_gateway(mounted: Host) -> None:
    scrub = mounted.run("status", "--json").json()["scrub"]
    assert isinstance(scrub, dict) and scrub["damaged_chunks"] == 0
    assert "of pass 1" in mounted.run("status").out
    before = mounted.tree(mounted.store)
    done = mounted.real("check", "--json", "--read-data")
    assert done.code == 0, done
    report = done.json()
    assert report["whole"] is True and report["chunks_read"] == report["chunks"] > 0
    assert mounted.real("check", "--sample", "50%", "--rate", "50M", "--seed", "3").code == 0
    assert mounted.tree(mounted.store) == before
    assert mounted.real("umount", "tank").code == 0
    done = mounted.real("check", "--read-data")
    assert done.code == 0 and "whole" in done.out, done
    assert mounted.real("check", "--repair").code == 3, "that needs a gateway"


@pytest.mark.mount
def test_a_lost_pack_is_named_and_the_next_backup_makes_old_files_whole(mounted: Host) -> None:
    for path in packs(mounted):
        path.unlink()
    assert mounted.run("cache", "drop").code == 0
    done = mounted.real("check")
    assert done.code == 11 and "missing" in done.err and "/dir" in done.err, done
    assert not read_all(mounted)
    write(mounted, "again")
    done = mounted.real("check", "--read-data", "--json")
    assert done.code == 0 and done.json()["damaged_chunks"] == 0, done
    assert read_all(mounted)
    assert mounted.real("umount", "tank").code == 0


@pytest.mark.mount
def test_repair_stores_anew_what_the_cache_has_and_reports_the_rest(mounted: Host) -> None:
    report = mounted.base / "report.json"
    for path in packs(mounted):
        path.unlink()
    done = mounted.real("check", "--repair", "--json", "--report", report)
    assert done.code == 0 and done.json()["mended_chunks"], done
    assert mounted.run("sync", "--wait").code == 0
    assert mounted.real("check", "--read-data").code == 0
    assert read_all(mounted)
    for path in packs(mounted):
        path.unlink()
    assert mounted.run("cache", "drop").code == 0
    done = mounted.real("check", "--repair", "--report", report)
    assert done.code == 11 and "until their data is written again" in done.out, done
    assert report.stat().st_mode & 0o777 == 0o600
    found = json.loads(report.read_bytes())
    assert {path for damage in found["damage"] for path in damage["files"]} == {f"/{name}" for name in TREE}
    assert mounted.real("umount", "tank").code == 0


def test_options_that_make_no_sense_are_refused(host: Host) -> None:
    assert host.init().code == 0
    assert host.run("check", "--sample", "120%").code == 3
    assert host.run("check", "--sample", "5").code == 3
    assert host.run("check", "--sample", "5%", "--read-data").code == 2
    done = host.run("check")
    assert done.code == 9 and "mount the volume first" in done.err, done
