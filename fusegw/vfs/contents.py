"""File data out of an index held still: which pieces a file consists of, and their bytes, for tools.

Promises: the pieces of a file cover [0, size) without overlap, and what the index cannot say is a piece with
its `problem`, never a hole; bytes are those of a chunk whose tag and id were verified, or a reason.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from fusegw.errors import Corrupt, Denied, FusegwError, Unavailable
from fusegw.meta.schema import CHUNK, EXTENT, HOLE, PACK, Extent, Inode
from fusegw.meta.view import View
from fusegw.packs.reader import ChunkRef, PackReader
from fusegw.vfs.loads import chunk_ref

Result = bytes | memoryview | FusegwError
"""A piece's bytes, or why they cannot be had."""


class Piece(msgspec.Struct, frozen=True, gc=False):
    """`length` bytes from file offset `offset`: of a chunk, of a hole (no `ref`), or in doubt (`problem`)."""

    offset: int
    length: int
    chunk: int = HOLE
    """Its number."""
    chunk_offset: int = 0
    ref: ChunkRef | None = None
    problem: str = ""

    @property
    def end(self) -> int:
        return self.offset + self.length


def pieces_of(view: View, inode: Inode) -> Iterator[Piece]:
    """The pieces of a regular file, ascending."""
    position = 0
    for offset, extent in _extents(view, inode.ino):
        if offset > position:
            yield _gap(inode, position, min(offset, inode.size))
        if extent.length <= 0 or offset < position or offset + extent.length > inode.size:
            at = min(max(offset, position), inode.size)
            end = min(max(offset + extent.length, at), inode.size)
            yield Piece(
                at, end - at, problem=f"extents of inode {inode.ino} overlap, or pass its end, at {offset}"
            )
            position = max(position, end)
            continue
        yield _piece(view, offset, extent)
        position = offset + extent.length
    if position < inode.size:
        yield _gap(inode, position, inode.size)


def batches(pieces: Iterable[Piece], raw_bytes: int) -> Iterator[list[Piece]]:
    """Pieces that have a chunk, in groups of about that many bytes of whole chunks; others are left out."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        if piece.ref is not None:
            batch.append(piece)
            size += piece.ref.location.raw
            if size >= raw_bytes:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def read_pieces(
    reader: PackReader, pieces: Sequence[Piece], *, silent: FusegwError | None = None
) -> list[Result]:
    """For each piece (all with a chunk) its bytes, or why they cannot be had. Blocking.

    When one cannot be had they are read one by one. A store that does not answer is asked once only; with
    `silent`, the reason, not even that, and what is on this host is all there is.
    """
    refs = [piece.ref for piece in pieces if piece.ref is not None]
    assert len(refs) == len(pieces), "only pieces of chunks are read"
    if silent is None:
        try:
            return [_cut(piece, raw) for piece, raw in zip(pieces, reader.read(refs), strict=True)]
        except (Unavailable, Denied) as error:
            silent = error
        except FusegwError as error:
            if len(pieces) == 1:
                return [error]
            return [result for piece in pieces for result in read_pieces(reader, [piece])]
    local = reader.read_local(refs)
    return [silent if raw is None else _cut(piece, raw) for piece, raw in zip(pieces, local, strict=True)]


def _cut(piece: Piece, raw: bytes) -> Result:
    if piece.chunk_offset + piece.length > len(raw):
        return Corrupt(f"chunk {piece.chunk:#x} is shorter than an extent says that refers to it")
    if piece.length == len(raw):
        return raw
    return memoryview(raw)[piece.chunk_offset : piece.chunk_offset + piece.length]


def _gap(inode: Inode, start: int, end: int) -> Piece:
    return Piece(
        start, max(0, end - start), problem=f"the index has no valid extent of inode {inode.ino} at {start}"
    )


def _extents(view: View, ino: int) -> Iterator[tuple[int, Extent]]:
    """A damaged row is left out, so that what it covered is a gap."""
    for raw_key, stored in view.stored(EXTENT, EXTENT.encode_key((ino, 0))):
        owner, offset = EXTENT.decode_key(raw_key)
        if owner != ino:
            return
        try:
            extent = EXTENT.decode((owner, offset), raw_key, stored)
        except Corrupt:
            continue
        yield offset, extent


def _piece(view: View, offset: int, extent: Extent) -> Piece:
    if extent.chunk == HOLE:
        return Piece(offset, extent.length)
    try:
        chunk = view.get(CHUNK, extent.chunk)
        pack = None if chunk is None else view.get(PACK, chunk.pack)
    except Corrupt as error:
        return Piece(offset, extent.length, extent.chunk, problem=str(error))
    if chunk is None or pack is None:
        what = f"chunk {extent.chunk:#x}" if chunk is None else f"pack {chunk.pack:#x}"
        return Piece(
            offset, extent.length, extent.chunk, problem=f"the index has no row of {what}, which a file needs"
        )
    if extent.chunk_offset + extent.length > chunk.raw:
        what = f"chunk {extent.chunk:#x} is shorter than an extent that refers to it"
        return Piece(offset, extent.length, extent.chunk, problem=what)
    return Piece(offset, extent.length, extent.chunk, extent.chunk_offset, chunk_ref(chunk, pack))
