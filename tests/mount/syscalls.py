"""System calls Python does not offer."""

import ctypes
import os
from pathlib import Path

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_HANDLE_BYTES_MAX = 128
_libc = ctypes.CDLL(None, use_errno=True)


class FileHandle(ctypes.Structure):
    """What an NFS server keeps of a file: `struct file_handle`."""

    _fields_ = [
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * _HANDLE_BYTES_MAX),
    ]


def renameat2(old: bytes | Path, new: bytes | Path, flags: int) -> None:
    _check(_libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)))


def handle_of(path: Path) -> FileHandle:
    """The handle of what `path` names (a symlink itself)."""
    handle = FileHandle(handle_bytes=_HANDLE_BYTES_MAX)
    mount_id = ctypes.c_int()
    name = os.fsencode(path)
    _check(
        _libc.name_to_handle_at(
            _AT_FDCWD, name, ctypes.byref(handle), ctypes.byref(mount_id), ctypes.c_int(0)
        )
    )
    return handle


def open_handle(handle: FileHandle, mount: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of what the handle means on the file system mounted at `mount`."""
    root = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _check(_libc.open_by_handle_at(root, ctypes.byref(handle), ctypes.c_int(flags)))
    finally:
        os.close(root)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
