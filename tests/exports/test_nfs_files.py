"""Files over NFS on a gateway: what goes in comes out, what was committed stays, handles stay good."""

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusegw.clock import SystemClock
from fusegw.daemon import mountpoint
from tests.exports.nfs_wire import FILE_SYNC, STALE, UNSTABLE, NfsError
from tests.exports.nfshost import Client, NfsHost
from tests.mount.gateways import NAME, drop_kernel_caches, ended

pytestmark = [pytest.mark.ganesha, pytest.mark.mount]

SHARE = "all of it"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NfsHost]:
    """For tests that leave it running."""
    host = NfsHost(tmp_path_factory.mktemp("nfs"))
    try:
        host.mount()
        host.share(SHARE)
        yield host
    finally:
        host.end()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[NfsHost]:
    host = NfsHost(tmp_path)
    try:
        host.mount()
        host.share(SHARE)
        yield host
    finally:
        host.end()


def tree(files: int, size_max: int, seed: int) -> dict[str, bytes | None]:
    """Paths and what is in the files, None for directories; parents come first."""
    chance = random.Random(seed)
    found: dict[str, bytes | None] = {}
    directories = [""]
    odd = [" ", "ünïcödé", "\N{GRINNING FACE}", "x" * 255, "#;{}$%'\"\\", "-rf", "e" * 251 + "\u00e9"]
    for number in range(files):
        if number % 9 == 0:
            parent = chance.choice(directories) if number else ""
            if parent.count("/") < 12 and len(parent.encode()) < 600:
                path = f"{parent}/d{number}"
                directories.append(path)
                found[path] = None
        name = odd[number] if number < len(odd) else f"file {number}"
        size = chance.choice((0, 1, 700, size_max // 9, size_max))
        found[f"{chance.choice(directories) if number >= len(odd) else ''}/{name}"] = chance.randbytes(size)
    return found


def put(client: Client, top: str, files: dict[str, bytes | None]) -> None:
    client.mkdir(top)
    for path, data in files.items():
        if data is None:
            client.mkdir(top + path)
        else:
            client.write(top + path, data)


def got(client: Client, top: str, files: dict[str, bytes | None]) -> dict[str, bytes | None]:
    """What the client sees below `top`: all names, and the contents of what should be there."""
    found: dict[str, bytes | None] = {}
    for directory in ("", *(path for path, data in files.items() if data is None)):
        for name in client.names(top + directory):
            path = f"{directory}/{name}"
            data = files.get(path, b"")
            found[path] = None if data is None else client.read(top + path, len(data) + 1)
    return found


def on_disk(root: Path) -> dict[str, bytes | None]:
    return {
        f"/{path.relative_to(root)}": None if path.is_dir() else path.read_bytes() for path in root.rglob("*")
    }


@pytest.mark.parametrize(("version", "files", "size_max"), [(3, 100, 600_000), (4, 60, 6_000)])
def test_a_tree_goes_in_and_comes_out(shared: NfsHost, version: int, files: int, size_max: int) -> None:
    check_tree(shared, version, tree(files, size_max, seed=version))


@pytest.mark.soak
@pytest.mark.parametrize(("version", "files", "size_max"), [(3, 12_000, 200_000), (4, 12_000, 9_000)])
def test_a_real_tree_goes_in_and_comes_out(shared: NfsHost, version: int, files: int, size_max: int) -> None:
    check_tree(shared, version, tree(files, size_max, seed=version))


def check_tree(host: NfsHost, version: int, files: dict[str, bytes | None]) -> None:
    top = f"/tree {version} {len(files)}"
    put(Client(host, SHARE, version), top, files)
    assert on_disk(host.root / top[1:]) == files
    drop_kernel_caches()
    for reader in (3, 4):
        assert got(Client(host, SHARE, reader), top, files) == files


def test_the_tools_copy_list_and_print(shared: NfsHost, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(random.Random(1).randbytes(20_000_000))
    path = f"/{SHARE}/copied"
    assert shared.tool("nfs-cp", str(source), shared.url(path)).returncode == 0
    assert shared.tool("nfs-cp", shared.url(path), str(back)).returncode == 0
    assert back.read_bytes() == source.read_bytes() == (shared.root / "copied").read_bytes()
    for version in (3, 4):
        assert shared.tool("nfs-cat", shared.url(path, version)).stdout == source.read_bytes()
        assert b" copied\n" in shared.tool("nfs-ls", shared.url(f"/{SHARE}", version)).stdout


@pytest.mark.parametrize(
    "mtime_ns",
    [-1, 2**32 * 10**9 + 1, 10**19 + 999_999_999, -11_644_473_600 * 10**9, 253_402_300_800 * 10**9 - 1],
)
def test_times_of_all_centuries_over_nfs4(shared: NfsHost, mtime_ns: int) -> None:
    file = shared.root / "dated"
    file.touch()
    with shared.nfs4() as client:
        handle = client.walk(f"/{SHARE}/dated")
        client.set_mtime(handle, mtime_ns)
        assert (file.stat().st_mtime_ns, client.mtime_ns(handle)) == (mtime_ns, mtime_ns)


def test_nfs3_has_times_from_1970_to_2106(shared: NfsHost) -> None:
    file = shared.root / "dated"
    file.touch()
    with shared.nfs3() as client:
        handle = client.walk(client.mount(f"/{SHARE}"), "dated")
        for seconds in (0, 2**31, 2**32 - 1):
            client.set_mtime(handle, seconds, 7)
            assert file.stat().st_mtime_ns == client.attributes(handle).mtime_ns == seconds * 10**9 + 7


def test_changes_on_the_host_are_seen_at_once(shared: NfsHost) -> None:
    file = shared.root / "growing"
    file.write_bytes(b"one")
    with shared.nfs3() as client, shared.nfs4() as other:
        root = client.mount(f"/{SHARE}")
        handle, handle4 = client.walk(root, "growing"), other.walk(f"/{SHARE}/growing")
        assert client.attributes(handle).size == other.size(handle4) == 3
        with file.open("ab") as more:
            more.write(b" two")
        assert client.attributes(handle).size == other.size(handle4) == 7
        assert client.read(handle, 0, 10) == b"one two"
        file.rename(shared.root / "renamed")
        assert client.attributes(client.walk(root, "renamed")).size == 7
        (shared.root / "renamed").unlink()
        with pytest.raises(NfsError) as refused:
            client.walk(root, "renamed")
        assert refused.value.status == 2


@pytest.mark.parametrize("version", [3, 4])
def test_listing_is_complete_while_entries_come_and_go(shared: NfsHost, version: int) -> None:
    check_listing(shared, version, 1_500)


@pytest.mark.soak
@pytest.mark.parametrize("version", [3, 4])
def test_listing_of_100_000_is_complete_while_entries_come_and_go(shared: NfsHost, version: int) -> None:
    check_listing(shared, version, 100_000)


def check_listing(host: NfsHost, version: int, count: int) -> None:
    """Each name that stays is listed once, each other one at most once."""
    directory = host.root / f"listed {version} {count}"
    directory.mkdir()
    for number in range(count):
        os.close(os.open(directory / f"stays {number}", os.O_CREAT | os.O_WRONLY))
        if number % 5 == 0:
            os.close(os.open(directory / f"goes {number}", os.O_CREAT | os.O_WRONLY))
    with host.nfs3() as old, host.nfs4() as new:
        path = f"/{SHARE}/{directory.name}"
        handle = old.walk(old.mount(f"/{SHARE}"), directory.name)
        listed = []
        for name in old.names(handle) if version == 3 else new.names(path):
            listed.append(name)
            if len(listed) % 40 == 0 and len(listed) * 5 < count * 5:
                number = len(listed) // 40 * 5
                (directory / f"goes {number}").unlink(missing_ok=True)
                (directory / f"goes {count - count % 5 - number}").unlink(missing_ok=True)
                os.close(os.open(directory / f"comes {number}", os.O_CREAT | os.O_WRONLY))
    assert len(listed) == len(set(listed))
    assert {name for name in listed if name.startswith("stays")} == {f"stays {n}" for n in range(count)}


def test_handles_are_kept_over_every_restart(own: NfsHost, tmp_path: Path) -> None:
    check_handles(own, tmp_path, 1_000)


@pytest.mark.soak
def test_handles_are_kept_after_a_million_look_ups(own: NfsHost, tmp_path: Path) -> None:
    check_handles(own, tmp_path, 1_000_000)


def check_handles(host: NfsHost, tmp_path: Path, lookups: int) -> None:
    (host.root / "deep" / "er").mkdir(parents=True)
    (host.root / "deep" / "er" / "file").write_bytes(b"the same")
    (host.root / "many").mkdir()
    for number in range(min(lookups, 20_000)):
        os.close(os.open(host.root / "many" / f"{number}", os.O_CREAT | os.O_WRONLY))
    with host.nfs3() as client, host.nfs4() as other:
        root = client.mount(f"/{SHARE}")
        handle = client.walk(root, "deep/er/file")
        handle4 = other.walk(f"/{SHARE}/deep/er/file")
    device = host.root.stat().st_dev

    def is_kept() -> bool:
        with host.nfs3() as client, host.nfs4(2) as other:
            found = client.read(handle, 0, 100), other.size(handle4), client.walk(root, "deep/er/file")
        return found == (b"the same", 8, handle)

    assert is_kept()
    host.serving(other_than=host.kill_ganesha())
    assert is_kept()
    with host.nfs3() as client:
        many = client.walk(root, "many")
        for number in range(lookups):
            client.lookup(many, str(number % min(lookups, 20_000)))
    drop_kernel_caches()
    assert is_kept()
    host.remount()
    host.serving()
    assert is_kept()
    host.kill_all()
    mountpoint.unmount(str(host.root), lazy=True)
    with device_taken(tmp_path, device):
        host.mount()
        host.serving()
        assert host.root.stat().st_dev != device
        assert is_kept()


@contextmanager
def device_taken(directory: Path, device: int) -> Iterator[None]:
    """Another file system has this number, which the kernel gives to the next one that is mounted."""
    mounted = []
    try:
        for number in range(50):
            place = directory / f"other {number}"
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
            mounted.append(place)
            if place.stat().st_dev == device:
                break
        yield
    finally:
        for place in mounted:
            subprocess.run(["umount", place], check=True)


def test_a_handle_of_another_file_system_or_a_removed_file_is_stale(shared: NfsHost) -> None:
    with shared.nfs3() as client:
        root = client.mount(f"/{SHARE}")
        handle = client.create(root, "removed")
        client.remove(root, "removed")
        with pytest.raises(NfsError) as refused:
            client.attributes(handle)
        assert refused.value.status == STALE
        fsid = handle.index(_fsid_of(handle))
        foreign = root[:fsid] + bytes(8) + root[fsid + 8 :]
        with pytest.raises(NfsError) as refused:
            client.attributes(foreign)
        assert refused.value.status == STALE


def _fsid_of(handle: bytes) -> bytes:
    """ganesha's head of 6 bytes, the kind of the fsid, the fsid."""
    return handle[6:14]


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.soak)])
def test_what_was_committed_is_there_after_everything_was_killed(own: NfsHost, rounds: int) -> None:
    verifiers = set()
    chance = random.Random(rounds)
    kept: list[tuple[bytes, bytes]] = []
    with own.nfs3() as client:
        root = client.mount(f"/{SHARE}")
    for number in range(rounds):
        data = chance.randbytes(700_000 + number)
        with own.nfs3() as client:
            handle = client.create(root, f"committed {number}")
            written = {
                client.write(handle, start, data[start : start + 65536], UNSTABLE)[1]
                for start in range(0, len(data), 65536)
            }
            verifier = client.commit(handle)
            assert written == {verifier}
            client.write(client.create(root, f"not committed {number}"), 0, data)
        own.kill_all()
        kept.append((handle, data))
        verifiers.add(verifier)
        own.mount()
        own.serving()
        with own.nfs3() as client:
            # Whoever did not commit sees that he has to write again.
            assert client.commit(client.create(root, f"later {number}")) not in verifiers
            for handle, data in kept[-3:]:
                found = b"".join(client.read(handle, start, 65536) for start in range(0, len(data), 65536))
                assert found == data


