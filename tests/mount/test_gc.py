"""`fusegw gc` beside a running mount."""

import json
import os
from typing import Any

import pytest

from fusegw.errors import Invalid, NotFound
from tests.mount.gateways import NAME, Gateway

pytestmark = pytest.mark.mount

EAGER = f"""
[volumes.{NAME}]
pack_size = "1M"
gc_interval_s = 0
gc_grace_s = 0
gc_orphan_grace_s = 0
checkpoint_log_size = "1K"
checkpoint_retention_s = 0
"""


def collect(gateway: Gateway, *options: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(gateway.command("gc", NAME, "--json", *options))
    return report


def stored(gateway: Gateway) -> int:
    return sum(path.stat().st_size for path in gateway.store.glob("packs/*/*"))


def test_room_comes_back_beside_a_running_mount(gateway: Gateway) -> None:
    gateway.configure(EAGER)
    gateway.mount()
    contents = {f"f{number}": os.urandom(300_000) for number in range(24)}
    for name, content in contents.items():
        (gateway.root / name).write_bytes(content)
    gateway.barrier()
    before = stored(gateway)
    for name in [name for number, name in enumerate(contents) if number % 4]:
        (gateway.root / name).unlink()
        del contents[name]
    gateway.barrier()
    would = collect(gateway, "--dry-run")
    assert would["preview"] and would["rewritten_packs"] and would["put_requests"]
    assert stored(gateway) == before
    done = collect(gateway)
    assert done["written_bytes"]
    assert done["waiting_bytes"]
    for turn in range(10):  # each a checkpoint: the log has grown
        for number in range(60):
            (gateway.root / f"name-{turn}-{number}-{os.urandom(16).hex()}").touch()
        gateway.barrier()
        done = collect(gateway, "--orphans")
        if not done["waiting_packs"]:
            break
    assert stored(gateway) < before / 2
    status = gateway.status()
    assert status["gc_deleted_bytes"] > before / 2
    assert (status["condemned_bytes"], status["gc_error"], status["gc_running"]) == (0, None, False)
    gateway.command("cache", "drop", NAME)
    for name, content in contents.items():
        assert (gateway.root / name).read_bytes() == content
    assert "deleted" in gateway.command("gc", NAME)
    assert "dead in packs" in gateway.command("status", NAME)


def test_it_needs_the_gateway_that_writes(gateway: Gateway) -> None:
    assert gateway.run("gc", NAME).returncode == NotFound.exit_code
    gateway.mount()
    gateway.umount()
    gateway.mount("--read-only")
    refused = gateway.run("gc", NAME)
    assert refused.returncode == Invalid.exit_code
    assert "its writer collects" in refused.stderr
