"""`fusegw mount` and `umount` as programs, around a stand-in for the gateway: readiness, refusals, ends."""

import os
import resource
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from fusegw.daemon import mountpoint
from fusegw.daemon.lock import present_holder
from tests.cli.hosts import PASSPHRASE, Done, Host


@pytest.fixture
def tank(host: Host) -> Host:
    assert host.init().code == 0
    return host


def assert_one_line(done: Done, code: int, message: str) -> None:
    assert (done.code, message in done.err) == (code, True), done
    assert done.err.startswith("fusegw: error: ") and done.err.count("\n") == 1 and done.out == ""


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or waits only for its parent to take notice."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_mount_is_ready_when_the_command_returns(tank: Host) -> None:
    done = tank.spawn("mount", "tank", tank.mountpoint)
    assert (done.code, done.out, done.err) == (0, "", "")
    status = tank.run("status", "--json").json()
    holder = present_holder(tank.paths())
    assert holder is not None and status["pid"] == holder.pid
    assert status["volume"] == "tank" and status["mounted"] is True
    assert status["mountpoint"] == str(tank.mountpoint)
    settings = tank.settings()
    assert settings["volume_number"] == 1 and settings["cache_size_bytes"] == 10 << 30
    assert settings["cache_dir"] == str(tank.cache) and PASSPHRASE not in str(settings)
    assert tank.spawn("umount", "tank").code == 0
    assert present_holder(tank.paths()) is None
    assert has_ended(holder.pid)
    assert tank.run("status", "--json").json()["mounted"] is False


def test_a_second_mount_is_refused(tank: Host) -> None:
    tank.spawn("mount", "tank", tank.mountpoint)
    other = tank.base / "other"
    other.mkdir()
    holder = present_holder(tank.paths())
    assert holder is not None
    done = tank.spawn("mount", "tank", other)
    assert_one_line(done, 10, f"in use by pid {holder.pid}, mounted on {tank.mountpoint}")
    assert present_holder(tank.paths()) == holder


def test_two_volumes_side_by_side(tank: Host) -> None:
    tank.init("pond")
    other = tank.base / "other"
    other.mkdir()
    assert tank.spawn("mount", "tank", tank.mountpoint).code == 0
    assert tank.spawn("mount", "pond", other).code == 0
    volumes = tank.run("status", "--json").json()["volumes"]
    assert [one["volume"] for one in volumes] == ["tank", "pond"]  # type: ignore[attr-defined]
    assert tank.spawn("umount", other).code == 0
    assert tank.run("status", "tank", "--json").json()["mounted"] is True


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        ("WrongKey: opens no slot", 6, "opens no slot"),
        ("UnknownFormat: flag 9", 7, "flag 9"),
        ("Unavailable: no route", 4, "no route"),
        ("Fenced: epoch 8", 13, "epoch 8"),
        ("Surprise: at once", 1, "unexpected RuntimeError: at once; details in"),
        ("exit", 1, "ended before it was ready; see"),
    ],
)
def test_what_the_gateway_fails_with_is_what_the_command_says(
    tank: Host, failure: str, code: int, message: str
) -> None:
    assert_one_line(tank.spawn("mount", "tank", tank.mountpoint, STUB_FAIL=failure), code, message)
    assert present_holder(tank.paths()) is None
    log = tank.paths().log_file.read_text()
    assert ("Traceback" in log) == failure.startswith("Surprise")
    done = tank.spawn("mount", "--foreground", "tank", tank.mountpoint, STUB_FAIL=failure)
    assert done.code == (9 if failure == "exit" else code)


def test_mount_points_that_cannot_be(tank: Host) -> None:
    file = tank.write(tank.base / "file", "")
    (tank.mountpoint / "content").mkdir()
    assert_one_line(tank.spawn("mount", "tank", tank.base / "missing"), 9, "missing does not exist")
    assert_one_line(tank.spawn("mount", "tank", file), 3, "is not a directory")
    assert_one_line(tank.spawn("mount", "tank", file / "below"), 3, "is not a directory")
    assert_one_line(tank.spawn("mount", "tank", tank.mountpoint), 8, "is not empty")
    assert_one_line(tank.spawn("mount", "tank", "/proc"), 10, "/proc: proc (proc) is mounted there")
    assert not (tank.state / "volumes").exists()
    assert tank.spawn("mount", "tank", tank.mountpoint, "-o", "nonempty").code == 0


