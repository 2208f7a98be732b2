"""File contents on a real mount: appending, truncating, holes, mappings, direct and very large files."""

import errno
import hashlib
import mmap
import os
import random
import resource
from pathlib import Path

import pytest

from tests.mount.gateways import drop_kernel_caches

pytestmark = pytest.mark.mount

MIB = 1 << 20
TIB = 1 << 40


def write_at(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def read_at(path: Path, offset: int, length: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def test_appending_from_two_descriptors(place: Path) -> None:
    path = place / "log"
    first = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    second = os.open(path, os.O_WRONLY | os.O_APPEND)
    for _ in range(100):
        os.write(first, b"first\n")
        os.write(second, b"second\n")
    os.lseek(first, 0, os.SEEK_SET)
    os.write(first, b"end\n")
    os.close(first)
    os.close(second)
    assert path.read_bytes() == b"first\nsecond\n" * 100 + b"end\n"


def test_opening_with_truncation(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"x" * 100_000)
    reader = os.open(path, os.O_RDONLY)
    before = path.stat()
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    after = path.stat()
    assert after.st_size == 0
    assert after.st_mtime_ns > before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns
    assert os.read(reader, 10) == b""
    os.close(reader)
    path.write_bytes(b"y")
    assert path.read_bytes() == b"y"


@pytest.mark.parametrize("cached", [True, False])
def test_truncating_both_ways(place: Path, cached: bool) -> None:
    path = place / "file"
    content = os.urandom(2 * MIB)
    path.write_bytes(content)

    def check(expected: bytes) -> None:
        if not cached:
            drop_kernel_caches()
        assert path.stat().st_size == len(expected)
        assert path.read_bytes() == expected

    os.truncate(path, MIB + 5)
    check(content[: MIB + 5])
    os.truncate(path, 3 * MIB)
    check(content[: MIB + 5] + bytes(2 * MIB - 5))
    os.truncate(path, 7)
    os.truncate(path, 5000)
    check(content[:7] + bytes(4993))
    with open(path, "r+b") as file:
        os.ftruncate(file.fileno(), 0)
    check(b"")


def test_holes_read_as_zeros_and_take_no_space(place: Path) -> None:
    path = place / "sparse"
    path.touch()
    write_at(path, 50 * MIB, b"end")
    drop_kernel_caches()
    assert path.stat().st_size == 50 * MIB + 3
    assert path.stat().st_blocks * 512 < MIB
    assert read_at(path, 49 * MIB, MIB + 3) == bytes(MIB) + b"end"
    write_at(path, 10 * MIB, b"middle")
    assert read_at(path, 10 * MIB - 1, 8) == b"\0middle\0"


def test_written_zeros_are_not_stored(place: Path) -> None:
    path = place / "zeros"
    with open(path, "wb") as file:
        file.write(os.urandom(MIB))
        file.write(bytes(32 * MIB))
        file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
    drop_kernel_caches()
    assert path.stat().st_size == 34 * MIB
    assert 2 * MIB <= path.stat().st_blocks * 512 < 8 * MIB


def test_files_of_a_tebibyte(place: Path) -> None:
    path = place / "huge"
    path.touch()
    os.truncate(path, 2 * TIB)
    for offset in (0, TIB - 3, 2 * TIB - 6):
        write_at(path, offset, b"marker")
    os.sync()
    drop_kernel_caches()
    assert path.stat().st_size == 2 * TIB
    for offset in (0, TIB - 3, 2 * TIB - 6):
        assert read_at(path, offset, 6) == b"marker"
    assert read_at(path, TIB // 2, 100) == bytes(100)


def test_sizes_beyond_the_limit(place: Path) -> None:
    path = place / "file"
    path.touch()
    with open(path, "r+b") as file:
        with pytest.raises(OSError) as caught:
            os.ftruncate(file.fileno(), -1)
        assert caught.value.errno == errno.EINVAL
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
        try:
            with pytest.raises(OSError) as caught:
                os.pwrite(file.fileno(), b"x", MIB)
            assert caught.value.errno == errno.EFBIG
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == 0
    os.truncate(path, (1 << 63) - 1)
    with open(path, "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 9, (1 << 63) - 10) == bytes(9)


def test_shared_mapping_writes_and_reads(place: Path) -> None:
    path = place / "mapped"
    path.write_bytes(bytes(4 * MIB))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:5] = b"start"
        memory[2 * MIB : 2 * MIB + 6] = b"middle"
        memory[-3:] = b"end"
        memory.flush()
        os.fsync(file.fileno())
        assert read_at(path, 2 * MIB, 6) == b"middle"
        write_at(path, 100, b"through write")
        assert memory[100:113] == b"through write"
    drop_kernel_caches()
    content = path.read_bytes()
    assert content[:5] == b"start"
    assert content[100:113] == b"through write"
    assert content[2 * MIB : 2 * MIB + 6] == b"middle"
    assert content[-3:] == b"end"


def test_mapping_is_written_when_it_is_closed_without_sync(place: Path) -> None:
    path = place / "mapped"
    path.write_bytes(bytes(MIB))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[1000:1010] = b"0123456789"
    drop_kernel_caches()
    assert read_at(path, 1000, 10) == b"0123456789"


def test_private_mapping_stays_private(place: Path) -> None:
    path = place / "mapped"
    path.write_bytes(b"original" * 1000)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as memory:
        memory[:8] = b"changed!"
    assert path.read_bytes() == b"original" * 1000


def test_direct_io(place: Path) -> None:
    path = place / "direct"
    with mmap.mmap(-1, MIB) as aligned:
        content = os.urandom(MIB)
        aligned[:] = content
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT)
        assert os.pwrite(descriptor, aligned, 0) == MIB
        assert os.pwrite(descriptor, aligned, MIB) == MIB
        aligned[:] = bytes(MIB)
        assert os.preadv(descriptor, [aligned], MIB) == MIB
        assert aligned[:] == content
        os.close(descriptor)
    assert path.read_bytes() == content * 2


def test_random_overwrites_against_a_plain_copy(place: Path) -> None:
    path = place / "random"
    chance = random.Random(20)
    plain = bytearray()
    with open(path, "w+b", buffering=0) as file:
        for step in range(400):
            offset = chance.randrange(0, 3 * MIB)
            length = chance.choice((1, 100, 4096, 70_000, 300_000))
            data = chance.randbytes(length) if step % 5 else bytes(length)
            os.pwrite(file.fileno(), data, offset)
            plain.extend(bytes(max(0, offset + length - len(plain))))
            plain[offset : offset + length] = data
            if step % 40 == 7:
                size = chance.randrange(0, 3 * MIB)
                os.ftruncate(file.fileno(), size)
                del plain[size:]
                plain.extend(bytes(size - len(plain)))
            if step % 60 == 11:
                os.fsync(file.fileno())
            if step % 25 == 3:
                drop_kernel_caches()
                start = chance.randrange(0, 3 * MIB)
                assert os.pread(file.fileno(), 500_000, start) == plain[start : start + 500_000]
    drop_kernel_caches()
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(plain).digest()


def test_times_of_files_follow_their_contents(place: Path) -> None:
    path = place / "file"
    path.touch()
    stamps = [path.stat()]
    for action in (
        lambda: path.write_bytes(b"content"),
        lambda: write_at(path, 3, b"x"),
        lambda: os.truncate(path, 2),
        lambda: os.truncate(path, 100),
    ):
        action()
        stamps.append(path.stat())
        assert stamps[-1].st_mtime_ns > stamps[-2].st_mtime_ns
        assert stamps[-1].st_ctime_ns > stamps[-2].st_ctime_ns
    path.read_bytes()
    assert path.stat() == stamps[-1]  # reading leaves no trace
    drop_kernel_caches()
    assert path.stat() == stamps[-1]


def test_copying_inside_the_mount(place: Path) -> None:
    content = os.urandom(3 * MIB + 17)
    (place / "source").write_bytes(content)
    with open(place / "source", "rb") as source, open(place / "target", "wb") as target:
        left = len(content)
        while left:
            left -= os.copy_file_range(source.fileno(), target.fileno(), left)
    assert (place / "target").read_bytes() == content


def test_syncing_everything_there_is(place: Path) -> None:
    with open(place / "file", "wb") as file:
        file.write(b"x")
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    for path in (place, place / "file"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
