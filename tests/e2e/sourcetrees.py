"""Trees to back up: a small one with everything that is hard to copy, and the software of this host."""

import os
import random
import socket
import stat
import struct
import subprocess
import sysconfig
from pathlib import Path

from tests.mount.users import ALICE, BOB, STAFF

SMALL_FILES = 260
SPARSE_BYTES = 24 << 20
# VFS_CAP_REVISION_2 with CAP_NET_RAW permitted and effective: what `setcap cap_net_raw+ep` writes.
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)

ODD_NAMES = (
    b" leading and trailing ",
    b"-rf",
    b"new\nline\ttab",
    b"back\\slash 'quote' \"quotes\" $HOME `id` *?[x]",
    b"not utf-8: \xff\xfe\x80",
    b"\x01\x7f control",
    "combining e\u0301 and é, 日本語, 🗄".encode(),
    b"...",
    b"CON. ",
    b"n" * 255,
)


def build(place: Path, *, seed: int = 1) -> None:
    """Fill the empty directory `place`, which must be on a file system that can hold all of it (ext4)."""
    chance = random.Random(seed)
    _small_files(place / "small", chance)
    _contents(place / "contents", chance)
    _odd_names(place / "names")
    _links(place / "links")
    _special_files(place / "special")
    _attributes(place / "attributes", chance)
    _directories(place / "directories")


