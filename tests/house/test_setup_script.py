"""scripts/lib/setup.sh: finds what is missing, installs that only, and does nothing when all is there.

Debian's and Python's tools are stand-ins on PATH that write down how they were called.
"""

import os
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAKE_PYTHON = """#!/bin/bash
case "$*" in
  -VV) echo "Python 3.11.99 (fake)" ;;
  "-m venv --clear "*)
    echo "venv" >>"$CALLS"
    mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  "-m pip --version") exit 0 ;;
  "-m pip "*) echo "pip ${!#} $PIP_CONSTRAINT" >>"$CALLS" ;;
esac
"""


class Bench:
    """A checkout with a `.venv` to be made, and a PATH whose first entry holds the stand-ins."""

    def __init__(self, base: Path) -> None:
        self.bin = base / "bin"
        self.root = base / "checkout"
        self.calls_file = base / "calls"
        self.bin.mkdir()
        self.root.mkdir()
        for name in ("pyproject.toml", "constraints.txt"):
            (self.root / name).write_text(name)
        self.calls_file.touch()

    def fake(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def run(self, commands: str) -> str:
        script = f'set -euo pipefail; ROOT="$1"; . "{ROOT}/scripts/lib/setup.sh"; {commands}'
        environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "CALLS": str(self.calls_file),
            "LC_ALL": "C",
        }
        command = ["bash", "-c", script, "bench", str(self.root)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def calls(self) -> list[str]:
        """What the stand-ins were asked to do since the last look."""
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.write_text("")
        return lines


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_missing_packages_are_those_not_installed(bench: Bench) -> None:
    bench.fake("dpkg-query", "#!/bin/sh\nprintf 'installed fuse3\\nconfig-files rsync\\n'; exit 1\n")
    assert bench.run("missing_packages fuse3 rsync acl").split() == ["acl", "rsync"]
    assert bench.run("missing_packages fuse3") == ""


def test_nothing_is_installed_when_nothing_is_missing(bench: Bench) -> None:
    bench.fake("dpkg-query", "#!/bin/sh\nprintf 'installed fuse3\\n'\n")
    bench.fake("apt-get", '#!/bin/sh\necho "apt-get $*" >>"$CALLS"\n')
    bench.run("setup_packages fuse3")
    assert bench.calls() == []


SHARES = {
    "dpkg-query": """#!/bin/bash
for name in "${@:3}"; do grep -qx "$name" "$INSTALLED" && echo "installed $name"; done; exit 1
""",
    # As Debian's does: a package that is installed starts its daemon if the policy lets it.
    "apt-get": """#!/bin/bash
echo "policy $("$POLICY"; echo $?)" >>"$CALLS"
for word; do case $word in -*|install) ;; *) echo "$word" >>"$INSTALLED" ;; esac; done
! grep -qx nfs-ganesha "$INSTALLED" || echo rpcbind >>"$INSTALLED"
true
""",
    "apt-cache": "#!/bin/sh\nshift; for name; do echo '  Candidate: 1'; done\n",
    "systemctl": '#!/bin/sh\necho "$*" >>"$CALLS"\n',
}


def install_shares(bench: Bench, installed: str) -> list[str]:
    for name, text in SHARES.items():
        bench.fake(name, text)
    (bench.root / "installed").write_text(installed)
    bench.run('export POLICY="$ROOT/policy-rc.d" INSTALLED="$ROOT/installed"; id() { echo 0; }; setup_shares')
    assert not (bench.root / "policy-rc.d").exists()
    return bench.calls()


def test_daemons_of_shares_are_not_started_and_stay_masked(bench: Bench) -> None:
    policy, mask = install_shares(bench, "")
    assert policy == "policy 101"
    assert mask.startswith("mask --now ") and "smbd.service nmbd.service samba-ad-dc.service" in mask


def test_a_daemon_that_came_along_is_masked_too(bench: Bench) -> None:
    _, mask = install_shares(bench, "samba\n")
    assert set(mask.split()[2:]) == {
        *("nfs-ganesha.service", "nfs-ganesha-lock.service", "rpcbind.service", "rpcbind.socket")
    }


def test_a_daemon_that_was_there_before_is_left_alone(bench: Bench) -> None:
    assert install_shares(bench, "samba\nnfs-ganesha\nrpcbind\n") == ["policy 101"]


def test_ports_that_others_reach_are_seen(bench: Bench) -> None:
    with socket.socket() as inside, socket.socket() as outside:
        inside.bind(("127.0.0.1", 0))
        outside.bind(("0.0.0.0", 0))
        for one in (inside, outside):
            one.listen()
        ports = [line.rsplit(":")[-1] for line in bench.run("open_ports").split()]
        assert f"{outside.getsockname()[1]:04X}" in ports
        assert f"{inside.getsockname()[1]:04X}" not in ports


def test_environment_is_made_once_and_again_when_its_sources_change(bench: Bench) -> None:
    bench.fake("python3", FAKE_PYTHON)
    pinned = f"{bench.root}/constraints.txt"
    bench.run("setup_python test lint")
    assert bench.calls() == ["venv", f"pip .[test,lint] {pinned}"]
    bench.run("setup_python test lint")
    bench.run("setup_python")
    assert bench.calls() == []
    (bench.root / "constraints.txt").write_text("trio==0.0\n")
    bench.run("setup_python")
    assert bench.calls() == [f"pip . {pinned}"]
    bench.run("setup_python test")
    assert bench.calls() == [f"pip .[test] {pinned}"]


def test_a_failed_install_is_tried_again(bench: Bench) -> None:
    bench.fake("python3", FAKE_PYTHON)
    bench.run("setup_python")
    assert bench.calls()
    (bench.root / "pyproject.toml").write_text("changed")
    broken = (bench.root / ".venv/bin/python").read_text().replace('"-m pip "*) ', '"-m pip "*) exit 1; ')
    (bench.root / ".venv/bin/python").write_text(broken)
    with pytest.raises(AssertionError):
        bench.run("setup_python")
    (bench.root / ".venv/bin/python").write_text(FAKE_PYTHON)
    bench.run("setup_python")
    assert len(bench.calls()) == 1
