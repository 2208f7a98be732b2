"""Rollback: the volume becomes again what a snapshot shows, row by row, in bounded steps.

A snapshot of the state before is made first and stays, so a rollback can be taken back by another one. The
job is one row that comes in the same change as that snapshot, and goes with its last step; whoever opens the
volume for writing while it is there finishes it before anything else, and starting over does no harm. Until
then nobody must see the present (`pending` tells what to show instead).

What changed since the snapshot is what the history has at or above it: those rows get their old values. What
was born since has no history: entries at or above their directory's old `next_cookie` go, and inodes at or
above the snapshot's `next_inode` are unlinked and left to the reaper. Numbers that must never come back
(`next_inode`, `next_cookie`) stay where they are.
"""

import logging
import struct
from collections.abc import Awaitable, Callable, Iterator
from itertools import groupby, islice
from typing import Any

import trio
from msgspec.structs import replace

from fusegw.errors import Busy, FusegwError
from fusegw.meta.chunks import Chunks
from fusegw.meta.codec import Table
from fusegw.meta.committer import Committer
from fusegw.meta.history import HISTORY_END, History, split_key
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.past import Past
from fusegw.meta.rebuild import Changed
from fusegw.meta.schema import (
    DIRENT,
    EXTENT,
    HISTORY,
    HOLE,
    INODE,
    INODE_MAX,
    POSITION,
    REAP,
    ROOT_INODE,
    STATE,
    STATE_ROLLBACK,
    XATTR,
    Inode,
    Snapshot,
)
from fusegw.meta.snapshot import MADE_BY_ROLLBACK
from fusegw.vfs.files import Files
from fusegw.vfs.reaper import Reaper
from fusegw.vfs.retag import Retagger
from fusegw.vfs.snapshots import Snapshots
from fusegw.vfs.usage import Usage

_RETRY_S = 1.0
log = logging.getLogger(__name__)
_JOB = struct.Struct(">QQ")
_RESTORED: tuple[Table[Any, Any], ...] = (INODE, DIRENT, POSITION, XATTR, EXTENT)
"""Inodes first: what is to be restored is out of the reaper's hands before its data comes back."""


