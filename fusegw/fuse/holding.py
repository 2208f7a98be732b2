"""Handlers that can be told to wait, or to refuse what would change something."""

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import pyfuse3
import trio

from fusegw.errors import Busy
from fusegw.fuse.replies import instant

_CHANGES = (
    "mknod", "mkdir", "symlink", "link", "create", "unlink", "rmdir", "rename",
    "setattr", "setxattr", "removexattr", "write",
)  # fmt: skip
_REQUESTS = (
    *_CHANGES, "lookup", "readlink", "opendir", "readdir", "releasedir", "fsyncdir", "getattr", "access",
    "statfs", "getxattr", "listxattr", "open", "read", "flush", "release", "fsync",
)  # fmt: skip
"""All that are answered."""
HOLD_S = 20.0
"""How long the changes under way may take when requests are held back."""


class Holding(pyfuse3.Operations):
    """What the handlers of a volume have of this."""

    def __init__(self) -> None:
        super().__init__()
        self._refusing: Callable[..., NoReturn] | None = None
        self._over: trio.Event | None = None
        """Set when requests need not wait any more; None while they do not."""
        self._changes = 0
        self._calm = trio.Event()

    def refuse_changes(self, why: str) -> None:
        """From now on, until `let_changes`, what changes the volume is answered EROFS.

        The kernel refuses it by itself on a mount made with `ro`, until somebody remounts that `rw`.
        """

        def refused(*_: Any) -> NoReturn:
            raise OSError(errno.EROFS, why)

        self._refusing = refused
        self._choose()

    def let_changes(self) -> None:
        """From now on changes are let in."""
        self._refusing = None
        self._choose()

    def check_changes(self) -> None:
        """OSError EROFS when they are not."""
        if self._refusing is not None:
            self._refusing()

    @asynccontextmanager
    async def held(self, is_over: Callable[[], bool]) -> AsyncIterator[None]:
        """Requests that come during the block wait for its end; those that change something are done before
        it begins, or it is Busy. When the end is not `is_over` they go on waiting."""
        self.hold()
        try:
            if self._changes:
                self._calm = trio.Event()
                with trio.move_on_after(HOLD_S):
                    await self._calm.wait()
            if self._changes:
                raise Busy(f"the changes of {self._changes} requests take long; try again later")
            yield
        finally:
            if is_over():
                self.go_on()

    def hold(self) -> None:
        """Requests that come from now on wait until `go_on`."""
        if self._over is None:
            self._over = trio.Event()
            self._choose()

    def go_on(self) -> None:
        """Those that wait are answered."""
        if self._over is not None:
            self._over.set()
            self._over = None
            self._choose()

    def _choose(self) -> None:
        """What stands for each handler now: the one that waits, the one that refuses, or itself."""
        for name in _REQUESTS:
            self.__dict__.pop(name, None)
            if self._over is not None:
                setattr(self, name, self._waiting_for(self._over, name))
            elif name in _CHANGES and self._refusing is not None:
                setattr(self, name, instant(self._refusing))

    def _waiting_for(self, over: trio.Event, name: str) -> Callable[..., Awaitable[Any]]:
        async def request(*arguments: Any, **named: Any) -> Any:
            await over.wait()
            return await getattr(self, name)(*arguments, **named)

        return request

    def change_begins(self) -> None:
        """A request that changes something is under way."""
        self._changes += 1

    def change_ends(self) -> None:
        """It is answered."""
        self._changes -= 1
        if not self._changes:
            self._calm.set()
