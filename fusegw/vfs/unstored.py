"""How much of a file's content only this gateway has."""

import trio

from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import CHUNK, EXTENT, HOLE, PACK_LOCAL, PACK_NUMBER_END
from fusegw.meta.unshipped import Standing
from fusegw.vfs.files import Files

_EXTENTS_PER_TURN = 500


async def unstored_bytes(metadata: Metadata, files: Files, ino: int) -> int:
    """Bytes of the file in memory or in packs that are not in the store; 0 can also mean that only changes of
    the metadata are on their way.

    On the loop, a few extents at a time: what changes meanwhile may be counted before or after.
    """
    if files.standing(ino) is Standing.STORED:
        return 0
    local = dict(metadata.scan(PACK_LOCAL, 0, PACK_NUMBER_END))
    first_chunk = min((pack.first_chunk for pack in local.values()), default=None)
    total = files.unsettled_bytes(ino)
    offset = 0
    while first_chunk is not None:
        turn = 0
        for (_, start), extent in metadata.scan(EXTENT, (ino, offset), (ino + 1, 0)):
            offset = start + 1
            turn += 1
            if extent.chunk != HOLE and extent.chunk >= first_chunk:
                chunk = metadata.get(CHUNK, extent.chunk)
                if chunk is not None and chunk.pack in local:
                    total += extent.length
            if turn == _EXTENTS_PER_TURN:
                break
        if turn < _EXTENTS_PER_TURN:
            break
        await trio.lowlevel.checkpoint()
    return total
