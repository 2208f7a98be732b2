"""`fusegw` over a `NotingDisk`: FUSEGW_TEST_NOTES names the notes, FUSEGW_TEST_NO_SYNC leaves the syncs
out.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from fusegw.cli.main import main
from fusegw.config import GatewaySettings
from fusegw.gateway import run
from tests.crash.lossy_disk import NotingDisk


def gateway(settings: GatewaySettings, *, on_ready: Callable[[], None]) -> None:
    notes = Path(os.environ["FUSEGW_TEST_NOTES"])
    run(settings, on_ready=on_ready, disk=NotingDisk(notes, sync="FUSEGW_TEST_NO_SYNC" not in os.environ))


if __name__ == "__main__":
    sys.exit(main(gateway=gateway))
