"""`fusegw recover` and `fusegw anchor`: a bare host gets the gateway back, or goes on knowing nothing."""

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

import fusegw.recovery
from fusegw.assembly import Runtime, running_volume
from fusegw.clock import SystemClock, SystemEntropy
from fusegw.config import Tuning
from fusegw.identity import Identity
from fusegw.index import Source
from fusegw.keys.secret import Secret
from fusegw.keys.volume import open_volume
from fusegw.meta.schema import LOGGED_TABLES
from fusegw.registry import Registry
from fusegw.ship.recover import Recovered
from fusegw.store.base import ObjectStore
from fusegw.store.faulty import Fault, FaultyStore
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from tests.cli.hosts import PASSPHRASE, Done, Host
from tests.faults.support import TUNING, content, create, write_file

Rows = dict[str, list[tuple[bytes, bytes]]]
IDENTITY = Identity(
    volume="tank",
    number=5,
    mountpoint="/srv/tank",
    policy={"ship_interval_s": 2.5, "read_ahead": 0, "allow_other": False},
    store={"sse": "AES256", "storage_class": "STANDARD_IA"},
)


class Site:
    """Volume `tank` in its store, and hosts that serve it without a kernel."""

    def __init__(self, host: Host) -> None:
        self.host = host
        assert host.init().code == 0
        self.url = f"file://{host.store}/tank"
        self._elsewhere = host.base / "elsewhere"
        self.times: dict[int, float] = {}
        """By segment, when a barrier had passed there."""

    def source(self, place: Path, identity: Identity | None = IDENTITY, *, read_only: bool = False) -> Source:
        clock, entropy = SystemClock(), SystemEntropy()
        store = open_store(StoreOptions(url=self.url), clock=clock, entropy=entropy)
        return Source(
            store=store,
            keys=open_volume(store, Secret.passphrase(PASSPHRASE)).keys,
            meta_dir=place / "meta",
            cache_dir=place / "cache",
            cache_size_bytes=16 << 20,
            tuning=TUNING,
            clock=clock,
            entropy=entropy,
            free_bytes=lambda: 1 << 40,
            identity=identity,
            read_only=read_only,
        )

    def serve(self, *names: bytes) -> Rows:
        """A day of the gateway elsewhere: a file more for each name, each confirmed; its rows then."""

        async def day() -> Rows:
            async with running_volume(self.source(self._elsewhere)) as runtime:
                await runtime.volume.barrier()
                for name in names:
                    await write_file(runtime, name, content(len(name), 100_000))
                    await runtime.volume.barrier()
                    self.times[runtime.log.head.seq] = SystemClock().time_ns() / 1e9
                return rows_of(runtime)

        return trio.run(day)

    def rows(self, name: str = "tank") -> Rows:
        """What the index of this host holds."""

        async def look() -> Rows:
            source = msgspec.structs.replace(
                self.source(self.host.base / "look", read_only=True), meta_dir=self.host.paths(name).meta_dir
            )
            async with running_volume(source) as runtime:
                return rows_of(runtime)

        return trio.run(look)

    def recover(self, name: str = "tank", *more: object) -> Done:
        return self.host.run("recover", name, "--store", self.url, *more)

    def forget(self) -> None:
        """This host burns down: it knows nothing any more."""
        (self.host.state / "registry.json").unlink()
        (self.host.state / "registry.lock").unlink()
        self.host.state.rmdir()

    def log(self) -> list[str]:
        return sorted(path.name for path in (self.host.store / "tank" / "log").iterdir())


def rows_of(runtime: Runtime) -> Rows:
    with runtime.metadata.view() as view:
        return {table.name: list(view.stored(table)) for table in LOGGED_TABLES}


@pytest.fixture
def site(host: Host) -> Site:
    site = Site(host)
    site.forget()
    return site


def assert_refused(site: Site, done: Done, code: int, message: str) -> None:
    assert (done.code, message in done.err) == (code, True), done
    assert done.err.startswith("fusegw: error: ") and done.err.count("\n") == 1 and done.out == ""