def test_bad_input_starts_nothing(tank: Host) -> None:
    for arguments, message in (
        (("-o", "cash_size=1G"), "did you mean 'cache_size='"),
        (("--cache-size", "1M"), "two packs"),
        (("--cache-size", "much"), "not a size"),
        (("-o", "config=/nowhere.toml"), "/nowhere.toml"),
    ):
        assert_one_line(tank.spawn("mount", "tank", tank.mountpoint, *arguments), 3, message)
    assert tank.spawn("mount", "tank", tank.mountpoint, "/c").code == 2
    assert_one_line(tank.spawn("mount", "pond", tank.mountpoint), 9, "no volume 'pond'")
    done = tank.spawn("mount", "tank", tank.mountpoint, FUSEGW_PASSPHRASE_FILE="")
    assert_one_line(done, 3, "no passphrase for volume 'tank'")
    tank.config("[volumes.tank]\npasphrase_file = 'x'\n")
    assert_one_line(tank.spawn("mount", "tank", tank.mountpoint), 3, "pasphrase_file")
    assert not (tank.state / "volumes").exists() and not (tank.base / "settings.json").exists()


def test_what_counts_first(tank: Host) -> None:
    def given(*arguments: str, **environment: str) -> tuple[object, object]:
        assert tank.spawn("mount", "tank", tank.mountpoint, *arguments, **environment).code == 0
        assert tank.spawn("umount", "tank").code == 0
        settings = tank.settings()
        return settings["cache_size_bytes"], settings["cache_dir"]

    there, here = str(tank.base / "there"), str(tank.base / "here")
    tank.config(f"[gateway]\ncache_size = '1G'\ncache_dir = '{there}'\n")
    assert given(FUSEGW_CACHE_DIR="") == (1 << 30, there)
    tank.config(f"[gateway]\ncache_size = '1G'\ncache_dir = '{there}'\n[volumes.tank]\ncache_size = '2G'\n")
    assert given(FUSEGW_CACHE_DIR="") == (2 << 30, there)
    assert given(FUSEGW_CACHE_SIZE="3G") == (3 << 30, str(tank.cache))
    assert given("--cache-size", "4G", "--cache-dir", here, FUSEGW_CACHE_SIZE="3G") == (4 << 30, here)
    assert given("-o", f"rw,cache_size=5G,cache_dir={here}", FUSEGW_CACHE_SIZE="3G") == (5 << 30, here)


def test_options_reach_the_gateway(tank: Host) -> None:
    tank.config("[volumes.tank]\npack_size = '4M'\nallow_other = false\n")
    arguments = ("-o", "ro,noatime,_netdev", "--cache-size", "64M")
    assert tank.spawn("mount", "tank", tank.mountpoint, *arguments).code == 0
    options = tank.settings()["options"]
    assert options == {
        "allow_other": False,
        "read_only": True,
        "fsname": "tank",
        "kernel_options": ["noatime"],
    }
    assert tank.settings()["tuning"]["pack_size"] == 4 << 20  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "table"),
    [
        (("--follow",), ""),
        (("--read-only", "--follow"), ""),
        (("-o", "ro,follow"), ""),
        ((), "follow = true"),
    ],
)
def test_a_standby_is_read_only_but_not_for_the_kernel(
    tank: Host, arguments: tuple[str, ...], table: str
) -> None:
    tank.config(f"[volumes.tank]\nship_interval_s = 4\n{table}\n")
    assert tank.spawn("mount", "tank", tank.mountpoint, *arguments).code == 0
    settings = tank.settings()
    assert settings["follow"] is True and settings["read_only"] is True
    assert settings["options"]["read_only"] is False  # type: ignore[index]


