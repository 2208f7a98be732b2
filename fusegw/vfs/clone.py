"""Clones: a file or a tree once more, in metadata only, out of a snapshot.

The copy is built out of sight, below an inode without a name that waits to be reaped: a crash, or a limit
that is met on the way, leaves something for the reaper. When it is whole, one change gives it its name, in
the place of what had it before if that is wanted; so a reader sees the old, or the new, and never half of it.
What is cloned is a snapshot's and does not change meanwhile. Everything is done in bounded steps; only what
has several names is remembered.

Copies keep mode, owner, times, extended attributes and ACLs, holes, devices and hard links among themselves.
"""

import errno
from collections.abc import Callable
from itertools import islice

import msgspec
import trio
from msgspec.structs import replace

from fusegw.clock import Clock
from fusegw.meta.chunks import Chunks
from fusegw.meta.committer import Committer
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.past import Past
from fusegw.meta.schema import (
    DIRENT,
    EXTENT,
    HOLE,
    INODE,
    POSITION,
    REAP,
    XATTR,
    Dirent,
    Inode,
)
from fusegw.vfs.directories import KIND_DIRECTORY
from fusegw.vfs.inodes import Inodes
from fusegw.vfs.namespace import Namespace
from fusegw.vfs.reaper import Reaper

_ROWS_PER_STEP = 512
_KIND_SHIFT = 12


class Cloned(msgspec.Struct):
    """What was made."""

    ino: int = 0
    files: int = 0
    """Inodes of every kind."""
    nbytes: int = 0
    """Their data, holes left out; nothing of it is stored once more."""


class _Work(msgspec.Struct):
    """A directory whose entries, or a file whose extents, are to be copied from position `at` on."""

    source: Inode
    ino: int
    at: int = 0


class Cloner:
    """Makes clones in one volume, written in `epoch`. Loop thread only."""

    def __init__(
        self,
        metadata: Metadata,
        inodes: Inodes,
        namespace: Namespace,
        chunks: Chunks,
        committer: Committer,
        reaper: Reaper,
        *,
        epoch: int,
        clock: Clock,
    ) -> None:
        self._metadata = metadata
        self._inodes = inodes
        self._namespace = namespace
        self._chunks = chunks
        self._committer = committer
        self._reaper = reaper
        self._epoch = epoch
        self._clock = clock

    async def clone(
        self,
        past: Past,
        source: int,
        parent: int,
        name: bytes,
        *,
        over: bool,
        progress: Callable[[Cloned], None] = lambda _: None,
    ) -> Cloned:
        """Put a copy of inode `source` of a snapshot into directory `parent` as `name`; `over`: in the place
        of what is there. OSError EEXIST, ENOTDIR, ESTALE, EDQUOT, ENOSPC; Full. What is new is not durable
        yet on return.
        """
        inode = past.get(INODE, source)
        if inode is None or not inode.nlink:
            raise OSError(errno.ENOENT, f"snapshot {past.snapshot.name!r} has no inode {source}")
        self._namespace.check_place(parent, name, over=over)
        done = Cloned()
        job = _Job(self, past, parent, done)
        with self._metadata.change() as change:
            root = job.make(change, inode, named=False)
            change.put(REAP, root, 0)
        # As if the kernel knew it: the reaper leaves it alone until it is let go.
        self._reaper.remember(root)
        self._reaper.unlinked(root)
        try:
            while job.work:
                await self._committer.room()
                with self._metadata.change() as change:
                    job.step(change)
                progress(done)
                await trio.lowlevel.checkpoint()
            self._namespace.attach(root, job.subdirectories, parent, name, over=over)
            self._reaper.revived(root)
        finally:
            self._reaper.forget(root, 1)
        done.ino = root
        return done


