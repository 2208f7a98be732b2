"""Sizes as people write them: "512K", "10G", "1.5TiB"; all suffixes are powers of 1024."""

import re

from fusegw.errors import Invalid

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGTPE]?)(?:I?B)?\s*", re.IGNORECASE)
_UNIT_SHIFT = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
_BYTES_MAX = 1 << 62


def parse_size(text: str) -> int:
    """Bytes meant by "4096", "512K", "10G" or "1.5TiB" (powers of 1024); Invalid for anything else."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Invalid(f"{text!r} is not a size: expected a number and one of K, M, G, T, such as 10G")
    value = float(match[1]) * (1 << _UNIT_SHIFT[match[2].upper()])
    if value > _BYTES_MAX:
        raise Invalid(f"{text!r} is more than any disk holds: expected a size such as 10G")
    return int(value)
