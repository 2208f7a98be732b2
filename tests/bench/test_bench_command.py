"""The command line, and what is read from other programs."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from fusegw.errors import Full, Invalid, Unavailable
from scripts.benchlib import machine
from scripts.benchlib.command import ALL, DATA_DIRECTORY, PEERS, SHARES, USUAL, Choice, names_of, selection
from scripts.benchlib.rclone import idle
from scripts.benchlib.repositories import Restic
from scripts.benchlib.shares import SHARE_ACTS
from scripts.benchlib.stores import account_of
from scripts.benchlib.workloads import COSTLY, chosen_acts
from tests.mount.gateways import kernel_caches_shared

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "scripts" / "bench"), *map(str, arguments)]
    with kernel_caches_shared():  # it drops them
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def statistics(**figures: int) -> dict[str, Any]:
    disk = {"erroredFiles": 0, "outOfSpace": False, "uploadsInProgress": 0, "uploadsQueued": 0}
    return {"diskCache": disk | figures}


def test_names_come_in_their_own_order_and_unknown_ones_are_refused() -> None:
    assert names_of("c, a", ["a", "b", "c"], "thing") == ["a", "c"]
    assert names_of("", ["a"], "thing") == []
    with pytest.raises(Invalid, match="d: no such thing; there are a, b"):
        names_of("a,d", ["a", "b"], "thing")


def test_what_is_measured_unless_something_is_asked_for_leaves_out_what_takes_long() -> None:
    assert selection(None, everything=False) == USUAL == [name for name in ALL if name not in COSTLY]
    assert selection(None, everything=True) == ALL
    assert set(SHARES).isdisjoint(ALL)


def test_names_of_groups_stand_for_their_workloads() -> None:
    assert selection("shares", everything=False) == SHARES
    assert selection("shares", everything=True) == [*ALL, *SHARES]
    assert selection("fio, new", everything=False) == [
        "new",
        *(name for name in ALL if name.startswith("fio-")),
    ]


def test_a_reference_takes_part_where_it_has_work() -> None:
    def participants(only: list[str], store: str = "directory") -> list[str]:
        choice = Choice(1 << 20, 1, 1, only, ["two-threads", "boto3", "ext4", "memory"], store)
        return list(choice.participants)

    assert participants(["new"]) == ["fusegw"]
    assert participants(["cached", "cold"]) == ["fusegw", "two threads"]
    assert participants(["cached", "cold"], "s3") == ["fusegw", "two threads", "boto3"]
    assert participants(["files", "reread"]) == ["fusegw", "ext4", "memory pyfuse3"]


def test_what_takes_long_takes_room_too() -> None:
    usual = Choice(1 << 20, 1, 1, ["new"], [], "directory")
    assert Choice(1 << 20, 1, 1, ["new", "create-busy"], [], "directory").needed_bytes > usual.needed_bytes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--size", "big"), "'big' is not a size"),
        (("--peers", "dropbox"), "no such peer; there are restic, borg, rclone, two-threads"),
        (("--only", "speed"), "no such workload"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_done(arguments: tuple[str, ...], said: str) -> None:
    done = bench(*arguments)
    assert (done.returncode, done.stdout) == (Invalid.exit_code, "")
    assert said in done.stderr and "Traceback" not in done.stderr


def test_shares_are_measured_by_those_who_have_them() -> None:
    mixed = Choice(1 << 20, 1, 1, ["new", "smb-put"], ["rclone"], "directory")
    assert (mixed.main, mixed.shares) == (["new"], ["smb-put"])
    assert list(mixed.participants) == ["fusegw", "rclone mount", "disk share", "FUSE mount"]
    alone = Choice(1 << 20, 1, 1, ["smb-get", "nfs-get"], ["rclone"], "directory")
    assert list(alone.participants) == ["fusegw", "disk share", "FUSE mount"]
    assert [act.workloads for act in chosen_acts(alone.shares, SHARE_ACTS)] == [
        *(("smb-put",), ("smb-get",)),
        *(("nfs-put",), ("nfs-get",)),
    ]


@pytest.mark.mount
@pytest.mark.samba
@pytest.mark.ganesha
@pytest.mark.soak
def test_a_small_run_through_shares() -> None:
    # Not below pytest's directories: their paths are too long for sockets, and closed to users of shares.
    with tempfile.TemporaryDirectory() as keep:
        Path(keep).chmod(0o755)
        arguments = (
            "--size",
            "4M",
            "--files",
            1,
            "--rounds",
            1,
            "--only",
            "shares",
            "--keep",
            keep,
            "--json",
        )
        done = bench(*arguments)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert all(len(row["medians"]) == 3 for row in document["workloads"])
        assert os.listdir(keep) == [DATA_DIRECTORY]


@pytest.mark.mount
@pytest.mark.slow
def test_a_small_run_measures_everything_and_leaves_only_its_data(tmp_path: Path) -> None:
    arguments = ("--size", "4M", "--files", 20, "--rounds", 1, "--peers", "two-threads,ext4,memory")
    done = bench("--all", *arguments, "--keep", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [row["workload"]["name"] for row in document["workloads"]] == ALL
    assert all(row["medians"]["fusegw"] > 0 for row in document["workloads"])
    beside = {name for row in document["workloads"] for name in row["ratios"]}
    assert beside == {"two threads", "ext4", "memory pyfuse3"}
    assert [path.name for path in tmp_path.iterdir()] == [DATA_DIRECTORY]
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_peer_that_is_missing_or_cannot_use_the_store_takes_no_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Restic, "version", lambda: None)
    monkeypatch.setattr(PEERS["borg"], "version", lambda: "1")
    choice = Choice(1 << 20, 10, 1, ["new"], ["restic", "borg"], "directory")
    assert [kind.name for kind in choice.contenders] == ["fusegw", "borg"]
    over_s3 = Choice(1 << 20, 10, 1, ["new"], ["restic", "borg"], "s3")
    assert [kind.name for kind in over_s3.contenders] == ["fusegw"]
    assert over_s3.needed_bytes < choice.needed_bytes


def test_too_little_room_is_said_with_the_figures(tmp_path: Path) -> None:
    needed = shutil.disk_usage(tmp_path).total + 1
    with pytest.raises(Full, match=r"needs .*iB .*has .*iB"):
        machine.check_room(tmp_path, needed)
    with pytest.raises(Full, match="--keep"):
        machine.choose_directory(needed)


def test_memory_is_no_place_to_measure(tmp_path: Path) -> None:
    machine.check_room(tmp_path, 1)
    with pytest.raises(Invalid, match="memory"):
        machine.check_room(Path("/dev/shm"), 1)


def test_rclone_is_idle_when_nothing_is_queued_or_under_way() -> None:
    assert idle(statistics())
    assert not idle(statistics(uploadsQueued=1))
    assert not idle(statistics(uploadsInProgress=1))


def test_an_upload_of_rclone_that_failed_is_not_taken_for_a_finished_one() -> None:
    with pytest.raises(Unavailable, match="2 files"):
        idle(statistics(erroredFiles=2))


def test_the_account_is_read_from_what_a_shell_would_export() -> None:
    printed = "# endpoint: http://x\nexport AWS_ENDPOINT_URL=http://x:1\nexport A=b C=d=\n"
    assert account_of(printed) == {"AWS_ENDPOINT_URL": "http://x:1", "A": "b", "C": "d="}


def test_memory_is_touched_up_to_the_limit_and_never_all_of_it(tmp_path: Path) -> None:
    figures = tmp_path / "meminfo"
    figures.write_text("MemTotal: 4194304 kB\nMemFree: 1049600 kB\n")
    assert machine.touch_memory(1 << 30, figures) == 1 << 20
    assert machine.touch_memory(1 << 16, figures) == 1 << 16
    figures.write_text("MemTotal: 4194304 kB\nMemFree: 1024 kB\n")
    assert machine.touch_memory(1 << 30, figures) == 0