class _Job:
    """One clone on its way."""

    def __init__(self, cloner: Cloner, past: Past, parent: int, done: Cloned) -> None:
        self._cloner = cloner
        self._past = past
        self._parent = parent
        self._done = done
        self._linked: dict[int, int] = {}
        """Old inode of what has several names → new inode."""
        self.work: list[_Work] = []
        self.subdirectories = 0
        """Directories right below the root."""

    def make(self, change: Change, source: Inode, *, named: bool, parent: int = 0) -> int:
        """A new inode like `source`, empty as yet; OSError EDQUOT."""
        cloner = self._cloner
        directory = cloner._inodes.get(self._parent)
        if directory is None:
            raise OSError(errno.ESTALE, f"inode {self._parent} is gone")
        cloner._inodes.usage.refuse_files(directory.quota)
        ino = cloner._namespace.take_number(change)
        is_dir, is_file = source.is_dir, source.is_file
        new = replace(
            source,
            ino=ino,
            generation=cloner._epoch,
            nlink=(2 if is_dir else 1) if named else 0,
            size=0 if is_file else source.size,
            allocated=0,
            ctime_ns=cloner._clock.time_ns(),
            quota=directory.quota,
            parent=parent,
        )
        if is_dir:
            new = replace(new, entries=0, next_cookie=source.next_cookie)
        cloner._inodes.create(change, new)
        for (_, name), value in self._past.scan(XATTR, (source.ino, b""), (source.ino + 1, b"")):
            change.put(XATTR, (ino, name), value)
        if is_dir or (is_file and source.size):
            self.work.append(_Work(source, ino))
        self._done.files += 1
        return ino

    def step(self, change: Change) -> None:
        """Some rows further, of the newest work first: what waits is then a path and not a level."""
        work = self.work.pop()
        if work.source.is_dir:
            self._entries(change, work)
        else:
            self._extents(change, work)

    def _entries(self, change: Change, work: _Work) -> None:
        source = work.source.ino
        rows = self._past.scan(POSITION, (source, work.at), (source + 1, 0))
        found = list(islice(rows, _ROWS_PER_STEP // 4))
        if len(found) == _ROWS_PER_STEP // 4:
            self.work.append(_Work(work.source, work.ino, found[-1][0][1] + 1))
        directories = 0
        for (_, cookie), name in found:
            entry = self._past.get(DIRENT, (source, name))
            child = None if entry is None else self._past.get(INODE, entry.ino)
            if entry is None or child is None:
                raise OSError(errno.EIO, f"{name!r} in directory {source} is damaged; run a check")
            directories += entry.kind == KIND_DIRECTORY
            ino = self._child(change, child, work.ino)
            change.put(DIRENT, (work.ino, name), Dirent(ino, cookie, child.mode >> _KIND_SHIFT))
            change.put(POSITION, (work.ino, cookie), name)
        row = change.get(INODE, work.ino)
        assert row is not None, "it was made a step before"
        if not row.nlink:
            self.subdirectories += directories
            directories = 0
        row = replace(row, entries=row.entries + len(found), nlink=row.nlink + directories)
        change.put(INODE, work.ino, row)

    def _child(self, change: Change, child: Inode, parent: int) -> int:
        """The copy of what an entry stands for: a new one, or one more name of one there is."""
        ino = self._linked.get(child.ino)
        if ino is not None:
            row = change.get(INODE, ino)
            assert row is not None, "it was made before"
            change.put(INODE, ino, replace(row, nlink=row.nlink + 1))
            return ino
        ino = self.make(change, child, named=True, parent=parent if child.is_dir else 0)
        if not child.is_dir and child.nlink > 1:
            self._linked[child.ino] = ino
        return ino

    def _extents(self, change: Change, work: _Work) -> None:
        source, cloner = work.source, self._cloner
        rows = self._past.scan(EXTENT, (source.ino, work.at), (source.ino + 1, 0))
        found = list(islice(rows, _ROWS_PER_STEP))
        before = change.get(INODE, work.ino)
        assert before is not None, "it was made a step before"
        size, allocated = before.size, before.allocated
        for (_, offset), extent in found:
            if offset != size:
                raise OSError(errno.EIO, f"inode {source.ino} has no extent at {size}; run a check")
            change.put(EXTENT, (work.ino, offset), extent)
            size += extent.length
            if extent.chunk != HOLE:
                cloner._chunks.refer(change, extent.chunk)
                allocated += extent.length
        cloner._inodes.usage.refuse_bytes(before.quota, allocated - before.allocated)
        if size < source.size and not found:
            raise OSError(errno.EIO, f"inode {source.ino} has no extent at {size}; run a check")
        after = replace(before, size=size, allocated=allocated)
        change.put(INODE, work.ino, after)
        cloner._inodes.usage.moved(change, before, after)
        self._done.nbytes += allocated - before.allocated
        if size < source.size:
            self.work.append(_Work(source, work.ino, size))
