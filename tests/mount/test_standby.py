"""A standby on a real kernel: what the writer's host changes is seen here, what this kernel kept is not."""

import errno
import mmap
import os
import random
from collections.abc import Iterator

import pytest

from fusegw.errors import Invalid, NotFound
from tests.mount.gateways import NAME, Gateway
from tests.mount.standbys import (
    MIB,
    barrier,
    churn,
    churn_and_compare,
    elsewhere,
    readers,
    shown,
    status,
    tree,
    until,
)

pytestmark = pytest.mark.mount


@pytest.fixture
def other(gateway: Gateway) -> Iterator[Gateway]:
    """Another host for the same volume, not mounted yet."""
    yield from elsewhere(gateway)


@pytest.fixture
def deaf(gateway: Gateway) -> Iterator[Gateway]:
    """One whose kernel is told nothing."""
    yield from elsewhere(gateway, module="tests.mount.deaf_kernel")


def test_all_that_changes_elsewhere_is_seen(gateway: Gateway, other: Gateway) -> None:
    gateway.mount()
    ours, theirs = gateway.root, other.root
    (ours / "directory").mkdir()
    (ours / "directory" / "file").write_bytes(b"old" * MIB)
    for name in ("renamed", "deleted", "attributes", "over"):
        (ours / name).write_bytes(name.encode())
    barrier(gateway)
    other.mount("--read-only", "--follow")
    assert not (theirs / "new").exists()
    assert not (theirs / "directory" / "linked").exists()
    assert sorted(os.listdir(theirs)) == ["attributes", "deleted", "directory", "over", "renamed"]
    assert (theirs / "renamed").read_bytes() == b"renamed"
    assert (theirs / "over").read_bytes() == b"over"
    assert (theirs / "attributes").stat().st_mode & 0o777 == 0o644
    with open(theirs / "directory" / "file", "rb", buffering=0) as kept:
        assert kept.read(6) == b"oldold"
        with mmap.mmap(kept.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[-3:] == b"old"

            (ours / "new").write_bytes(b"here")
            with open(ours / "directory" / "file", "r+b") as file:
                file.write(b"new")
                file.seek(-3, os.SEEK_END)
                file.write(b"end")
            os.link(ours / "over", ours / "directory" / "linked")
            (ours / "renamed").rename(ours / "directory" / "moved")
            (ours / "attributes").chmod(0o600)
            os.setxattr(ours / "attributes", "user.x", b"y")
            (ours / "deleted").unlink()
            (ours / "replacing").write_bytes(b"replaced")
            (ours / "replacing").rename(ours / "over")
            shown(gateway, other)

            assert (theirs / "new").read_bytes() == b"here"
            assert os.pread(kept.fileno(), 6, 0) == b"newold"
            assert mapped[:3] + mapped[-3:] == b"newend"
        assert not (theirs / "renamed").exists()
        assert not (theirs / "deleted").exists()
        assert (theirs / "directory" / "moved").read_bytes() == b"renamed"
        assert (theirs / "directory" / "linked").read_bytes() == b"over"
        assert (theirs / "over").read_bytes() == b"replaced"
        assert (theirs / "attributes").stat().st_mode & 0o777 == 0o600
        assert os.getxattr(theirs / "attributes", "user.x") == b"y"
        assert tree(theirs) == tree(ours)
        found = status(other)
        assert found.read_only and found.follows and found.follow_error is None
        assert (found.files, found.logical_bytes) == (status(gateway).files, status(gateway).logical_bytes)

        (ours / "directory" / "file").unlink()
        shown(gateway, other)
        with pytest.raises(OSError) as caught:
            os.pread(kept.fileno(), 6, 0)
        assert caught.value.errno == errno.ESTALE


def test_control_without_notices_the_kernel_goes_on_believing_what_it_knows(
    gateway: Gateway, deaf: Gateway
) -> None:
    gateway.mount()
    (gateway.root / "file").write_bytes(b"old")
    barrier(gateway)
    deaf.mount("--read-only", "--follow")
    assert not (deaf.root / "new").exists()
    with open(deaf.root / "file", "rb", buffering=0) as kept:
        assert kept.read() == b"old"
        (gateway.root / "file").write_bytes(b"new")
        (gateway.root / "new").write_bytes(b"here")
        shown(gateway, deaf)
        assert os.pread(kept.fileno(), 3, 0) == b"old"
        assert not (deaf.root / "new").exists()


def test_nothing_stale_is_left_by_readers_that_look_meanwhile(gateway: Gateway, other: Gateway) -> None:
    gateway.mount()
    barrier(gateway)
    other.mount("--follow")
    churn_and_compare(gateway, other, 6)


def test_promotion(gateway: Gateway, other: Gateway) -> None:
    gateway.mount()
    content = os.urandom(3 * MIB)
    (gateway.root / "file").write_bytes(content)
    barrier(gateway)
    other.mount("-o", "follow")
    for refused in (
        lambda: (other.root / "new").touch(),
        lambda: (other.root / "file").write_bytes(b""),
        lambda: (other.root / "file").unlink(),
    ):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno == errno.EROFS
    with open(other.root / "file", "rb", buffering=0) as kept:
        assert kept.read(MIB) == content[:MIB]
        (gateway.root / "last").write_bytes(b"last")
        barrier(gateway)
        epoch = status(gateway).epoch
        said = other.command("promote", NAME)
        assert f"epoch {epoch + 1}" in said
        assert kept.read() == content[MIB:]
        assert (other.root / "last").read_bytes() == b"last"
        with open(other.root / "file", "r+b") as file:
            file.write(b"changed")
            os.fsync(file.fileno())
        assert os.pread(kept.fileno(), 7, 0) == b"changed"
    (other.root / "new").write_bytes(content)
    (other.root / "last").unlink()
    barrier(other)
    found = status(other)
    assert not found.read_only and not found.follows and found.follow_lag_s is None

    until(gateway, lambda found: found.fenced is not None, "fenced")
    assert "took the volume over" in gateway.command("status", NAME)
    with pytest.raises(OSError) as caught:
        (gateway.root / "late").touch()
    assert caught.value.errno == errno.EROFS

    done = other.run("promote", NAME)
    assert done.returncode == Invalid.exit_code and "nothing to promote" in done.stderr
    other.remount()
    assert (other.root / "new").read_bytes() == content
    assert sorted(os.listdir(other.root)) == ["file", "new"]


def test_the_roles_can_be_changed_back(gateway: Gateway, other: Gateway) -> None:
    gateway.mount()
    barrier(gateway)
    other.mount("--follow")
    (gateway.root / "first").write_bytes(b"1")
    shown(gateway, other)
    other.command("promote", NAME, "--json")
    gateway.umount()
    (other.root / "second").write_bytes(b"2")
    gateway.mount("--follow")
    shown(other, gateway)
    assert (gateway.root / "second").read_bytes() == b"2"
    gateway.command("promote", NAME)
    (gateway.root / "third").write_bytes(b"3")
    assert sorted(os.listdir(gateway.root)) == ["first", "second", "third"]


def test_what_cannot_be_promoted_says_why(gateway: Gateway, other: Gateway) -> None:
    done = gateway.run("promote", NAME)
    assert done.returncode == NotFound.exit_code and "not mounted" in done.stderr
    gateway.mount()
    done = gateway.run("promote", NAME)
    assert done.returncode == Invalid.exit_code and "nothing to promote" in done.stderr
    gateway.remount("--read-only")
    assert gateway.run("promote", NAME).returncode == Invalid.exit_code


def test_an_ended_standby_leaves_nothing(gateway: Gateway, other: Gateway) -> None:
    """Also with somebody on it who reads while notices are sent."""
    gateway.mount()
    barrier(gateway)
    other.mount("--follow")
    chance = random.Random(2)
    with readers(other.root):
        for _ in range(3):
            churn(gateway.root, chance)
            barrier(gateway)
        other.kill(15)
    other.mount("--follow")
    shown(gateway, other)
    assert tree(other.root) == tree(gateway.root)
