"""The commands with the gateway itself and the kernel: from init to remount, and what stops a mount."""

import os
import select
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.cli.hosts import CHEAP, Done, Host
from tests.plugins.s3servers import S3Server

pytestmark = pytest.mark.mount


@pytest.fixture
def tank(host: Host) -> Host:
    assert host.init().code == 0
    return host


def mount(host: Host, *more: object, **environment: str) -> Done:
    return host.real("mount", "tank", host.mountpoint, "--cache-size", "128M", *more, **environment)


def assert_refused(host: Host, done: Done, code: int, message: str) -> None:
    assert (done.code, message in done.err) == (code, True), done
    assert done.err.startswith("fusegw: error: ") and done.err.count("\n") == 1 and done.out == ""
    assert not os.path.ismount(host.mountpoint)


def test_a_volumes_day(tank: Host) -> None:
    assert (done := mount(tank)).code == 0, done
    content = os.urandom(3 << 20)
    file = tank.mountpoint / "file"
    file.write_bytes(content)
    done = tank.run("sync", "--wait", "--json")
    assert done.code == 0 and done.json()["complete"] is True
    status = tank.run("status", "--json").json()
    assert status["backlog_bytes"] == 0 and status["oldest_unshipped_s"] is None
    assert status["epoch"] == 1 and status["logical_bytes"] == len(content)
    assert isinstance(status["stored_bytes"], int) and status["stored_bytes"] >= len(content)
    stats = tank.run("cache", "stats", "--json").json()
    assert stats["budget_bytes"] == 128 << 20 and stats["dirty_bytes"] == 0
    freed = tank.run("cache", "drop", "--json").json()["freed_bytes"]
    assert isinstance(freed, int) and freed >= len(content)
    assert tank.run("cache", "stats", "--json").json()["used_bytes"] == 0
    assert tank.real("umount", "tank").code == 0
    assert mount(tank).code == 0
    assert file.read_bytes() == content
    status = tank.run("status", "--json").json()
    assert status["epoch"] == 2
    os.kill(int(str(status["pid"])), signal.SIGKILL)
    assert (done := mount(tank)).code == 0, done
    assert file.read_bytes() == content
    assert tank.real("umount", tank.mountpoint).code == 0
    assert not any(tank.mountpoint.iterdir())


def test_a_wrong_passphrase(tank: Host) -> None:
    wrong = tank.write(tank.base / "wrong", "wrong")
    assert_refused(tank, mount(tank, "--passphrase-file", wrong), 6, "opens no slot of volume 'tank'")


@pytest.mark.parametrize(
    ("version", "said"),
    [(2, "use the fusegw that wrote it"), (4, "upgrade fusegw"), (0xFFFF, "upgrade fusegw")],
)
def test_a_volume_of_another_format(tank: Host, version: int, said: str) -> None:
    volume = tank.store / "tank" / "volume"
    whole = volume.read_bytes()
    volume.write_bytes(whole[:8] + version.to_bytes(2) + whole[10:])
    before = tank.tree(tank.store)
    assert_refused(tank, mount(tank), 7, said)
    assert tank.tree(tank.store) == before


def test_something_else_entirely(tank: Host) -> None:
    (tank.store / "tank" / "volume").write_bytes(b"a file of somebody else")
    done = mount(tank)
    assert done.code in (7, 11), done
    assert_refused(tank, done, done.code, "volume")


def test_a_prefix_that_belongs_to_another_volume(tank: Host) -> None:
    assert tank.init("pond").code == 0
    tank.config(f'[volumes.tank]\nstore = "file://{tank.store}/pond"\n')
    before = tank.tree(tank.store)
    assert_refused(tank, mount(tank), 3, f"file://{tank.store}/pond")
    assert tank.tree(tank.store) == before


def test_a_store_that_is_gone(tank: Host) -> None:
    tank.store.rename(tank.base / "moved")
    done = mount(tank)
    assert done.code in (4, 9), done
    assert_refused(tank, done, done.code, str(tank.store))
    assert not tank.store.exists()
    Path(tank.base / "moved").rename(tank.store)
    assert mount(tank).code == 0


