"""Choosing by a seed: nobody can foresee what is chosen, and the same seed chooses the same again."""

import hashlib

WHOLE = 1 << 64
"""Draws are below this."""


def draw(*numbers: int) -> int:
    """64 bits that stand for these numbers, the seed among them."""
    text = b"".join([number.to_bytes(16, "big", signed=True) for number in numbers])
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
