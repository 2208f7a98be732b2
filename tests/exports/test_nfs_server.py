"""nfs-ganesha as our child, on a plain directory: what it serves, to whom, and how changes reach it."""

import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from exports.errors import ToolFailed
from exports.nfs import NfsServer
from exports.settings import NfsSettings
from tests.exports import ganeshas
from tests.exports.ganeshas import offer, placed, running, serving
from tests.exports.nfs_wire import ACCESS_DENIED, READ_ONLY, Nfs3, Nfs4, NfsError

pytestmark = pytest.mark.ganesha

OTHER = "127.0.0.2"


@pytest.fixture
def chosen() -> NfsSettings:
    return ganeshas.settings()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    for name in ("one", "two"):
        (tree / name).mkdir(parents=True)
        (tree / name / f"in {name}").write_text(name)
    return tree


@pytest.fixture
def nfs(tmp_path: Path, tree: Path, chosen: NfsSettings) -> NfsServer:
    return ganeshas.server(tmp_path / "nfs", tree, chosen)


def names(chosen: NfsSettings, share: str, source: str = "127.0.0.1") -> list[str] | int:
    """What a client of NFSv3 sees in a share, or the status it is turned away with."""
    try:
        with Nfs3(chosen.port, chosen.mount_port, source=source) as client:
            return sorted(client.names(client.mount(f"/{share}")))
    except NfsError as error:
        return error.status


async def seen(chosen: NfsSettings, share: str, source: str = "127.0.0.1") -> list[str] | int:
    return await trio.to_thread.run_sync(partial(names, chosen, share, source))


async def test_versions_3_to_4_2_are_served_on_loopback_alone(
    nfs: NfsServer, tree: Path, chosen: NfsSettings
) -> None:
    async with serving(nfs, placed(tree, "all of it")):
        assert await seen(chosen, "all of it") == ["one", "two"]
        for minor in (0, 1, 2):
            with Nfs4(chosen.port, minor) as client:
                assert sorted(client.names("/all of it")) == ["one", "two"]
        pid = nfs.status.health.pid
        assert pid is not None
        assert {address for address, _ in listening(pid)} == {"127.0.0.1"}
        assert sorted(port for _, port in listening(pid)) == sorted((chosen.port, chosen.mount_port))
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("network", "listen", "bound", "expected"),
    [
        ("", "127.0.0.1", "127.0.0.1", {"127.0.0.1"}),
        ("ip addr add 192.0.2.1/32 dev lo", "127.0.0.1", "127.0.0.1", {"127.0.0.1"}),
        ("ip addr add 192.0.2.1/32 dev lo", "0.0.0.0", "127.0.0.1", {"127.0.0.1"}),
        ("ip addr add 192.0.2.1/32 dev lo", "0.0.0.0", "0.0.0.0", {"127.0.0.1", "192.0.2.1"}),
    ],
    ids=["no network", "no IPv6", "ganesha listens everywhere", "and is let"],
)
def test_it_listens_where_it_is_told_whatever_the_network(
    network: str, listen: str, bound: str, expected: set[str]
) -> None:
    """ganesha alone does not start in the first one, and listens everywhere in the second."""
    arguments = (listen, bound, "127.0.0.1", "192.0.2.1")
    run = shlex.join([sys.executable, "-m", "tests.exports.elsewhere", *arguments])
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", f"ip link set lo up; {network}\nexec {run}"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == expected


async def test_changes_reach_it_without_a_restart(nfs: NfsServer, tree: Path, chosen: NfsSettings) -> None:
    one, two = placed(tree / "one", "one"), placed(tree / "two", "two", 258)
    async with serving(nfs, one):
        with Nfs3(chosen.port, chosen.mount_port) as client:
            kept = client.mount("/one")
            await nfs.apply(offer(one, two))
            assert await seen(chosen, "two") == ["in two"]
            await nfs.apply(offer(one, placed(tree / "two", "renamed", 258)))
            assert (await seen(chosen, "two"), await seen(chosen, "renamed")) == (ACCESS_DENIED, ["in two"])
            await nfs.apply(offer(one, placed(tree / "one", "renamed", 258)))  # the directory
            assert await seen(chosen, "renamed") == ["in one"]
            await nfs.apply(offer(one))
            assert await seen(chosen, "renamed") == ACCESS_DENIED
            assert client.attributes(kept).kind == 2
        assert nfs.status.health.restarts == 0
        await nfs.apply(offer())
        assert (nfs.status.shares, nfs.status.health.state) == ((), "stopped")
        await nfs.apply(offer(two))
        await running(nfs)
        assert await seen(chosen, "two") == ["in two"]


