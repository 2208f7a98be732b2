"""Bytes that the kernel has in memory, without waiting for a device."""

import os
from pathlib import Path

import pytest

from cache.disk import OsDisk

DATA = bytes(range(256)) * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def test_what_is_in_memory_is_read(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    try:
        assert os.pread(fd, len(DATA), 0) == DATA
        assert OsDisk().pread_nowait(fd, 100, 50) in (DATA[50:150], None), "None where nobody can tell"
        assert OsDisk().pread_nowait(fd, 100, len(DATA) - 50) is None, "a part is not enough"
        assert OsDisk().pread_nowait(fd, 100, len(DATA) + 50) is None
    finally:
        os.close(fd)


def test_what_is_not_in_memory_is_not_waited_for(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        first = OsDisk().pread_nowait(fd, 100, 0)
        if first is not None:
            pytest.skip("this file system keeps its pages")
        assert os.pread(fd, 100, 0) == DATA[:100]
    finally:
        os.close(fd)
