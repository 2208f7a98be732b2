"""`fusegw` without what makes NFS safe, as CARELESS says: `fsync` does nothing and succeeds, or the `fsid` in
handles is another one at each start, as the number of the mount's device is."""

import os
import sys

from exports import ganesha
from fusegw.cli.main import main
from fusegw.fuse.operations import Operations


async def fsync(self: Operations, *_: object) -> None:
    """Lie."""


if __name__ == "__main__":
    if os.environ["CARELESS"] == "fsync":
        Operations.fsync = fsync  # type: ignore[method-assign,assignment]
    else:
        started = ganesha.command
        ganesha.command = lambda *arguments, fsid, **more: started(  # type: ignore[assignment]
            *arguments, fsid=fsid ^ os.getpid(), **more
        )
    sys.exit(main())
