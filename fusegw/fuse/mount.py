"""One FUSE session: a file system at its place, answering until it is taken away, leaving nothing behind.

A session ends when the file system is unmounted, by whom ever, or by `end`. However it ends, errors and
cancellation included, the mount is detached before `serve` returns: a mount without a process behind it would
answer every access with ENOTCONN. Only one session can exist in a process at a time (pyfuse3 keeps it in a
global).
"""

import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import pyfuse3
import trio

from fusegw.errors import Denied
from fusegw.fuse import pace
from fusegw.fuse.invalidation import Notices
from fusegw.fuse.routing import Router

TASKS_IDLE_MAX = 16
TASKS_MAX = 1024
"""Requests handled at a time. A task is cheap: writes that wait for room have a bound far below this, and
who reads
what the cache has must not wait for a task, however many wait for the store."""
READ_AHEAD_KIB = 1024
"""What the kernel reads ahead on sequential access, and so the largest read it asks for."""
SUBTYPE = "fusegw"

log = logging.getLogger(__name__)


class Session:
    """The one FUSE session of this process."""

    def __init__(
        self,
        operations: Router,
        mountpoint: Path,
        *,
        fsname: str,
        allow_other: bool,
        read_only: bool,
        notices: Notices,
        kernel_options: Iterable[str] = (),
    ) -> None:
        self._operations = operations
        self._mountpoint = mountpoint
        self._options = {
            "default_permissions",
            f"fsname={fsname}",
            f"subtype={SUBTYPE}",
            *(["allow_other"] if allow_other else []),
            *(["ro"] if read_only else []),
            *kernel_options,
        }
        self._notices = notices
        self._serving = False
        self._to_end = False

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Mount and answer requests until the session ends; started once the mount answers.

        Denied when the kernel or fusermount3 refuses the mount.
        """
        pace.enable()
        try:
            pyfuse3.init(self._operations, str(self._mountpoint), self._options)
        except RuntimeError as error:
            raise Denied(
                f"mount point {self._mountpoint}: the kernel refuses the mount ({error}); it needs /dev/fuse "
                "and root, or fusermount3 with user_allow_other in /etc/fuse.conf for allow_other"
            ) from None
        self._serving = True
        self._notices.open()
        try:
            if self._to_end:
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look_once, task_status)
                await pyfuse3.main(TASKS_IDLE_MAX, TASKS_MAX)
        finally:
            self._serving = False
            await self._notices.close()
            pyfuse3.close(unmount=True)

    async def end(self) -> None:
        """Stop taking requests; those under way are answered. What is still open there gets ENOTCONN."""
        self._to_end = True
        await self._notices.close()
        if self._serving:
            pyfuse3.terminate()

    async def _look_once(self, task_status: trio.TaskStatus[None]) -> None:
        """Go through the kernel once, which proves that the mount answers."""
        try:
            device = (await trio.to_thread.run_sync(os.stat, self._mountpoint)).st_dev
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                return
            raise
        _read_ahead(device)
        task_status.started()


def _read_ahead(device: int) -> None:
    """Let the kernel ask for large reads; without it (not root, /sys read-only) reads come in 128 KiB."""
    file = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        file.write_text(f"{READ_AHEAD_KIB}\n")
    except OSError as error:
        log.info("%s stays as it is (%s): large reads will be slower", file, error.strerror)
