"""scripts/lib/setup.sh: finds what is missing, installs that only, and does nothing when all is there.

Debian's and Python's tools are stand-ins on PATH that write down how they were called.
"""

import os
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
