"""scripts/soak itself: a short run is well and leaves nothing; a store that loses an object is noticed."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300
pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


def soak(directory: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Ended by it itself, or by an interrupt after a long time, so that it leaves nothing."""
    command = [sys.executable, str(ROOT / "scripts" / "soak"), *map(str, arguments)]
    environment = os.environ | {"TMPDIR": str(directory)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            said, complaints = process.communicate(timeout=PATIENCE_S)
        except BaseException:
            process.send_signal(signal.SIGINT)
            raise
    return subprocess.CompletedProcess(command, process.returncode, said, complaints)


def is_clean(directory: Path) -> bool:
    """No mount below it, and no process that has its name."""
    names = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    mounts = Path("/proc/self/mountinfo").read_text()
    return str(directory) not in mounts and not any(bytes(directory) in name for name in names)


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    done = soak(tmp_path, "--store", "tape")
    assert done.returncode == 2
    assert "directory" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.mount
@pytest.mark.slow
@pytest.mark.parametrize("store", ["directory", pytest.param("moto", marks=pytest.mark.soak)])
def test_a_short_soak_is_well_and_leaves_nothing(tmp_path: Path, store: str) -> None:
    done = soak(tmp_path, "--minutes", 0, "--seed", 1, "--store", store, "--only", "kill")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"all is well: 1 phases, .* 1 kills, 1 hosts lost, [1-9]\d* faults", done.stdout)
    assert os.listdir(tmp_path) == [] and is_clean(tmp_path)


@pytest.mark.mount
@pytest.mark.slow
def test_a_store_that_loses_an_object_makes_it_fail_with_its_seed(tmp_path: Path) -> None:
    """The control."""
    done = soak(tmp_path, "--minutes", 0, "--seed", 7, "--only", "load", "--control")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: [Errno 5]" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("soak: to repeat: ")]
    assert "--seed 7 --store directory --only load --control" in line
    evidence = Path(line.rpartition(" ")[2])
    assert (evidence / "failure").is_file() and (evidence / "evidence" / "journal0").is_file()
    assert list((evidence / "host1" / "store").glob("packs/*/*"))
    assert is_clean(tmp_path)
    shutil.rmtree(evidence)
