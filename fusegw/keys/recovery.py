"""The recovery key on paper: 32 random bytes as nine groups of seven letters and digits.

Each group ends in a check symbol of its own, so a typing error is found before any key is derived and
the message names the group. Reading ignores case, spaces and dashes and takes O for 0, I and L for 1.

The 256 bits and a 14-bit check of the whole make 270 bits: nine groups of 30. A group is six symbols
of five bits and the check symbol, in Crockford's base 32. The text begins with `FUSEGW`, so that people
and scanners know what they found; U is not a symbol, so the prefix cannot be part of a key.
"""

import hashlib

from fusegw.errors import Invalid

PREFIX = "FUSEGW"
KEY_SIZE = 32

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_GROUPS = 9
_GROUP_BITS = 30
_CHECK_BITS = 14
_GROUP_SYMBOLS = 7
_LABEL = b"fusegw recovery key v1\x00"
_VALUES = {symbol: value for value, symbol in enumerate(_ALPHABET)} | {"O": 0, "I": 1, "L": 1}


def _symbols(value: int, count: int) -> str:
    return "".join(_ALPHABET[(value >> (5 * place)) & 31] for place in reversed(range(count)))


def _group_check(index: int, value: int) -> int:
    """Check symbol of a group; the index is in it, so groups that changed places are found as well."""
    return hashlib.sha256(_LABEL + bytes([index]) + value.to_bytes(4)).digest()[0] & 31


def _whole_check(key: bytes) -> int:
    return int.from_bytes(hashlib.sha256(_LABEL + key).digest()[:2]) >> (16 - _CHECK_BITS)


def encode(key: bytes) -> str:
    """The text of a 32-byte recovery key, as printed and as accepted by `decode`."""
    bits = int.from_bytes(key) << _CHECK_BITS | _whole_check(key)
    groups = [PREFIX]
    for index in range(_GROUPS):
        value = bits >> (_GROUP_BITS * (_GROUPS - 1 - index)) & ((1 << _GROUP_BITS) - 1)
        groups.append(_symbols(value, 6) + _ALPHABET[_group_check(index, value)])
    return "-".join(groups)


def _compact(text: str) -> str:
    return "".join(text.split()).replace("-", "").replace("_", "").upper()


def looks_like(text: str) -> bool:
    """Whether `text` was meant as a recovery key: it has the prefix and about the length."""
    compact = _compact(text)
    length = len(PREFIX) + _GROUPS * _GROUP_SYMBOLS
    return compact.startswith(PREFIX) and abs(len(compact) - length) <= _GROUP_SYMBOLS


def decode(text: str) -> bytes:
    """The 32 bytes of a recovery key; Invalid names what is mistyped, never the text itself."""
    compact = _compact(text).removeprefix(PREFIX)
    wanted = _GROUPS * _GROUP_SYMBOLS
    if len(compact) != wanted:
        raise Invalid(
            f"the recovery key has {len(compact)} letters and digits, {wanted} are needed "
            f"({_GROUPS} groups of {_GROUP_SYMBOLS}, after {PREFIX}): type all of it"
        )
    bits = 0
    for index in range(_GROUPS):
        group = compact[index * _GROUP_SYMBOLS : (index + 1) * _GROUP_SYMBOLS]
        value = 0
        for symbol in group:
            digit = _VALUES.get(symbol)
            if digit is None:
                raise Invalid(
                    f"group {index + 1} of the recovery key has a character that no recovery key has"
                )
            value = value << 5 | digit
        value, check = value >> 5, value & 31
        if check != _group_check(index, value):
            raise Invalid(f"group {index + 1} of the recovery key is mistyped: compare it with the original")
        bits = bits << _GROUP_BITS | value
    key = (bits >> _CHECK_BITS).to_bytes(KEY_SIZE)
    if bits & ((1 << _CHECK_BITS) - 1) != _whole_check(key):
        raise Invalid("the recovery key is mistyped in more than one place: compare it with the original")
    return key