def test_the_gateways_process_is_hardened(tank: Host) -> None:
    tank.spawn("mount", "tank", tank.mountpoint, FUSEGW_PASSPHRASE_FILE="", FUSEGW_PASSPHRASE=PASSPHRASE)
    holder = present_holder(tank.paths())
    assert holder is not None
    process = Path(f"/proc/{holder.pid}")
    environment = (process / "environ").read_bytes()
    assert b"FUSEGW_STATE_DIR" in environment and PASSPHRASE.encode() not in environment
    limits = (process / "limits").read_text()
    assert "Max core file size        0                    0" in limits
    assert process.joinpath("cwd").readlink() == Path("/")
    assert os.getsid(holder.pid) == holder.pid
    assert "Umask:\t0077" in (process / "status").read_text()
    places = [process.joinpath("fd", str(one)).readlink() for one in range(3)]
    assert places == [Path("/dev/null"), tank.paths().log_file, tank.paths().log_file]
    for path in (tank.state, tank.state / "run", tank.state / "log", tank.paths().volume_dir, tank.cache):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    for path in (tank.paths().log_file, tank.paths().lock_file, tank.paths().socket_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_hardening_is_not_the_default() -> None:
    """The control: a process nobody hardened may dump core, as far as the limit of the tests goes."""
    assert resource.getrlimit(resource.RLIMIT_CORE)[1] != 0


def test_a_foreground_mount_ends_by_signal(tank: Host) -> None:
    for end in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(
            tank.command("mount", "--foreground", "tank", tank.mountpoint),
            env=tank.environment(),
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert f"is mounted on {tank.mountpoint}" in process.stderr.readline()
            holder = present_holder(tank.paths())
            assert holder is not None and holder.pid == process.pid
            process.send_signal(end)
            assert process.wait(timeout=60) == 0
        assert present_holder(tank.paths()) is None


def test_umount_of_what_is_not_mounted(tank: Host) -> None:
    assert_one_line(tank.spawn("umount", "tank"), 9, "volume 'tank' is not mounted")
    assert_one_line(tank.spawn("umount", "pond"), 9, "no volume 'pond'")
    assert_one_line(tank.spawn("umount", tank.mountpoint), 9, "no volume")


def test_umount_waits_only_so_long(tank: Host) -> None:
    tank.spawn("mount", "tank", tank.mountpoint)
    holder = present_holder(tank.paths())
    assert holder is not None
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        # Nobody answers on the socket; the request waits in its queue.
        tank.paths().socket_file.rename(tank.base / "hidden.sock")
        done = tank.spawn("umount", "tank", "--timeout", "0.01")
        assert_one_line(done, 10, f"pid {holder.pid}) has not ended within 0.01 s")
    finally:
        (tank.base / "hidden.sock").rename(tank.paths().socket_file)
        os.kill(holder.pid, signal.SIGCONT)
    assert tank.spawn("umount", "tank").code == 0


@pytest.mark.mount
class TestKernelMount:
    """The same with a real, if empty, file system."""

    def mount(self, host: Host) -> int:
        done = host.spawn("mount", "tank", host.mountpoint, STUB_MOUNT="1")
        assert done.code == 0, done
        holder = present_holder(host.paths())
        assert holder is not None
        return holder.pid

    def test_umount_takes_the_mount_away(self, tank: Host) -> None:
        self.mount(tank)
        assert os.path.ismount(tank.mountpoint)
        done = tank.spawn("umount", tank.mountpoint)
        assert (done.code, done.err) == (0, "")
        assert not os.path.ismount(tank.mountpoint) and present_holder(tank.paths()) is None

    def test_a_mount_in_use_stays(self, tank: Host) -> None:
        self.mount(tank)
        descriptor = os.open(tank.mountpoint, os.O_RDONLY)
        try:
            assert_one_line(tank.spawn("umount", "tank"), 10, "is in use")
            assert os.path.ismount(tank.mountpoint)
            assert tank.spawn("umount", "--lazy", "tank").code == 0
            assert not os.path.ismount(tank.mountpoint)
        finally:
            os.close(descriptor)
        # Now that nobody uses it any more the gateway ends by itself.
        assert tank.spawn("umount", "tank").code in (0, 9)
        assert present_holder(tank.paths()) is None

    def test_a_killed_gateways_mount_is_cleared_by_the_next(self, tank: Host) -> None:
        os.kill(self.mount(tank), signal.SIGKILL)
        assert mountpoint.is_dead(str(tank.mountpoint))
        self.mount(tank)
        assert os.listdir(tank.mountpoint.parent)
        assert os.path.ismount(tank.mountpoint)

    def test_also_when_the_next_goes_elsewhere(self, tank: Host) -> None:
        os.kill(self.mount(tank), signal.SIGKILL)
        other = tank.base / "other"
        other.mkdir()
        assert tank.spawn("mount", "tank", other).code == 0
        assert os.listdir(tank.mountpoint) == []

    def test_a_killed_gateways_mount_is_cleared_by_umount(self, tank: Host) -> None:
        os.kill(self.mount(tank), signal.SIGKILL)
        assert tank.spawn("umount", tank.mountpoint).code == 0
        assert os.listdir(tank.mountpoint) == []
        assert_one_line(tank.spawn("umount", "tank"), 9, "not mounted")

    def test_another_volumes_dead_mount_is_left_alone(self, tank: Host) -> None:
        tank.init("pond")
        os.kill(self.mount(tank), signal.SIGKILL)
        done = tank.spawn("mount", "pond", tank.mountpoint)
        assert_one_line(done, 10, "a dead mount of tank")
        assert mountpoint.is_dead(str(tank.mountpoint))

    def test_a_live_mount_point_is_busy(self, tank: Host) -> None:
        tank.init("pond")
        self.mount(tank)
        done = tank.spawn("mount", "pond", tank.mountpoint)
        assert_one_line(done, 10, "tank (fuse.fusegw) is mounted there")

    def test_another_state_directorys_mount(self, tank: Host) -> None:
        self.mount(tank)
        done = tank.spawn("umount", tank.mountpoint, "--state-dir", tank.base / "elsewhere")
        assert_one_line(done, 9, "from another state directory")
        assert os.path.ismount(tank.mountpoint)

    def test_mount_8_without_a_helper(self, tank: Host) -> None:
        """What mount.fuse runs when /sbin has no helper of ours."""
        done = tank.spawn("tank", tank.mountpoint, "-o", "rw,noatime", STUB_MOUNT="1")
        assert (done.code, done.out, done.err) == (0, "", "")
        assert os.path.ismount(tank.mountpoint)
