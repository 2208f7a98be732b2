"""What a real gateway counts, keeps over its ends, and tells."""

import json
import os
import random
import time
from typing import Any

import pytest

from fusegw.config import VolumePaths
from fusegw.metering import load_totals
from tests.mount.gateways import NAME, Gateway

pytestmark = pytest.mark.mount

MIB = 1 << 20


def write(gateway: Gateway, name: str, content: bytes) -> None:
    (gateway.root / name).write_bytes(content)
    gateway.barrier()


def cost(gateway: Gateway) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(gateway.command("status", NAME, "--cost", "--json"))
    return document


def test_what_is_written_is_counted_once_and_stays_counted(gateway: Gateway) -> None:
    gateway.mount()
    content = os.urandom(8 * MIB)
    write(gateway, "one", content)
    write(gateway, "two", content)
    reply = gateway.control().traffic()
    now = reply.since_mount
    assert now == reply.total
    assert now.ingested_bytes == 16 * MIB
    assert 8 * MIB < now.traffic.sent_bytes < 9 * MIB, "deduplicated"
    # Pack, log, checkpoint, what a start writes; nothing by the byte or by the chunk.
    assert 3 <= now.traffic.put_requests < 20
    assert now.traffic.failed_requests == 0
    told = cost(gateway)
    packs = sum(file.stat().st_size for file in (gateway.store / "packs").rglob("*") if file.is_file())
    assert told["stored_bytes"] == packs
    assert told["storage_month"] == packs / (1 << 30) * told["prices"]["storage_gib_month"]
    for name in ("one", "two"):
        (gateway.root / name).unlink()
    gateway.barrier()
    assert cost(gateway)["stored_bytes"] == packs, "what is dead in the store is paid for"
    gateway.umount()
    saved = load_totals(VolumePaths(gateway.state, NAME).traffic_file)
    assert saved is not None
    assert saved.period.ingested_bytes == 16 * MIB
    told = cost(gateway)
    assert (told["mounted"], told["since_mount"], told["stored_bytes"]) == (False, None, packs)
    assert told["total"]["traffic"]["put_requests"] == saved.period.traffic.put_requests
    gateway.mount()
    write(gateway, "three", os.urandom(MIB))
    reply = gateway.control().traffic()
    assert reply.since_mount.ingested_bytes == MIB
    assert reply.total.ingested_bytes == 17 * MIB
    assert reply.total.traffic == saved.period.traffic.plus(reply.since_mount.traffic)
    assert reply.total.since_unix_s == saved.period.since_unix_s < reply.since_mount.since_unix_s
    gateway.kill()
    # The mount left dead is taken away by the next one.
    gateway.mount()
    after = gateway.control().traffic()
    assert after.total.ingested_bytes == 16 * MIB, "the last minute is what a kill costs"
    assert after.total.traffic == saved.period.traffic.plus(after.since_mount.traffic)


def test_reads_are_counted_when_the_store_is_asked(gateway: Gateway) -> None:
    gateway.mount()
    write(gateway, "file", os.urandom(4 * MIB))
    gateway.remount()
    gateway.control().cache_drop()
    before = gateway.control().traffic().since_mount.traffic
    assert len((gateway.root / "file").read_bytes()) == 4 * MIB
    after = gateway.control().traffic().since_mount.traffic
    assert after.received_bytes - before.received_bytes >= 4 * MIB
    assert after.get_requests > before.get_requests


def test_what_is_cut_anew_was_not_written_by_anybody(gateway: Gateway) -> None:
    gateway.mount()
    file, pieces = gateway.root / "file", list(range(128))
    random.Random(1).shuffle(pieces)
    with file.open("wb") as handle:
        for piece in pieces:
            os.pwrite(handle.fileno(), os.urandom(4096), piece * 4096)
            os.fsync(handle.fileno())
    written = len(pieces) * 4096
    gateway.barrier()
    # The file once more, cut anew; the test's time is over if it never is.
    once = gateway.control().traffic().total.traffic.sent_bytes
    while gateway.control().traffic().total.traffic.sent_bytes < once + written:
        time.sleep(0.1)
    gateway.umount()
    saved = load_totals(VolumePaths(gateway.state, NAME).traffic_file)
    assert saved is not None and saved.period.ingested_bytes == written


def test_a_path_is_no_volume(gateway: Gateway) -> None:
    gateway.mount()
    (gateway.root / "file").touch()
    done = gateway.run("status", "--cost", gateway.root / "file")
    assert done.returncode == 2
    assert f"--cost tells of a volume, not of a file: say {NAME}" in done.stderr
