"""A daemon as a child of the gateway: started, watched, started again, ended with it.

The child leads a session of its own and holds a pipe from us as its standard input: it sees the end of the
pipe when we die, however we die. What does not look at its standard input is given `dies_with_parent`.
It gets an environment that is given to it whole (it would inherit keys and passphrases otherwise). When its
first process has ended, whatever is left of its process group is killed before the number of the group can be
anybody else's; only then is it started again.

A process may live and serve nobody. A daemon that can be asked is asked now and then; when it gives no answer
`MISSES_MAX` times in a row it is ended and started again, which ends the sessions of its clients. So it is
given much time, and what is not its own fault does not count: that we were too busy to hear the answer, or
that the file system it serves, which is ours as well, kept it waiting.

A daemon that ends is started again after a pause, which doubles each time up to `PAUSE_MAX_S` and is short
again once it has run for `STEADY_S`. Everything is bounded: the wait for readiness, the orderly end, what is
kept of its output.
"""

import errno
import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import trio

from exports.probe import Answer
from exports.status import Health, State

PAUSE_FIRST_S = 0.25
PAUSE_MAX_S = 30.0
STEADY_S = 60.0
STOP_S = 5.0
"""Between SIGTERM and SIGKILL."""
PROBE_S = 0.1
READY_S = 30.0
"""A daemon that does not answer after this is ended and started again."""
READY_PROBE_S = 5.0
"""While it gets ready, a question without an answer is asked again after this."""
ALIVE_S = 20.0
"""Between two questions later on, and the time for the answer."""
MISSES_MAX = 3
LATE_S = 1.0
"""An event loop that wakes up later than this after its time has not looked in time."""
LINES_KEPT = 20
LINE_BYTES_MAX = 1000
_REST_S = 1.0

MINIMAL_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}

log = logging.getLogger(__name__)


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """How a daemon is started: in the foreground, under its own first process."""

    name: str
    """For messages and status."""
    argv: tuple[str, ...]
    """The program by its absolute path, and its arguments; no secret."""
    directory: Path
    """Where it runs; exists."""
    environment: dict[str, str] = {}
    """Added to `MINIMAL_ENVIRONMENT`; nothing else is handed on."""
    dies_with_parent: bool = False
    """The kernel kills its first process when we die; for those that do not read their standard input."""


KeptWaiting = Callable[[float], bool]
"""Whether, within the last so many seconds, what a daemon serves made it wait."""


def never(within_s: float) -> bool:
    """What a daemon serves does not make it wait."""
    return False


