"""Becoming a background process, telling the starter how it went, and keeping secrets out of dumps and logs.

`run_in_background` forks before any thread exists; the starter waits on a pipe and returns when the body
calls `on_ready`, or raises what the body raised, so that a command's exit code means a finished mount.
"""

import ctypes
import faulthandler
import logging
import logging.handlers
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Protocol

import msgspec

import fusegw.errors
from fusegw.errors import Denied, FusegwError, class_name

LOG_BYTES_MAX = 10 << 20
LOG_FILES_MAX = 5

_PR_SET_DUMPABLE = 4
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_log = logging.getLogger(__name__)


class Ready(Protocol):
    """Called once the gateway is ready, with what its starter should be told nevertheless, a line each."""

    def __call__(self, *warnings: str) -> None: ...


Body = Callable[[Ready], None]
"""Runs until the gateway ends; calls its argument once it is ready."""


class _Report(msgspec.Struct):
    """What the child writes into the pipe: no error means ready."""

    error: str = ""
    message: str = ""
    warnings: tuple[str, ...] = ()


def harden() -> None:
    """No core dump and no ptrace by the same user from here on: keys are in memory. Holds over fork."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def run_in_background(
    body: Body, *, log_file: Path, debug: bool = False, warn: Callable[[str], None] = lambda warning: None
) -> int:
    """Run `body` in a new session, its output in `log_file`; the process id once it is ready.

    `warn` gets what the body has to say then.

    Raises what the body raised before that, with its class and message. Interrupted, it stops the child.
    """
    ours, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _child(body, theirs, log_file, debug)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        try:
            data = pipe.read()
        except BaseException:
            os.kill(child, signal.SIGTERM)
            raise
    if not data:
        raise FusegwError(f"the gateway (pid {child}) ended before it was ready; see {log_file}")
    report = msgspec.json.decode(data, type=_Report)
    if report.error:
        os.waitpid(child, 0)
        raise getattr(fusegw.errors, report.error, FusegwError)(report.message)
    for warning in report.warnings:
        warn(warning)
    return child


def run_in_foreground(body: Body, *, debug: bool = False) -> None:
    """Run `body` here, logging to standard error; for service managers, containers and debugging."""
    os.umask(0o077)
    _log_to(logging.StreamHandler(), debug)
    body(lambda *warnings: None)


def _child(body: Body, pipe: int, log_file: Path, debug: bool) -> NoReturn:
    """The background process; never returns into the starter's code."""
    status = 1
    reported = False

    def report(outcome: _Report) -> None:
        nonlocal reported
        if not reported:
            reported = True
            os.write(pipe, msgspec.json.encode(outcome))
            os.close(pipe)

    # Until the log is open, errors are the starter's to print.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        os.setsid()
        os.chdir("/")
        # What the gateway creates beside the mount is private; modes inside it come from the kernel.
        os.umask(0o077)
        _redirect(log_file, debug)
        body(lambda *warnings: report(_Report(warnings=warnings)))
        status = 0
    except FusegwError as error:
        _log.error("%s", error)
        report(_Report(class_name(error), str(error)))
        status = error.exit_code
    except BaseException as error:
        _log.exception("the gateway failed")
        report(_Report("FusegwError", f"unexpected {type(error).__name__}: {error}; details in {log_file}"))
    finally:
        logging.shutdown()
        os._exit(status)


def _redirect(log_file: Path, debug: bool) -> None:
    """Standard input from nowhere; log and stray output into `log_file`, rotated."""
    try:
        log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = _LogFile(log_file)
    except OSError as error:
        raise Denied(f"log file {log_file} cannot be written: {error.strerror}") from None
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    _log_to(handler, debug)
    faulthandler.enable(2)


def _log_to(handler: logging.Handler, debug: bool) -> None:
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("fusegw").setLevel(logging.DEBUG if debug else logging.INFO)
    for chatty in ("botocore", "boto3", "urllib3", "s3transfer", "sh"):
        # At lower levels these print signed headers, or every step of a command.
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _LogFile(logging.handlers.RotatingFileHandler):
    """The log, 0600, which standard output and standard error follow through rotations."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES_MAX - 1, encoding="utf-8")
        self._adopt()

    def doRollover(self) -> None:
        super().doRollover()
        self._adopt()

    def _adopt(self) -> None:
        if self.stream is not None:
            os.fchmod(self.stream.fileno(), 0o600)
            os.dup2(self.stream.fileno(), 1)
            os.dup2(self.stream.fileno(), 2)
