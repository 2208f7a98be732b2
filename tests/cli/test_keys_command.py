"""`fusegw key`: slots come and go, wrong secrets are told from damage."""

import os
import stat

import pytest

from tests.cli.hosts import PASSPHRASE, Done, Host


@pytest.fixture
def tank(host: Host) -> Host:
    assert host.init().code == 0
    return host


def slots(host: Host) -> list[tuple[int, str, str]]:
    found = host.run("key", "list", "--json").json()["slots"]
    return [(one["slot"], one["kind"], one["label"]) for one in found]  # type: ignore[attr-defined]


def assert_one_line(done: Done, code: int, message: str) -> None:
    assert (done.code, message in done.err) == (code, True), done
    assert done.err.count("\n") == 1 and "Traceback" not in done.err and done.out == ""


def test_list(tank: Host) -> None:
    assert slots(tank) == [(1, "passphrase", "first"), (2, "recovery", "recovery")]
    done = tank.run("key", "list", "tank")
    assert "passphrase" in done.out and "recovery" in done.out
    assert tank.run("key", "list", "--json").json()["authenticated"] is False
    assert tank.run("key", "list", "--authenticate", "--json").json()["authenticated"] is True


def test_add_and_remove(tank: Host) -> None:
    new = tank.write(tank.base / "new", "another passphrase")
    done = tank.run("key", "add", "--label", "for Jo", "--new-passphrase-file", new)
    assert done.code == 0 and "slot 3" in done.out
    assert tank.run("key", "verify", "--passphrase-file", new, "--json").json()["slot"] == 3
    assert tank.run("key", "remove", "3", "--passphrase-file", new).code == 0
    assert_one_line(tank.run("key", "verify", "--passphrase-file", new), 6, "opens no slot")
    assert slots(tank) == [(1, "passphrase", "first"), (2, "recovery", "recovery")]


def test_add_a_key_file(tank: Host) -> None:
    (tank.base / "key").write_bytes(bytes(64))
    (tank.base / "key").chmod(0o600)
    assert tank.run("key", "add", "--new-key-file", tank.base / "key").code == 0
    assert tank.run("key", "verify", "--key-file", tank.base / "key", "--json").json()["kind"] == "keyfile"


def test_add_a_recovery_key(tank: Host) -> None:
    assert_one_line(tank.run("key", "add", "--recovery"), 3, "--recovery-key-file")
    file = tank.base / "second"
    assert tank.run("key", "add", "--recovery", "--recovery-key-file", file).code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert tank.run("key", "verify", "--passphrase-file", file, "--json").json()["slot"] == 3
    assert_one_line(tank.run("key", "add", "--recovery", "--recovery-key-file", file), 8, "exists already")
    wrong = tank.write(tank.base / "wrong", "wrong")
    third = tank.base / "third"
    done = tank.run("key", "add", "--recovery", "--recovery-key-file", third, "--passphrase-file", wrong)
    assert done.code == 6 and not third.exists()


def test_the_recovery_key_sets_a_new_passphrase(tank: Host) -> None:
    new = tank.write(tank.base / "new", "another passphrase")
    recovery = tank.base / "recovery-tank"
    assert tank.run("key", "passwd", "--passphrase-file", recovery, "--new-passphrase-file", new).code == 0
    assert_one_line(tank.run("key", "verify"), 6, "opens no slot")
    assert tank.run("key", "verify", "--passphrase-file", new, "--json").json()["slot"] == 1


def test_a_new_passphrase_from_the_environment(tank: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEGW_NEW_PASSPHRASE", "from the environment")
    assert tank.run("key", "passwd").code == 0
    assert "FUSEGW_NEW_PASSPHRASE" not in os.environ
    assert tank.run("key", "verify").code == 6


def test_a_wrong_passphrase(tank: Host) -> None:
    wrong = tank.write(tank.base / "wrong", PASSPHRASE + "x")
    before = tank.tree(tank.store)
    for command in (("verify",), ("remove", "2"), ("passwd", "--new-passphrase-file", wrong)):
        done = tank.run("key", command[0], *command[1:], "--passphrase-file", wrong)
        assert_one_line(done, 6, "opens no slot of volume 'tank'")
        assert PASSPHRASE not in done.err
    assert tank.tree(tank.store) == before


def test_the_last_slot_stays(tank: Host) -> None:
    assert tank.run("key", "remove", "2").code == 0
    assert_one_line(tank.run("key", "remove", "1"), 3, "last that opens")
    assert_one_line(tank.run("key", "remove", "7"), 9, "7")


def test_nobody_to_ask(tank: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSEGW_PASSPHRASE_FILE")
    assert_one_line(tank.run("key", "verify"), 3, "no passphrase for volume 'tank'")
    new = tank.write(tank.base / "new", "another passphrase")
    monkeypatch.setenv("FUSEGW_PASSPHRASE_FILE", str(tank.passphrase_file))
    assert_one_line(tank.run("key", "add"), 3, "no new secret")
    done = tank.run("key", "add", "--recovery", "--new-passphrase-file", new)
    assert_one_line(done, 3, "leave out")


def test_damage_is_named(tank: Host) -> None:
    file = next((tank.store / "tank" / "keys").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    done = tank.run("key", "verify")
    assert done.code == 11 and "keys/00000001" in done.err and done.err.count("\n") == 1


def test_a_store_that_is_gone(tank: Host) -> None:
    tank.store.rename(tank.base / "moved")
    done = tank.run("key", "verify")
    assert done.code == 4 and str(tank.store) in done.err and done.err.count("\n") == 1
    assert not tank.store.exists()
    tank.config(f'[volumes.tank]\nstore = "file://{tank.base}/moved/tank"\n')
    assert tank.run("key", "verify").code == 0
