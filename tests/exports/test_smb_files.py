"""Files through a real smbd and smbclient: what goes in comes out, and is what the mount shows."""

import filecmp
import os
import random
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.exports.smbhost import SmbHost

pytestmark = [pytest.mark.mount, pytest.mark.samba]

NAMES = ["with space", "größe", "😀 emoji", "a" * 255, "ä" * 127, "x.tar.gz", "-dash", "UPPER", "trailing~1"]


def make_tree(root: Path, *, files: int, seed: int = 1) -> None:
    """Directories with odd names, files of all sizes, some of them alike."""
    chance = random.Random(seed)
    block = chance.randbytes(1 << 20)
    for number in range(files):
        place = root / f"d {number % 7}" / NAMES[number % len(NAMES)][:100]
        place.mkdir(parents=True, exist_ok=True)
        size = chance.choice((0, 1, 4095, 70_000, 300_000))
        start = chance.randrange(len(block) - size)
        (place / f"datei-{number} ü").write_bytes(block[start : start + size])


def differing(one: Path, other: Path) -> list[str]:
    """Paths that are not the same in both trees."""
    compared = filecmp.dircmp(one, other, ignore=[])
    found = [*compared.left_only, *compared.right_only, *compared.funny_files]
    _, unequal, errors = filecmp.cmpfiles(one, other, compared.common_files, shallow=False)
    found += [*unequal, *errors]
    for name in compared.common_dirs:
        found += [f"{name}/{path}" for path in differing(one / name, other / name)]
    return found


def test_a_tree_goes_in_and_out(smb: SmbHost, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    make_tree(there / "tree", files=120)
    back.mkdir()
    smb.client("data", "recurse; prompt; mput tree", cwd=there)
    assert differing(there / "tree", smb.root / "data" / "tree") == []
    smb.client("data", "recurse; prompt; mget tree", cwd=back)
    assert differing(there, back) == []
    smb.client("data", "deltree tree")
    assert not (smb.root / "data" / "tree").exists()


def test_a_difference_would_be_seen(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for place in (one, other):
        make_tree(place, files=5)
    next(path for path in other.rglob("*") if path.is_file() and path.stat().st_size).write_bytes(b"x")
    assert len(differing(one, other)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_names(smb: SmbHost, tmp_path: Path, name: str) -> None:
    (tmp_path / "local").write_bytes(name.encode())
    smb.client("data", f'put local "{name}"', cwd=tmp_path)
    assert (smb.root / "data" / name).read_bytes() == name.encode()
    smb.client("data", f'get "{name}" back', cwd=tmp_path)
    assert (tmp_path / "back").read_bytes() == name.encode()
    assert name in smb.client("data", "ls")
    smb.client("data", f'rm "{name}"')
    assert not (smb.root / "data" / name).exists()


def test_case_does_not_matter_unless_asked_for(smb: SmbHost, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("x")
    smb.client("data", "put local Name.TXT", cwd=tmp_path)
    smb.client("data", "get name.txt back", cwd=tmp_path)
    assert (tmp_path / "back").read_text() == "x"
    smb.client("data", "rm NAME.txt")


def test_rename_and_directories(smb: SmbHost, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("x")
    smb.client("data", "mkdir one; put local one\\a; rename one\\a one\\b; rename one two", cwd=tmp_path)
    assert [path.name for path in (smb.root / "data" / "two").iterdir()] == ["b"]
    assert smb.refusal("data", "rmdir two") == "NT_STATUS_DIRECTORY_NOT_EMPTY"
    smb.client("data", "rm two\\b; rmdir two")
    assert not (smb.root / "data" / "two").exists()


def test_timestamps(smb: SmbHost, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("x")
    smb.client("data", "put local stamped; utimes stamped -1 -1 2001:02:03-04:05:06 -1", cwd=tmp_path)
    info = smb.client("data", "allinfo stamped")
    assert re.search(r"write_time: +Sat Feb +3 04:05:06 2001", info), info
    assert int(os.stat(smb.root / "data" / "stamped").st_mtime) == 981173106
    smb.client("data", "utimes stamped 1999:01:02-03:04:05 -1 -1 -1")
    assert re.search(r"create_time: +Sat Jan +2 03:04:05 1999", smb.client("data", "allinfo stamped"))
    smb.client("data", "rm stamped")


@pytest.mark.parametrize("year", [1601, 1969, 2446, 9999])
def test_times_of_all_centuries(smb: SmbHost, tmp_path: Path, year: int) -> None:
    (tmp_path / "local").write_text("x")
    smb.client("data", f"put local stamped; utimes stamped -1 -1 {year}:02:01-01:01:46 -1", cwd=tmp_path)
    seconds = (datetime(year, 2, 1, 1, 1, 46) - datetime(1970, 1, 1)) // timedelta(seconds=1)
    assert os.stat(smb.root / "data" / "stamped").st_mtime_ns == seconds * 10**9
    info = smb.client("data", "allinfo stamped")
    assert re.search(rf"write_time: +... Feb +1 01:01:46 {year}", info), info
    smb.client("data", "rm stamped")


def test_dos_attributes(smb: SmbHost, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("x")
    smb.client("data", "put local marked; setmode marked +rhs", cwd=tmp_path)
    assert "attributes: RHSA (27)" in smb.client("data", "allinfo marked")
    assert b"user.DOSATTRIB" in b"".join(map(os.fsencode, os.listxattr(smb.root / "data" / "marked")))
    smb.client("data", "setmode marked -rhs; rm marked")


def test_alternate_streams(smb: SmbHost, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("main")
    (tmp_path / "side").write_text("beside")
    smb.client("data", "put local f; put side f:stream", cwd=tmp_path)
    smb.client("data", "get f:stream back", cwd=tmp_path)
    assert (tmp_path / "back").read_text() == "beside"
    assert (smb.root / "data" / "f").read_text() == "main"
    smb.client("data", "rm f")


def test_files_belong_to_the_user(smb: SmbHost, tmp_path: Path) -> None:
    (tmp_path / "local").write_text("x")
    smb.client("data", "put local owned", cwd=tmp_path)
    found = os.stat(smb.root / "data" / "owned")
    assert (found.st_uid, found.st_gid) == (20000, 20000)
    smb.client("data", "rm owned")


def test_a_full_disk_looks_like_the_volume(smb: SmbHost) -> None:
    assert re.search(r"\d+ blocks of size 1024. \d+ blocks available", smb.client("data", "ls"))
