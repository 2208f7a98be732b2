"""What the kernel is answered: attributes as they are, an errno for whatever a handler raises."""

import errno
import logging
import stat
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from pyfuse3 import FUSEError

from fusegw.errors import Corrupt, Denied, Full, FusegwError, Unavailable
from fusegw.fuse.owed import Owed
from fusegw.fuse.replies import absent, entry_of, instant, waiting
from fusegw.meta.schema import TIME_NS_MAX, Inode

INODE = Inode(
    ino=5,
    generation=9,
    mode=stat.S_IFREG | 0o640,
    nlink=3,
    uid=1,
    gid=2,
    size=1000,
    allocated=513,
    atime_ns=-11_644_473_600 * 10**9 + 1,
    mtime_ns=5_000_000_001,
    ctime_ns=TIME_NS_MAX,
)


def test_attributes_arrive_unchanged() -> None:
    entry = entry_of(INODE, 77, 60.0)
    assert (entry.st_ino, entry.generation, entry.st_mode) == (77, 9, INODE.mode)
    assert (entry.st_nlink, entry.st_uid, entry.st_gid, entry.st_size) == (3, 1, 2, 1000)
    assert entry.st_blocks == 2
    assert entry.st_atime_ns == INODE.atime_ns
    assert (entry.st_mtime_ns, entry.st_ctime_ns) == (5_000_000_001, TIME_NS_MAX)
    assert (entry.entry_timeout, entry.attr_timeout, entry.st_rdev) == (60.0, 60.0, 0)


def test_absent_names_may_be_remembered() -> None:
    entry = absent(60.0)
    assert (entry.st_ino, entry.entry_timeout) == (0, 60.0)


class Asked:
    """Whose handler waits."""

    def __init__(self) -> None:
        self.owed = Owed()


def raised_by(error: Exception) -> list[Callable[[], Awaitable[None]]]:
    """The handlers of both kinds that fail with `error`."""

    def at_once() -> None:
        raise error

    async def later(self: Asked) -> None:
        raise error

    return [instant(at_once), partial(waiting(later), Asked())]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOTEMPTY, "not empty"), errno.ENOTEMPTY),
        (FUSEError(errno.ENODATA), errno.ENODATA),
        (Full("no room"), errno.ENOSPC),
        (Denied("forbidden"), errno.EACCES),
        (Corrupt("pack 5 is damaged"), errno.EIO),
        (Unavailable("the store is away"), errno.EIO),
        (FusegwError("something"), errno.EIO),
        (OSError("without a number"), errno.EIO),
        (ZeroDivisionError(), errno.EIO),
        (AssertionError(), errno.EIO),
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, Exception) else str(value),
)
async def test_every_failure_has_an_errno(error: Exception, code: int) -> None:
    for handler in raised_by(error):
        with pytest.raises(FUSEError) as caught:
            await handler()
        assert caught.value.errno == code


async def test_unforeseen_errors_are_logged_with_their_request(caplog: pytest.LogCaptureFixture) -> None:
    def lookup() -> None:
        raise KeyError("a mistake")

    with pytest.raises(FUSEError):
        await instant(lookup)()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "lookup" in record.getMessage()
    assert record.exc_info is not None
    assert "a mistake" in str(record.exc_info[1])


async def test_ordinary_outcomes_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    for handler in raised_by(OSError(errno.ENOENT, "no such name")):
        with pytest.raises(FUSEError):
            await handler()
    assert not caplog.records


async def test_replies_pass_through() -> None:
    def at_once(a: int, b: int) -> int:
        return a + b

    async def later(self: Asked, a: int, b: int) -> int:
        return a * b

    assert await instant(at_once)(2, 3) == 5
    assert await waiting(later)(Asked(), 2, b=3) == 6
