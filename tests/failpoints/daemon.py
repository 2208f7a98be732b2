"""`fusegw` with the edges exchanged at which its fail points lie; and, for controls, one protection less.

FUSEGW_TEST_ORDERS      the directory of an `Injection`
FUSEGW_TEST_NOTES       the file of a `NotingDisk`'s notes
FUSEGW_TEST_NO_SYNC     leave the fdatasync of packs out
FUSEGW_TEST_LOG_FIRST   ship the log without waiting for the packs it refers to, and those after it
"""

import os
import sys
from pathlib import Path

import fusegw.gateway
import fusegw.store.opening
from fusegw.check import scrub
from fusegw.cli.main import main
from fusegw.config import GatewaySettings
from fusegw.daemon.process import Ready
from fusegw.ship.shipper import Shipper
from tests.crash.daemon import LogFirst
from tests.failpoints.injection import FailingDisk, Injection, install

INJECTION = Injection(Path(os.environ["FUSEGW_TEST_ORDERS"]))
SCRUB_TICK_S = 0.2


async def _without_waiting(self: Shipper, numbers: frozenset[int]) -> bool:
    return True


def ship_the_log_first() -> None:
    retrying = fusegw.store.opening.RetryingStore
    fusegw.store.opening.RetryingStore = lambda *given, **how: LogFirst(retrying(*given, **how))
    Shipper.stored = _without_waiting


def gateway(settings: GatewaySettings, *, on_ready: Ready) -> None:
    scrub._TICK_S = SCRUB_TICK_S
    sync = "FUSEGW_TEST_NO_SYNC" not in os.environ
    disk = FailingDisk(INJECTION, Path(os.environ["FUSEGW_TEST_NOTES"]), sync=sync)
    fusegw.gateway.run(settings, on_ready=on_ready, disk=disk)


if __name__ == "__main__":
    if "FUSEGW_TEST_LOG_FIRST" in os.environ:
        ship_the_log_first()
    install(INJECTION)
    sys.exit(main(gateway=gateway))