def test_ganesha_ends_with_its_gateway_and_comes_back_with_it(own: NfsHost) -> None:
    with own.nfs3() as client:
        handle = client.create(client.mount(f"/{SHARE}"), "file")
        client.write(handle, 0, b"data", FILE_SYNC)
        with ended(own.serving()) as wait:
            own.kill()
            wait()
        with pytest.raises(OSError):
            client.attributes(handle)
    with pytest.raises(OSError):
        own.nfs3()
    own.mount()
    own.serving()
    with own.nfs3() as client:
        assert client.read(handle, 0, 10) == b"data"


def test_a_copy_goes_on_when_ganesha_is_killed(own: NfsHost, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(3_000_000)
    client = Client(own, SHARE, 3)
    client.write("/before", data)
    pid = own.kill_ganesha()
    client.write("/after", data)
    assert own.serving(other_than=pid) != pid
    assert (own.root / "after").read_bytes() == (own.root / "before").read_bytes() == data


def test_unlike_shares_are_refused_until_acknowledged(own: NfsHost) -> None:
    done = own.run("export", "add", "other", "--protocol", "nfs", "--squash", "all")
    assert done.returncode != 0
    assert "forged" in done.stderr and "--acknowledge-forgeable-handles" in done.stderr
    own.command("export", "add", "other", "--protocol", "nfs", "--acknowledge-forgeable-handles")
    with own.nfs3() as client:
        for share in ("other", SHARE):
            client.mount(f"/{share}")
    own.umount()
    assert own.run("status").returncode == 0


@pytest.mark.parametrize("without", ["fsync", "fsid"])
def test_without_what_keeps_them_data_and_handles_are_lost(tmp_path: Path, without: str) -> None:
    host = NfsHost(tmp_path, module="tests.exports.careless", environment={"CARELESS": without})
    host.configure(host.configuration + "[volumes.tank]\ncommit_interval_s = 60\n")
    try:
        host.mount()
        host.share(SHARE)
        with host.nfs3() as client:
            handle = client.create(client.mount(f"/{SHARE}"), "committed")
            client.write(handle, 0, b"data")
            client.commit(handle)
        host.kill_all()
        host.mount()
        host.serving()
        with host.nfs3() as client, pytest.raises(NfsError) as refused:
            client.read(handle, 0, 4)
        assert refused.value.status == STALE
    finally:
        host.end()


def test_a_recovered_gateway_serves_the_same_shares_and_handles(own: NfsHost, tmp_path: Path) -> None:
    with own.nfs3() as client, own.nfs4() as other:
        root = client.mount(f"/{SHARE}")
        handle = client.create(root, "file")
        client.write(handle, 0, b"data", FILE_SYNC)
        handle4 = other.walk(f"/{SHARE}/file")
    own.barrier()
    own.kill_all()
    (tmp_path / "heir").mkdir()
    heir = NfsHost(tmp_path / "heir", volume_of=own)
    try:
        (heir.state / "registry.json").unlink()
        heir.command("recover", NAME, "--store", f"file://{heir.store}")
        heir.mount()
        heir.serving()
        with heir.nfs3() as client, heir.nfs4() as other:
            assert client.mount(f"/{SHARE}") == root
            assert client.read(handle, 0, 10) == b"data"
            assert other.size(handle4) == 4
            new = client.create(root, "new")
            assert client.commit(new) != bytes(8)
    finally:
        heir.end()


def test_shares_of_several_volumes_in_one_mount(tmp_path: Path) -> None:
    host = NfsHost(tmp_path)
    try:
        host.add("other")
        host.mount_all()
        for volume in (NAME, "other"):
            (host.root / volume / "file").write_text(volume)
            host.share(f"all of {volume}", "--volume", volume)
        with host.nfs3() as client:
            roots = {volume: client.mount(f"/all of {volume}") for volume in (NAME, "other")}
            handles = {volume: client.walk(root, "file") for volume, root in roots.items()}
        with host.nfs4(2) as client4:
            assert set(client4.names("/")) == {f"all of {volume}" for volume in roots}
        host.umount()
        host.mount_all()
        host.serving()
        with host.nfs3() as client:
            assert {volume: client.mount(f"/all of {volume}") for volume in roots} == roots
            for volume, handle in handles.items():
                assert client.read(handle, 0, 100) == volume.encode()
    finally:
        host.end()


@pytest.mark.soak
def test_a_copy_of_1_gib_goes_on_when_ganesha_is_killed(own: NfsHost, tmp_path: Path) -> None:
    source, target = tmp_path / "source", own.root / "copied"
    with source.open("wb") as file:
        for _ in range(1024):
            file.write(os.urandom(1 << 20))
    clock = SystemClock()
    copy = subprocess.Popen(["nfs-cp", str(source), own.url(f"/{SHARE}/copied")], stdout=subprocess.DEVNULL)
    for part in (1, 2, 3):
        while not target.exists() or target.stat().st_size < part * source.stat().st_size // 4:
            assert copy.poll() is None, "the copy ended too early"
            time.sleep(0.01)
        pid = own.kill_ganesha()
        killed = clock.monotonic()
        own.serving(other_than=pid)
        print(
            f"ganesha killed at {part}/4 of the copy, answered again after {clock.monotonic() - killed:.1f} s"
        )
    assert copy.wait(300) == 0
    subprocess.run(["cmp", source, target], check=True)
