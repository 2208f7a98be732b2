"""One root for all errors, cut by what the operator does next.

Each class has one exit code (for commands) and one errno (for file-system requests); nothing else
in the project maps errors to either. A message names the object, what was expected and what to do.
"""

import errno


class FusegwError(Exception):
    """Root of all errors raised on purpose."""

    exit_code = 1
    errno = errno.EIO


class Invalid(FusegwError):
    """Bad input or configuration: correct it and call again."""

    exit_code = 3
    errno = errno.EINVAL


class Unavailable(FusegwError):
    """The store cannot be reached or is overloaded: wait, or mend the connection."""

    exit_code = 4
    errno = errno.EIO


class Overloaded(Unavailable):
    """The store answers, but asks for fewer requests: back off for longer than after an outage."""


class Denied(FusegwError):
    """The store or the system refused permission: fix credentials or rights."""

    exit_code = 5
    errno = errno.EACCES


class WrongKey(FusegwError):
    """No key slot opens with the secret given: use the right passphrase, key file or recovery key."""

    exit_code = 6
    errno = errno.EACCES


class UnknownFormat(FusegwError):
    """Written by a newer fusegw, or by something else: upgrade, or check the store's address."""

    exit_code = 7
    errno = errno.EIO


class Exists(FusegwError):
    """The name is taken (volume, object, mount point): choose another."""

    exit_code = 8
    errno = errno.EEXIST


class NotFound(FusegwError):
    """No such volume or object: check the name and the store's address."""

    exit_code = 9
    errno = errno.ENOENT


class Busy(FusegwError):
    """In use by another process: unmount or stop that first."""

    exit_code = 10
    errno = errno.EBUSY


class Corrupt(FusegwError):
    """Bytes that cannot be authenticated: restore the named object from another copy."""

    exit_code = 11
    errno = errno.EIO


class Full(FusegwError):
    """No room in the cache, the metadata or the disk: free space or let the upload catch up."""

    exit_code = 12
    errno = errno.ENOSPC


class Fenced(FusegwError):
    """Another gateway took the volume over: this one must not write any more."""

    exit_code = 13
    errno = errno.EROFS


def errno_of(error: BaseException) -> int:
    """The errno a file-system request fails with because of `error`."""
    if isinstance(error, FusegwError):
        return error.errno
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return errno.EIO


def class_name(error: FusegwError) -> str:
    """The class that another process knows it by: of this module, the nearest to its own."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__)


def telling(error: BaseException) -> BaseException:
    """The error that tells most of a group (of groups): one made for people before any other; or `error`
    itself."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [telling(one) for one in error.exceptions]
    return next((one for one in leaves if isinstance(one, FusegwError)), leaves[0])
