"""POSIX ACLs in the form of the `system.posix_acl_*` extended attributes: bytes in, bytes and modes out, no
I/O.

An ACL is a little-endian header (version 2) and entries of tag, permissions and id in the order owner,
users, group, groups, mask, other. It is *minimal* when it says no more than nine mode bits do. An object's
access ACL and its mode agree at all times: owner and other entries are the mode's, and the mode's group
bits are the mask (the group entry when there is no mask).
"""

import errno
import struct

ACCESS_ACL = b"system.posix_acl_access"
DEFAULT_ACL = b"system.posix_acl_default"

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID = 0xFFFFFFFF
"""The id of entries that name nobody."""

Acl = tuple[tuple[int, int, int], ...]
"""Entries of (tag, permissions, id)."""

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_PERMISSIONS = 0o777


def parse(value: bytes) -> Acl | None:
    """The entries of an attribute's value, None when it holds none; OSError EINVAL, EOPNOTSUPP (version)."""
    if not value:
        return None
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise OSError(errno.EINVAL, "ACL has the wrong length")
    if _HEADER.unpack_from(value)[0] != _VERSION:
        raise OSError(errno.EOPNOTSUPP, f"ACL is not of version {_VERSION}")
    acl = tuple(
        (tag, permissions, qualifier if tag in (USER, GROUP) else NO_ID)
        for tag, permissions, qualifier in _ENTRY.iter_unpack(value[_HEADER.size :])
    )
    if any(qualifier == NO_ID for tag, _, qualifier in acl if tag in (USER, GROUP)):
        raise OSError(errno.EINVAL, "ACL names an invalid user or group")
    return acl or None


def encode(acl: Acl) -> bytes:
    """The attribute's value."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def validate(acl: Acl) -> None:
    """OSError EINVAL unless all entries an ACL must have are there, once and in order."""
    expected, named = USER_OBJ, False
    for tag, permissions, _ in acl:
        if permissions & ~7:
            raise OSError(errno.EINVAL, f"ACL entry grants unknown permissions {permissions:#o}")
        if tag == USER_OBJ and expected == USER_OBJ:
            expected = USER
        elif (tag == USER and expected == USER) or (tag == GROUP and expected == GROUP):
            named = True
        elif tag == GROUP_OBJ and expected == USER:
            expected = GROUP
        elif tag == MASK and expected == GROUP:
            expected = OTHER
        elif tag == OTHER and (expected == OTHER or (expected == GROUP and not named)):
            expected = 0
        else:
            raise OSError(errno.EINVAL, f"ACL entry of tag {tag:#x} is out of place")
    if expected:
        raise OSError(errno.EINVAL, "ACL is incomplete")


def is_minimal(acl: Acl) -> bool:
    """Whether nine mode bits say the same."""
    return len(acl) == 3


def mode_bits(acl: Acl) -> int:
    """The nine mode bits that agree with a valid access ACL."""
    bits = 0
    for tag, permissions, _ in acl:
        if tag == USER_OBJ:
            bits |= permissions << 6
        elif tag == OTHER:
            bits |= permissions
        elif tag == MASK or (tag == GROUP_OBJ and not _has_mask(acl)):
            bits |= permissions << 3
    return bits


def with_mode(acl: Acl, mode: int) -> Acl:
    """The access ACL after chmod to `mode`: the group bits go to the mask, if there is one."""
    group_tag = MASK if _has_mask(acl) else GROUP_OBJ
    bits = {USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, OTHER: mode & 7}
    return tuple((tag, bits.get(tag, permissions), qualifier) for tag, permissions, qualifier in acl)


def inherit(default: Acl, mode: int) -> tuple[Acl, int]:
    """Access ACL and mode of an object created with `mode` in a directory with this default ACL."""
    allowed = with_mode(default, mode)
    acl = tuple(
        (tag, permissions & limit, qualifier)
        for (tag, permissions, qualifier), (_, limit, _) in zip(default, allowed, strict=True)
    )
    return acl, mode & ~_PERMISSIONS | mode_bits(acl)


def _has_mask(acl: Acl) -> bool:
    return len(acl) > 3 and any(tag == MASK for tag, _, _ in acl)
