"""Which bytes of an LMDB file hold something: of the newest state's pages, without the room left in them.

Read by hand from the file's layout (LMDB 0.9, 64-bit, pages of 4 KiB), so that a test can harm what matters.
"""

import struct

PAGE = 4096
_HEADER = struct.Struct("<QHHHH")
"""Of a page: number, padding, flags, end of the node offsets, begin of the nodes; for overflow pages the last
two are the number of pages."""
_DATABASE = struct.Struct("<IHHQQQQQ")
_META = struct.Struct("<IIQQ")
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_BIG, _SUBTREE = 0x01, 0x02
_NO_PAGE = (1 << 64) - 1


def used(data: bytes) -> list[tuple[int, int]]:
    """(begin, end) of the stretches, ascending."""
    newest = max((0, 1), key=lambda number: struct.unpack_from("<Q", data, number * PAGE + 144)[0])
    stretches = [(newest * PAGE, newest * PAGE + 152)]
    for number in range(2):
        root = _DATABASE.unpack_from(data, newest * PAGE + 16 + _META.size + number * _DATABASE.size)[7]
        _walk(data, root, stretches)
    return sorted(stretches)


def _walk(data: bytes, root: int, stretches: list[tuple[int, int]]) -> None:
    if root == _NO_PAGE:
        return
    begin = root * PAGE
    _, _, flags, lower, upper = _HEADER.unpack_from(data, begin)
    stretches += [(begin, begin + lower), (begin + upper, begin + PAGE)]
    for at in range(begin + _HEADER.size, begin + lower, 2):
        node = begin + struct.unpack_from("<H", data, at)[0]
        low, high, node_flags, key_size = struct.unpack_from("<HHHH", data, node)
        size, value = low | high << 16, node + 8 + key_size
        if flags & _BRANCH:
            _walk(data, size | node_flags << 32, stretches)
        elif node_flags & _BIG:
            first = struct.unpack_from("<Q", data, value)[0] * PAGE
            stretches.append((first, first + _HEADER.size + size))
        elif node_flags & _SUBTREE:
            _walk(data, _DATABASE.unpack_from(data, value)[7], stretches)