def test_a_store_that_is_empty(tank: Host) -> None:
    for path in sorted((tank.store / "tank").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert_refused(tank, mount(tank), 9, "there is no volume")


def test_a_mount_through_mount_8s_helper(tank: Host) -> None:
    done = tank.real("fusegw#tank", tank.mountpoint, "-o", "rw,noatime,nodev,cache_size=128M,_netdev")
    assert (done.code, done.err) == (0, ""), done
    table = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    (entry,) = (fields for fields in table if fields[1] == str(tank.mountpoint))
    assert entry[0] == "tank" and entry[2] == "fuse.fusegw" and "noatime" in entry[3]
    assert tank.real("umount", "tank").code == 0


def test_read_only(tank: Host) -> None:
    assert_refused(tank, mount(tank, "-o", "ro"), 3, "mount the volume for writing first")
    assert mount(tank).code == 0
    (tank.mountpoint / "file").write_text("content")
    assert tank.run("sync", "--wait").code == 0
    assert tank.real("umount", "tank").code == 0
    stored = tank.tree(tank.store)
    assert mount(tank, "-o", "ro").code == 0
    status = tank.run("status", "--json").json()
    assert status["read_only"] is True and status["epoch"] == 1
    assert (tank.mountpoint / "file").read_text() == "content"
    with pytest.raises(OSError, match="Read-only"):
        (tank.mountpoint / "other").touch()
    assert tank.real("umount", "tank").code == 0
    assert tank.tree(tank.store) == stored


@pytest.mark.slow
def test_an_s3_store_that_cannot_be_reached(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.init().code == 0
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        host.config(f'[volumes.tank.store]\nurl = "s3://bucket"\nendpoint_url = "{endpoint}"\nregion = "x"\n')
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
        assert_refused(host, mount(host, **keys), 4, endpoint)


def test_keys_change_under_a_mount(tank: Host) -> None:
    assert mount(tank).code == 0
    new = tank.write(tank.base / "new", "another passphrase")
    assert tank.run("key", "passwd", "--new-passphrase-file", new).code == 0
    (tank.mountpoint / "file").write_text("still writable")
    assert tank.run("sync", "--wait").code == 0
    assert tank.real("umount", "tank").code == 0
    assert mount(tank).code == 6
    assert mount(tank, "--passphrase-file", new).code == 0
    assert (tank.mountpoint / "file").read_text() == "still writable"
    assert tank.init("pond", *CHEAP).code == 0


def test_a_volume_in_s3(host: Host, moto_server: S3Server) -> None:
    options = moto_server.options()
    store = ("--store", options.url, "--endpoint-url", moto_server.endpoint_url, "--region", "us-east-1")
    assert host.run("init", "tank", *store, "--recovery-key-file", host.recovery, *CHEAP).code == 0
    keys = {"AWS_ACCESS_KEY_ID": moto_server.access_key, "AWS_SECRET_ACCESS_KEY": moto_server.secret_key}
    assert (done := mount(host, **keys)).code == 0, done
    content = os.urandom(1 << 20)
    (host.mountpoint / "file").write_bytes(content)
    assert host.run("sync", "--wait").code == 0
    assert host.real("umount", "tank").code == 0
    shutil.rmtree(host.cache)
    assert mount(host, **keys).code == 0
    assert (host.mountpoint / "file").read_bytes() == content
    stats = host.run("cache", "stats", "--json").json()
    assert isinstance(stats["misses"], int) and stats["misses"] > 0
    assert host.real("umount", "tank").code == 0


def test_how_safe_a_file_is(tank: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    tank.write(tank.base / "slow.toml", "[volumes.tank]\nship_interval_s = 3600\n")
    assert (done := mount(tank, "--config", tank.base / "slow.toml")).code == 0, done
    directory = tank.mountpoint / "d"
    directory.mkdir()
    file = directory / "tank"
    file.write_bytes(os.urandom(3 << 20))
    link = tank.base / "link"
    link.symlink_to(file)
    for path in (file, link):
        document = tank.run("status", path, "--json").json()
        assert document | {"oldest_unshipped_s": 1.0} == {
            "path": str(file.resolve()),
            "volume": "tank",
            "state": "local",
            "size_bytes": 3 << 20,
            "unstored_bytes": 3 << 20,
            "oldest_unshipped_s": 1.0,
        }
        assert isinstance(document["oldest_unshipped_s"], float)
    assert "3.0 MiB" in tank.run("status", file).out
    assert tank.run("status", tank.mountpoint, "--json").json()["state"] == "local"
    # A name is a volume's before it is a file's.
    monkeypatch.chdir(directory)
    assert tank.run("status", "tank", "--json").json()["mounted"] is True
    assert tank.run("status", "./tank", "--json").json()["path"] == str(file.resolve())
    assert tank.run("sync", "--wait", ".").code == 0
    document = tank.run("status", "./tank", "--json").json()
    assert (document["state"], document["unstored_bytes"], document["oldest_unshipped_s"]) == (
        "stored",
        0,
        None,
    )
    # What is stored already needs no waiting for what is not.
    (directory / "late").write_bytes(b"x")
    done = tank.run("sync", "--wait", file, "--json")
    assert done.json() == {"volume": "tank", "path": str(file.resolve()), "complete": True}
    assert "is in the store" in tank.run("sync", "--wait", file).out
    assert tank.run("status", "late", "--json").json()["state"] == "local"
    assert "everything is in the store" in tank.run("sync", "--wait", "late").out
    assert tank.run("status", "late", "--json").json()["state"] == "stored"
    monkeypatch.chdir(tank.base)
    assert tank.real("umount", "tank").code == 0


def test_paths_that_are_on_no_volume(tank: Host) -> None:
    for command in (("status",), ("sync", "--wait")):
        done = tank.run(*command, tank.base / "no-such-file")
        assert_refused(tank, done, 9, "is not on a mounted volume")
        done = tank.run(*command, tank.mountpoint)
        assert_refused(tank, done, 9, "is not on a mounted volume: it is on /")
    assert mount(tank).code == 0
    done = tank.run("status", tank.mountpoint / "gone")
    assert (done.code, "No such file" in done.err) == (9, True), done
    done = tank.run("status", tank.mountpoint, "--state-dir", tank.base / "other")
    assert (done.code, "--state-dir" in done.err) == (9, True), done
    pid = int(str(tank.run("status", "--json").json()["pid"]))
    with_pid = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([with_pid], [], [], 30)
    os.close(with_pid)
    done = tank.run("status", tank.mountpoint / "below")
    assert (done.code, "gateway behind this mount is gone" in done.err) == (4, True), done
    assert tank.real("umount", "tank").code == 0


def test_a_hook_is_told_and_gets_no_secret(tank: Host) -> None:
    told, hook = tank.base / "told", tank.base / "hook"
    hook.write_text(f"#!/bin/sh\n{{ env; echo .; }} >> {told}\n[ -z $1 ] || exit 7\n")
    hook.chmod(0o700)
    config = tank.base / "hooked.toml"
    tank.write(config, f'[volumes.tank]\nship_interval_s = 3600\non_stored = ["{hook}"]\n')
    assert (done := mount(tank, "--config", config, AWS_SECRET_ACCESS_KEY="secret")).code == 0, done
    (tank.mountpoint / "file").write_bytes(b"x" * 1000)
    assert tank.run("sync", "--wait").code == 0
    assert tank.real("umount", "tank").code == 0
    assert "FUSEGW_EVENT=stored" in told.read_text()
    names = {line.partition("=")[0] for line in told.read_text().splitlines()} - {"PWD", "_", "SHLVL", "."}
    fields = {"EVENT", "VOLUME", "MOUNTPOINT", "SEQ", "EPOCH", "HASH", "TIME"}
    assert names == {"PATH", "LANG"} | {f"FUSEGW_{field}" for field in fields}
    tank.write(config, f'[volumes.tank]\non_stored = ["{hook}", "fail"]\n')
    assert mount(tank, "--config", config).code == 0
    assert tank.run("sync", "--wait").code == 0
    deadline = time.monotonic() + 30
    while (error := tank.run("status", "--json").json()["hook_last_error"]) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert f"stored: command {hook} ended with 7" in str(error)
    assert "ended with 7" in tank.run("status").out
    assert tank.real("umount", "tank").code == 0
