"""`fusegw init`: what it makes, and that it leaves nothing behind when it cannot."""

import os
import pty
import stat
import subprocess
from pathlib import Path

import pytest

from fusegw.clock import SystemClock
from fusegw.store.memory import MemoryStore
from tests.cli.hosts import CHEAP, PASSPHRASE, Done, Host


def test_a_volume_is_made_and_recorded(host: Host) -> None:
    done = host.init()
    assert done.code == 0, done
    assert "volume tank created" in done.out
    recovery = host.base / "recovery-tank"
    assert stat.S_IMODE(recovery.stat().st_mode) == 0o600
    key = recovery.read_text().strip()
    assert key.startswith("FUSEGW-") and key not in done.out + done.err
    assert host.run("key", "verify").code == 0
    entry = host.run("ls-volumes", "--json").json()["volumes"][0]  # type: ignore[index]
    assert entry["name"] == "tank" and entry["number"] == 1 and entry["mounted"] is False
    assert entry["store_url"] == f"file://{host.store}/tank"


def test_json_names_the_file_and_not_the_key(host: Host) -> None:
    done = host.init("tank", "--json")
    document = done.json()
    assert document["number"] == 1 and len(str(document["volume_id"])) == 32
    assert document["recovery_key_file"] == str(host.base / "recovery-tank")
    assert (host.base / "recovery-tank").read_text().strip() not in done.out


def test_numbers_go_up(host: Host) -> None:
    assert [host.init(name, "--json").json()["number"] for name in ("a", "b", "c")] == [1, 2, 3]


def test_a_recovery_key_file_opens_the_volume(host: Host) -> None:
    host.init()
    done = host.run("key", "verify", "--passphrase-file", host.base / "recovery-tank", "--json")
    assert done.code == 0 and done.json()["kind"] == "recovery"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("a/b", "--store", "STORE/new"), 3, "cannot name a volume"),
        (("tank",), 3, "give --store"),
        (("tank", "--store", "ftp://x"), 3, "expected file:///"),
        (("tank", "--store", "s3://x"), 3, "bucket name"),
        (("tank", "--store", "STORE/new", "--kdf-memory", "1M"), 3, "memory_kib"),
        (("tank", "--store", "STORE/new", "--kdf-lanes", "99"), 3, "lanes"),
        (("tank", "--store", "STORE/new", "--ca-bundle", "/nowhere.pem"), 3, "/nowhere.pem"),
        (("tank", "--store", "STORE/new", "--kms-key-id", "x"), 3, "aws:kms"),
        (("tank", "--store", "STORE/new", "--passphrase-file", "/nowhere"), 9, "/nowhere does not exist"),
        (("tank", "--store", "STORE/new", "--passphrase-file", "EMPTY"), 3, "empty"),
        (("tank", "--store", "STORE/new", "--key-file", "EMPTY"), 3, "0 bytes"),
        (
            ("tank", "--store", "STORE/new", "--key-file", "EMPTY", "--passphrase-file", "EMPTY"),
            3,
            "choose one",
        ),
    ],
)
def test_bad_input_changes_nothing(host: Host, arguments: tuple[str, ...], code: int, message: str) -> None:
    host.store.mkdir()
    empty = host.write(host.base / "empty", "")
    given = [one.replace("STORE", f"file://{host.store}").replace("EMPTY", str(empty)) for one in arguments]
    done = host.run("init", *given, "--recovery-key-file", host.recovery)
    assert (done.code, message in done.err) == (code, True), done
    assert done.err.startswith("fusegw: error: ") and done.err.count("\n") == 1 and done.out == ""
    assert not host.state.exists() and not host.recovery.exists() and not any(host.store.iterdir())


def test_without_a_terminal_the_recovery_key_needs_a_file(host: Host) -> None:
    done = host.run("init", "tank", "--store", f"file://{host.store}", *CHEAP)
    assert done.code == 3 and "--recovery-key-file" in done.err
    assert not host.state.exists() and not host.store.exists()


