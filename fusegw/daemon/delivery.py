"""Telling programs and servers of the operator's something: one attempt, bounded in time and output.

A command gets an environment that is given to it whole (children would inherit keys and passphrases
otherwise), no standard input, and `/` as its directory. What it leaves running in its process group when it
ends, runs out of time or is cancelled is ended with it.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import trio

from fusegw import __version__

TIMEOUT_S = 30.0
OUTPUT_BYTES_MAX = 4096
_CONNECT_S = 10.0
_REST_S = 1.0
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


async def run_command(
    command: Sequence[str], environment: Mapping[str, str], *, timeout_s: float = TIMEOUT_S
) -> str | None:
    """Run it, with `environment` and a PATH; what went wrong in a line, None when it ended with 0."""
    try:
        process = await trio.lowlevel.open_process(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**_ENVIRONMENT, **environment},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        return f"{command[0]} cannot be run: {error.strerror}"
    assert process.stdout is not None
    output = bytearray()
    async with process.stdout, trio.open_nursery() as nursery:
        nursery.start_soon(_collect, process.stdout, output)
        try:
            with trio.move_on_after(timeout_s) as time:
                await _ended(process.pid)
        finally:
            # Before its exit status is taken: until then the number of the group is nobody else's.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()
        nursery.cancel_scope.deadline = trio.current_time() + _REST_S
    if time.cancelled_caught:
        return f"{command[0]} has not ended within {timeout_s:g} s"
    if process.returncode:
        return f"{command[0]} ended with {process.returncode}{_said(output)}"
    return None


async def post(url: str, body: bytes, *, timeout_s: float = TIMEOUT_S) -> str | None:
    """POST a JSON document; what went wrong in a line, None when the answer was 2xx. Follows no redirect.

    Addresses may hold secrets in path and query: only the host is named.
    """
    with trio.move_on_after(timeout_s):
        return await trio.to_thread.run_sync(_post, url, body, abandon_on_cancel=True)
    return f"{urlsplit(url).hostname} has not answered within {timeout_s:g} s"


async def _ended(pid: int) -> None:
    """Wait for our child to end, without taking its exit status."""
    descriptor = os.pidfd_open(pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def _collect(stream: trio.abc.ReceiveStream, output: bytearray) -> None:
    """Read to the end, keep the beginning."""
    async for data in stream:
        output += data[: OUTPUT_BYTES_MAX - len(output)]


def _said(output: bytearray) -> str:
    text = " ".join(output.decode(errors="replace").split())
    text = "".join(character for character in text if character.isprintable())
    return f": {text}" if text else ""


def _post(url: str, body: bytes) -> str | None:
    import urllib3  # takes its time and memory: only where somebody is told

    host = urlsplit(url).hostname
    headers = {"Content-Type": "application/json", "User-Agent": f"fusegw/{__version__}"}
    try:
        with urllib3.PoolManager(timeout=_CONNECT_S, retries=False) as pool:
            answer = pool.request(
                "POST", url, body=body, headers=headers, redirect=False, preload_content=False
            )
            answer.close()
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        return f"{host} cannot be told: {type(error).__name__}"
    return None if 200 <= answer.status < 300 else f"{host} answered {answer.status}"