def test_the_gateway_comes_back(site: Site) -> None:
    before = site.serve(b"one", b"two")
    newest = len(site.log())
    done = site.recover("tank", "--json")
    assert done.code == 0, done
    report = done.json()
    assert (report["segment"], report["epoch"], report["writer_epoch"]) == (newest, 1, 2)
    assert (report["number"], report["recorded_number"], report["files"]) == (5, 5, 3)
    assert report["logical_bytes"] == 200_000 and report["mountpoint"] == "/srv/tank"
    assert report["policy"] == {"ship_interval_s": 2.5, "read_ahead": 0, "allow_other": False}
    assert site.rows() == before
    assert len(site.log()) == newest + 1, "the takeover, and nothing else"
    entry = Registry(site.host.state).get("tank")
    assert (entry.store.sse, entry.store.storage_class) == ("AES256", "STANDARD_IA")
    assert site.host.run("key", "verify").code == 0
    anchor = site.host.run("anchor", "--json").json()
    assert anchor["anchor"] == report["anchor"] and anchor["segment"] == newest + 1
    assert site.host.run("anchor").out == f"{report['anchor']}\n"


def test_people_are_told_where_they_are_and_what_comes_next(site: Site) -> None:
    site.serve(b"one")
    done = site.recover()
    assert done.code == 0, done
    assert re.search(r"segment \d+ of the log \(epoch 1\)", done.out) and "since epoch 2" in done.out
    assert done.out.endswith("\nNext: fusegw mount tank /srv/tank\n")


def test_with_a_mount_point_it_is_mounted_and_nobody_is_asked_for_the_secret_twice(site: Site) -> None:
    site.serve(b"one")
    host = site.host
    arguments = ("recover", "tank", "--store", site.url, "--mount", host.mountpoint, "--json")
    # From the environment it can be read only once.
    done = host.spawn(*arguments, FUSEGW_PASSPHRASE=PASSPHRASE, FUSEGW_PASSPHRASE_FILE="")
    assert done.code == 0, done
    assert done.json()["writer_epoch"] == 2
    settings = host.settings()
    assert (settings["volume"], settings["volume_number"], settings["read_only"]) == ("tank", 5, False)
    assert settings["allow_other"] is False and settings["tuning"]["ship_interval_s"] == 2.5  # type: ignore[index]
    assert host.run("umount", "tank").code == 0


