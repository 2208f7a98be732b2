"""`fusegw quota` on a volume that is not mounted, what it prints, and what it refuses."""

from typing import Any

import pytest

from fusegw.config import VolumePaths
from fusegw.daemon.lock import volume_lock
from fusegw.vfs.caller import Caller
from tests.cli.hosts import Host
from tests.vfs.trees import Tree

ROOT_USER = Caller(0, 0)


class Index(Tree):
    """The index of the host's volume, with directories in it."""

    def __init__(self, paths: VolumePaths) -> None:
        super().__init__(paths.meta_dir)
        top = self.namespace.mkdir(1, b"top", 0o755, ROOT_USER).ino
        self.namespace.mkdir(top, b"inner", 0o755, ROOT_USER)
        self.namespace.mknod(1, b"file", 0o100644, 0, ROOT_USER)
        self.commit()
        self.metadata.close()


@pytest.fixture
def tank(host: Host) -> Host:
    assert host.init().code == 0
    Index(VolumePaths(host.state, "tank"))
    return host


def quota(host: Host, *arguments: object) -> dict[str, Any]:
    done = host.run("quota", *arguments, "--json")
    assert done.code == 0, done
    return done.json()


def refusal(host: Host, *arguments: object) -> tuple[int, str]:
    done = host.run("quota", *arguments)
    assert done.out == "", done
    return done.code, done.err


def test_set_show_list_and_remove(tank: Host) -> None:
    made = quota(tank, "set", "tank:/top/inner", "--bytes", "1.5G", "--files", 100)
    assert made == {
        "volume": "tank", "path": "/top/inner", "inode": 3, "state": "active",
        "bytes_max": 3 << 29, "bytes_used": 0, "files_max": 100, "files_used": 1,
    }  # fmt: skip
    assert quota(tank, "show", "tank:/top//inner/") == made
    assert quota(tank, "set", "tank", "--files", 10)["path"] == "/"
    assert quota(tank, "set", "tank:/top", "--files", 5)["state"] == "counting"
    assert [one["path"] for one in quota(tank, "list")["quotas"]] == ["/", "/top/inner", "/top"]
    assert quota(tank, "set", "tank:/top/inner", "--files", "none")["files_max"] is None
    assert quota(tank, "remove", "tank")["files_max"] == 10
    quota(tank, "remove", "tank:/top")
    found = quota(tank, "list", "tank")["quotas"]
    assert [(one["path"], one["state"]) for one in found] == [("/top/inner", "active"), ("/top", "removing")]


def test_for_people(tank: Host) -> None:
    out = tank.run("quota", "set", "tank:/top/inner", "--bytes", "10G", "--files", 3).out
    assert "quota of tank:/top/inner" in out and "0 B of 10.0 GiB (0.0 %)" in out
    assert "1 of 3 files (33.3 %)" in tank.run("quota", "show", "tank:/top/inner").out
    tank.run("quota", "set", "tank", "--bytes", "1T")
    lines = tank.run("quota", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["directory", "tank", "tank:/top/inner"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("set", "tank:/top"), 2, "--bytes, --files or both"),
        (("set", "tank:/top", "--bytes", "0"), 3, "would allow nothing"),
        (("set", "tank:/top", "--bytes", "much"), 3, "'much' is not a size"),
        (("set", "tank:/top", "--files", "-1"), 3, "'-1' is no number of files"),
        (("set", "tank:/top", "--bytes", "none"), 3, "needs a limit"),
        (("set", "tank:/none", "--files", "5"), 9, "has no directory '/none'"),
        (("set", "tank:/file", "--files", "5"), 3, "is no directory"),
        (("set", "other", "--files", "5"), 9, "other"),
        (("show", "tank:/top"), 9, "no quota of its own"),
        (("remove", "tank:/top"), 9, "no quota of its own"),
        (("remove", "tank"), 9, "no quota of its own"),
    ],
)
def test_refusals(tank: Host, arguments: tuple[str, ...], code: int, message: str) -> None:
    found, said = refusal(tank, *arguments)
    assert (found, message in said) == (code, True), said
    assert quota(tank, "list")["quotas"] == []


def test_a_path_that_is_not_text(tank: Host) -> None:
    assert refusal(tank, "set", "tank:/\udcff", "--files", "5")[0] == 3


def test_a_volume_that_was_never_mounted(host: Host) -> None:
    assert host.init().code == 0
    assert refusal(host, "set", "tank", "--files", "5")[0] == 9
    assert refusal(host, "list", "tank")[0] == 9
    assert quota(host, "list")["quotas"] == []


def test_an_index_that_somebody_has_open(tank: Host) -> None:
    with volume_lock(VolumePaths(tank.state, "tank")):
        assert refusal(tank, "set", "tank", "--files", "5")[0] == 10
