"""Handles as NFS servers keep them outlive the kernel's memory and the gateway, and never change hands."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.mount.gateways import NAME, Gateway, drop_kernel_caches
from tests.mount.syscalls import FileHandle, handle_of, open_handle

pytestmark = pytest.mark.mount


@pytest.fixture
def tree(gateway: Gateway) -> Path:
    """A few files below the root of a mounted volume."""
    gateway.mount()
    deep = gateway.root / "one" / "two"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"content")
    return deep


def content_by(handle: FileHandle, root: Path) -> bytes:
    with os.fdopen(open_handle(handle, root), "rb") as file:
        return file.read()


def names_by(handle: FileHandle, root: Path, name: str = ".") -> list[str]:
    directory = open_handle(handle, root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        inside = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        try:
            return os.listdir(inside)
        finally:
            os.close(inside)
    finally:
        os.close(directory)


def check_stale(handle: FileHandle, root: Path) -> None:
    with pytest.raises(OSError) as caught:
        os.close(open_handle(handle, root))
    assert caught.value.errno == errno.ESTALE


def test_handles_outlive_the_kernels_memory(gateway: Gateway, tree: Path) -> None:
    handles = [handle_of(path) for path in (tree / "file", tree, gateway.root)]
    drop_kernel_caches()
    assert content_by(handles[0], gateway.root) == b"content"
    assert names_by(handles[1], gateway.root) == ["file"]
    assert names_by(handles[2], gateway.root) == ["one"]


@pytest.mark.parametrize("killed", [False, True])
def test_handles_outlive_the_gateway(gateway: Gateway, tree: Path, killed: bool) -> None:
    with open(tree / "file", "rb") as file:
        os.fsync(file.fileno())
    handles = [handle_of(path) for path in (tree / "file", tree, gateway.root)]
    if killed:
        gateway.kill()
        gateway.mount()
    else:
        gateway.remount()
    # The directory first: nothing the kernel knows leads to it, its parents are asked for as "..".
    assert names_by(handles[1], gateway.root, "..") == ["two"]
    assert content_by(handles[0], gateway.root) == b"content"
    assert names_by(handles[2], gateway.root) == ["one"]


def test_handles_of_removed_files_are_stale(gateway: Gateway, tree: Path) -> None:
    file, directory = handle_of(tree / "file"), handle_of(tree)
    (tree / "file").unlink()
    check_stale(file, gateway.root)
    shutil.rmtree(gateway.root / "one")
    drop_kernel_caches()
    check_stale(directory, gateway.root)
    for number in range(100):
        (gateway.root / f"new{number}").touch()
    check_stale(file, gateway.root)
    gateway.remount()
    for number in range(100):
        (gateway.root / f"newer{number}").touch()
    check_stale(file, gateway.root)


def test_an_inode_of_a_lost_tail_never_comes_back_as_another_file(gateway: Gateway) -> None:
    """What was not durable at a crash is gone; its inode number may be used again, its handle may not."""
    gateway.configure(f"[volumes.{NAME}]\ncommit_interval_s = 60\nship_interval_s = 3600\n")
    gateway.mount()
    (gateway.root / "kept").touch()
    descriptor = os.open(gateway.root, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    (gateway.root / "lost").write_bytes(b"lost")
    number = (gateway.root / "lost").stat().st_ino
    handle = handle_of(gateway.root / "lost")
    gateway.kill()
    gateway.mount()
    assert os.listdir(gateway.root) == ["kept"]
    (gateway.root / "new").write_bytes(b"new")
    assert (gateway.root / "new").stat().st_ino == number
    drop_kernel_caches()
    check_stale(handle, gateway.root)
    assert content_by(handle_of(gateway.root / "new"), gateway.root) == b"new"


def test_made_up_handles_are_stale(gateway: Gateway, tree: Path) -> None:
    handle = handle_of(tree / "file")
    drop_kernel_caches()
    for place in range(handle.handle_bytes):
        forged = FileHandle.from_buffer_copy(handle)
        forged.f_handle[place] ^= 0x40
        with pytest.raises(OSError) as caught:
            os.close(open_handle(forged, gateway.root))
        assert caught.value.errno == errno.ESTALE
    assert content_by(handle, gateway.root) == b"content"