class Rollback:
    """Rolls one volume back. Loop thread only; while it runs nobody may read or change the present.

    Whoever else rewrites extents holds `quiet`, and so does this.
    """

    def __init__(
        self,
        metadata: Metadata,
        history: History,
        snapshots: Snapshots,
        committer: Committer,
        chunks: Chunks,
        usage: Usage,
        files: Files,
        reaper: Reaper,
        retagger: Retagger,
        *,
        quiet: trio.Lock,
    ) -> None:
        self._metadata = metadata
        self._history = history
        self._snapshots = snapshots
        self._committer = committer
        self._chunks = chunks
        self._usage = usage
        self._files = files
        self._reaper = reaper
        self._retagger = retagger
        self._quiet = quiet
        self.rows_per_step = 256
        """How many are changed at once."""

    @property
    def is_pending(self) -> bool:
        """Whether a rollback has begun and is not finished."""
        return self._metadata.get(STATE, STATE_ROLLBACK) is not None

    @property
    def pending(self) -> Snapshot | None:
        """The snapshot that an unfinished rollback returns to: what is to be shown as the present."""
        row = self._metadata.get(STATE, STATE_ROLLBACK)
        if row is None:
            return None
        seq = _JOB.unpack(row)[0]
        return next(snapshot for snapshot in self._snapshots if snapshot.seq == seq)

    async def to(self, name: str) -> tuple[Snapshot, Changed]:
        """Roll back to a snapshot; the one made of the state before, and what changed of all that the kernel
        knows. Durable on return; it waits for room on a full disk. NotFound, Busy (data keeps coming in).
        """
        async with self._snapshots.turn, self._quiet:
            target = self._snapshots.get(name)
            await self._files.settle_all()
            if not self._files.is_settled:
                raise Busy("data was written while the rollback began; try again")
            safety = self._snapshots.new(
                self._snapshots.free_name(f"before-rollback-{target.name}"), made_by=MADE_BY_ROLLBACK
            )
            with self._metadata.change() as change:
                self._snapshots.put(change, safety)
                change.put(STATE, STATE_ROLLBACK, _JOB.pack(target.seq, safety.seq))
            await self._persist(self._committer.commit)
            return safety, await self._run(target)

    async def resume(self) -> None:
        """Finish a rollback that was interrupted, if there is one."""
        target = self.pending
        if target is not None:
            async with self._snapshots.turn, self._quiet:
                await self._run(target)

    async def _run(self, target: Snapshot) -> Changed:
        past = Past(self._metadata, target)
        changed = Changed()
        for table in _RESTORED:
            await self._restore(past, table, changed)
        await self._unlink_born(target, changed)
        with self._metadata.change() as change:
            change.delete(STATE, STATE_ROLLBACK)
            self._retagger.recount(change)
        await self._persist(self._committer.commit)
        return changed

    async def _restore(self, past: Past, table: Table[Any, Any], changed: Changed) -> None:
        """Give all rows of a table that have changed their old values."""
        code = bytes((table.code,))
        cursor, end = code, bytes((table.code + 1,))
        while True:
            groups = list(islice(self._changed(cursor, end, past.snapshot.seq), self.rows_per_step))
            if not groups:
                return
            if table is INODE:
                await self._put_inodes_back([past.decode(table, *group) for group in groups], changed)
            else:
                with self._metadata.change() as change:
                    for group in groups:
                        self._put_back(change, past, table, *past.decode(table, *group), changed)
            cursor = groups[-1][0] + HISTORY_END
            await self._breathe()

    def _changed(self, cursor: bytes, end: bytes, seq: int) -> Iterator[tuple[bytes, bytes]]:
        """The prefix of each key that has changed since, and its row of the history for this snapshot."""
        rows = self._metadata.scan(HISTORY, cursor, end)
        for prefix, group in groupby(rows, key=lambda row: split_key(row[0])[0]):
            for key, row in group:
                if split_key(key)[1] >= seq:
                    yield prefix, row
                    break

    def _put_back(
        self, change: Change, past: Past, table: Table[Any, Any], key: Any, old: Any, changed: Changed
    ) -> None:
        now = change.get(table, key)
        if now == old:
            return
        if table in (XATTR, EXTENT):
            # Inodes are as they were by now.
            inode = change.get(INODE, key[0])
            if inode is None or not inode.nlink:
                # It had no name then, so it is not there afterwards: the reaper has it.
                return
        if table is EXTENT:
            # The new reference first: the old one may be the last to the same chunk.
            if old is not None and old.chunk != HOLE:
                self._chunks.refer(change, old.chunk)
            change.put(table, key, old, was=now)
            if now is not None and now.chunk != HOLE:
                self._chunks.unrefer(change, now.chunk)
        else:
            change.put(table, key, old, was=now)
        self._note(changed, table, key)

    async def _put_inodes_back(self, olds: list[tuple[int, Inode | None]], changed: Changed) -> None:
        gone: list[Inode] = []
        back: list[Inode] = []
        with self._metadata.change() as change:
            for ino, old in olds:
                now = change.get(INODE, ino)
                # A directory without a name may have been on its way to the reaper with all below it.
                if old is not None and (old.nlink or old.entries):
                    self._put_inode_back(change, now, old, changed)
                    back.append(old)
                elif now is not None and now.nlink:
                    gone.append(now)
        for old in back:
            if old.nlink:
                self._reaper.revived(old.ino)
            else:
                self._reaper.unlinked(old.ino)
            if old.is_dir:
                await self._empty(old.ino, old.next_cookie, changed)
        await self._unlink(gone, changed)

    def _put_inode_back(self, change: Change, now: Inode | None, old: Inode, changed: Changed) -> None:
        if old.is_dir:
            highest = self._history.cookie_floor(old.ino) if now is None else now.next_cookie
            old = replace(old, next_cookie=max(old.next_cookie, highest))
        if not old.nlink:
            change.put(REAP, old.ino, 0)
        elif self._reaper.is_unlinked(old.ino):
            change.delete(REAP, old.ino)
        if now == old:
            return
        change.put(INODE, old.ino, old, was=now)
        self._usage.moved(change, now, old)
        self._note(changed, INODE, old.ino)

    async def _unlink_born(self, target: Snapshot, changed: Changed) -> None:
        """What was made since goes."""
        cursor = target.next_inode
        while True:
            rows = list(islice(self._metadata.scan(INODE, cursor, INODE_MAX + 1), self.rows_per_step))
            if not rows:
                return
            await self._unlink([inode for _, inode in rows if inode.nlink], changed)
            cursor = rows[-1][0] + 1
            await self._breathe()

    async def _unlink(self, inodes: list[Inode], changed: Changed) -> None:
        """What had no name then is left to the reaper."""
        for inode in inodes:
            if inode.is_dir:
                await self._empty(inode.ino, 0, changed)
        with self._metadata.change() as change:
            for inode in inodes:
                left = replace(inode, nlink=0, parent=0, entries=0)
                change.put(INODE, inode.ino, left, was=inode)
                self._usage.moved(change, inode, left)
                change.put(REAP, inode.ino, 0)
                self._note(changed, INODE, inode.ino)
        for inode in inodes:
            self._reaper.unlinked(inode.ino)

    async def _empty(self, directory: int, cookie: int, changed: Changed) -> None:
        """Take the entries at or above this cookie out of a directory."""
        while True:
            low, high = (directory, cookie), (directory + 1, 0)
            rows = list(islice(self._metadata.scan(POSITION, low, high), self.rows_per_step))
            if not rows:
                return
            with self._metadata.change() as change:
                for key, name in rows:
                    change.delete(POSITION, key, was=name)
                    entry = change.get(DIRENT, (directory, name))
                    if entry is not None and entry.cookie == key[1]:
                        change.delete(DIRENT, (directory, name), was=entry)
                        self._note(changed, DIRENT, (directory, name))
            await self._breathe()

    def _note(self, changed: Changed, table: Table[Any, Any], key: Any) -> None:
        """Only what the kernel may have: memory is bounded by what it keeps."""
        ino = key if table is INODE else key[0]
        if table is not POSITION and (ino == ROOT_INODE or self._reaper.is_known(ino)):
            changed.note(table.code, table.encode_key(key))

    async def _breathe(self) -> None:
        await self._persist(self._committer.room)
        await trio.lowlevel.checkpoint()

    async def _persist(self, commit: Callable[[], Awaitable[None]]) -> None:
        """There is no way back: what cannot be saved now is tried again."""
        while True:
            try:
                await commit()
                return
            except FusegwError as error:
                log.error("the rollback waits: %s", error)
                await trio.sleep(_RETRY_S)
