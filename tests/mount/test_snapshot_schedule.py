"""The snapshot schedule of a real gateway, through its commands and its configuration."""

import json
from typing import Any

import pytest

from fusegw.config import VolumePaths
from fusegw.control.client import ControlClient
from tests.mount.gateways import NAME, Gateway
from tests.mount.standbys import until

pytestmark = pytest.mark.mount


def schedule(gateway: Gateway, *arguments: str) -> dict[str, Any] | None:
    told = json.loads(gateway.command("snapshot", "schedule", *arguments, "--json"))
    assert told["volume"] == NAME
    status: dict[str, Any] | None = told["status"]
    return status


def made(gateway: Gateway) -> list[str]:
    listed = ControlClient(VolumePaths(gateway.state, NAME).socket_file).snapshots().snapshots
    return [one.name for one in listed if one.made_by == "schedule"]


def test_a_schedule_is_set_run_told_and_removed(gateway: Gateway) -> None:
    gateway.mount()
    (gateway.root / "file").write_bytes(b"kept")
    assert schedule(gateway, "show", NAME) is None
    wrong = gateway.run("snapshot", "schedule", "set", NAME, "hourly", "lots")
    assert wrong.returncode == 3 and "expected such as" in wrong.stderr
    wanted = {"keep": "hourly 24, daily 14", "even_unchanged": False, "stored": False}
    status = schedule(gateway, "set", NAME, "hourly 24,", "daily 14")
    assert status is not None and status["schedule"] == wanted
    until(gateway, lambda found: found.snapshots == 1, "the first at once")
    (name,) = made(gateway)
    assert (gateway.root / ".snapshots" / name / "file").read_bytes() == b"kept"
    status = schedule(gateway, "show", NAME)
    assert status is not None
    assert status["last"] == name and status["error"] is None
    assert status["next_unix_s"] > status["last_unix_s"] and status["next_unix_s"] % 3600 == 0
    told = json.loads(gateway.command("status", NAME, "--json"))
    assert told["snapshot_schedule"]["schedule"] == wanted and told["snapshot_schedule"]["last"] == name
    assert "keep hourly 24, daily 14" in gateway.command("status", NAME)
    gateway.remount()
    assert schedule(gateway, "show", NAME) is not None
    assert schedule(gateway, "remove", NAME) is None
    assert made(gateway)[0] == name


def test_the_configuration_sets_it_at_each_mount(gateway: Gateway) -> None:
    gateway.configure(f'[volumes.{NAME}]\nsnapshots = {{ keep = "daily 7", stored = true }}\n')
    gateway.mount()
    until(gateway, lambda found: found.snapshots == 1, "the first at once")
    refused = gateway.run("snapshot", "schedule", "remove", NAME)
    assert refused.returncode == 3 and "configuration file" in refused.stderr
    status = schedule(gateway, "show", NAME)
    assert status is not None
    assert status["schedule"] == {"keep": "daily 7", "even_unchanged": False, "stored": True}
