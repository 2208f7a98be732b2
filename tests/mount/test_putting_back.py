"""Rollback, restore, clone and diff on a real mount."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.gateways import NAME, Gateway
from tests.mount.standbys import elsewhere, shown
from tests.mount.test_mounted_snapshots import code_of, create, fill, listed, names, spoil

pytestmark = pytest.mark.mount


@pytest.fixture
def other(gateway: Gateway) -> Iterator[Gateway]:
    """Another host for the volume, not mounted yet."""
    yield from elsewhere(gateway)


def asked(gateway: Gateway, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gateway.command(*arguments, "--json"))
    return found


def refused(gateway: Gateway, *arguments: str) -> str:
    """What a command says that fails."""
    done = gateway.run(*arguments)
    assert done.returncode and "Traceback" not in done.stderr
    return done.stderr


def packed(gateway: Gateway) -> int:
    """Bytes in packs in the store."""
    return sum(file.stat().st_size for file in (gateway.store / "packs").rglob("*") if file.is_file())


def roll_back(gateway: Gateway, name: str) -> str:
    """The name of the snapshot of the state before."""
    reply = asked(gateway, "snapshot", "rollback", NAME, name, "--yes")
    before: str = reply["snapshots"][0]["name"]
    return before


def test_a_rollback_and_back_again(gateway: Gateway) -> None:
    gateway.mount()
    root = gateway.root
    fill(root)
    before = listed(root)
    create(gateway, "good")
    spoil(root)
    spoilt = listed(root)
    assert spoilt != before
    safety = roll_back(gateway, "good")
    assert listed(root) == before
    assert (root / "one/two/file").read_bytes() == b"before" * 100_000
    assert os.getxattr(root / "one/two/file", "user.kept") == b"value"
    assert names(gateway) == ["good", safety]
    assert listed(root / ".snapshots" / safety) == spoilt
    roll_back(gateway, safety)
    assert listed(root) == spoilt
    gateway.umount()
    gateway.command("check", NAME, "--read-data")
    gateway.mount()
    assert listed(root) == spoilt


def test_a_snapshot_with_the_longest_name_is_gone_back_to(gateway: Gateway) -> None:
    """The state before has a name of its own, which must not be too long."""
    gateway.mount()
    (gateway.root / "file").write_text("good")
    name = "ü" * 127
    create(gateway, name)
    (gateway.root / "file").write_text("evil")
    assert len(roll_back(gateway, name).encode()) <= 255
    assert (gateway.root / "file").read_text() == "good"


def test_what_was_open_is_stale_and_what_is_opened_then_is_not(gateway: Gateway) -> None:
    gateway.mount()
    root = gateway.root
    file = root / "file"
    file.write_bytes(b"good" * 1000)
    create(gateway, "good")
    writing = os.open(file, os.O_RDWR)
    listing = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    os.write(writing, b"evil" * 1000)
    roll_back(gateway, "good")
    assert code_of(lambda: os.write(writing, b"evil")) == errno.ESTALE
    assert code_of(lambda: os.pread(writing, 10, 0)) == errno.ESTALE
    assert code_of(lambda: os.ftruncate(writing, 0)) == errno.ESTALE
    assert code_of(lambda: os.fsync(writing)) == errno.ESTALE
    assert file.read_bytes() == b"good" * 1000
    again = os.open(file, os.O_RDWR)
    assert os.pwrite(again, b"new!", 0) == 4
    os.close(again)
    for fd in (writing, listing):
        try:
            os.close(fd)
        except OSError as error:
            assert error.errno == errno.ESTALE
    assert file.read_bytes() == b"new!" + b"good" * 999
    roll_back(gateway, "good")
    assert file.read_bytes() == b"good" * 1000


def test_requests_wait_for_a_rollback(gateway: Gateway) -> None:
    """Writers go on all the time; the tree is whole afterwards and nothing is half."""
    gateway.mount()
    root = gateway.root
    (root / "tree").mkdir()
    for number in range(300):
        (root / "tree" / f"{number}").write_bytes(b"%d" % number * 100)
    before = listed(root / "tree")
    create(gateway, "good")
    over = threading.Event()

    def work() -> None:
        number = 0
        while not over.is_set():
            number += 1
            try:
                (root / "tree" / f"{number % 300}").write_bytes(b"x" * 5000)
                (root / "other").write_bytes(b"y")
                (root / "other").unlink()
            except OSError as error:
                assert error.errno in (errno.ESTALE, errno.ENOENT)

    writers = [threading.Thread(target=work) for _ in range(2)]
    for writer in writers:
        writer.start()
    safety = [roll_back(gateway, "good") for _ in range(3)]
    over.set()
    for writer in writers:
        writer.join()
    roll_back(gateway, "good")
    assert listed(root / "tree") == before
    for name in safety:
        assert len(os.listdir(root / ".snapshots" / name / "tree")) == 300
    gateway.umount()
    gateway.command("check", NAME, "--read-data")


def test_restore_puts_one_file_back_and_keeps_what_it_replaces(gateway: Gateway) -> None:
    gateway.mount()
    root = gateway.root
    fill(root)
    create(gateway, "good")
    (root / "one/two/file").write_bytes(b"spoilt")
    (root / "one/two/gone").unlink()
    assert os.path.exists(root / "one/two/gone") is False
    asked(gateway, "snapshot", "restore", NAME, "/one/two/gone", "--from", "good")
    assert (root / "one/two/gone").read_bytes() == b"soon deleted"
    reply = asked(gateway, "snapshot", "restore", NAME, "/one/two/file", "--from", "good")
    assert (root / "one/two/file").read_bytes() == b"before" * 100_000
    kept = root / ".snapshots" / reply["replaced_in"] / "one/two/file"
    assert kept.read_bytes() == b"spoilt"
    why = refused(gateway, "snapshot", "restore", NAME, "/one", "--from", "good", "--to", "/empty")
    assert "is there already" in why and "--replace" in why
    assert "no /never" in refused(gateway, "snapshot", "restore", NAME, "/never", "--from", "good")
    assert "no snapshot 'other'" in refused(gateway, "snapshot", "restore", NAME, "/one", "--from", "other")


def test_a_clone_is_all_that_rsync_sees_and_goes_its_own_way(gateway: Gateway) -> None:
    gateway.mount()
    root = gateway.root
    (root / "source").mkdir()
    fill(root / "source")
    os.link(root / "source/hard", root / "source/one/third")
    gateway.barrier()
    stored = packed(gateway)
    reply = asked(gateway, "clone", NAME, "/source", "/copy")
    assert reply["files"] == 8 and names(gateway) == []
    compare = ["rsync", "-aHAXn", "--delete", "--itemize-changes", "--checksum"]
    done = subprocess.run([*compare, "source/", "copy/"], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    links = {os.stat(root / "copy" / name).st_ino for name in ("hard", "one/third", "one/two/file")}
    assert len(links) == 1 and links != {os.stat(root / "source/hard").st_ino}
    gateway.barrier()
    assert packed(gateway) == stored
    (root / "copy/one/two/file").write_bytes(b"changed")
    assert (root / "source/one/two/file").read_bytes() == b"before" * 100_000
    gateway.umount()
    gateway.command("check", NAME, "--read-data")


def test_a_tree_is_replaced_while_the_kernel_knows_it(gateway: Gateway) -> None:
    gateway.mount()
    root = gateway.root
    (root / "source").mkdir()
    (root / "target/deep").mkdir(parents=True)
    (root / "source/file").write_bytes(b"new")
    (root / "target/deep/file").write_bytes(b"old")
    listed(root)
    reply = asked(gateway, "clone", NAME, "/source", "/target", "--replace")
    assert os.listdir(root / "target") == ["file"]
    assert (root / "target/file").read_bytes() == b"new"
    assert (Path(root) / ".snapshots" / reply["replaced_in"] / "target/deep/file").read_bytes() == b"old"


def test_a_difference_is_told(gateway: Gateway) -> None:
    gateway.mount()
    root = gateway.root
    fill(root)
    create(gateway, "good")
    spoil(root)
    reply = asked(gateway, "snapshot", "diff", NAME, "good")
    found = {(one["path"], one["difference"]) for one in reply["items"]}
    assert ("/new", "added") in found and ("/soft", "removed") in found and ("/moved", "renamed") in found
    assert ("/moved/two/file", "content") in found and ("/one/two/gone", "removed") in found
    create(gateway, "later")
    assert asked(gateway, "snapshot", "diff", NAME, "good", "later")["items"] == reply["items"]
    assert asked(gateway, "snapshot", "diff", NAME, "later")["items"] == []
    assert "older than" in refused(gateway, "snapshot", "diff", NAME, "later", "good")


def test_a_locked_snapshot_outlives_a_rollback_past_it(gateway: Gateway) -> None:
    gateway.mount()
    root = gateway.root
    (root / "file").write_bytes(b"first")
    create(gateway, "first")
    (root / "file").write_bytes(b"second")
    create(gateway, "second", "--lock-for", "1h")
    roll_back(gateway, "first")
    assert (root / ".snapshots/second/file").read_bytes() == b"second"
    assert "locked" in refused(gateway, "snapshot", "delete", NAME, "second")
    roll_back(gateway, "second")
    assert (root / "file").read_bytes() == b"second"


@pytest.mark.parametrize("after_s", [0.05, 0.3])
def test_a_gateway_that_is_killed_on_the_way_finishes_it(gateway: Gateway, after_s: float) -> None:
    """Before or after, never half; whatever the moment."""
    gateway.mount()
    root = gateway.root
    (root / "tree").mkdir()
    for number in range(500):
        (root / "tree" / f"{number}").write_bytes(b"good %d" % number)
    good = listed(root)
    create(gateway, "good")
    for number in range(500):
        (root / "tree" / f"{number}").write_bytes(b"evil")
        (root / f"note-{number}").write_bytes(b"pay")
    evil = listed(root)
    os.sync()
    kill_during(gateway, after_s, "snapshot", "rollback", NAME, "good", "--yes")
    gateway.mount()
    found = listed(root)
    assert found in (good, evil)
    assert found == good or len(names(gateway)) == 1
    gateway.umount()
    gateway.command("check", NAME)


def test_a_clone_that_a_kill_cuts_off_leaves_nothing(gateway: Gateway) -> None:
    gateway.mount()
    root = gateway.root
    (root / "source").mkdir()
    for number in range(600):
        (root / "source" / f"{number}").write_bytes(b"%d" % number)
    os.sync()
    kill_during(gateway, 0.02, "clone", NAME, "/source", "/copy")
    gateway.mount()
    assert names(gateway) == []
    if (root / "copy").exists():
        assert len(os.listdir(root / "copy")) == 600
    gateway.umount()
    gateway.command("check", NAME)


def kill_during(gateway: Gateway, after_s: float, *arguments: str) -> None:
    """Kill the gateway so long after a command has made a snapshot."""
    environment = dict(os.environ) | {
        "FUSEGW_STATE_DIR": str(gateway.state),
        "FUSEGW_CONFIG": str(gateway.base / "config.toml"),
    }
    before = len(names_on_disk(gateway.root))
    asking = subprocess.Popen(
        [sys.executable, "-m", "fusegw.cli.main", *arguments],
        env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while (
        len(names_on_disk(gateway.root)) == before and time.monotonic() < deadline and asking.poll() is None
    ):
        time.sleep(0.002)
    time.sleep(after_s)
    gateway.kill()
    asking.wait()


def names_on_disk(root: Path) -> list[str]:
    """The snapshots that can be seen: one more once a rollback has begun."""
    return os.listdir(root / ".snapshots")


def test_a_standby_follows_a_rollback(gateway: Gateway, other: Gateway) -> None:
    gateway.mount()
    fill(gateway.root)
    before = listed(gateway.root)
    create(gateway, "good")
    spoil(gateway.root)
    other.mount("--read-only", "--follow")
    shown(gateway, other)
    assert listed(other.root) == listed(gateway.root) != before
    roll_back(gateway, "good")
    shown(gateway, other)
    assert listed(other.root) == before
