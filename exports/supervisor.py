"""A daemon as a child of the gateway: started, watched, started again, ended with it.

The child leads a session of its own and holds a pipe from us as its standard input: it sees the end of the
pipe when we die, however we die. What does not look at its standard input is given `dies_with_parent`.
It gets an environment that is given to it whole (it would inherit keys and passphrases otherwise). When its
first process has ended, whatever is left of its process group is killed before the number of the group can be
anybody else's; only then is it started again.

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

from exports.status import Health, State

PAUSE_FIRST_S = 0.25
PAUSE_MAX_S = 30.0
STEADY_S = 60.0
STOP_S = 5.0
"""Between SIGTERM and SIGKILL."""
PROBE_S = 0.1
READY_S = 30.0
"""A daemon that does not answer after this is ended and started again."""
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


class Supervisor:
    """One daemon. Loop thread only, which must be the main thread: the kernel takes the death of the thread
    that started a child for the death of the parent.

    `ready` tells whether the daemon answers by now; without it, it is running as soon as it is started.
    `arguments` gives further arguments, others for each start; OSError keeps it from being started. `heard`
    gets each line that the daemon says, cut to `LINE_BYTES_MAX`. `descriptors` of ours are the
    daemon's as well.
    """

    def __init__(
        self,
        command: Command,
        *,
        ready: Callable[[], Awaitable[bool]] | None = None,
        arguments: Callable[[], tuple[str, ...]] = tuple,
        heard: Callable[[str], None] = lambda line: None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self._command = command
        self._ready = ready
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
        self._slow = False
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
        self._expected = self._slow = False
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
                nursery.start_soon(self._watch_readiness)
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

    async def _watch_readiness(self) -> None:
        if self._ready is not None:
            with trio.move_on_after(READY_S) as time:
                while not await self._ready():  # noqa: ASYNC110 (it is another process that gets ready)
                    await trio.sleep(PROBE_S)
            if time.cancelled_caught:
                self._slow = True
                await self._end()
                return
        self._turn("running")

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
        if self._slow:
            return f"did not answer within {READY_S:g} s"
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
