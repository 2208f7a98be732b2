"""A daemon that dies, hangs, does not start or never answers; and a gateway that dies before its daemon."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import exports.supervisor
from exports.probe import Answer
from exports.supervisor import Command, Supervisor

SLEEPER = ("/bin/sh", "-c", "echo started; exec sleep 1000")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("PAUSE_FIRST_S", 0.01),
        ("STOP_S", 0.3),
        ("READY_S", 0.3),
        ("PROBE_S", 0.01),
        ("ALIVE_S", 0.02),
    ):
        monkeypatch.setattr(exports.supervisor, name, value)


def supervisor(tmp_path: Path, *argv: str, **options: object) -> Supervisor:
    return Supervisor(Command(name="sleeper", argv=argv or SLEEPER, directory=tmp_path, **options))  # type: ignore[arg-type]


class Probe:
    """Answers one after the other, the last one for ever; None: nothing comes."""

    def __init__(self, *answers: Answer | None) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self) -> Answer:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is None:
            await trio.sleep_forever()
        return answer


def asked(tmp_path: Path, probe: Callable[[], Awaitable[Answer]], **more: Any) -> Supervisor:
    return Supervisor(Command(name="sleeper", argv=SLEEPER, directory=tmp_path), probe=probe, **more)


def is_gone(pid: int) -> bool:
    """Whether the process has ended (reaped or not)."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter when it ends between opening and reading
        return True


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.01)


async def test_it_runs_and_ends_with_its_supervisor(tmp_path: Path, nursery: trio.Nursery) -> None:
    daemon = supervisor(tmp_path)
    assert daemon.health.state == "stopped"
    nursery.start_soon(daemon.run)
    await daemon.running()
    pid = daemon.health.pid
    assert pid is not None and daemon.health.restarts == 0
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await until(lambda: daemon.health.state == "stopped")
    assert is_gone(pid)


