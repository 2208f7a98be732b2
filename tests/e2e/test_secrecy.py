"""What was written is found in clear neither in the store nor in the cache, whoever greps there, and when.

Names, symlink targets and extended attributes lie readable in the metadata index; that is documented, and the
index is closed to everybody else.
"""

import os
import random
import signal
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.mount.gateways import PASSPHRASE, Gateway

pytestmark = pytest.mark.mount

IN_CONTENTS = ("contents-4Xq9-text", "contents-7Rw2-random", "contents-1Kd8-small", "contents-6Hn5-mapped")
IN_NAMES = ("name-2Lp6-file", "name-8Vb3-directory", "name-5Zt1-target", "name-3Mc7-xattr", "name-9Fs4-value")


def grep(markers: Iterable[str], *places: Path) -> dict[str, list[str]]:
    """Per marker the files below `places` in which it occurs, also within binary data."""
    found = {}
    for marker in markers:
        command = ["grep", "--recursive", "--text", "--files-with-matches", "--fixed-strings", "-e", marker]
        environment = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
        done = subprocess.run([*command, *places], capture_output=True, text=True, env=environment)
        assert done.returncode in (0, 1), done.stderr
        found[marker] = done.stdout.split()
    return found


def nowhere(markers: Iterable[str]) -> dict[str, list[str]]:
    return {marker: [] for marker in markers}


def names_with(markers: Iterable[str], *places: Path) -> list[str]:
    """Paths below `places` that carry a marker themselves."""
    listed = [str(path) for place in places for path in place.rglob("*")]
    return [path for path in listed if any(marker in path for marker in markers)]


def write(root: Path) -> None:
    """All markers, in every place a file system has for text."""
    text, scattered, small, mapped = IN_CONTENTS
    file, directory, target, attribute, value = IN_NAMES
    chance = random.Random(3)
    (root / directory).mkdir()
    (root / directory / file).write_text(f"{text}\n" * 300_000)
    with open(root / "random", "wb") as out:
        for _ in range(20):
            out.write(chance.randbytes(200_000) + scattered.encode() + chance.randbytes(200_000))
    for number in range(30):
        (root / directory / f"small {number}").write_text(f"{small} {number}")
    with open(root / "mapped", "wb") as out:
        out.truncate(1 << 20)
        out.seek(700_000)
        out.write(mapped.encode())
    (root / "link").symlink_to(f"/{target}")
    os.setxattr(root / "random", f"user.{attribute}", value.encode() * 20)


def open_to_others(place: Path) -> list[str]:
    """Directories that are not 0700 and files that are not 0600, `place` included."""
    wrong = []
    for path in (place, *place.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_IMODE(mode) != (0o700 if stat.S_ISDIR(mode) else 0o600):
            wrong.append(f"{path}: {stat.filemode(mode)}")
    return wrong


def check_secrets(gateway: Gateway) -> None:
    """At any moment: markers, passphrase and recovery key are where they may be, and nowhere else."""
    recovery = (gateway.base / "recovery").read_text().split()[0]
    places = (gateway.store, gateway.cache)
    secrets = (PASSPHRASE, recovery)
    everything = (*IN_CONTENTS, *IN_NAMES, *secrets)
    assert grep(everything, *places) == nowhere(everything)
    assert names_with(everything, *places, gateway.state) == []
    # Contents and keys are not in the state directory either.
    assert grep((*IN_CONTENTS, *secrets), gateway.state) == nowhere((*IN_CONTENTS, *secrets))
    assert open_to_others(gateway.state) == []
    assert open_to_others(gateway.cache) == []


@pytest.mark.slow
def test_markers_are_found_nowhere(gateway: Gateway) -> None:
    # Nothing is shipped by the clock, so that open packs are seen too.
    gateway.configure('[volumes.tank]\nship_interval_s = 3600\npack_size = "4M"\n')
    gateway.mount()
    write(gateway.root)
    check_secrets(gateway)
    for name in ("random", "mapped"):
        descriptor = os.open(gateway.root / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    assert any(gateway.cache.rglob("packs/*/*"))
    check_secrets(gateway)
    gateway.kill(signal.SIGKILL)
    check_secrets(gateway)
    gateway.mount()
    write_again = gateway.root / "again"
    write_again.mkdir()
    write(write_again)
    gateway.command("sync", "--wait")
    check_secrets(gateway)
    gateway.command("cache", "drop")
    # The control: on the mount each is found, so grep can find them, and reading brings them into the cache.
    for marker, files in grep(IN_CONTENTS, write_again).items():
        assert files != [], marker
    check_secrets(gateway)
    gateway.umount()
    assert any((gateway.store / "packs").rglob("*"))
    check_secrets(gateway)


def test_the_search_sees_what_lies_open(gateway: Gateway, base: Path) -> None:
    """The control: names are in the metadata index, as documented, and open files are named."""
    gateway.mount()
    write(gateway.root)
    gateway.umount()
    index = gateway.state / "volumes" / "tank" / "meta" / "data.mdb"
    assert {marker: [str(index)] for marker in IN_NAMES} == grep(IN_NAMES, gateway.state)
    leak = gateway.cache / IN_NAMES[0]
    leak.write_bytes(b"\0\xff" + IN_CONTENTS[0].encode() + b"\0")
    leak.chmod(0o640)
    assert grep(IN_CONTENTS, gateway.cache)[IN_CONTENTS[0]] == [str(leak)]
    assert names_with(IN_NAMES, gateway.cache) == [str(leak)]
    assert open_to_others(gateway.cache) == [f"{leak}: -rw-r-----"]
