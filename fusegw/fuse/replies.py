"""What a request is answered with: attributes of inodes, and the errno of a failure, in one place.

`instant` and `waiting` wrap the handlers: whatever a handler raises becomes an errno, an error nobody foresaw
is logged with its request and answered EIO, and none ends the session.
"""

import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from errno import EIO
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pyfuse3 import EntryAttributes, FUSEError

from fusegw.errors import FusegwError
from fusegw.fuse.owed import Owed
from fusegw.meta.schema import Inode

VALID_S = 86_400.0
"""How long the kernel may believe names and attributes without asking again."""
COOKIE_DOT, COOKIE_DOTDOT = 1, 2
"""Positions of "." and ".." in every directory."""
COOKIE_SNAPSHOTS = 1 << 62
"""Position of the directory of the snapshots in a root that lists it: behind all others."""
BLOCK_BYTES = 512
"""Unit of `st_blocks`."""
IO_BYTES = 1 << 20
"""`st_blksize`, what programs such as cp write at a time: as much as one request can carry, since requests
cost more than bytes."""

log = logging.getLogger(__name__)
_Arguments = ParamSpec("_Arguments")
_Reply = TypeVar("_Reply")


class _Waiting(Protocol):
    owed: Owed


class _Counting(_Waiting, Protocol):
    def change_begins(self) -> None: ...
    def change_ends(self) -> None: ...


_Handlers = TypeVar("_Handlers", bound=_Waiting)
_Changing = TypeVar("_Changing", bound=_Counting)


def entry_of(inode: Inode, node: int, valid_s: float) -> EntryAttributes:
    """The attributes of `inode` under the id `node`; the kernel may believe them for `valid_s`."""
    entry = EntryAttributes()
    entry.st_ino = node
    entry.generation = inode.generation
    entry.st_mode = inode.mode
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_size = inode.size
    entry.st_blocks = -(-inode.allocated // BLOCK_BYTES)
    entry.st_blksize = IO_BYTES
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
    if inode.rdev:
        entry.st_rdev = inode.rdev
    entry.entry_timeout = valid_s
    entry.attr_timeout = valid_s
    return entry


def absent(valid_s: float) -> EntryAttributes:
    """The answer "no such name", which the kernel may believe for `valid_s` (an ENOENT it would not keep)."""
    entry = EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = valid_s
    return entry


def instant(handler: Callable[_Arguments, _Reply]) -> Callable[_Arguments, Coroutine[Any, Any, _Reply]]:
    """A request whose handler never waits: a plain method, called as a coroutine."""
    name = handler.__name__

    @functools.wraps(handler)
    async def request(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Reply:
        try:
            return handler(*arguments, **named)
        except Exception as error:
            raise _refusal(name, error) from None

    return request


def waiting(
    handler: Callable[Concatenate[_Handlers, _Arguments], Awaitable[_Reply]],
) -> Callable[Concatenate[_Handlers, _Arguments], Coroutine[Any, Any, _Reply]]:
    """A request whose handler may wait for data, for room or for a commit."""
    name = handler.__name__

    @functools.wraps(handler)
    async def request(self: _Handlers, /, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Reply:
        number = self.owed.begin()
        try:
            return await handler(self, *arguments, **named)
        except Exception as error:
            raise _refusal(name, error) from None
        finally:
            self.owed.end(number)

    return request


def changing(
    handler: Callable[Concatenate[_Changing, _Arguments], Awaitable[_Reply]],
) -> Callable[Concatenate[_Changing, _Arguments], Coroutine[Any, Any, _Reply]]:
    """A request that changes something, perhaps after it has waited: those under way are counted."""
    request = waiting(handler)

    @functools.wraps(handler)
    async def counted(self: _Changing, /, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Reply:
        self.change_begins()
        try:
            return await request(self, *arguments, **named)
        finally:
            self.change_ends()

    return counted


def _refusal(request: str, error: Exception) -> FUSEError:
    """What the kernel is told about `error`; it is logged unless it is an ordinary outcome of the request."""
    if isinstance(error, OSError) and error.errno:
        return FUSEError(error.errno)
    if isinstance(error, FusegwError):
        log.warning("%s: %s", request, error)
        return FUSEError(error.errno)
    if isinstance(error, FUSEError):
        return error
    log.error("%s failed", request, exc_info=error)
    return FUSEError(EIO)