class Supervisor:
    """One daemon. Loop thread only, which must be the main thread: the kernel takes the death of the thread
    that started a child for the death of the parent.

    `probe` asks the daemon something, and may wait for the answer as long as it likes; without it, it is
    running as soon as it is started. `kept_waiting` tells when it is not to blame for silence.
    `arguments` gives further arguments, others for each start; OSError keeps it from being started. `heard`
    gets each line that the daemon says, cut to `LINE_BYTES_MAX`. `descriptors` of ours are the
    daemon's as well.
    """

    def __init__(
        self,
        command: Command,
        *,
        probe: Callable[[], Awaitable[Answer]] | None = None,
        kept_waiting: KeptWaiting = never,
        arguments: Callable[[], tuple[str, ...]] = tuple,
        heard: Callable[[str], None] = lambda line: None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self._command = command
        self._probe = probe
        self._kept_waiting = kept_waiting
        self._arguments = arguments
        self._heard = heard
        self._descriptors = descriptors
        self._child: subprocess.Popen[bytes] | None = None
        self._handle = -1
        self._state: State = "stopped"
        self._since = 0.0
        self._restarts = 0
        self._last_error: str | None = None
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._expected = False
        self._silent_s = 0.0
        self._misses = 0
        self._gone = trio.Event()
        self._changed = trio.Event()

    @property
    def health(self) -> Health:
        """As it is now."""
        child = self._child
        return Health(
            state=self._state,
            pid=None if child is None else child.pid,
            restarts=self._restarts,
            misses=self._misses,
            up_s=None if child is None else trio.current_time() - self._since,
            last_error=self._last_error,
        )

    async def run(self) -> None:
        """Keep it running until cancelled; then it is ended, in bounded time."""
        pause_s = PAUSE_FIRST_S
        try:
            while True:
                begun = trio.current_time()
                why = await self._once()
                if why is None:
                    pause_s = PAUSE_FIRST_S
                    continue
                self._last_error = why
                if trio.current_time() - begun >= STEADY_S:
                    pause_s = PAUSE_FIRST_S
                log.error("%s; started again in %g s", why, pause_s)
                self._turn("waiting")
                await trio.sleep(pause_s)
                self._restarts += 1
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
        finally:
            self._turn("stopped")

    async def running(self) -> None:
        """Wait until it runs and answers."""
        while self._state != "running":
            await self._changed.wait()

    def send(self, number: signal.Signals) -> bool:
        """A signal for its first process; False when there is none."""
        return self._child is not None and _signal(self._handle, number)

    async def restart(self) -> None:
        """End it in good order; it is started again at once. Nothing when it does not run."""
        if self._child is not None:
            self._expected = True
            await self._end()

    async def _once(self) -> str | None:
        """One life of the daemon; how it ended, None when that was asked for."""
        self._expected = False
        self._silent_s, self._misses = 0.0, 0
        self._lines.clear()
        try:
            child = self._child = self._start()
        except OSError as error:
            what = error.filename or self._command.argv[0]
            return f"{self._command.name} cannot be started: {what}: {error.strerror}"
        self._handle = os.pidfd_open(child.pid)
        self._since = trio.current_time()
        self._turn("starting")
        try:
            async with self._output(child), trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                await trio.lowlevel.wait_readable(self._handle)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._see_off()
                code = self._reap(child)
        return None if self._expected else f"{self._command.name} {self._ending(code)}{self._said()}"

    def _start(self) -> subprocess.Popen[bytes]:
        """From this thread, not from a worker's: see the class."""
        command = self._command
        argv: Sequence[str] = (*command.argv, *self._arguments())
        if command.dies_with_parent:
            argv = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "--", *argv)
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**MINIMAL_ENVIRONMENT, **command.environment},
            cwd=command.directory,
            pass_fds=self._descriptors,
            umask=0o077,
            start_new_session=True,
            bufsize=0,
        )

    async def _watch(self) -> None:
        """Until it is ready, and whether it stays alive; one that is not is ended."""
        if self._probe is None:
            self._turn("running")
            return
        with trio.move_on_after(READY_S) as time:
            while await self._asked(self._probe, READY_PROBE_S) is not Answer.RIGHT:  # noqa: ASYNC110
                await trio.sleep(PROBE_S)
        if time.cancelled_caught:
            self._silent_s = READY_S
        else:
            self._turn("running")
            await self._watch_life(self._probe)
            self._silent_s = MISSES_MAX * ALIVE_S
        await self._end()

    async def _watch_life(self, probe: Callable[[], Awaitable[Answer]]) -> None:
        """Returns when it did not answer `MISSES_MAX` times in a row."""
        while True:
            begun = trio.current_time()
            answer = await self._asked(probe, ALIVE_S)
            took_s = trio.current_time() - begun
            if answer is not Answer.NONE or took_s > ALIVE_S + LATE_S or self._kept_waiting(took_s):
                self._misses = 0
            else:
                self._misses += 1
                log.warning("%s did not answer, %d of %d", self._command.name, self._misses, MISSES_MAX)
                if self._misses >= MISSES_MAX:
                    return
            await trio.sleep_until(begun + ALIVE_S)

    async def _asked(self, probe: Callable[[], Awaitable[Answer]], timeout_s: float) -> Answer:
        with trio.move_on_after(timeout_s):
            return await probe()
        return Answer.NONE

    async def _end(self) -> None:
        """SIGTERM, time to follow it, SIGKILL; returns when the child is gone."""
        gone = self._gone
        _signal(self._handle, signal.SIGTERM)
        with trio.move_on_after(STOP_S):
            await gone.wait()
            return
        if not gone.is_set():
            log.warning("%s does not end on SIGTERM, killing it", self._command.name)
            _signal(self._handle, signal.SIGKILL)
            await gone.wait()

    async def _see_off(self) -> None:
        """The same, by the one task that waits for the child itself."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal(self._handle, number)
            with trio.move_on_after(STOP_S):
                await trio.lowlevel.wait_readable(self._handle)
                return
        await trio.lowlevel.wait_readable(self._handle)

    def _reap(self, child: subprocess.Popen[bytes]) -> int:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        os.close(self._handle)
        self._handle = -1
        code = child.wait()
        assert child.stdin is not None
        child.stdin.close()
        self._child = None
        gone, self._gone = self._gone, trio.Event()
        gone.set()
        return code

    @asynccontextmanager
    async def _output(self, child: subprocess.Popen[bytes]) -> AsyncIterator[None]:
        """Its output goes to our log for the time of the block, and what comes right after it."""
        assert child.stdout is not None
        stream = trio.lowlevel.FdStream(os.dup(child.stdout.fileno()))
        child.stdout.close()
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._collect, stream)
            try:
                yield
            finally:
                # Descendants may keep the pipe open for longer.
                nursery.cancel_scope.deadline = trio.current_time() + _REST_S

    async def _collect(self, stream: trio.abc.ReceiveStream) -> None:
        pending = b""
        async for data in stream:
            *lines, pending = (pending + data).split(b"\n")
            for line in (*lines, *([pending] if len(pending) > LINE_BYTES_MAX else [])):
                self._keep(line)
            pending = pending if len(pending) <= LINE_BYTES_MAX else b""
        self._keep(pending)

    def _keep(self, line: bytes) -> None:
        text = line[:LINE_BYTES_MAX].decode(errors="replace").strip()
        text = "".join(character for character in text if character.isprintable())
        if text:
            self._lines.append(text)
            self._heard(text)
            log.info("%s: %s", self._command.name, text)

    def _ending(self, code: int) -> str:
        if self._silent_s:
            return f"did not answer for {self._silent_s:g} s"
        if code < 0:
            with suppress(ValueError):
                return f"was ended by {signal.Signals(-code).name}"
        return f"ended with {code}"

    def _said(self) -> str:
        return f": {self._lines[-1]}" if self._lines else ""

    def _turn(self, state: State) -> None:
        self._state = state
        changed, self._changed = self._changed, trio.Event()
        changed.set()


def _signal(handle: int, number: signal.Signals) -> bool:
    """By the handle of a process, which can never mean another one; False when it has ended."""
    try:
        signal.pidfd_send_signal(handle, number)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise
        return False
    return True
