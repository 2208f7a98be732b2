"""What each quota of an index must come to, counted by walking all inodes, and whether every tree counts for
its quota."""

from collections import Counter

from fusegw.meta.metadata import Metadata
from fusegw.meta.quota import ACTIVE, REMOVING
from fusegw.meta.schema import (
    DIRENT,
    INODE,
    INODE_MAX,
    QUOTA,
    QUOTA_USED,
    ROOT_INODE,
    STATE_BYTES,
    STATE_FILES,
    Used,
)

_END = 1 << 62


def check_quotas(metadata: Metadata, *, apart: frozenset[int] = frozenset()) -> dict[int, Used]:
    """Usage by number as it is stored, which is what the inodes make; inodes `apart` may count elsewhere than
    the directories their names are in (several names, or none)."""
    inodes = dict(metadata.scan(INODE, 0, INODE_MAX + 1))
    quotas = dict(metadata.scan(QUOTA, 1, _END))
    nbytes: Counter[int] = Counter()
    files: Counter[int] = Counter()
    for inode in inodes.values():
        number = inode.quota
        for level in (0, *_chain(quotas, number)):
            nbytes[level] += inode.allocated
            files[level] += inode.nlink > 0
    used = dict(metadata.scan(QUOTA_USED, 0, _END))
    assert set(used) == set(quotas)
    expected = {number: Used(nbytes[number], files[number]) for number in quotas}
    assert used == expected
    assert (metadata.number(STATE_BYTES), metadata.number(STATE_FILES)) == (nbytes[0], files[0])
    if all(quota.state == ACTIVE for quota in quotas.values()):
        _check_trees(metadata, inodes, quotas, apart)
    return used


def _chain(quotas: dict, number: int) -> list[int]:
    found = []
    while number in quotas:
        found.append(number)
        number = quotas[number].parent
    return found


def _check_trees(metadata: Metadata, inodes: dict, quotas: dict, apart: frozenset[int]) -> None:
    uppermost = {quota.directory: number for number, quota in quotas.items() if quota.state != REMOVING}
    for (parent, name), entry in metadata.scan(DIRENT, (0, b""), (INODE_MAX + 1, b"")):
        # A number without a quota counts for the volume alone.
        number, above = (
            one if one in quotas else 0 for one in (inodes[entry.ino].quota, inodes[parent].quota)
        )
        own = uppermost.get(entry.ino)
        if own is not None:
            around = quotas[own].parent
            assert (number, around) == (own, above), f"quota {own} in {around} at {name!r}: {number}, {above}"
        elif entry.ino not in apart:
            assert number == above, f"{name!r} counts for {number}, its directory for {above}"
    assert inodes[ROOT_INODE].quota not in quotas
