"""Forking into the background: the report, the log, an interrupted starter; and the volume's lock."""

import fcntl
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fusegw.config import VolumePaths
from fusegw.daemon import lock
from fusegw.daemon.lock import Holder, last_holder, present_holder, volume_lock
from fusegw.daemon.service import ENDING_WAIT_S, lasting_holder
from fusegw.errors import Busy, Denied
from tests.plugins.fakes import ManualClock

ROOT = Path(__file__).resolve().parents[2]


def program(text: str, *arguments: object, **options: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def test_an_interrupted_starter_stops_the_child(tmp_path: Path) -> None:
    """The child tells its pid and would run for ever; the interrupt of its starter ends it."""
    starter = """
import os, signal, sys
from pathlib import Path
from fusegw.daemon.process import run_in_background

def body(on_ready):
    fifo = os.open(sys.argv[1], os.O_WRONLY)
    os.write(fifo, f"{os.getpid()}\\n".encode())
    signal.pause()

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
try:
    run_in_background(body, log_file=Path(sys.argv[2]))
except KeyboardInterrupt:
    print("interrupted")
"""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with program(starter, fifo, tmp_path / "log" / "x.log") as process:
        with fifo.open() as told:
            assert int(told.readline()) > 0
            process.send_signal(signal.SIGINT)
            assert told.read() == ""  # the child's end closes when the child is gone
        assert process.communicate(timeout=60)[0] == "interrupted\n"


def test_the_log_rotates_and_stray_output_follows(tmp_path: Path) -> None:
    talker = """
import logging, os, sys
from pathlib import Path
from fusegw.daemon import process

process.LOG_BYTES_MAX = 2000
def body(on_ready):
    for number in range(200):
        logging.getLogger("fusegw.test").info("line %d", number)
    os.write(2, b"stray\\n")
    logging.getLogger("botocore").info("signed header")
    logging.getLogger("fusegw.test").debug("details")
    on_ready()

process.run_in_background(body, log_file=Path(sys.argv[1]))
"""
    log = tmp_path / "log" / "x.log"
    with program(talker, log) as process:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
    names = sorted(path.name for path in log.parent.iterdir())
    assert names == ["x.log", "x.log.1", "x.log.2", "x.log.3", "x.log.4"]
    text = log.read_text()
    assert "stray\n" in text and "line 199" in text and "signed" not in text and "details" not in text
    assert {path.stat().st_mode & 0o777 for path in log.parent.iterdir()} == {0o600}


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    starter = """
import sys
from pathlib import Path
from fusegw.daemon.process import run_in_background
from fusegw.errors import Denied
try:
    run_in_background(lambda on_ready: on_ready(), log_file=Path(sys.argv[1]))
except Denied as error:
    print(error)
"""
    (tmp_path / "log").write_text("not a directory")
    with program(starter, tmp_path / "log" / "x.log") as process:
        out, err = process.communicate(timeout=60)
    assert "cannot be written" in out and err == ""


def test_the_lock_has_one_holder(tmp_path: Path) -> None:
    paths = VolumePaths(tmp_path / "state", "tank")
    assert present_holder(paths) is None and last_holder(paths) is None
    assert not paths.volume_dir.exists()
    with volume_lock(paths):
        me = Holder(os.getpid(), "")
        assert present_holder(paths) == me and last_holder(paths) is None
        with pytest.raises(Busy, match=f"in use by pid {os.getpid()};"), volume_lock(paths):
            raise AssertionError("locked twice")
    assert present_holder(paths) is None and last_holder(paths) == me


def test_the_lock_outlives_the_block_but_not_the_process(tmp_path: Path) -> None:
    holder_program = """
import sys
from pathlib import Path
from fusegw.config import VolumePaths
from fusegw.daemon.lock import hold_for_life
hold_for_life(VolumePaths(Path(sys.argv[1]), "tank"), mountpoint="/mnt/tank")
print("held", flush=True)
sys.stdin.read()
"""
    paths = VolumePaths(tmp_path, "tank")
    with program(holder_program, tmp_path, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert present_holder(paths) == Holder(process.pid, "/mnt/tank")
        with pytest.raises(Busy, match=f"pid {process.pid}, mounted on /mnt/tank"):
            lock.hold_for_life(paths, mountpoint="/elsewhere")
        process.kill()
        process.communicate(timeout=60)
    assert present_holder(paths) is None
    assert last_holder(paths) == Holder(process.pid, "/mnt/tank")


def test_a_gateway_whose_mount_is_gone_is_given_time_to_end(tmp_path: Path) -> None:
    paths, clock = VolumePaths(tmp_path, "tank"), ManualClock()
    assert lasting_holder(paths, clock=clock, sleep=clock.sleep) is None
    with volume_lock(paths):
        assert lasting_holder(paths, clock=clock, sleep=clock.sleep) == Holder(os.getpid(), "")
        assert clock.slept_s == [], "a command without a mount is no gateway that ends"
    descriptor = os.open(paths.lock_file, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    ending = Holder(1, "/mnt/tank")
    os.pwrite(descriptor, msgspec.json.encode(ending), 0)
    assert lasting_holder(paths, clock=clock, sleep=clock.sleep) == ending
    assert sum(clock.slept_s) == pytest.approx(ENDING_WAIT_S, abs=1)

    def end(holder: Holder) -> None:
        if len(clock.slept_s) == 3:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    clock.slept_s.clear()
    assert lasting_holder(paths, clock=clock, sleep=clock.sleep, on_wait=end) is None
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    paths.socket_file.parent.mkdir()
    paths.socket_file.touch()
    clock.slept_s.clear()
    assert lasting_holder(paths, clock=clock, sleep=clock.sleep) == ending
    assert sum(clock.slept_s) < 2, "it answers commands: it is not about to end"
    os.close(descriptor)


def test_a_damaged_lock_text_does_not_matter(tmp_path: Path) -> None:
    paths = VolumePaths(tmp_path, "tank")
    with volume_lock(paths):
        paths.lock_file.write_bytes(b"\xff{")
        assert present_holder(paths) == Holder(0, "")
        with pytest.raises(Busy, match="is in use; unmount"), volume_lock(paths):
            raise AssertionError("locked twice")
    assert last_holder(paths) is None


def test_a_state_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(Denied, match="lock"), volume_lock(VolumePaths(tmp_path / "state", "tank")):
        raise AssertionError("locked nothing")


def test_logging_of_the_tests_is_left_alone() -> None:
    assert not any("fusegw" in str(handler) for handler in logging.getLogger().handlers)