def test_an_existing_recovery_key_file_is_not_touched(host: Host) -> None:
    host.recovery.write_text("something precious")
    done = host.run(
        "init", "tank", "--store", f"file://{host.store}", "--recovery-key-file", host.recovery, *CHEAP
    )
    assert done.code == 8 and "exists already" in done.err
    assert host.recovery.read_text() == "something precious"
    assert not host.state.exists() and not host.store.exists()


def test_a_recovery_key_file_without_a_directory(host: Host) -> None:
    done = host.run(
        "init", "tank", "--store", f"file://{host.store}", "--recovery-key-file", "/nowhere/key", *CHEAP
    )
    assert done.code == 9 and not host.state.exists() and not host.store.exists()


def test_a_place_that_holds_a_volume_is_refused(host: Host) -> None:
    host.init()
    before = host.tree(host.store, host.state)
    url = f"file://{host.store}/tank"
    done = host.run("init", "other", "--store", url, "--recovery-key-file", host.recovery, *CHEAP)
    assert done.code == 8 and "holds volume 'tank' already" in done.err
    assert host.tree(host.store, host.state) == before and not host.recovery.exists()


def test_a_name_that_is_taken_is_refused(host: Host) -> None:
    host.init()
    before = host.tree(host.store, host.state)
    done = host.run(
        "init", "tank", "--store", f"file://{host.store}/new", "--recovery-key-file", host.recovery, *CHEAP
    )
    assert done.code == 8 and "'tank'" in done.err
    assert host.tree(host.store, host.state) == before


def test_a_place_with_other_things_in_it_is_refused(host: Host) -> None:
    host.store.mkdir()
    (host.store / "data").write_text("of somebody else")
    done = host.run(
        "init", "tank", "--store", f"file://{host.store}", "--recovery-key-file", host.recovery, *CHEAP
    )
    assert done.code == 8 and "not empty" in done.err and "data" in done.err
    assert [path.name for path in host.store.iterdir()] == ["data"] and not host.state.exists()


def test_a_cut_off_init_can_be_finished(host: Host) -> None:
    host.init()
    for path in (host.store / "tank" / "keys").iterdir():
        path.unlink()
    identity = (host.store / "tank" / "volume").read_bytes()
    (host.state / "registry.json").unlink()
    (host.base / "recovery-tank").unlink()
    assert host.init().code == 0
    assert (host.store / "tank" / "volume").read_bytes() == identity
    assert host.run("key", "verify").code == 0


def test_a_store_of_a_newer_format_is_refused(host: Host) -> None:
    host.init()
    volume = host.store / "tank" / "volume"
    volume.write_bytes(b"FUSEGWV\x00" + b"\xff" * 100)
    done = host.run(
        "init", "x", "--store", f"file://{host.store}/tank", "--recovery-key-file", host.recovery, *CHEAP
    )
    assert done.code == 7, done
    assert host.run("key", "verify", "tank").code == 7


class Forgetful(MemoryStore):
    """A store that ignores the condition of a create-only put, as some S3 look-alikes do."""

    def put(self, key: str, data: bytes | memoryview, *, create_only: bool = True) -> None:
        super().put(key, data, create_only=False)