async def test_a_killed_daemon_is_started_again_and_its_children_are_gone(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    daemon = supervisor(tmp_path, "/bin/sh", "-c", "sleep 1000 & echo $! > child; wait")
    nursery.start_soon(daemon.run)
    await daemon.running()
    file = tmp_path / "child"
    await until(lambda: file.exists() and file.read_text().strip())
    first, child = daemon.health.pid, int(file.read_text())
    file.unlink()
    assert daemon.send(signal.SIGKILL)
    await until(lambda: daemon.health.restarts == 1 and daemon.health.state == "running")
    assert daemon.health.pid != first
    assert "SIGKILL" in (daemon.health.last_error or "")
    assert is_gone(child)
    nursery.cancel_scope.cancel()


async def test_how_it_ended_is_told_with_its_last_words(tmp_path: Path, nursery: trio.Nursery) -> None:
    daemon = supervisor(tmp_path, "/bin/sh", "-c", "echo port is taken >&2; exit 3")
    nursery.start_soon(daemon.run)
    await until(lambda: daemon.health.restarts >= 2)
    assert daemon.health.last_error == "sleeper ended with 3: port is taken"
    nursery.cancel_scope.cancel()


async def test_a_program_that_is_not_there(tmp_path: Path, nursery: trio.Nursery) -> None:
    daemon = supervisor(tmp_path, "/nonexistent/smbd")
    nursery.start_soon(daemon.run)
    await until(lambda: daemon.health.restarts >= 2)
    assert "cannot be started: /nonexistent/smbd" in (daemon.health.last_error or "")
    nursery.cancel_scope.cancel()


async def test_pauses_grow(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    daemon = supervisor(tmp_path, "/nonexistent/smbd")
    with trio.move_on_after(100):
        await daemon.run()
    assert 8 < daemon.health.restarts < 20


async def test_restart_is_no_failure(tmp_path: Path, nursery: trio.Nursery) -> None:
    daemon = supervisor(tmp_path)
    nursery.start_soon(daemon.run)
    await daemon.running()
    first = daemon.health.pid
    await daemon.restart()
    await until(lambda: daemon.health.state == "running" and daemon.health.pid != first)
    assert (daemon.health.restarts, daemon.health.last_error) == (0, None)
    nursery.cancel_scope.cancel()


async def test_one_that_ignores_sigterm_is_killed(tmp_path: Path, nursery: trio.Nursery) -> None:
    daemon = supervisor(
        tmp_path, "/bin/sh", "-c", "trap '' TERM; echo ready > flag; while :; do sleep 1; done"
    )
    nursery.start_soon(daemon.run)
    await until((tmp_path / "flag").exists)
    pid = daemon.health.pid
    assert pid is not None
    await daemon.restart()
    await until(lambda: is_gone(pid))
    nursery.cancel_scope.cancel()


async def test_one_that_never_answers_is_started_again(tmp_path: Path, nursery: trio.Nursery) -> None:
    daemon = asked(tmp_path, Probe(Answer.OTHER))
    nursery.start_soon(daemon.run)
    await until(lambda: daemon.health.restarts >= 1)
    assert "sleeper did not answer" in (daemon.health.last_error or "")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("silence", [Answer.NONE, None], ids=["refused", "nothing"])
async def test_one_that_stops_answering_is_started_again(
    tmp_path: Path, nursery: trio.Nursery, silence: Answer | None
) -> None:
    probe = Probe(Answer.RIGHT, silence, silence, Answer.RIGHT, silence)
    daemon = asked(tmp_path, probe)
    nursery.start_soon(daemon.run)
    await until(lambda: daemon.health.misses == 2)
    assert daemon.health.restarts == 0
    await until(lambda: daemon.health.restarts == 1)
    assert probe.asked >= 1 + 2 + 1 + 3, "two in a row are none too many, and a good answer forgives them"
    assert daemon.health.last_error == "sleeper did not answer for 0.06 s: started"
    nursery.cancel_scope.cancel()


async def test_one_that_is_at_work_is_left_alone(tmp_path: Path, nursery: trio.Nursery) -> None:
    probe = Probe(Answer.RIGHT, Answer.OTHER)
    daemon = asked(tmp_path, probe)
    nursery.start_soon(daemon.run)
    await until(lambda: probe.asked > 10)
    assert (daemon.health.misses, daemon.health.restarts) == (0, 0)
    nursery.cancel_scope.cancel()


async def test_silence_that_is_not_its_fault_does_not_count(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Because what it serves made it wait; the control: as soon as that is over, it counts."""
    probe = Probe(Answer.RIGHT, None)
    waits = True
    daemon = asked(tmp_path, probe, kept_waiting=lambda within_s: waits and within_s > 0)
    nursery.start_soon(daemon.run)
    await until(lambda: probe.asked > 10)
    assert (daemon.health.misses, daemon.health.restarts) == (0, 0)
    waits = False
    await until(lambda: daemon.health.restarts == 1)
    nursery.cancel_scope.cancel()


async def test_an_answer_that_we_were_too_busy_to_hear_does_not_count(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports.supervisor, "LATE_S", 0.1)
    probe = Probe(Answer.RIGHT, None)
    busy_s = 0.2

    async def busy() -> Answer:
        if probe.asked:
            time.sleep(busy_s)  # nothing else runs meanwhile
        return await probe()

    daemon = asked(tmp_path, busy)
    nursery.start_soon(daemon.run)
    await until(lambda: probe.asked > 6)
    assert (daemon.health.misses, daemon.health.restarts) == (0, 0)
    busy_s = 0.0
    await until(lambda: daemon.health.restarts == 1)  # the control
    nursery.cancel_scope.cancel()


async def test_the_environment_is_given_whole(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    daemon = supervisor(
        tmp_path,
        "/bin/sh",
        "-c",
        "env > seen.new; mv seen.new seen; exec sleep 1000",
        environment={"MINE": "1"},
    )
    nursery.start_soon(daemon.run)
    await until((tmp_path / "seen").exists)
    seen = (tmp_path / "seen").read_text()
    assert "AWS_" not in seen and "MINE=1" in seen
    nursery.cancel_scope.cancel()


PARENT = """
import sys, trio
from pathlib import Path
from exports.probe import Answer
from exports.supervisor import Command, Supervisor

async def main():
    mode, place = sys.argv[1], Path(sys.argv[2])
    argv = ("/bin/cat",) if mode == "pipe" else ("/bin/sleep", "1000")
    daemon = Supervisor(Command(name="child", argv=argv, directory=place, dies_with_parent=mode == "kernel"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.run)
        await daemon.running()
        while Path(f"/proc/{daemon.health.pid}/comm").read_text().strip() not in ("cat", "sleep"):
            await trio.sleep(0.01)
        print(daemon.health.pid, flush=True)

trio.run(main)
"""


@pytest.mark.parametrize("mode", ["pipe", "kernel", "neither"])
async def test_a_killed_gateway_takes_its_daemon_along(tmp_path: Path, mode: str) -> None:
    """By the end of the pipe, or by the kernel; one that has neither stays (the control)."""
    command = [sys.executable, "-c", PARENT, mode, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    if mode == "neither":
        assert not is_gone(child)
        os.kill(child, signal.SIGKILL)
    await until(lambda: is_gone(child))
