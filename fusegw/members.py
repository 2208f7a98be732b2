"""The volumes of a unified mount: each is opened by itself, and none is needed for the others.

One that cannot be opened is missing from the mount, and says why in the log and in its lock's text, where
`fusegw status` finds it. While its store is Unavailable it is tried again, with growing pauses; other errors
need an operator. One that breaks later is missing from then on. All end together, side by side.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import trio

from fusegw.config import VolumeSettings
from fusegw.errors import FusegwError, Unavailable, telling

RETRY_FIRST_S = 5.0
RETRY_MAX_S = 300.0

log = logging.getLogger(__name__)


class Members:
    """What became of each volume. Loop thread only.

    `show` opens a volume and shows it for the time of a block. `note` is told why a volume is missing, and
    "" when it is there.
    """

    def __init__(
        self,
        volumes: Sequence[VolumeSettings],
        show: Callable[[VolumeSettings], AbstractAsyncContextManager[None]],
        note: Callable[[VolumeSettings, str], None],
    ) -> None:
        self._volumes = volumes
        self._show = show
        self._note = note
        self._untried = len(volumes)
        self._tried = trio.Event()
        self._over = trio.Event()
        self._opening: set[trio.CancelScope] = set()
        self.missing: dict[str, FusegwError] = {}
        """Those that were tried and are not shown, by name, in order of their numbers."""
        self.failure: FusegwError | None = None
        """What a volume met in its orderly end."""

    async def run(self) -> None:
        """Keep all of them open until `end` is called, and return when they have ended."""
        async with trio.open_nursery() as nursery:
            for settings in self._volumes:
                nursery.start_soon(self._keep, settings)

    async def tried(self) -> None:
        """Wait until each has been opened, or has failed once."""
        if self._untried:
            await self._tried.wait()

    def end(self) -> None:
        """Nobody asks for the volumes any more; those that are just being opened need not come."""
        self._over.set()
        for scope in self._opening:
            scope.cancel()

    async def _keep(self, settings: VolumeSettings) -> None:
        pause_s = RETRY_FIRST_S
        while (error := await self._shown(settings)) is not None:
            if self._over.is_set() or not isinstance(error, Unavailable):
                return
            with trio.move_on_after(pause_s):
                await self._over.wait()
                return
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def _shown(self, settings: VolumeSettings) -> FusegwError | None:
        """Show the volume to the end; or what kept it from that."""
        scope = trio.CancelScope()
        self._opening.add(scope)
        try:
            with scope:
                async with self._show(settings):
                    self._opening.discard(scope)
                    self._is(settings, None)
                    await self._over.wait()
        except Exception as caught:
            error = telling(caught)
            if not isinstance(error, FusegwError):
                log.error("volume %s failed", settings.volume, exc_info=caught)
                error = FusegwError(f"unexpected {type(error).__name__}: {error}; details in the log")
            if self._over.is_set() and scope not in self._opening:
                log.critical("volume %s: %s", settings.volume, error)
                self.failure = self.failure or error
            self._is(settings, error)
            return error
        finally:
            self._opening.discard(scope)
        return None

    def _is(self, settings: VolumeSettings, error: FusegwError | None) -> None:
        name = settings.volume
        before = self.missing.pop(name, None)
        if error is not None:
            if str(error) != str(before):
                log.warning("volume %s is missing from the mount: %s", name, error)
            self.missing[name] = error
            order = [one.volume for one in self._volumes]
            self.missing = dict(sorted(self.missing.items(), key=lambda item: order.index(item[0])))
        elif before is not None:
            log.info("volume %s is in the mount now", name)
        self._note(settings, "" if error is None else str(error))
        if self._untried:
            self._untried -= 1
            if not self._untried:
                self._tried.set()