def test_a_store_that_cannot_fence_needs_consent(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Forgetful(clock=SystemClock())
    monkeypatch.setattr("fusegw.cli.creation.open_store", lambda *args, **options: store)
    arguments = ("init", "tank", "--store", "s3://bucket/x", "--recovery-key-file", host.recovery, *CHEAP)
    done = host.run(*arguments)
    assert done.code == 3 and "--unsafe-no-fencing" in done.err
    assert list(store.list()) == [] and not host.recovery.exists()
    done = host.run(*arguments, "--unsafe-no-fencing")
    assert done.code == 0, done
    assert host.run("ls-volumes").code == 0
    assert '"unsafe_no_fencing": true' in (host.state / "registry.json").read_text()


def test_a_file_that_others_can_read_is_remarked_upon(host: Host) -> None:
    host.passphrase_file.chmod(0o644)
    done = host.init()
    assert done.code == 0 and "can be read by others" in done.err


def test_the_passphrase_leaves_the_environment(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSEGW_PASSPHRASE_FILE")
    monkeypatch.setenv("FUSEGW_PASSPHRASE", PASSPHRASE)
    done = host.init()
    assert done.code == 0 and PASSPHRASE not in done.out + done.err
    assert "FUSEGW_PASSPHRASE" not in os.environ
    assert host.run("key", "verify", "--passphrase-file", host.passphrase_file).code == 0
    # The control: with the variable gone there is nothing left to open the volume with.
    done = host.run("key", "verify")
    assert done.code == 3 and "no passphrase" in done.err


def test_a_service_managers_credential(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSEGW_PASSPHRASE_FILE")
    directory = host.base / "credentials"
    directory.mkdir()
    host.write(directory / "fusegw-passphrase", PASSPHRASE)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    assert host.init().code == 0
    assert host.run("key", "verify", "--passphrase-file", host.passphrase_file).code == 0


def test_the_configuration_may_name_store_and_key_file(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSEGW_PASSPHRASE_FILE")
    (host.base / "tank.key").write_bytes(bytes(range(64)))
    (host.base / "tank.key").chmod(0o600)
    host.config(f'[volumes.tank]\nstore = "file://{host.store}"\nkey_file = "tank.key"\n')
    done = host.run("init", "tank", "--recovery-key-file", host.recovery, *CHEAP)
    assert done.code == 0, done
    slots = host.run("key", "list", "--json").json()["slots"]
    assert [slot["kind"] for slot in slots] == ["keyfile", "recovery"]  # type: ignore[attr-defined]


def test_the_configuration_may_not_be_contradicted(host: Host) -> None:
    host.config('[volumes.tank]\nstore = "file:///elsewhere"\n')
    done = host.init()
    assert done.code == 3 and "contradicts" in done.err


def on_terminal(host: Host, answers: list[str], *arguments: object) -> Done:
    """Run the command with a terminal as standard input, output and error, and type one answer per prompt."""
    leader, follower = pty.openpty()
    environment = host.environment()
    del environment["FUSEGW_PASSPHRASE_FILE"]
    process = subprocess.Popen(
        host.command(*arguments), env=environment, stdin=follower, stdout=follower, stderr=follower, text=True
    )
    os.close(follower)
    shown = b""
    typed = 0
    try:
        while True:
            try:
                data = os.read(leader, 4096)
            except OSError:  # the last holder of the other end is gone
                break
            if not data:
                break
            shown += data
            if typed < len(answers) and shown.count(b": ") > typed and shown.endswith(b": "):
                os.write(leader, answers[typed].encode() + b"\n")
                typed += 1
        return Done(process.wait(timeout=60), shown.decode(), "")
    finally:
        os.close(leader)
        if process.poll() is None:
            process.kill()
            process.wait()


def test_on_a_terminal_it_asks_twice_and_shows_the_recovery_key_once(host: Host) -> None:
    host.store.mkdir()
    arguments = ("init", "tank", "--store", f"file://{host.store}/x", *CHEAP)
    done = on_terminal(host, [PASSPHRASE, PASSPHRASE], *arguments)
    assert done.code == 0, done
    assert done.out.count("FUSEGW-") == 1 and PASSPHRASE not in done.out
    key = next(word for word in done.out.split() if word.startswith("FUSEGW-"))
    assert host.run("key", "verify").code == 0
    assert host.run("key", "verify", "--passphrase-file", host.write(host.base / "k", key)).code == 0
    stored = b"".join(host.tree(host.base / "state", host.store).values())
    assert key.encode() not in stored and PASSPHRASE.encode() not in stored


def test_on_a_terminal_a_slip_is_noticed(host: Host) -> None:
    host.store.mkdir()
    arguments = ("init", "tank", "--store", f"file://{host.store}/x", *CHEAP)
    done = on_terminal(host, [PASSPHRASE, PASSPHRASE + "!"], *arguments)
    assert done.code == 3 and "differ" in done.out
    assert not host.state.exists() and not any(Path(host.store).iterdir())
