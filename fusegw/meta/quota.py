"""The rows of quotas: what a tree may use, and what it uses. Sans I/O.

Number 0 is the quota of the volume as a whole; every inode counts for it, and its usage is in `STATE_BYTES`
and `STATE_FILES`. Other numbers are given out once and never again. An inode carries the number of the
innermost quota it counts for, and counts for those above it as well (`Quota.parent`).
"""

import struct

import msgspec

VOLUME_QUOTA = 0
QUOTAS_MAX = 512
"""Of one volume."""
QUOTA_NUMBER_MAX = (1 << 32) - 1

ACTIVE = 1
COUNTING = 2
REMOVING = 3
"""States: in force; the tree that was there before is being counted; it is being taken out again."""

_QUOTA = struct.Struct(">BIQQQ")
_USED = struct.Struct(">qq")


class Quota(msgspec.Struct, frozen=True, gc=False):
    """The limits of a directory and all below it; a limit of 0 is none."""

    state: int
    parent: int
    """Number of the quota around it."""
    directory: int
    """Inode of its uppermost directory."""
    bytes_max: int
    files_max: int


class Used(msgspec.Struct, frozen=True, gc=False):
    """What counts for a quota, nested ones included."""

    nbytes: int = 0
    """Sum of `Inode.allocated`."""
    files: int = 0
    """Inodes of every kind that have a name."""


def encode_quota(quota: Quota) -> bytes:
    """The stored form, without its number."""
    return _QUOTA.pack(quota.state, quota.parent, quota.directory, quota.bytes_max, quota.files_max)


def decode_quota(row: bytes) -> Quota:
    """The quota in `encode_quota`'s bytes."""
    return Quota(*_QUOTA.unpack_from(row))


def encode_used(used: Used) -> bytes:
    """The stored form."""
    return _USED.pack(used.nbytes, used.files)


def decode_used(row: bytes) -> Used:
    """What `encode_used` made."""
    return Used(*_USED.unpack_from(row))
