"""A position of the log in one line, to keep elsewhere and to hold a store against: `EPOCH:SEGMENT:HASH`.

The hash chain fixes all history before it, so one such line proves later that the store still contains it.
"""

import re

from fusegw.errors import Invalid
from fusegw.meta.schema import EPOCH_MAX, HASH_SIZE, Head

ANCHOR_BYTES_MAX = 1 << 20
"""Of a file that holds anchors."""

_ANCHOR = re.compile(
    rf"(?<![0-9A-Za-z])([0-9]{{1,8}}):([0-9]{{1,16}}):([0-9a-f]{{{2 * HASH_SIZE}}})(?![0-9a-z])"
)


def anchor_text(head: Head) -> str:
    """The line for a position."""
    return f"{head.epoch}:{head.seq}:{head.hash.hex()}"


def anchor_in(text: str, what: str) -> Head:
    """The last anchor in `text`, alone or among other things. Invalid when there is none."""
    found = list(_ANCHOR.finditer(text))[-1:]
    if not found:
        raise Invalid(f"{what} holds no anchor: expected EPOCH:SEGMENT:HASH as fusegw anchor prints it")
    epoch, seq, digest = int(found[0][1]), int(found[0][2]), bytes.fromhex(found[0][3])
    if not (0 < epoch <= EPOCH_MAX and seq > 0):
        raise Invalid(f"{what}: {found[0][0]!r} is no position of a log")
    return Head(seq, digest, epoch)
