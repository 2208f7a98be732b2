"""mount(8), umount(8) and fstab, as on a host where fusegw is installed.

Each script runs in a mount namespace of its own, in which the helper's links lie in /sbin and fstab has our
lines: this host's own /sbin, fstab and mount table are not touched.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fusegw.daemon.mountpoint import mounted_on
from tests.mount.gateways import NAME, Gateway

pytestmark = pytest.mark.mount

HELPER = Path(sys.executable).with_name("fusegw-mount-helper")


class Installed:
    """A host of its own, as far as mounts go."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        base = gateway.base
        paths = {
            "config": "config.toml",
            "state_dir": "state",
            "cache_dir": "cache",
            "passphrase_file": "passphrase",
        }
        self.options = ",".join(f"{key}={base / name}" for key, name in paths.items())
        self._links = base / "sbin"
        self._links.mkdir()
        for name in ("mount.fusegw", "mount.fuse.fusegw"):
            (self._links / name).symlink_to(HELPER)
        self._fstab = base / "fstab"

    def run(self, script: str, *, fstab: str = "") -> "subprocess.CompletedProcess[str]":
        """`script` (sh -e; ROOT, NAME and OPTIONS are set) with `fstab` in /etc/fstab."""
        self._fstab.write_text(fstab.format(root=self._gateway.root, options=self.options))
        real_sbin = os.path.realpath("/sbin")
        prepare = (
            f"mount -t overlay helpers -o lowerdir={self._links}:{real_sbin} {real_sbin}\n"
            f"[ -e /etc/fstab ] && mount --bind {self._fstab} /etc/fstab\n"
        )
        variables = {"ROOT": str(self._gateway.root), "NAME": NAME, "OPTIONS": self.options}
        settings = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-euc", prepare + settings + script],
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def output(self, script: str, *, fstab: str = "") -> str:
        done = self.run(script, fstab=fstab)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def installed(gateway: Gateway) -> Installed:
    return Installed(gateway)


@pytest.mark.parametrize("kind", ["fuse.fusegw", "fusegw"])
def test_mount_by_type(installed: Installed, gateway: Gateway, kind: str) -> None:
    script = f"""
        mount -t {kind} -o "$OPTIONS,cache_size=128M,noatime,noexec" $NAME $ROOT
        findmnt -n -o SOURCE,FSTYPE,OPTIONS $ROOT
        echo content >$ROOT/file
        umount $ROOT
    """
    source, fs_type, options = installed.output(script).split()
    assert (source, fs_type) == (NAME, "fuse.fusegw")
    assert {"rw", "nosuid", "nodev", "noexec", "noatime", "default_permissions", "allow_other"} <= set(
        options.split(",")
    )
    gateway.mount()
    assert (gateway.root / "file").read_text() == "content\n"


def test_fstab(installed: Installed, gateway: Gateway) -> None:
    """By mount point, by source, by `mount -a`; unmounted and mounted again at once."""
    line = f"{NAME} {{root}} fuse.fusegw _netdev,nofail,cache_size=128M,x-systemd.automount,{{options}} 0 0\n"
    script = """
        mount $ROOT
        echo 1 >>$ROOT/file
        umount $ROOT
        mount $NAME
        echo 2 >>$ROOT/file
        umount $ROOT
        mount -a -t fuse.fusegw
        mount -a -t fuse.fusegw
        findmnt -n -o TARGET $ROOT
        echo 3 >>$ROOT/file
        cat $ROOT/file
        umount $ROOT
    """
    assert installed.output(script, fstab=line).split() == [str(gateway.root), "1", "2", "3"]
    assert mounted_on(str(gateway.root)) is None


def test_read_only_by_fstab(installed: Installed, gateway: Gateway) -> None:
    gateway.mount()
    gateway.umount()
    line = f"{NAME} {{root}} fuse.fusegw ro,noauto,{{options}} 0 0\n"
    script = """
        mount -a -t fuse.fusegw
        ! mountpoint -q $ROOT
        mount $ROOT
        ! touch $ROOT/file
        umount $ROOT
    """
    assert "Read-only file system" in (done := installed.run(script, fstab=line)).stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("-o $OPTIONS,cash_size=1G $NAME $ROOT", "did you mean 'cache_size='"),
        ("-o $OPTIONS pond $ROOT", "no volume 'pond'"),
        ("-o $OPTIONS $NAME $ROOT/missing", "mount point"),
        ("-o $OPTIONS,passphrase_file=/dev/null $NAME $ROOT", "passphrase is empty"),
    ],
)
def test_what_cannot_be_mounted(installed: Installed, what: str, message: str) -> None:
    done = installed.run(f"mount -t fuse.fusegw {what}")
    assert done.returncode != 0
    assert message in done.stderr


def test_this_host_stays_as_it_is(installed: Installed) -> None:
    """The control: what a script finds in /sbin and fstab is not there outside of its namespace."""

    def outside() -> tuple[list[str], list[str]]:
        table = Path("/etc/fstab")
        return sorted(os.listdir("/sbin")), table.read_text().splitlines() if table.exists() else []

    before = outside()
    seen = installed.output("readlink /sbin/mount.fuse.fusegw; cat /etc/fstab", fstab="a line of ours\n")
    assert seen.splitlines() == [str(HELPER), "a line of ours"]
    assert outside() == before
    assert "a line of ours" not in before[1]
