"""The NT hash of a password: MD4 (RFC 1320) over its UTF-16LE, which is what SMB's NTLM knows of it.

MD4 is broken as a hash, and OpenSSL no longer offers it by default; NTLM is defined with it all the same. The
result is as good as the password and is kept like one.
"""

import struct

_MASK = 0xFFFFFFFF
PASSWORD_CHARS_MAX = 256


def nt_hash(password: str) -> str:
    """32 upper-case hex digits."""
    return md4(password.encode("utf-16-le")).hex().upper()


def md4(message: bytes) -> bytes:
    """The MD4 digest, 16 bytes."""
    bits = len(message) * 8
    padded = message + b"\x80" + bytes((55 - len(message)) % 64) + struct.pack("<Q", bits)
    state = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
    for start in range(0, len(padded), 64):
        state = _block(state, struct.unpack_from("<16I", padded, start))
    return struct.pack("<4I", *state)


def _block(state: tuple[int, int, int, int], words: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = state
    rounds = (
        (_choose, 0, (3, 7, 11, 19), range(16)),
        (_majority, 0x5A827999, (3, 5, 9, 13), (0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)),
        (_parity, 0x6ED9EBA1, (3, 9, 11, 15), (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15)),
    )
    for mix, constant, shifts, order in rounds:
        for step, word in enumerate(order):
            total = (a + mix(b, c, d) + words[word] + constant) & _MASK
            shift = shifts[step % 4]
            a, b, c, d = d, ((total << shift) | (total >> (32 - shift))) & _MASK, b, c
    e, f, g, h = state
    return (a + e) & _MASK, (b + f) & _MASK, (c + g) & _MASK, (d + h) & _MASK


def _choose(x: int, y: int, z: int) -> int:
    return (x & y) | (~x & z)


def _majority(x: int, y: int, z: int) -> int:
    return (x & y) | (x & z) | (y & z)


def _parity(x: int, y: int, z: int) -> int:
    return x ^ y ^ z
