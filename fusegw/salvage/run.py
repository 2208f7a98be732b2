"""Salvage: files whose newest acknowledged content or metadata never reached the store, into a directory.

A *source* is an index that is ahead of the store: one that a mount set aside with its packs
(`unsent-<time>`), or that of a volume which is not mounted (`meta`). Each source is written to a directory of
its own, since states that parted from the store at different times need not fit together:

    DIRECTORY/<source>/…              files that are exactly what was acknowledged, under their full paths
    DIRECTORY/<source>.incomplete/…   files of which some bytes could not be had: those read as zeros
    DIRECTORY/fusegw-salvage.json     the report

Promises: no byte is written that did not pass its tag and chunk id; a file in the first tree is whole;
nothing is written outside DIRECTORY, whatever the names say; the source stays as it is.
"""

import ctypes
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from blake3 import blake3
from msgspec.structs import replace

from fusegw.clock import Clock
from fusegw.config import UNSENT_PREFIX, VolumePaths
from fusegw.errors import Corrupt, Denied, Exists, FusegwError, Unavailable
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import (
    DIRENT,
    INODE,
    PACK,
    PACK_LOCAL,
    ROOT_INODE,
    STATE,
    STATE_VOLUME_ID,
    XATTR,
    Inode,
)
from fusegw.meta.view import View
from fusegw.packs.files import PackFiles
from fusegw.packs.reader import PackReader
from fusegw.salvage.changes import Changes, changes_of, words
from fusegw.salvage.tree import Looks, Out, Parts, Tree, disk_errors
from fusegw.store.base import ObjectStore
from fusegw.vfs.contents import Piece, Result, batches, pieces_of, read_pieces
from fusegw.vfs.paths import Paths, Place, path_text

REPORT = "fusegw-salvage.json"
_DISCARDED = ".discarded-"
_BATCH_BYTES = 8 << 20
_LISTED_MAX = 100
"""Missing ranges that are listed of one file."""
_TYPES = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFBLK: "block device", stat.S_IFCHR: "character device",
}  # fmt: skip

State = Literal["unsent", "written", "incomplete", "left out"]


class Missing(msgspec.Struct, frozen=True):
    """Bytes of a file that could not be had."""

    offset: int
    length: int
    reason: str


class File(msgspec.Struct, frozen=True, kw_only=True):
    """One inode that the store does not have as it was acknowledged."""

    path: str
    other_names: list[str] = []
    inode: int
    type: str
    size: int
    changed: list[str]
    """Of name, content, xattrs, attributes."""
    state: State = "unsent"
    """unsent: only listed; left out: could not be made at all."""
    missing: list[Missing] = []
    missing_bytes: int = 0
    problems: list[str] = []


class SourceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One source."""

    source: str
    place: str
    commits: int
    oldest_unix_s: float
    """When the oldest change that the store does not have was made."""
    tree: str | None = None
    incomplete_tree: str | None = None
    files: list[File]
    removed: list[str]
    """Names that were deleted, or that a rename took away."""
    problems: list[str]
    """What could not be read of the index."""

    @property
    def whole(self) -> bool:
        return not self.problems and all(f.state in ("unsent", "written") for f in self.files)


def sources_of(paths: VolumePaths, clock: Clock) -> list[Path]:
    """What `Salvage` can write of a volume that this process has locked; oldest first."""
    ours = paths.meta_dir
    return [*set_aside(paths), *([ours] if (ours / "data.mdb").exists() and _is_ahead(ours, clock) else [])]


def set_aside(paths: VolumePaths) -> list[Path]:
    """What mounts have set aside, oldest first; needs no lock, for nobody changes it."""
    return [place for place in paths.unsent_dirs() if (place / "meta" / "data.mdb").exists()]


def discard(source: Path) -> None:
    """Remove what was set aside; when that is cut off, the next call removes the rest."""
    source.rename(source.with_name(_DISCARDED + source.name))
    for place in source.parent.glob(_DISCARDED + "*"):
        shutil.rmtree(place)


def discard_rests(paths: VolumePaths, clock: Clock) -> None:
    """Remove packs that a mount which was cut off had set aside, once nothing is left that could need them.

    The caller has locked the volume, so no mount is at it now.
    """
    if not sources_of(paths, clock):
        for place in paths.unsent_dirs():
            shutil.rmtree(place)


def look(sources: Sequence[Path], volume_id: bytes, clock: Clock) -> list[SourceReport]:
    """What there is to salvage, as the indexes say. Blocking; needs no key."""
    found = []
    for source in sources:
        with _index(source, volume_id, clock) as view:
            found.append(_Source(view, source).run())
    return found


def salvage(
    sources: Sequence[Path],
    directory: Path,
    store: ObjectStore,
    keys: VolumeKeys,
    *,
    beside: Sequence[Path],
    clock: Clock,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[SourceReport]:
    """Write all sources below `directory`, which must be empty or missing. Blocking; durable on return.

    Packs are looked for in the source, in `beside`, then in the store. `on_progress` gets files done and in
    all, of one source after the other. Exists when there is something in `directory`; Full and Denied from
    its disk; Corrupt for an index that is none of this volume's.
    """
    with disk_errors(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise Exists(f"{directory} is not empty: name a new directory, or empty this one")
        found = []
        for source in sources:
            with _index(source, keys.volume_id, clock) as view, closing(Out(directory, source.name)) as out:
                reader = _reader(view, [source, *beside], store, keys)
                found.append(_Source(view, source, reader, out).run(on_progress))
        report = directory / REPORT
        report.touch(mode=0o600)
        report.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
        _sync(directory)
    return found


def _reader(view: View, places: Sequence[Path], store: ObjectStore, keys: VolumeKeys) -> PackReader:
    rows = [view.get(PACK, number) for number, _ in view.rows(PACK_LOCAL)]
    alone = {pack.pack_id.hex() for pack in rows if pack is not None}
    return PackReader(
        PackFiles(places, alone),
        store,
        keys,
        chunk_id_of=lambda raw: blake3(raw, key=keys.chunk_id_key).digest(),
        peek=lambda location: None,
    )


@contextmanager
def _index(source: Path, volume_id: bytes, clock: Clock) -> Iterator[View]:
    index = source / "meta" if source.name.startswith(UNSENT_PREFIX) else source
    metadata = Metadata(index, size_max_bytes=0, clock=clock)
    try:
        if metadata.get(STATE, STATE_VOLUME_ID) != volume_id:
            raise Corrupt(f"{index} does not belong to this volume: salvage it where it came from")
        with metadata.view() as view:
            yield view
    finally:
        metadata.close()


def _is_ahead(index: Path, clock: Clock) -> bool:
    metadata = Metadata(index, size_max_bytes=0, clock=clock)
    try:
        return metadata.commit_number > metadata.head.commit
    finally:
        metadata.close()


class _Source:
    """One source on its way `out`; without that it is only listed."""

    def __init__(
        self, view: View, place: Path, reader: PackReader | None = None, out: Out | None = None
    ) -> None:
        self._view = view
        self._place = place
        self._reader = reader
        self._out = out
        self._silent: FusegwError | None = None
        """Why the store is not asked any more."""

    def run(self, on_progress: Callable[[int, int], None] = lambda done, total: None) -> SourceReport:
        changes = changes_of(self._view)
        paths = Paths(self._view.rows(DIRENT), changes.inodes)
        problems = list(changes.problems)
        files: list[File] = []
        for number, ino in enumerate(sorted(changes.inodes)):
            on_progress(number, len(changes.inodes))
            try:
                found = self._inode(ino, changes, paths)
            except Corrupt as error:
                problems.append(f"inode {ino}: {error}")
            else:
                files += [] if found is None else [found]
        if self._out is not None:
            problems += self._out.finish()
        gone = [paths.parts(place) for place in changes.removed]
        return SourceReport(
            source=self._place.name,
            place=str(self._place),
            commits=changes.commits,
            oldest_unix_s=changes.since_ns / 1e9,
            tree=None if self._out is None else self._out.path(whole=True),
            incomplete_tree=None if self._out is None else self._out.path(whole=False),
            files=sorted(files, key=lambda file: file.path),
            removed=sorted(path_text(parts) for parts in gone if parts is not None),
            problems=problems,
        )

    def _inode(self, ino: int, changes: Changes, paths: Paths) -> File | None:
        """None for what has no name, and for the root, which is in no directory."""
        inode = self._view.get(INODE, ino)
        named = [] if ino == ROOT_INODE else [paths.parts(place) for place in paths.names(ino)]
        names = sorted(parts for parts in named if parts is not None)
        if inode is None or not names:
            return None
        file = File(
            path=path_text(names[0]),
            other_names=[path_text(parts) for parts in names[1:]],
            inode=ino,
            type=_TYPES.get(stat.S_IFMT(inode.mode), "unknown"),
            size=inode.size,
            changed=words(changes.inodes[ino]),
        )
        return file if self._out is None else self._write(self._out, inode, names, file, paths)

    def _write(self, out: Out, inode: Inode, names: list[Parts], file: File, paths: Paths) -> File:
        missing = self._write_data(out, inode) if inode.is_file else []
        tree = out.tree(whole=not missing)
        for place in [(inode.ino, b"")] if inode.is_dir else paths.names(inode.ino):
            self._make_directories(tree, paths.above(place[0]) or [])
        problems: list[str] = []
        if inode.is_file:
            problems = tree.file(names[0], self._looks(inode), out.spool)
        elif not inode.is_dir:
            try:
                problems = tree.special(names[0], self._looks(inode))
            except PermissionError as error:
                return replace(file, state="left out", problems=[f"cannot be made: {error.strerror}"])
        for parts in names[1:]:
            tree.link(parts, names[0])
        return replace(
            file,
            state="incomplete" if missing else "written",
            missing=missing[:_LISTED_MAX],
            missing_bytes=sum(one.length for one in missing),
            problems=problems,
        )

    def _make_directories(self, tree: Tree, above: list[Place]) -> None:
        """The root and all directories of `above`, looking as they do in the index."""
        parts: Parts = ()
        for ino, name in [(ROOT_INODE, b""), *above]:
            parts = (*parts, name) if name else parts
            if tree.lacks(parts):
                inode = self._view.get(INODE, ino)
                if inode is None:
                    raise Corrupt(f"the index has no row of directory {path_text(parts)}")
                tree.directory(parts, self._looks(inode))

    def _write_data(self, out: Out, inode: Inode) -> list[Missing]:
        """The file's bytes into the spool; returns what it lacks."""
        missing: list[Missing] = []
        descriptor = out.new_spool()
        try:
            os.ftruncate(descriptor, inode.size)
            for batch in batches(self._sound(inode, missing), _BATCH_BYTES):
                for piece, data in zip(batch, self._read(batch), strict=True):
                    if isinstance(data, FusegwError):
                        missing.append(Missing(piece.offset, piece.length, str(data)))
                    else:
                        _write_at(descriptor, data, piece.offset)
        finally:
            os.close(descriptor)
        return sorted(missing, key=lambda one: one.offset)

    def _sound(self, inode: Inode, missing: list[Missing]) -> Iterator[Piece]:
        """The pieces that the index vouches for; the others are `missing`."""
        for piece in pieces_of(self._view, inode):
            if piece.problem:
                missing.append(Missing(piece.offset, piece.length, piece.problem))
            else:
                yield piece

    def _read(self, batch: list[Piece]) -> list[Result]:
        """A store that has once not answered is not asked again: what is here comes out all the same."""
        assert self._reader is not None, "a listing reads no data"
        results = read_pieces(self._reader, batch, silent=self._silent)
        for result in results:
            if isinstance(result, Unavailable | Denied):
                self._silent = result
        return results

    def _looks(self, inode: Inode) -> Looks:
        xattrs = {}
        for (ino, name), value in self._view.rows(XATTR, (inode.ino, b"")):
            if ino != inode.ino:
                break
            xattrs[name] = value
        return Looks(inode, xattrs)


def _write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _sync(directory: Path) -> None:
    """All of the file system is on its disk on return; OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)
