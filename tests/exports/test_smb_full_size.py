"""SMB at full size: 10,000 files, a file of 5 GiB, smbtorture beside ext4."""

import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.exports.smbhost import SmbHost, smb_host
from tests.exports.test_smb_files import differing, make_tree
from tests.exports.torture import SUITES, ext4, failures, tortured

pytestmark = [pytest.mark.mount, pytest.mark.samba, pytest.mark.soak]
MIB = 1 << 20


@pytest.mark.timeout(1800)
def test_a_tree_of_ten_thousand_files(smb: SmbHost, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    make_tree(there / "big", files=10_000)
    back.mkdir()
    run_client(smb, "recurse; prompt; mput big", there)
    assert differing(there / "big", smb.root / "data" / "big") == []
    run_client(smb, "recurse; prompt; mget big", back)
    assert differing(there, back) == []
    run_client(smb, "deltree big", back)


@pytest.mark.timeout(1800)
def test_a_file_of_five_gibibytes(smb: SmbHost, tmp_path: Path) -> None:
    """Larger than what fits into 32 bits, in and out."""
    block = os.urandom(MIB)
    digest = hashlib.sha256()
    with (tmp_path / "large").open("wb") as file:
        for number in range(5 << 10):
            data = number.to_bytes(8, "big") + block[8:]
            digest.update(data)
            file.write(data)
    run_client(smb, "put large", tmp_path)
    (tmp_path / "large").unlink()
    assert (smb.root / "data" / "large").stat().st_size == 5 << 30
    run_client(smb, "get large", tmp_path)
    found = hashlib.sha256()
    with (tmp_path / "large").open("rb") as file:
        while data := file.read(MIB):
            found.update(data)
    (tmp_path / "large").unlink()
    run_client(smb, "rm large", tmp_path)
    assert found.digest() == digest.digest()


@pytest.mark.timeout(5400)
async def test_smbtorture_finds_nothing_that_it_does_not_find_on_ext4() -> None:
    with ext4() as place, smb_host() as host:
        host.mount()
        expected, found = await _tortured(place, SUITES), await _tortured(host.root, SUITES)
        # Some tests depend on time: what fails here alone has to do so again.
        if again := {name.partition(".")[0].partition(":")[0] for name in _here_alone(found, expected)}:
            found |= await _tortured(host.root, sorted(again))
    for suite in SUITES:
        print(f"smb2.{suite}: {_counts(found, suite)} on fusegw, {_counts(expected, suite)} on ext4")
    print(f"failed on both: {' '.join(sorted(failures(found) & failures(expected)))}")
    print(f"failed on fusegw only: {' '.join(sorted(failures(found) - failures(expected)))}")
    assert _here_alone(found, expected) == set()


def _here_alone(found: dict[str, str], expected: dict[str, str]) -> set[str]:
    return failures(found) - failures(expected)


async def _tortured(root: Path, suites: Iterable[str]) -> dict[str, str]:
    place = root / "torture"
    place.mkdir(exist_ok=True)
    os.chown(place, 20000, 20000)
    results: dict[str, str] = {}
    async with tortured(place, mountpoint=root) as share:
        for suite in suites:
            results |= await share.run(suite)
    return results


def _counts(results: dict[str, str], suite: str) -> str:
    mine = [kind for name, kind in results.items() if name.startswith((f"{suite}.", f"{suite}:"))]
    return f"{mine.count('success')} of {len(mine) - mine.count('skip')}"


def run_client(host: SmbHost, commands: str, cwd: Path) -> None:
    done = subprocess.run(
        [*host.client_command("data", "max"), "-t", "600", "-c", commands],
        cwd=cwd, capture_output=True, text=True, timeout=1500, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "NT_STATUS" not in said, said[-2000:]
