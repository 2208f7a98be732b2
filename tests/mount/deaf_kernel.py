"""`fusegw` without notices: the kernel goes on believing what it was told before."""

import sys

from fusegw.cli.main import main
from fusegw.fuse.invalidation import Notices, Stale


async def send(self: Notices, stale: Stale) -> None:
    """Say nothing."""


if __name__ == "__main__":
    Notices.send = send  # type: ignore[method-assign]
    sys.exit(main())
