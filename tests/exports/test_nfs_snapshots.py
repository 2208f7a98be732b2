"""Snapshots over NFS: entered, read, kept apart from the present, found again after every restart."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.exports.nfs_wire import NOT_FOUND, READ_ONLY, STALE, NfsError
from tests.exports.nfshost import NfsHost
from tests.exports.smbhost import until
from tests.mount.gateways import NAME, drop_kernel_caches

pytestmark = [pytest.mark.ganesha, pytest.mark.mount]

SHARE = "all of it"
PAST = ".snapshots/first/deep/er"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[NfsHost]:
    """Its share has a file that has changed since the snapshot `first`."""
    host = NfsHost(tmp_path)
    try:
        host.mount()
        (host.root / "deep" / "er").mkdir(parents=True)
        (host.root / "deep" / "er" / "file").write_bytes(b"before")
        host.command("snapshot", "create", NAME, "first", "--wait")
        (host.root / "deep" / "er" / "file").write_bytes(b"after, longer")
        host.share(SHARE)
        yield host
    finally:
        host.end()


def status_of(call: Callable[[], object]) -> int:
    with pytest.raises(NfsError) as caught:
        call()
    return caught.value.status


def is_stale(call: Callable[[], object]) -> bool:
    try:
        call()
    except NfsError as error:
        return error.status == STALE
    return False


def test_a_snapshot_is_read_and_never_written(own: NfsHost) -> None:
    for version in (3, 4):
        read = own.tool("nfs-cat", own.url(f"/{SHARE}/{PAST}/file", version))
        assert (read.returncode, read.stdout) == (0, b"before"), read
        now = own.tool("nfs-cat", own.url(f"/{SHARE}/deep/er/file", version))
        assert (now.returncode, now.stdout) == (0, b"after, longer"), now
    with own.nfs3() as client, own.nfs4() as other:
        root = client.mount(f"/{SHARE}")
        assert ".snapshots" not in set(client.names(root)) | set(other.names(f"/{SHARE}"))
        assert set(client.names(client.walk(root, ".snapshots"))) - {".", ".."} == {"first"}
        assert list(other.names(f"/{SHARE}/.snapshots")) == ["first"]
        directory = client.walk(root, PAST)
        file = client.lookup(directory, "file")
        assert status_of(lambda: client.write(file, 0, b"x")) == READ_ONLY
        assert status_of(lambda: client.create(directory, "new")) == READ_ONLY
        assert status_of(lambda: client.remove(directory, "file")) == READ_ONLY
        assert status_of(lambda: client.lookup(client.walk(root, ".snapshots"), "other")) == NOT_FOUND


def test_handles_are_kept_until_it_is_deleted(own: NfsHost) -> None:
    with own.nfs3() as client, own.nfs4() as other:
        root = client.mount(f"/{SHARE}")
        directory, file = client.walk(root, PAST), client.walk(root, f"{PAST}/file")
        file4 = other.walk(f"/{SHARE}/{PAST}/file")

    def is_kept() -> bool:
        with own.nfs3() as client, own.nfs4(2) as other:
            found = (
                client.read(file, 0, 100),
                set(client.names(directory)) - {".", ".."},
                client.lookup(directory, "file"),
                other.size(file4),
                client.walk(root, f"{PAST}/file"),
            )
        return found == (b"before", {"file"}, file, 6, file)

    assert is_kept()
    drop_kernel_caches()
    own.serving(other_than=own.kill_ganesha())
    assert is_kept()
    own.remount()
    own.serving()
    assert is_kept()
    own.kill_all()
    own.mount()
    own.serving()
    assert is_kept()
    own.command("snapshot", "delete", NAME, "first")
    own.command("snapshot", "create", NAME, "first")
    with own.nfs3() as client:
        # The kernel may still believe for a moment what it was told.
        for handle in (file, directory):
            until(lambda handle=handle: is_stale(lambda: client.attributes(handle)))  # type: ignore[misc]
        assert client.read(client.walk(root, f"{PAST}/file"), 0, 100) == b"after, longer"
