"""`fusegw mount DIR`: which volumes, how much cache each, whose secrets; with a stand-in for a gateway."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fusegw.cli.mount_settings import cache_shares
from fusegw.cli.secret_source import SecretFiles, member_secrets
from fusegw.config import VolumeConfig, VolumePaths
from fusegw.daemon import mountpoint
from fusegw.daemon.lock import hold_for_life, note_missing, present_holder, volume_lock
from fusegw.errors import Invalid, NotFound
from fusegw.keys.secret import Secret
from tests.cli.hosts import PASSPHRASE, Host
from tests.cli.test_mount_command import assert_one_line

G = 1 << 30
PACKS = 64 << 20
"""Two packs of the default size."""


@pytest.fixture
def pair(host: Host) -> Host:
    """Volumes `tank` and `pond`."""
    assert host.init().code == 0 and host.init("pond").code == 0
    return host


def given(host: Host) -> Any:
    return host.settings()


def test_all_volumes_are_in_it_in_order_of_their_numbers(pair: Host) -> None:
    pair.init("alga")
    done = pair.spawn("mount", pair.mountpoint)
    assert (done.code, done.out, done.err) == (0, "", "")
    settings = given(pair)
    assert settings["unified"] is True and list(settings["volumes"]) == ["tank", "pond", "alga"]
    assert settings["options"]["fsname"] == "fusegw@volumes"
    assert [one["mountpoint"] for one in settings["volumes"].values()] == [
        f"{pair.mountpoint}/{name}" for name in ("tank", "pond", "alga")
    ]
    assert [one["cache_size_bytes"] for one in settings["volumes"].values()] == 3 * [10 * G // 3]
    holders = {present_holder(pair.paths(name)) for name in ("tank", "pond", "alga")}
    assert len({holder.pid for holder in holders if holder}) == 1
    volumes = pair.run("ls-volumes", "--json").json()["volumes"]
    assert [one["mountpoint"] for one in volumes] == [  # type: ignore[attr-defined]
        f"{pair.mountpoint}/{name}" for name in ("tank", "pond", "alga")
    ]
    done = pair.spawn("umount", "pond")
    assert done.code == 0
    assert done.err == (
        f"fusegw: warning: volume pond is part of the unified mount on {pair.mountpoint}: all of it ends\n"
    )
    assert not any(present_holder(pair.paths(name)) for name in ("tank", "pond", "alga"))


def test_one_volume_is_a_directory_too(host: Host) -> None:
    host.init()
    assert host.spawn("mount", host.mountpoint).code == 0
    assert list(given(host)["volumes"]) == ["tank"] and given(host)["unified"] is True
    assert host.spawn("umount", host.mountpoint).code == 0


def test_volumes_may_stay_out(pair: Host) -> None:
    pair.config("[volumes.tank]\nin_unified_mount = false\n")
    assert pair.spawn("mount", pair.mountpoint).code == 0
    assert list(given(pair)["volumes"]) == ["pond"]
    assert present_holder(pair.paths("tank")) is None
    assert pair.spawn("umount", pair.mountpoint / "pond").code == 0
    pair.config("[volumes.tank]\nin_unified_mount = false\n[volumes.pond]\nin_unified_mount = false\n")
    assert_one_line(pair.spawn("mount", pair.mountpoint), 3, "no volume wants to be in the unified mount")
    assert pair.spawn("mount", "tank", pair.mountpoint).code == 0  # by its name as ever


def test_without_a_volume(host: Host) -> None:
    assert_one_line(host.spawn("mount", host.mountpoint), 9, "create one with fusegw init")


def test_one_in_use_elsewhere_is_missing(pair: Host) -> None:
    with volume_lock(pair.paths("tank")):
        assert pair.spawn("mount", pair.mountpoint).code == 0
        assert list(given(pair)["volumes"]) == ["pond"]
        assert f"in use by pid {os.getpid()}" in given(pair)["missing"]["tank"]
        assert_one_line(pair.spawn("mount", pair.base), 10, "'tank' is in use")
        assert pair.spawn("umount", "pond").code == 0
        with volume_lock(pair.paths("pond")):
            assert_one_line(pair.spawn("mount", pair.mountpoint), 10, "'tank' is in use")


def test_modes_and_who_may_look_in(pair: Host) -> None:
    def options(config: str, *arguments: str) -> tuple[Any, list[bool]]:
        pair.config(config)
        assert pair.spawn("mount", pair.mountpoint, *arguments).code == 0
        assert pair.spawn("umount", pair.mountpoint).code == 0
        settings = given(pair)
        return settings["options"], [one["read_only"] for one in settings["volumes"].values()]

    superuser = os.geteuid() == 0
    mount, read_only = options("[volumes.pond]\nread_only = true\n")
    assert (mount["read_only"], mount["allow_other"], read_only) == (False, superuser, [False, True])
    mount, read_only = options("[volumes.pond]\nallow_other = false\n[volumes.tank]\nallow_other = true\n")
    assert (mount["read_only"], mount["allow_other"], read_only) == (False, False, [False, False])
    mount, read_only = options("[volumes.pond]\nallow_other = false\n", "-o", "ro,allow_other,noatime")
    assert (mount["read_only"], mount["allow_other"], read_only) == (True, True, [True, True])
    assert mount["kernel_options"] == ["noatime"]


def test_shares_of_the_cache() -> None:
    plain, own = VolumeConfig(), VolumeConfig(cache_size_bytes=4 * G)
    assert cache_shares(10 * G, {"a": plain, "b": plain}) == {"a": 5 * G, "b": 5 * G}
    assert cache_shares(10 * G, {"a": plain, "b": own, "c": plain}) == {"a": 3 * G, "b": 4 * G, "c": 3 * G}
    assert cache_shares(1 * G, {"b": own}) == {"b": 4 * G}  # nobody asked for that budget
    with pytest.raises(Invalid, match=rf"give --cache-size {4 * G}"):
        cache_shares(1 * G, {"b": own}, binding=True)
    least = 4 * G + 2 * PACKS
    assert cache_shares(least, {"a": plain, "b": own, "c": plain})["c"] == PACKS
    with pytest.raises(Invalid, match=rf"raise cache_size of \[gateway\], or --cache-size, to {least}"):
        cache_shares(least - 1, {"a": plain, "b": own, "c": plain})
    with pytest.raises(Invalid, match=rf"\[volumes.b\].*two packs must fit.*give {PACKS}"):
        cache_shares(10 * G, {"a": plain, "b": VolumeConfig(cache_size_bytes=PACKS - 1)})


def test_where_the_budget_comes_from(pair: Host) -> None:
    def sizes(*arguments: str, **environment: str) -> list[int]:
        assert pair.spawn("mount", pair.mountpoint, *arguments, **environment).code == 0
        assert pair.spawn("umount", pair.mountpoint).code == 0
        return [one["cache_size_bytes"] for one in given(pair)["volumes"].values()]

    pair.config("[gateway]\ncache_size = '6G'\n[volumes.tank]\ncache_size = '2G'\n")
    assert sizes() == [2 * G, 4 * G]
    assert sizes(FUSEGW_CACHE_SIZE="3G") == [2 * G, 1 * G]
    assert sizes("--cache-size", "5G", FUSEGW_CACHE_SIZE="3G") == [2 * G, 3 * G]
    assert_one_line(pair.spawn("mount", pair.mountpoint, "--cache-size", "2G"), 3, "too small for 2 volumes")


def test_each_volumes_own_secret_goes_first(tmp_path: Path) -> None:
    own, common = tmp_path / "own", tmp_path / "common"
    for path, text in ((own, "for tank alone"), (common, "for all of them")):
        path.write_text(text)
        path.chmod(0o600)
    configs = {"tank": VolumeConfig(passphrase_file=str(own)), "pond": VolumeConfig()}
    found = member_secrets(SecretFiles(passphrase_file=common), configs, {})
    assert found == {
        "tank": Secret.passphrase("for tank alone"),
        "pond": Secret.passphrase("for all of them"),
    }
    environ = {"FUSEGW_PASSPHRASE": "from the environment"}
    assert member_secrets(SecretFiles(), configs, environ)["pond"] == Secret.passphrase(
        "from the environment"
    )
    assert environ == {}


def test_a_secret_that_is_missing_is_told_for_its_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = {"tank": VolumeConfig(passphrase_file=str(tmp_path / "gone")), "pond": VolumeConfig()}
    found = member_secrets(SecretFiles(), configs, {})
    assert isinstance(found["tank"], NotFound) and "gone" in str(found["tank"])
    assert isinstance(found["pond"], Invalid) and "no passphrase for volume 'pond'" in str(found["pond"])
    monkeypatch.setattr("fusegw.cli.secret_source._can_ask", lambda: True)
    asked: list[str] = []
    monkeypatch.setattr(
        "fusegw.cli.secret_source._ask", lambda text: asked.append(text) or "a typed passphrase"
    )
    assert member_secrets(SecretFiles(), configs, {})["pond"] == Secret.passphrase("a typed passphrase")
    assert asked == ["Passphrase (or recovery key) of volume pond: "]  # tank's is in a file, if it comes back


def test_a_volume_without_a_secret_is_missing(pair: Host) -> None:
    own = pair.write(pair.base / "own", PASSPHRASE)
    pair.config(f"[volumes.pond]\npassphrase_file = '{own}'\n")
    assert pair.spawn("mount", pair.mountpoint, FUSEGW_PASSPHRASE_FILE="").code == 0
    assert list(given(pair)["volumes"]) == ["pond"]
    assert "no passphrase for volume 'tank'" in given(pair)["missing"]["tank"]
    report = pair.run("status", "tank", "--json").json()
    assert report["mounted"] is False and "no passphrase" in str(report["missing"])
    rows: Any = pair.run("ls-volumes", "--json").json()["volumes"]
    assert [(row["mounted"], row["mountpoint"]) for row in rows] == [
        (False, None),
        (True, f"{pair.mountpoint}/pond"),
    ]
    assert "no passphrase" in pair.run("status").out and "no passphrase" in pair.run("ls-volumes").out
    assert pair.spawn("umount", "pond").code == 0
    assert present_holder(pair.paths()) is None and present_holder(pair.paths("pond")) is None
    pair.config("")
    done = pair.spawn("mount", pair.mountpoint, FUSEGW_PASSPHRASE_FILE="")
    assert_one_line(done, 3, "no passphrase for volume 'tank'")


def test_why_a_volume_is_missing_stands_in_its_lock(tmp_path: Path) -> None:
    paths = VolumePaths(tmp_path, "tank")
    hold_for_life(paths, mountpoint="/mnt", unified=True)
    for why in ("a long story " * 20, "short", ""):
        note_missing(paths, why)
        holder = present_holder(paths)
        assert holder is not None and (holder.missing, holder.pid) == (why, os.getpid())
        assert (holder.unified, holder.seen_at("tank")) == (True, "/mnt/tank")


@pytest.mark.mount
class TestKernelMount:
    """With a real, if empty, file system."""

    def mount(self, host: Host, *arguments: object) -> int:
        done = host.spawn(*(arguments or ("mount", host.mountpoint)), STUB_MOUNT="1")
        assert done.code == 0, done
        holder = present_holder(host.paths())
        assert holder is not None
        return holder.pid

    def test_mount_8_with_the_name_of_all(self, pair: Host) -> None:
        self.mount(pair, "fusegw@volumes", pair.mountpoint, "-o", "rw,noatime")
        entry = mountpoint.mounted_on(str(pair.mountpoint))
        assert entry is not None and (entry.source, entry.fs_type) == ("fusegw@volumes", "fuse.fusegw")
        assert given(pair)["unified"] is True
        assert pair.spawn("umount", "pond").code == 0
        assert not os.path.ismount(pair.mountpoint) and present_holder(pair.paths()) is None

    @pytest.mark.parametrize("next_one", [("mount", "pond"), ("mount",), ("umount", "pond")])
    def test_what_a_killed_gateway_left_is_cleared(self, pair: Host, next_one: tuple[str, ...]) -> None:
        os.kill(self.mount(pair), signal.SIGKILL)
        assert mountpoint.is_dead(str(pair.mountpoint))
        place = () if next_one[0] == "umount" else (pair.mountpoint,)
        assert pair.spawn(*next_one, *place).code == 0
        assert not mountpoint.is_dead(str(pair.mountpoint))
        assert os.listdir(pair.mountpoint) == []

    def test_umount_finds_who_is_there_now(self, pair: Host) -> None:
        """Not who was there once."""
        self.mount(pair)
        assert pair.spawn("umount", pair.mountpoint).code == 0
        assert pair.spawn("mount", "pond", pair.mountpoint, STUB_MOUNT="1").code == 0
        assert pair.spawn("umount", pair.mountpoint).code == 0
        assert present_holder(pair.paths("pond")) is None
