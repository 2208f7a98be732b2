"""A tree is encrypted through SMB, as malware on a client does it, and is back by one rollback."""

import hashlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exports.smbhost import SmbHost, data_host
from tests.exports.test_previous_versions import snapshot, versions
from tests.mount.gateways import NAME
from tests.mount.test_putting_back import roll_back

pytestmark = [pytest.mark.mount, pytest.mark.samba]
PER_DIRECTORY = 50
SUFFIX = ".locked"


@pytest.fixture
def host() -> Iterator[SmbHost]:
    with data_host() as host:
        yield host


def content(number: int) -> bytes:
    return b"document %d\n" % number * (20 + number % 200)


def encrypted(number: int) -> bytes:
    data = content(number)
    return hashlib.shake_256(data).digest(len(data))


def fill(place: Path, files: int) -> None:
    for number in range(files):
        where = place / f"{number // PER_DIRECTORY}"
        if not number % PER_DIRECTORY:
            where.mkdir()
            where.chmod(0o777)
        (where / f"document-{number}").write_bytes(content(number))
        (where / f"document-{number}").chmod(0o666)


def attack(host: SmbHost, files: int, base: Path) -> None:
    """Half of the directories are overwritten in place; in the others an encrypted copy is put beside each
    file, which is then deleted. Each gets a note."""
    deletions = []
    for number in range(files):
        where = base / f"{number // PER_DIRECTORY}"
        beside = number // PER_DIRECTORY % 2
        if not number % PER_DIRECTORY:
            where.mkdir(parents=True)
            (where / "READ ME").write_text("pay")
            if beside:
                deletions.append(f"del {where.name}\\document-*")
        (where / f"document-{number}{SUFFIX * beside}").write_bytes(encrypted(number))
    # Deletions first: their pattern fits the copies as well.
    for commands in ("; ".join(deletions), "recurse; prompt; mput *"):
        if commands:
            done = subprocess.run(
                [*host.client_command("data", "max"), "-t", "600", "-c", commands],
                cwd=base, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert done.returncode == 0 and "NT_STATUS" not in done.stdout + done.stderr, done.stdout[-2000:]


def found(place: Path) -> dict[str, bytes]:
    """Every file, and a hash of what is in it."""
    return {
        str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).digest()
        for file in place.rglob("*")
        if file.is_file()
    }


def expected(files: int) -> dict[str, bytes]:
    return {
        f"{number // PER_DIRECTORY}/document-{number}": hashlib.sha256(content(number)).digest()
        for number in range(files)
    }


def survive(host: SmbHost, files: int, tmp_path: Path) -> None:
    place = host.root / "data"
    fill(place, files)
    good = snapshot(host, "good")
    host.command("snapshot", "create", NAME, "kept", "--lock-for", "1h")
    begun = time.monotonic()
    attack(host, files, tmp_path / "evil")
    attack_s = time.monotonic() - begun
    spoilt = found(place)
    assert not set(spoilt.items()) & set(expected(files).items())

    # What a user would see and do for one file.
    assert good in versions(host.client("data", "allinfo 0\\document-7"))
    host.client("data", f"get {good}\\0\\document-7 back", cwd=tmp_path)
    assert (tmp_path / "back").read_bytes() == content(7)
    # Nor can the last way back be taken away, or be lost by going back past it.
    refused = host.run("snapshot", "delete", NAME, "kept")
    assert refused.returncode and "locked" in refused.stderr

    begun = time.monotonic()
    before = roll_back(host, "good")
    rollback_s = time.monotonic() - begun
    print(f"\n{files:,} files encrypted through SMB in {attack_s:.0f} s, rolled back in {rollback_s:.1f} s")
    assert found(place) == expected(files)
    host.client("data", "get 0\\document-8 back", cwd=tmp_path)
    assert (tmp_path / "back").read_bytes() == content(8)
    assert found(host.root / ".snapshots" / "kept" / "data") == expected(files)
    assert found(host.root / ".snapshots" / before / "data") == spoilt


def test_a_tree_is_encrypted_and_back(host: SmbHost, tmp_path: Path) -> None:
    survive(host, 2 * PER_DIRECTORY, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_files_are_encrypted_and_back(host: SmbHost, tmp_path: Path) -> None:
    survive(host, 100_000, tmp_path)