def change(place: Path, *, seed: int = 2) -> None:
    """A day's work in a tree that `build` made."""
    chance = random.Random(seed)
    for path in sorted((place / "small").rglob("*.txt"))[::7]:
        path.write_text(_text(chance, 3000))
    for path in sorted((place / "small").rglob("*.txt"))[3::11]:
        path.unlink()
    with open(place / "contents" / "random", "r+b") as file:
        file.seek(1_500_000)
        file.write(chance.randbytes(70_000))
    data = (place / "contents" / "text").read_bytes()
    (place / "contents" / "text").write_bytes(data[:700_001] + b"inserted" + data[700_001:])
    os.truncate(place / "contents" / "sparse", SPARSE_BYTES // 2 + 12_345)
    (place / "links" / "first").unlink()
    os.link(place / "links" / "second", place / "links" / "fourth")
    os.setxattr(place / "attributes" / "user", "user.short", b"changed")
    (place / "directories" / "sticky").rename(place / "directories" / "renamed")
    (place / "names" / "new today").write_text("new")


def installed_software() -> list[Path]:
    """Directories with more than 11,000 files that every host with this Python has."""
    return [Path("/usr/share/doc"), Path(sysconfig.get_path("stdlib"))]


def count_files(place: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(place))


def _text(chance: random.Random, size: int) -> str:
    words = ["pack", "chunk", "extent", "volume", "share", "epoch", "barrier", "gateway"]
    return " ".join(chance.choices(words, k=size // 7))


def _small_files(place: Path, chance: random.Random) -> None:
    for number in range(SMALL_FILES):
        directory = place / f"{number % 9}" / f"{number % 4}"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{number}.txt"
        path.write_text(_text(chance, chance.choice((0, 7, 100, 4096, 20_000))))
        path.chmod(chance.choice((0o644, 0o600, 0o755, 0o444, 0o000)))
        os.chown(path, *chance.choice(((0, 0), (ALICE, STAFF), (BOB, BOB))))
        mtime_ns = chance.choice((-(10**18) - 1, -1, 1, 1_700_000_000_123_456_789, 10**19 + 999_999_999))
        os.utime(path, ns=(0, mtime_ns))


def _contents(place: Path, chance: random.Random) -> None:
    place.mkdir()
    (place / "random").write_bytes(chance.randbytes(3 << 20))
    (place / "text").write_text(_text(chance, 2 << 20))
    (place / "twice").write_bytes((place / "random").read_bytes() * 2)
    (place / "zeros").write_bytes(bytes(1 << 20))
    (place / "empty").touch()
    (place / "one").write_bytes(b"1")
    with open(place / "sparse", "wb") as file:
        for offset in (0, 5_000_001, SPARSE_BYTES // 2, SPARSE_BYTES - 3_000_000):
            file.seek(offset)
            file.write(chance.randbytes(100_000))
        file.truncate(SPARSE_BYTES)


def _odd_names(place: Path) -> None:
    place.mkdir()
    for number, name in enumerate(ODD_NAMES):
        path = os.path.join(os.fsencode(place), name)
        if number % 2:
            os.mkdir(path)
            path = os.path.join(path, name)
        with open(path, "wb") as file:
            file.write(name)


def _links(place: Path) -> None:
    (place / "below").mkdir(parents=True)
    (place / "first").write_text("one file, three names")
    os.link(place / "first", place / "second")
    os.link(place / "first", place / "below" / "third")
    targets = {
        "relative": "below/third",
        "absolute": "/etc/hostname",
        "dangling": "no/such/file",
        "itself": "itself",
        "long": "x/" * 2000,
        "odd": "new\nline\udcff",
    }
    for name, target in targets.items():
        (place / name).symlink_to(target)
    os.link(place / "dangling", place / "dangling too", follow_symlinks=False)
    os.lchown(place / "relative", ALICE, STAFF)
    os.utime(place / "relative", ns=(0, 1_234_567_890_987_654_321), follow_symlinks=False)


def _special_files(place: Path) -> None:
    place.mkdir()
    os.mkfifo(place / "fifo", 0o640)
    os.link(place / "fifo", place / "fifo too")
    with socket.socket(socket.AF_UNIX) as server:
        descriptor = os.open(place, os.O_PATH)
        server.bind(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)
    os.mknod(place / "character", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(place / "block", 0o660 | stat.S_IFBLK, os.makedev(259, 1_000_000))


def _attributes(place: Path, chance: random.Random) -> None:
    place.mkdir()
    for name in ("user", "trusted", "security", "capability", "access list", "setuid"):
        (place / name).write_text(name)
    os.setxattr(place / "user", "user.short", b"value")
    os.setxattr(place / "user", "user.empty", b"")
    os.setxattr(place / "user", "user.binary \xff", chance.randbytes(2000))
    os.setxattr(place / "trusted", "trusted.overlay", b"y")
    os.setxattr(place / "security", "security.label", b"\0confined\0")
    os.setxattr(place / "capability", "security.capability", CAPABILITY)
    os.chown(place / "setuid", ALICE, STAFF)
    (place / "setuid").chmod(0o6755)
    (place / "link").symlink_to("user")
    os.setxattr(place / "link", "trusted.link", b"of the link", follow_symlinks=False)
    (place / "inherited").mkdir()
    os.setxattr(place / "inherited", "user.directory", b"too")
    _setfacl(place / "access list", f"u:{ALICE}:rw-,g:{STAFF}:r-x,u:{BOB}:---")
    _setfacl(place / "inherited", f"u:{ALICE}:rwx,d:u:{ALICE}:rwx,d:g:{STAFF}:r-x,d:o::---")
    (place / "inherited" / "file").write_text("has what the directory hands down")
    (place / "inherited" / "directory").mkdir()


def _directories(place: Path) -> None:
    deep = place / "deep"
    for level in range(40):
        deep /= f"level {level}"
    deep.mkdir(parents=True)
    (deep / "file").write_text("far down")
    for name, mode in {"empty": 0o755, "closed": 0o000, "sticky": 0o1777, "setgid": 0o2775}.items():
        (place / name).mkdir()
        os.chown(place / name, ALICE, STAFF)
        (place / name).chmod(mode)
    (place / "read only").mkdir()
    (place / "read only" / "file").write_text("in a directory nobody may change")
    (place / "read only").chmod(0o555)
    os.utime(place / "empty", ns=(0, -5_000_000_001))


def _setfacl(path: Path, entries: str) -> None:
    subprocess.run(["setfacl", "-m", entries, path], check=True)
