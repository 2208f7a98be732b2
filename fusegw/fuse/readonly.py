"""What handlers of things that requests cannot change have in common."""

import errno
from collections.abc import Callable
from typing import NoReturn

import pyfuse3
from pyfuse3 import EntryAttributes, RequestContext

from fusegw.fuse.refusing import Refusing
from fusegw.fuse.replies import COOKIE_DOT, COOKIE_DOTDOT, instant


class ReadOnly(Refusing):
    """Handlers that let everybody in, as far as modes do, and have nothing to end or to save."""

    @instant
    def access(self, node: int, mode: int, ctx: RequestContext) -> bool:
        return True

    @instant
    def releasedir(self, handle: int) -> None:
        pass

    @instant
    def fsyncdir(self, handle: int, datasync: bool) -> None:
        pass


class MadeUp(ReadOnly):
    """Handlers of a directory that no row describes."""

    @instant
    def getxattr(self, node: int, name: bytes, ctx: RequestContext) -> NoReturn:
        raise OSError(errno.ENODATA, "no extended attributes")

    @instant
    def listxattr(self, node: int, ctx: RequestContext) -> list[bytes]:
        return []


def reply_dots(
    token: pyfuse3.ReaddirToken,
    cookie: int,
    own: Callable[[], EntryAttributes],
    above: Callable[[], EntryAttributes],
) -> bool:
    """Answer with "." and ".." as far as they lie behind `cookie`; False when the reply is full."""
    for name, position, entry in ((b".", COOKIE_DOT, own), (b"..", COOKIE_DOTDOT, above)):
        if cookie < position and not pyfuse3.readdir_reply(token, name, entry(), position):
            return False
    return True
