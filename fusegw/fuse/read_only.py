"""The requests of a mount that changes nothing.

The kernel refuses changes on a mount made with `ro`, until somebody remounts it `rw`; these handlers
go on refusing.
"""

import errno
import os
from typing import Any, NoReturn

from pyfuse3 import FileInfo, RequestContext

from fusegw.fuse.operations import Operations
from fusegw.fuse.replies import instant


def _refused(*_: Any) -> NoReturn:
    raise OSError(errno.EROFS, "volume is mounted read-only")


_refuse: Any = instant(_refused)


class ReadOnlyOperations(Operations):
    """`Operations` without those that change the volume."""

    mknod = mkdir = symlink = link = create = _refuse
    unlink = rmdir = rename = _refuse
    setattr = setxattr = removexattr = write = _refuse

    @instant
    def open(self, node: int, flags: int, ctx: RequestContext) -> FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise OSError(errno.EROFS, "volume is mounted read-only")
        return self._opened(self._inode_of(node))
