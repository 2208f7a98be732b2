"""The mount of this process: the session, and everybody who may end it.

SIGTERM, SIGINT and SIGHUP unmount even when the mount is in use; what is still open there gets ENOTCONN. A
second signal, while uploads are waited for, ends the process at once: what was acknowledged is safe on the
disks of this host.
"""

import ctypes
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial

import trio

from fusegw.config import GatewaySettings
from fusegw.daemon import mountpoint
from fusegw.errors import Busy, FusegwError
from fusegw.fuse.invalidation import Notices
from fusegw.fuse.mount import Session
from fusegw.fuse.routing import Router
from fusegw.sharing import Sharing

LEAVE_S = 2.0
"""How long a mount that was detached may go on serving what is open on it."""
BUSY_S = 1.0
"""How long a mount in use is tried again."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

log = logging.getLogger(__name__)


class Mount:
    """The one mount of a gateway. Loop thread only.

    `sharing` serves what is on it, and is told when to begin and to let go.
    """

    def __init__(self, settings: GatewaySettings, notices: Notices, sharing: Sharing) -> None:
        self._settings = settings
        self._notices = notices
        self._sharing = sharing
        self._place = str(settings.mountpoint)
        self._ready = False
        self._failure: Exception | None = None
        self._leaving = trio.Event()
        self._ended = trio.Event()

    async def serve(self, operations: Router, on_ready: Callable[[], None]) -> Exception | None:
        """Serve until unmounted; returns what broke a mount that had been ready, raises what kept it from
        it."""
        options = self._settings.options
        session = Session(
            operations,
            self._settings.mountpoint,
            fsname=options.fsname,
            allow_other=options.allow_other,
            read_only=options.read_only,
            notices=self._notices,
            kernel_options=options.kernel_options,
        )
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._unmount_on, signals)
                nursery.start_soon(self._leave, session)
                await nursery.start(self._serve_session, session)
                self._ready = True
                self._sharing.mounted()
                on_ready()
                await self._ended.wait()
                nursery.cancel_scope.cancel()
        return self._failure

    async def _serve_session(self, session: Session, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await session.serve(task_status=task_status)
            if not self._ready:
                raise FusegwError(f"{self._place} was unmounted before the gateway was ready; mount it again")
        except Exception as error:
            if not self._ready:
                raise
            log.critical("the mount broke, ending in good order", exc_info=error)
            self._failure = error
        finally:
            self._ended.set()

    async def _leave(self, session: Session) -> None:
        """Once the mount is detached: end, soon, even if files on it or copies of the mount are in use."""
        await self._leaving.wait()
        with trio.move_on_after(LEAVE_S):
            await self._ended.wait()
        await session.end()

    async def _unmount_on(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            log.info("%s: unmounting %s", signal.Signals(number).name, self._place)
            try:
                await self.unmount()
            except FusegwError as error:
                log.warning("unmounting although it is not free: %s", error)
                await self._detach()

    async def unmount(self) -> None:
        """Take the mount away; Busy, and nothing is changed, when it stays in use.

        What a process that just ended had open is let go of by the kernel a little later. Shares are not
        served meanwhile, nor when the mount is gone.
        """
        await self._sharing.release()
        deadline = trio.current_time() + BUSY_S
        while True:
            try:
                await self._take_away(lazy=False)
                break
            except Busy:
                if trio.current_time() >= deadline:
                    self._sharing.mounted()
                    raise
                await trio.sleep(BUSY_S / 20)
        self._leaving.set()

    async def _detach(self) -> None:
        """Take the mount away from under whoever uses it, with what mappings of files still hold saved."""
        await self._sharing.release()
        with trio.move_on_after(LEAVE_S):
            await trio.to_thread.run_sync(_write_back, self._place, abandon_on_cancel=True)
        try:
            await self._take_away(lazy=True)
        except FusegwError as error:
            log.warning("%s", error)
        self._leaving.set()

    async def _take_away(self, *, lazy: bool) -> None:
        entry = mountpoint.mounted_on(self._place)
        if entry is not None and (entry.fs_type, entry.source) == (
            mountpoint.FS_TYPE,
            self._settings.options.fsname,
        ):
            await trio.to_thread.run_sync(partial(mountpoint.unmount, self._place, lazy=lazy))


def _write_back(place: str) -> None:
    """Have the kernel write all changed pages of the file system at `place`."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            log.warning("changed pages were not written: %s", os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)