async def test_clients_squash_and_read_only(nfs: NfsServer, tree: Path, chosen: NfsSettings) -> None:
    (tree / "one").chmod(0o777)
    share = partial(placed, tree / "one", "one")

    def owner_of_new(name: str, source: str = OTHER, uid: int = 0) -> int:
        with Nfs3(chosen.port, chosen.mount_port, uid=uid, gid=uid, source=source) as client:
            try:
                client.create(client.mount("/one"), name)
            except NfsError as error:
                return -error.status
        return (tree / "one" / name).stat().st_uid

    async with serving(nfs, share(hosts=(OTHER,))):
        assert owner_of_new("by root") == 0
        assert owner_of_new("by a user", uid=1234) == 1234
        assert owner_of_new("by a stranger", "127.0.0.1") == -ACCESS_DENIED
        await nfs.apply(offer(share(hosts=(OTHER,), squash="root", anonymous_uid=4711)))
        assert owner_of_new("root squashed") == 4711
        assert owner_of_new("a user is not", uid=1234) == 1234
        await nfs.apply(offer(share(hosts=("127.0.0.0/8",), squash="all")))
        assert owner_of_new("all squashed", "127.0.0.9", uid=1234) == 65534
        await nfs.apply(offer(share(read_only=True)))
        assert owner_of_new("nothing") == -READ_ONLY
        await nfs.apply(offer(share(hosts=("localhost",))))  # names are what they stand for
        assert owner_of_new("by name", "127.0.0.1") == 0
        assert owner_of_new("not by name") == -ACCESS_DENIED


async def test_what_cannot_be_served_is_told_and_the_rest_is_served(
    nfs: NfsServer, tree: Path, chosen: NfsSettings
) -> None:
    good = placed(tree / "one", "good")
    async with serving(
        nfs,
        good,
        placed(tree / "three", "gone", 258),
        placed(tree / "two", "unlike", 259, squash="all"),
        placed(tree / "two", "nowhere", 260, hosts=("nobody.invalid",)),
        placed(tree / "two", "ticket", 261, security=("krb5",)),
    ):
        assert nfs.status.shares == ("good",)
        assert set(nfs.status.problems) == {"gone", "unlike", "nowhere", "ticket"}
        assert "forged" in nfs.status.problems["unlike"]
        assert "no directory" in nfs.status.problems["gone"]
        assert await seen(chosen, "good") == ["in one"]


async def test_unlike_shares_are_served_when_that_is_acknowledged(tmp_path: Path, tree: Path) -> None:
    chosen = ganeshas.settings()
    nfs = ganeshas.server(tmp_path / "nfs", tree, chosen)
    unlike = placed(tree / "two", "unlike", 259, hosts=(OTHER,), forgeable_handles=True)
    async with serving(nfs, placed(tree / "one"), unlike):
        assert nfs.status.problems == {}
        with Nfs3(chosen.port, chosen.mount_port, source=OTHER) as client:
            handle = client.walk(client.mount("/unlike"), "in two")
        forged = handle[:2] + (257).to_bytes(2, "big") + handle[4:]
        with Nfs3(chosen.port, chosen.mount_port) as client:  # whom `unlike` does not let in
            assert client.read(forged, 0, 10) == b"two"


async def test_a_share_with_kerberos_turns_others_away(tmp_path: Path, tree: Path) -> None:
    keytab = tmp_path / "keytab"
    keytab.write_bytes(_keytab("nfs", "gateway.example.org"))
    chosen = ganeshas.settings(keytab=str(keytab))
    nfs = ganeshas.server(tmp_path / "nfs", tree, chosen)
    both = placed(tree / "two", "both", 258, security=("krb5i", "sys"), forgeable_handles=True)
    async with serving(nfs, placed(tree / "one", "one", security=("krb5", "krb5p")), both):
        assert nfs.status.problems == {}
        assert await seen(chosen, "both") == ["in two"]
        assert await seen(chosen, "one") == -1


