"""Handlers of what was opened before the volume became another one as a whole."""

import errno
from typing import Protocol

from fusegw.fuse.refusing import Refusing


class Present(Protocol):
    """The handlers that opened it."""

    async def release(self, ino: int) -> None:
        """A handle is closed."""


class Outdated(Refusing):
    """What is open is ESTALE from now on, and can only be closed."""

    def __init__(self, present: Present) -> None:
        super().__init__(errno.ESTALE)
        self._present = present

    async def release(self, ino: int) -> None:
        await self._present.release(ino)

    async def releasedir(self, ino: int) -> None:
        pass