def test_on_a_terminal_it_asks_first_and_then_shows_how_far_it_is(site: Site) -> None:
    site.serve(b"one")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        site.host.command("recover", "tank", "--store", site.url),
        env=site.host.environment(FUSEGW_PASSPHRASE_FILE="", TERM="xterm", COLUMNS="120"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while not seen.endswith(b"of volume tank: "):
        seen += os.read(ours, 4096)
    assert b"recovering" not in seen, "a bar would draw over the question"
    os.write(ours, PASSPHRASE.encode() + b"\n")
    try:
        while part := os.read(ours, 4096):
            seen += part
    except OSError:
        pass  # The terminal is closed: that is its end.
    os.close(ours)
    assert process.wait(60) == 0
    text = seen.decode()
    assert "recovering tank" in text and "volume tank recovered" in text and PASSPHRASE not in text


def test_the_recovery_key_opens_it_too(site: Site) -> None:
    site.serve(b"one")
    key = site.host.base / "recovery-tank"
    assert site.recover("tank", "--passphrase-file", key).code == 0


def test_what_keeps_it_from_being_recovered_is_said_and_nothing_is_left(site: Site) -> None:
    host = site.host
    before = host.tree(host.store)

    def refused(done: Done, code: int, message: str) -> None:
        assert_refused(site, done, code, message)
        assert not host.state.exists() or host.tree(host.state).keys() <= {str(host.state / "registry.lock")}
        assert host.tree(host.store) == before

    refused(site.recover(), 9, "holds no log: the volume was never mounted for writing")
    site.serve(b"one", b"two")
    (host.store / "tank" / "log").rename(host.base / "log")
    before = host.tree(host.store)
    refused(site.recover(), 9, "restore what was below log/ and checkpoints/ from a copy")
    (host.base / "log").rename(host.store / "tank" / "log")
    before = host.tree(host.store)
    wrong = host.write(host.base / "wrong", "wrong")
    refused(site.recover("tank", "--passphrase-file", wrong), 6, "opens no slot of volume 'tank'")
    refused(host.run("recover", "tank"), 3, "give --store URL")
    nowhere = f"file://{host.store}/nothing"
    (host.store / "nothing").mkdir()
    refused(host.run("recover", "tank", "--store", nowhere), 9, "there is no volume at")
    (host.store / "nothing").rmdir()
    refused(host.run("recover", "tank", "--store", nowhere), 4, "nothing")
    refused(site.recover("pond"), 3, "holds volume 'tank', not 'pond'")
    refused(site.recover("a/b"), 3, "cannot name a volume")
    refused(site.recover("tank", "--at", "2"), 3, "is the name of the volume itself")
    refused(site.recover("old", "--at", "99"), 9, "position 99 does not exist")
    refused(site.recover("old", "--at", "0"), 9, "the oldest position that is kept is 1")
    refused(site.recover("old", "--at", "1999-12-31"), 9, "the oldest position that is kept is 1")
    refused(site.recover("old", "--at", "yesterday"), 3, "neither a segment's number nor a time")
    refused(site.recover("tank", "--anchor", "/nowhere"), 9, "nor a file")
    refused(site.recover("tank", "--anchor", wrong), 3, "holds no anchor")
    refused(site.recover("tank", "--mount", host.base / "gone"), 9, "does not exist")
    damaged = host.store / "tank" / "log" / site.log()[1]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    before = host.tree(host.store)
    refused(site.recover(), 11, damaged.name)


def test_a_volume_that_is_here_is_not_recovered_over_itself(site: Site) -> None:
    site.serve(b"one")
    assert site.recover().code == 0
    before = site.host.tree(site.host.state, site.host.store)
    assert_refused(site, site.recover(), 8, "is on this host already: fusegw mount goes on with it")
    assert_refused(site, site.recover("old", "--at", "99"), 9, "does not exist")
    assert site.host.tree(site.host.state, site.host.store) == before


def test_a_standby_takes_nothing_over(site: Site) -> None:
    before = site.serve(b"one", b"two")
    objects = site.host.tree(site.host.store)
    done = site.recover("tank", "--follow", "--json")
    assert done.code == 0, done
    document = done.json()
    assert (document["number"], document["follows"], document["writer_epoch"]) == (5, True, None)
    assert site.host.tree(site.host.store) == objects
    assert site.rows() == before
    assert_refused(site, site.recover("tank", "--follow"), 8, "is on this host already")
    assert site.host.run("forget", "tank").code == 0
    done = site.recover("tank", "--follow")
    assert "Next: fusegw mount --follow tank" in done.out and "stands by" in done.out, done
    assert site.recover("old", "--at", "2", "--follow").code == 2


def test_a_forgotten_volume_leaves_nothing_here_and_everything_in_the_store(site: Site) -> None:
    site.serve(b"one")
    host = site.host
    assert site.recover().code == 0
    assert site.recover("old", "--at", "2").code == 0
    cache = host.cache / Registry(host.state).get("tank").volume_id
    cache.mkdir(parents=True)
    before = host.tree(host.store)
    for name in ("old", "tank"):
        done = host.run("forget", name)
        assert done.code == 0 and "is forgotten" in done.out, done
        assert not host.paths(name).volume_dir.exists()
    assert not cache.exists() and not Registry(host.state).volumes()
    assert host.tree(host.store) == before
    assert_refused(site, host.run("forget", "tank"), 9, "no volume 'tank'")
    done = site.recover("tank", "--json")
    assert done.code == 0 and done.json()["number"] == 5, done


def test_what_never_reached_the_store_is_not_forgotten_by_mistake(site: Site) -> None:
    site.serve(b"one")
    assert site.recover().code == 0

    async def cut_off() -> None:
        tuning = Tuning(ship_interval_s=3600, pack_size_bytes=1 << 20)
        place = site.host.paths().volume_dir
        source = msgspec.structs.replace(site.source(place), tuning=tuning, unmount_wait_s=0.0)
        async with running_volume(source) as runtime:
            create(runtime, b"never shipped")

    trio.run(cut_off)
    before = site.host.tree(site.host.state)
    assert_refused(site, site.host.run("forget", "tank"), 10, "never reached the store")
    assert site.host.tree(site.host.state).keys() == before.keys()
    assert site.host.run("forget", "tank", "--discard-unsent").code == 0


def test_another_volume_of_that_name_is_in_the_way(site: Site) -> None:
    site.serve(b"one")
    host = site.host
    (host.store / "tank").rename(host.store / "far")
    assert host.run(
        "init", "tank", "--store", site.url, "--recovery-key-file", host.recovery,
        "--kdf-memory", "19M", "--kdf-iterations", "2", "--kdf-lanes", "1",
    ).code == 0  # fmt: skip
    done = host.run("recover", "tank", "--store", f"file://{host.store}/far")
    assert_refused(site, done, 8, "of this host is another one")


def test_a_host_that_lost_its_index_keeps_its_number_and_goes_on(site: Site) -> None:
    site.serve(b"one")
    assert site.recover().code == 0
    before = site.rows()
    for path in site.host.paths().meta_dir.iterdir():
        path.unlink()
    done = site.recover("tank", "--json")
    assert done.code == 0, done
    assert done.json()["number"] == 5 and done.json()["writer_epoch"] == 3
    assert site.rows() == before


def test_a_number_that_is_taken_here_is_not_shared(site: Site) -> None:
    site.serve(b"one")
    with Registry(site.host.state).reserve("other", number=5) as reservation:
        reservation.commit(
            volume_id=b"other volume id!", store=StoreOptions(url="file:///x"), created_unix_s=1,
            unsafe_no_fencing=False,
        )  # fmt: skip
    done = site.recover("tank", "--json")
    assert done.code == 0 and "its number was 5, which another volume has" in done.err, done
    assert (done.json()["number"], done.json()["recorded_number"]) == (1, 5)


def test_an_index_nobody_knows_is_set_aside_with_what_was_never_shipped(site: Site) -> None:
    site.serve(b"one")
    place = site.host.paths().volume_dir

    async def cut_off() -> None:
        tuning = Tuning(ship_interval_s=3600, pack_size_bytes=1 << 20)
        source = msgspec.structs.replace(site.source(place), tuning=tuning, unmount_wait_s=0.0)
        async with running_volume(source) as runtime:
            create(runtime, b"never shipped")

    trio.run(cut_off)
    (site.host.state / "registry.json").unlink(missing_ok=True)
    done = site.recover()
    assert done.code == 0, done
    (aside,) = place.glob("unsent-*")
    assert (aside / "meta" / "data.mdb").exists()
    assert b"never shipped" not in b"".join(key for key, _ in site.rows()["dirent"])


def test_a_cache_that_does_not_fit_is_not_taken_over(site: Site) -> None:
    async def huge() -> None:
        identity = msgspec.structs.replace(IDENTITY, policy={"cache_size": 1 << 60})
        async with running_volume(site.source(site.host.base / "huge", identity)) as runtime:
            await runtime.volume.barrier()

    trio.run(huge)
    done = site.recover("tank", "--json")
    assert done.code == 0 and "the default is used until you set another" in done.err, done
    assert done.json()["policy"] == {}


_STEPS = {
    "the index is built": ("fusegw.recovery.recover", "after"),
    "the number is reserved": ("fusegw.recovery.retire_index", "before"),
    "the index is in its place": ("fusegw.recovery.open_index", "before"),
    "the takeover is in the store": ("fusegw.recovery.open_index", "after"),
}
_KILLED = """
import importlib, os, sys
from fusegw.cli.main import main
module, _, name = sys.argv[1].rpartition(".")
module = importlib.import_module(module)
real = getattr(module, name)
def killed(*args, **options):
    if sys.argv[2] == "after":
        real(*args, **options)
    os._exit(9)
setattr(module, name, killed)
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("step", _STEPS)
def test_killed_at_any_step_it_is_finished_by_the_next(site: Site, step: str) -> None:
    before = site.serve(b"one", b"two")
    command = [sys.executable, "-c", _KILLED, *_STEPS[step], "recover", "tank", "--store", site.url]
    killed = subprocess.run(command, env=site.host.environment(), capture_output=True, text=True, timeout=60)
    assert killed.returncode == 9, killed.stderr
    assert site.host.run("ls-volumes", "--json").json() == {"volumes": []}
    done = site.recover("tank", "--json")
    assert done.code == 0 and done.json()["number"] == 5, done
    assert site.rows() == before
    left = {path.name for path in site.host.paths().volume_dir.iterdir()}
    assert left == {"lock", "meta"}


@pytest.mark.parametrize(
    ("fault", "code"), [(Fault.RESET, 4), (Fault.DENIED, 5), (Fault.LOST_REPLY, 4)], ids=lambda one: str(one)
)
def test_whatever_request_fails_nothing_is_left_and_the_next_finishes_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, fault: Fault, code: int
) -> None:
    before = site.serve(b"one")
    stored = site.host.tree(site.host.store)
    for number in range(100):
        plan = iter([None] * number + [fault])

        def faulty(options: StoreOptions, plan: Iterator[Fault | None] = plan, **how: Any) -> ObjectStore:
            inner = open_store(options, clock=how["clock"], entropy=how["entropy"])
            return FaultyStore(inner, plan=plan)

        monkeypatch.setattr("fusegw.recovery.open_store", faulty)
        done = site.recover("tank", "--json")
        if list(plan):
            break  # It needs no more requests than that.
        now = site.host.tree(site.host.store)
        assert {key: now.get(key) for key in stored} == stored
        if done.code == 0:
            shutil.rmtree(site.host.state)  # That request was made again.
        else:
            assert_refused(site, done, code, fault.value)
            assert not (site.host.state / "volumes").exists()
            assert site.host.run("ls-volumes", "--json").json() == {"volumes": []}
        if number % 3:
            # Mostly from the beginning: each takeover makes the log, and what is to be read, longer.
            for key in now.keys() - stored.keys():
                Path(key).unlink()
    assert done.code == 0, done
    assert 8 < number < 99
    assert site.rows() == before


@pytest.mark.parametrize("by", ["segment", "time", "local time"])
def test_an_older_state_stands_still_under_a_name_of_its_own(site: Site, by: str) -> None:
    early = site.serve(b"one")
    then = max(site.times)
    site.serve(b"two")
    moment = datetime.fromtimestamp(site.times[then], UTC)
    at = {"segment": str(then), "time": moment.isoformat(), "local time": f"{moment.astimezone():%FT%T.%f}"}[
        by
    ]
    host = site.host
    stored = host.tree(host.store)
    done = site.recover("tank-old", "--at", at, "--json")
    assert done.code == 0, done
    report = done.json()
    assert (report["segment"], report["fixed_at"], report["writer_epoch"]) == (then, then, None)
    assert (report["number"], report["recorded_number"]) == (1, 5)
    assert site.rows("tank-old") == early
    site.serve(b"three")
    assert site.rows("tank-old") == early, "the store went on, this does not"
    assert host.spawn("mount", "tank-old", host.mountpoint).code == 0
    settings = host.settings()
    assert settings["fixed_at"] == then and settings["read_only"] is True
    assert host.run("umount", "tank-old").code == 0
    assert {key: data for key, data in host.tree(host.store).items() if key in stored} == stored
    done = site.recover("tank-old", "--at", str(then + 1), "--json")
    assert done.code == 0 and (done.json()["number"], done.json()["segment"]) == (1, then + 1), done
    assert site.recover("tank", "--json").json()["number"] == 5


def test_looking_at_an_older_state_changes_nothing_in_the_store(site: Site) -> None:
    site.serve(b"one")
    before = site.host.tree(site.host.store)
    assert site.recover("old", "--at", "2").code == 0
    assert site.host.tree(site.host.store) == before


def test_a_store_that_was_set_back_does_not_contain_the_anchor(site: Site) -> None:
    site.serve(b"one")
    kept = site.host.tree(site.host.store)
    site.serve(b"two")
    assert site.recover().code == 0
    anchor = site.host.run("anchor").out
    file = site.host.write(site.host.base / "anchors", f"an older one\n1:2:{'0' * 64}\n{anchor}")
    site.host.state.rename(site.host.base / "burnt")
    for path in (site.host.store / "tank" / "log").iterdir():
        if str(path) not in kept:
            path.unlink()
    before = site.host.tree(site.host.store)
    for given in (file, anchor.strip()):
        done = site.recover("tank", "--anchor", given)
        assert_refused(site, done, 3, "does not contain the anchor")
        epoch, seq, digest = anchor.strip().split(":")
        assert f"segment {seq} (epoch {epoch}, hash {digest})" in done.err
    assert site.host.tree(site.host.store) == before
    assert not site.host.state.exists() or not (site.host.state / "volumes").exists()
    # The control: without the anchor nobody can tell.
    assert site.recover().code == 0


def test_an_anchor_in_the_history_is_confirmed(site: Site) -> None:
    site.serve(b"one")
    report = site.recover("old", "--at", "2", "--json").json()
    site.serve(b"two")
    done = site.recover("tank", "--anchor", report["anchor"], "--json")
    assert done.code == 0 and done.json()["anchor_checked"] is True, done


def test_an_anchor_that_is_too_old_to_be_checked_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.serve(b"one")
    report = site.recover("old", "--at", "2", "--json").json()
    real = fusegw.recovery.recover

    def pruned(*places: Any, **how: Any) -> Recovered:
        return msgspec.structs.replace(real(*places, **how), anchor_checked=False)

    monkeypatch.setattr(fusegw.recovery, "recover", pruned)
    done = site.recover("tank", "--anchor", report["anchor"], "--json")
    assert done.code == 0 and "it could not be checked" in done.err, done
    assert done.json()["anchor_checked"] is False


def test_an_anchor_needs_something_in_the_store(host: Host) -> None:
    assert host.init().code == 0
    done = host.run("anchor")
    assert done.code == 9 and "mount it first" in done.err
