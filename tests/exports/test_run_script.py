"""scripts/run --shares, from nothing to a backup through each share, on a small tree.

It runs in a network, a process table and a mount table of its own: its ports clash with nobody's, whatever
listens there is its own, and nothing of it can outlive the test.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.mount, pytest.mark.samba, pytest.mark.ganesha, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
NETWORK = (
    "ip link set lo up; ip link add outside type veth peer name inside; "
    "ip addr add 192.0.2.1/24 dev outside; ip link set inside up; ip link set outside up"
)
LISTENER = "import socket, time; s = socket.create_server(('0.0.0.0', 1234)); time.sleep(1000)"


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fusegw-run-") as place:
        base = Path(place)
        base.chmod(0o755)
        (base / "source" / "below it").mkdir(parents=True)
        for number in range(3):
            (base / "source" / "below it" / f"ü {number}").write_bytes(bytes(range(256)) * number * 300)
        (base / "sbin").mkdir()
        for name in ("mount.fusegw", "mount.fuse.fusegw"):
            (base / "sbin" / name).symlink_to(BIN / "fusegw-mount-helper")
        yield base


def apart(base: Path, script: str) -> "subprocess.CompletedProcess[str]":
    """`script` (sh -e) by itself, with our helpers of mount(8) in /sbin."""
    sbin = os.path.realpath("/sbin")
    helpers = f"mount -t overlay helpers -o lowerdir={shlex.quote(str(base / 'sbin'))}:{sbin} {sbin}"
    apart = ("unshare", "-mnp", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
    return subprocess.run(
        [*apart, "sh", "-euc", f"{NETWORK}; {helpers}; {script}"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "FUSEGW_VENV": str(BIN.parent),
            "FUSEGW_DEMO_DIR": str(base / "demo"),
            "FUSEGW_DEMO_SOURCE": str(base / "source"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        cwd=ROOT,
    )


def test_it_serves_both_shares_on_the_loopback_alone(base: Path) -> None:
    done = apart(base, "scripts/run --shares; ss -Hltun | awk '{ print \"listens \" $5 }'")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("bytes, the same when read back") == 2, done.stderr
    places = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("listens ")]
    assert sorted(place.rpartition(":")[2] for place in places) == ["12049", "12050", "8445"]
    assert {place.rpartition(":")[0] for place in places} <= {"127.0.0.1", "[::ffff:127.0.0.1]"}


def test_it_fails_when_something_listens_beyond(base: Path) -> None:
    """Once it has looked at what listened before."""
    listener = shlex.join([sys.executable, "-c", LISTENER])
    begun = shlex.quote(str(base / "demo" / "config.toml"))
    done = apart(base, f"(until [ -e {begun} ]; do sleep 0.1; done; exec {listener}) & scripts/run --shares")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "listens beyond this host since this script began" in done.stderr
    assert ":04D2" in done.stderr
