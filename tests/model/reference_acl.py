"""POSIX ACLs for the reference: the attribute's bytes as lists of entries, with the rules of Linux."""

import errno
import os
import re
import struct
from dataclasses import dataclass

_TAGS = {1: "U", 2: "u", 4: "G", 8: "g", 16: "M", 32: "O"}
_ANYBODY = 0xFFFFFFFF


def fail(code: int) -> OSError:
    """The error of a failing call, as the kernel words it."""
    return OSError(code, os.strerror(code))


@dataclass(frozen=True)
class AclValue:
    """An ACL as the list of its entries (tag letter, id, permissions)."""

    entries: tuple[tuple[str, int, int], ...]

    @classmethod
    def of_mode(cls, mode: int, has_mask: bool) -> "AclValue":
        """What nine mode bits say; the group's go to the mask if there is one."""
        group = "M" if has_mask else "G"
        bits = (("U", mode >> 6 & 7), (group, mode >> 3 & 7), ("O", mode & 7))
        return cls(tuple((tag, _ANYBODY, permissions) for tag, permissions in bits))

    @property
    def has_mask(self) -> bool:
        return any(tag == "M" for tag, _, _ in self.entries)

    @property
    def mode(self) -> int:
        bits = {tag: permissions for tag, _, permissions in self.entries}
        return bits["U"] << 6 | bits.get("M", bits["G"]) << 3 | bits["O"]

    def replaced(self, by: "AclValue") -> "AclValue":
        """With the permissions of `by` for the tags it has."""
        bits = {tag: permissions for tag, _, permissions in by.entries}
        return AclValue(tuple((tag, who, bits.get(tag, old)) for tag, who, old in self.entries))

    def __and__(self, by: "AclValue") -> "AclValue":
        bits = {tag: permissions for tag, _, permissions in by.entries}
        return AclValue(tuple((tag, who, old & bits.get(tag, 7)) for tag, who, old in self.entries))

    def check(self) -> None:
        order = "".join(tag for tag, _, _ in self.entries)
        if not re.fullmatch("UGO|Uu*Gg*MO", order) or any(bits > 7 for _, _, bits in self.entries):
            raise fail(errno.EINVAL)

    def encode(self) -> bytes:
        numbers = {tag: number for number, tag in _TAGS.items()}
        return struct.pack("<I", 2) + b"".join(
            struct.pack("<HHI", numbers[tag], permissions, who) for tag, who, permissions in self.entries
        )


def parse_acl(value: bytes) -> AclValue | None:
    """None for an ACL without entries; EINVAL, EOPNOTSUPP."""
    if value and (len(value) < 4 or len(value) % 8 != 4):
        raise fail(errno.EINVAL)
    if value and value[:4] != struct.pack("<I", 2):
        raise fail(errno.EOPNOTSUPP)
    entries = []
    for tag, permissions, who in struct.iter_unpack("<HHI", value[4:]):
        if tag not in _TAGS or (tag in (2, 8) and who == _ANYBODY):
            raise fail(errno.EINVAL)
        entries.append((_TAGS[tag], who if tag in (2, 8) else _ANYBODY, permissions))
    return AclValue(tuple(entries)) if entries else None
