"""A standby on a real kernel: what the writer's host changes is seen here, what this kernel kept is not."""

import contextlib
import errno
import mmap
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusegw.config import VolumePaths
from fusegw.control.client import ControlClient
from fusegw.control.protocol import StatusReply
from fusegw.errors import Invalid, NotFound
from tests.mount.gateways import NAME, Gateway

pytestmark = pytest.mark.mount

MIB = 1 << 20
SOON = f"[volumes.{NAME}]\nship_interval_s = 0.2\n"
WAIT_S = 30.0


def status(gateway: Gateway) -> StatusReply:
    return ControlClient(VolumePaths(gateway.state, NAME).socket_file).status()


def until(gateway: Gateway, seen: "object", what: str) -> StatusReply:
    """Wait for what the status says of it."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = status(gateway)
        if seen(found):  # type: ignore[operator]
            return found
        assert time.monotonic() < deadline, f"not seen within {WAIT_S} s: {what}: {found}"
        time.sleep(0.01)


def barrier(writer: Gateway) -> int:
    """All of the writer's is in the store; the newest segment."""
    client = ControlClient(VolumePaths(writer.state, NAME).socket_file)
    client.sync(wait=True, on_progress=lambda progress: None)
    return client.status().log_seq


def shown(writer: Gateway, standby: Gateway) -> None:
    """The standby shows all that the writer has."""
    seq = barrier(writer)
    until(standby, lambda found: found.log_seq >= seq, f"segment {seq}")


@pytest.fixture
def other(gateway: Gateway) -> Iterator[Gateway]:
    """Another host for the same volume, not mounted yet."""
    yield from elsewhere(gateway)


@pytest.fixture
def deaf(gateway: Gateway) -> Iterator[Gateway]:
    """One whose kernel is told nothing."""
    yield from elsewhere(gateway, module="tests.mount.deaf_kernel")


def elsewhere(gateway: Gateway, module: str = "fusegw.cli.main") -> Iterator[Gateway]:
    base = Path(tempfile.mkdtemp(prefix="fusegw-standby-"))
    base.chmod(0o755)
    gateway.configure(SOON)
    there = Gateway(base, module=module, volume_of=gateway)
    there.configure(SOON)
    try:
        yield there
    finally:
        there.end()
        shutil.rmtree(base)


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Every name with its attributes and content."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(directory, name)
            at = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(at.st_mode) else b""
            found[str(path.relative_to(root))] = (
                *(at.st_ino & (1 << 40) - 1, at.st_mode, at.st_nlink, at.st_size, at.st_mtime_ns, at.st_uid),
                content,
            )
    return found


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


def churn(root: Path, chance: random.Random) -> None:
    """Some changes of every kind to a small tree."""
    for _ in range(30):
        one, two = (root / f"d{chance.randrange(3)}" / f"f{chance.randrange(8)}" for _ in range(2))
        one.parent.mkdir(exist_ok=True)
        two.parent.mkdir(exist_ok=True)
        what = chance.random()
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            if what < 0.45:
                one.write_bytes(chance.randbytes(chance.choice((0, 1, 5000, 300_000))))
            elif what < 0.6:
                one.rename(two)
            elif what < 0.75:
                one.unlink()
            elif what < 0.85:
                os.link(one, two)
            elif what < 0.9:
                one.parent.rename(root / "d9")
                (root / "d9").rename(one.parent)
            else:
                os.truncate(one, chance.randrange(10_000))


READER = """
import os, sys
while True:
    for directory, _, files in os.walk(sys.argv[1]):
        for name in files + ["f1", "f2", "missing"]:
            try:
                with open(os.path.join(directory, name), "rb") as file:
                    file.read()
            except OSError:
                pass
"""


@contextlib.contextmanager
def readers(root: Path, count: int = 2) -> Iterator[None]:
    """Processes that look at everything all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", READER, root]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def churn_and_compare(writer: Gateway, standby: Gateway, rounds: int) -> None:
    chance = random.Random(1)
    with readers(standby.root):
        for number in range(rounds):
            churn(writer.root, chance)
            shown(writer, standby)
            assert tree(standby.root) == tree(writer.root), f"round {number}"


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


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_kernel_keeps_nothing_stale_in_a_hundred_rounds(gateway: Gateway, other: Gateway) -> None:
    gateway.mount()
    barrier(gateway)
    other.mount("--follow")
    churn_and_compare(gateway, other, 100)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_new_file_is_seen_within_two_ship_intervals(gateway: Gateway, other: Gateway) -> None:
    """With the defaults: 5 s, and the looks of the standby that follow from that."""
    gateway.configure("")
    other.configure("")
    gateway.mount()
    barrier(gateway)
    other.mount("--follow")
    interval_s, chance = 5.0, random.Random(3)
    waits = []
    for number in range(24):
        time.sleep(chance.random() * interval_s / 2)
        assert not (other.root / f"f{number}").exists()
        (gateway.root / f"f{number}").write_bytes(chance.randbytes(chance.choice((0, 5000, 3 * MIB))))
        barrier(gateway)
        begun = time.monotonic()
        while not (other.root / f"f{number}").exists():
            assert time.monotonic() < begun + WAIT_S
            time.sleep(0.005)
        waits.append(time.monotonic() - begun)
        assert (other.root / f"f{number}").read_bytes() == (gateway.root / f"f{number}").read_bytes()
    print(f"new files seen after their barrier: {figures(waits)} in {len(waits)} rounds (limit 10 s)")
    assert max(waits) <= 2 * interval_s


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_promotions_take_less_than_five_seconds(gateway: Gateway, other: Gateway) -> None:
    """To and fro, with the old writer writing on until it is fenced."""
    writer, standby = gateway, other
    for host in (writer, standby):
        host.configure("")
    writer.mount()
    barrier(writer)
    chance, took, fenced, kept = random.Random(4), [], [], dict[str, bytes]()
    for number in range(20):
        standby.mount("--follow")
        churn(writer.root, chance)
        kept[f"kept{number}"] = chance.randbytes(200_000)
        (writer.root / f"kept{number}").write_bytes(kept[f"kept{number}"])
        barrier(writer)
        (writer.root / f"late{number}").write_bytes(chance.randbytes(50_000))
        begun = time.monotonic()
        standby.command("promote", NAME)
        (standby.root / f"first{number}").write_bytes(b"x")
        took.append(time.monotonic() - begun)
        until(writer, lambda found: found.fenced is not None, "fenced")
        fenced.append(time.monotonic() - begun)
        with pytest.raises(OSError) as caught:
            (writer.root / "refused").touch()
        assert caught.value.errno == errno.EROFS
        found = {name: (standby.root / name).read_bytes() for name in kept}
        assert found == kept
        barrier(standby)
        writer.umount()
        writer, standby = standby, writer
    print(f"promote, command and first file written: {figures(took)} in {len(took)} rounds (limit 5 s)")
    print(f"old writer fenced after: {figures(fenced)}")
    assert max(took) < 5
    assert max(fenced) < 2 * 5


def figures(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"median {ordered[len(ordered) // 2]:.2f} s, longest {ordered[-1]:.2f} s"
