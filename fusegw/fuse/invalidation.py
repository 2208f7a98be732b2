"""Telling the kernel what it must not believe any more, when something changed that did not go through it.

The kernel keeps names (also those that are not there), attributes and pages for long. A notice waits for the
kernel's locks of what it concerns, which may be held by requests that we have yet to answer: so notices are
sent from a worker thread, never from a handler, while requests are served. What the kernel does not keep it
says so at once.

A notice needs a living session: they are let through between `open` and `close` only, and `close` waits, for
a bounded time, for those that are under way. Before and after nothing is kept that could be stale.
"""

import errno
from collections.abc import Callable, Iterator, Sequence

import msgspec
import pyfuse3
import trio

from fusegw.errors import FusegwError

CLOSE_S = 5.0
"""Longest time a session waits for its last notices."""
_BATCH = 1000
_NOBODY_TO_TELL = (errno.ENOENT, errno.ENOTCONN, errno.ENODEV)
"""The kernel does not keep it; the mount is gone."""


class Stale(msgspec.Struct, frozen=True):
    """What the kernel may keep and must not believe, in its own terms."""

    attributes: Sequence[int] = ()
    """Nodes; their ACLs too."""
    contents: Sequence[int] = ()
    """Nodes whose pages are no longer true, nor their attributes."""
    entries: Sequence[tuple[int, bytes]] = ()
    """(directory's node, name)."""

    def batches(self) -> Iterator["Stale"]:
        """The same in pieces that do not take long."""
        for field in ("contents", "attributes", "entries"):
            notices = getattr(self, field)
            for start in range(0, len(notices), _BATCH):
                yield Stale(**{field: notices[start : start + _BATCH]})


class Notices:
    """The notices of this process's one session. Loop thread only."""

    def __init__(self) -> None:
        self._is_open = False
        self._turn = trio.Lock()

    def open(self) -> None:
        """There is a session now."""
        self._is_open = True

    async def close(self) -> None:
        """The session is about to end: no more notices."""
        self._is_open = False
        with trio.move_on_after(CLOSE_S, shield=True):
            async with self._turn:
                pass

    async def send(self, stale: Stale) -> None:
        """Return once the kernel believes none of it; FusegwError when it does not take the notice."""
        for batch in stale.batches():
            async with self._turn:
                if self._is_open:
                    await trio.to_thread.run_sync(_tell, batch)


def _tell(stale: Stale) -> None:
    """Blocking."""
    for node in stale.contents:
        _sent(pyfuse3.invalidate_inode, node)
    for node in stale.attributes:
        _sent(pyfuse3.invalidate_inode, node, True)
    for node, name in stale.entries:
        _sent(pyfuse3.invalidate_entry, node, name)


def _sent(notice: Callable[..., None], *arguments: object) -> None:
    try:
        notice(*arguments)
    except OSError as error:
        if error.errno not in _NOBODY_TO_TELL:
            raise FusegwError(f"the kernel does not take a notice of changes: {error.strerror}") from None