def _keytab(service: str, host: str) -> bytes:
    """A keytab of format 5.2 with one key, of AES-256, for service/host@EXAMPLE.ORG."""

    def counted(data: bytes) -> bytes:
        return struct.pack(">H", len(data)) + data

    names = b"".join(counted(name.encode()) for name in ("EXAMPLE.ORG", service, host))
    entry = struct.pack(">H", 2) + names + struct.pack(">IIBH", 1, 0, 1, 18) + counted(bytes(range(32)))
    return b"\x05\x02" + struct.pack(">i", len(entry)) + entry


async def test_it_is_started_again_with_another_verifier(
    nfs: NfsServer, tree: Path, chosen: NfsSettings
) -> None:
    async with serving(nfs, placed(tree)):
        with Nfs3(chosen.port, chosen.mount_port) as client:
            root = client.mount("/share")
            handle = client.walk(root, "one/in one")
            _, before = client.write(handle, 0, b"x")
        for _ in range(2):
            restarts, pid = nfs.status.health.restarts, nfs.status.health.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await running(nfs, restarts=restarts + 1)
            with Nfs3(chosen.port, chosen.mount_port) as client:
                after = client.commit(handle)
                assert int.from_bytes(after[:4], "little") > int.from_bytes(before[:4], "little")
            before = after


async def test_it_ends_with_whoever_holds_its_input(nfs: NfsServer, tree: Path) -> None:
    """As when its gateway is killed."""
    async with serving(nfs, placed(tree)):
        child = nfs._daemon.supervisor._child
        assert child is not None and child.stdin is not None
        os.dup2(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), child.stdin.fileno(), inheritable=False)
        await running(nfs, restarts=1)


async def test_removed_files_are_let_go_of(
    nfs: NfsServer, tree: Path, chosen: NfsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exports.ganesha.CLOSE_S", 1)
    async with serving(nfs, placed(tree)):
        with Nfs3(chosen.port, chosen.mount_port) as client:
            handle = client.create(client.mount("/share"), "removed")
            client.write(handle, 0, b"data")
            (tree / "removed").unlink()
            assert client.read(handle, 0, 10) == b"data"
        directory = Path(f"/proc/{nfs.status.health.pid}/fd")

        def has_it() -> bool:
            return any(
                "(deleted)" in os.readlink(entry) for entry in directory.iterdir() if entry.is_symlink()
            )

        assert has_it()
        with trio.fail_after(ganeshas.RUNNING_S):
            while has_it():
                await trio.sleep(0.1)
        with Nfs3(chosen.port, chosen.mount_port) as client, pytest.raises(NfsError):
            client.read(handle, 0, 10)


async def test_ports_that_are_taken_are_told_and_tried_again(
    nfs: NfsServer, tree: Path, chosen: NfsSettings
) -> None:
    async with trio.open_nursery() as nursery:
        with socket.create_server(("127.0.0.1", chosen.port)):
            nursery.start_soon(nfs.run)
            await nfs.apply(offer(placed(tree)))
            with trio.fail_after(ganeshas.RUNNING_S):
                while not nfs.status.problems:
                    await trio.sleep(0.02)
            assert str(chosen.port) in nfs.status.problems[""]
        with trio.fail_after(ganeshas.RUNNING_S):
            while nfs.status.health.state != "running":
                await trio.sleep(0.02)
        assert nfs.status.problems == {}
        await nfs.release()
        nursery.cancel_scope.cancel()


async def test_one_left_by_a_former_gateway_is_ended(tmp_path: Path, tree: Path, chosen: NfsSettings) -> None:
    former = ganeshas.server(tmp_path / "nfs", tree, chosen)
    async with serving(former, placed(tree)):
        pid = former.status.health.pid
        async with serving(ganeshas.server(tmp_path / "nfs", tree, chosen), placed(tree)):
            assert not Path(f"/proc/{pid}/exe").exists()
            former._serve(())


async def test_without_ganesha_it_says_what_to_install(
    nfs: NfsServer, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exports.ganesha.PROGRAM", "/nowhere/ganesha.nfsd")
    with pytest.raises(ToolFailed, match=r"operations\.md"):
        await nfs.apply(offer(placed(tree)))
    assert "not installed" in nfs.status.problems[""]
    assert nfs.status.health.state == "stopped"


def listening(pid: int) -> set[tuple[str, int]]:
    """Where the process listens or can be sent datagrams: addresses of IPv4, ports."""
    inodes = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if f"socket:[{words[9]}]" in inodes and words[3] in ("0A", "07"):
                address, port = words[1].split(":")
                last = bytes.fromhex(address)[-4:][::-1]
                found.add((".".join(map(str, last)), int(port, 16)))
    return found
