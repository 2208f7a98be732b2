"""The snapshots of a volume: how they come and go, and the read-only tree that each of them shows.

A snapshot is one row, so it is there whole or not at all. It holds everything that was acknowledged before
it was asked for. A deleted one is out of sight at once; what only it needed is freed in bounded steps, in the
background, and a mount goes on where the one before stopped.
"""

import errno
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import trio
from msgspec.structs import replace

from fusegw.clock import Clock
from fusegw.errors import Busy, Exists, FusegwError, Invalid, NotFound
from fusegw.meta.committer import Committer
from fusegw.meta.history import History
from fusegw.meta.metadata import Change, Metadata
from fusegw.meta.past import Past
from fusegw.meta.schema import (
    INODE,
    STATE,
    STATE_BYTES,
    STATE_FILES,
    STATE_NEXT_INODE,
    STATE_ROLLBACK,
    Inode,
    Snapshot,
    numbered,
)
from fusegw.meta.snapshot import MADE_BY_HAND, MADE_FOR_CLONE, SLOT_MAX, TIME_LABEL_PREFIX, time_label
from fusegw.meta.unshipped import Standing
from fusegw.vfs.files import Files
from fusegw.vfs.names import Names
from fusegw.vfs.reading import Reading
from fusegw.vfs.xattrs import XattrReader

NAME_MAX = 255
"""Longest name of a snapshot, in bytes."""
_NUMBER_MAX = 20
NAME_BY_TIME = "%Y-%m-%dT%H.%M.%SZ"
"""Of snapshots that are given none, in UTC."""
_ROWS_PER_STEP = 512
_RETRY_S = 0.5
_COMMITS_AHEAD = 2
"""What is merged now is in one of so many commits: one may be on its way already."""
_EPOCH_SHIFT = 40
_SLOTS_PER_EPOCH = 7919
"""Odd and prime, so that epochs that follow one another begin far from each other."""
log = logging.getLogger(__name__)


class PastInodes:
    """The inodes of a snapshot."""

    def __init__(self, past: Past) -> None:
        self._past = past

    def get(self, ino: int) -> Inode | None:
        """The inode as it was, None when there was none."""
        return self._past.get(INODE, ino)


class Tree:
    """The volume as one snapshot shows it. Loop thread only."""

    def __init__(self, past: Past, reading: Reading, *, standing: Callable[[], Standing]) -> None:
        self.snapshot = past.snapshot
        self.inodes = PastInodes(past)
        self.names = Names(past, self.inodes)
        self.xattrs = XattrReader(past, self.inodes, standing=lambda _: standing())
        self.past = past
        self._reading = reading

    async def read(self, ino: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes of a file from `offset`; short only at its end."""
        inode = self.inodes.get(ino)
        if inode is None:
            raise OSError(errno.ESTALE, f"inode {ino} is not in snapshot {self.snapshot.name!r}")
        if not inode.is_file:
            raise OSError(errno.EISDIR if inode.is_dir else errno.EINVAL, "not a regular file")
        end = min(offset + size, inode.size)
        return await self._reading.read(inode, offset, end, self.past) if end > offset else b""


class Snapshots:
    """The snapshots of one volume, in `epoch`. Loop thread only; `run` must be running for deleted ones to
    be freed."""

    def __init__(
        self,
        metadata: Metadata,
        history: History,
        committer: Committer,
        files: Files,
        reading: Reading,
        *,
        epoch: int,
        clock: Clock,
    ) -> None:
        self._metadata = metadata
        self._history = history
        self._committer = committer
        self._files = files
        self._reading = reading
        self._epoch = epoch
        self._clock = clock
        self._last = 0
        self._durable: dict[int, int] = {}
        """By sequence, a commit that has the snapshot or is younger."""
        self._seen: dict[int, int] = {}
        """By sequence, `History.changes` when the snapshot was made; those of this run alone."""
        self._trees: dict[int, Tree] = {}
        self._by_name: dict[bytes, Snapshot] = {}
        self._by_time: dict[bytes, Snapshot] = {}
        self._by_slot: dict[int, Snapshot] = {}
        self.changed_ns = 0
        """When one last came or went, as far as this run knows (since 1970)."""
        self._work = trio.Event()
        self.turn = trio.Lock()
        """Held by whoever changes which snapshots there are, or relies on them."""
        self.reload()
        self._durable = dict.fromkeys(history.live, metadata.commit_number)

    def reload(self) -> None:
        """The index was changed from outside: take over what it says."""
        self._history.reload()
        self._seen.clear()
        self._last = max([self._last, *self._history.live, *self._history.dying])
        self._trees = {seq: tree for seq, tree in self._trees.items() if seq in self._history.live}
        self._renew()

    def _renew(self) -> None:
        slots = {snapshot.slot: snapshot for snapshot in self}
        if slots != self._by_slot or not self.changed_ns:
            self.changed_ns = self._clock.time_ns()
        self._durable = {seq: commit for seq, commit in self._durable.items() if seq in self._history.live}
        self._seen = {seq: count for seq, count in self._seen.items() if seq in self._history.live}
        self._by_slot = slots
        self._by_name = {snapshot.name.encode(): snapshot for snapshot in self}
        self._by_time = {time_label(snapshot): snapshot for snapshot in self}

    def __len__(self) -> int:
        """How many are alive."""
        return len(self._by_slot)

    def __iter__(self) -> Iterator[Snapshot]:
        """Those that are alive, oldest first."""
        return iter(self._history.live.values())

    @property
    def newest(self) -> Snapshot | None:
        """The last one made that is alive; None when there is none."""
        return next(reversed(self._history.live.values()), None)

    def find(self, name: str) -> Snapshot | None:
        """The snapshot with this name, None when there is none."""
        return self.named(name.encode())

    def named(self, name: bytes) -> Snapshot | None:
        """As `find`, by the name's bytes, whatever they are."""
        return self._by_name.get(name)

    def at_time(self, label: bytes) -> Snapshot | None:
        """The newest one made in the second that SMB clients name `label` (`time_label`)."""
        return self._by_time.get(label)

    def in_slot(self, slot: int) -> Snapshot | None:
        """The one that has this place in node ids."""
        return self._by_slot.get(slot)

    def get(self, name: str) -> Snapshot:
        """The snapshot with this name; NotFound."""
        snapshot = self.find(name)
        if snapshot is None:
            raise NotFound(f"the volume has no snapshot {name!r}; fusegw snapshot list shows those it has")
        return snapshot

    def free_name(self, base: str) -> str:
        """`base`, as much of it as fits, with the first number that is free."""
        base = base.encode()[: NAME_MAX - _NUMBER_MAX].decode(errors="ignore")
        return next(name for n in count(1) if self.find(name := f"{base}-{n}") is None)

    def tree(self, snapshot: Snapshot) -> Tree:
        """What the snapshot shows."""
        tree = self._trees.get(snapshot.seq)
        if tree is None:
            standing = partial(self.standing, snapshot)
            tree = Tree(Past(self._metadata, snapshot), self._reading, standing=standing)
            self._trees[snapshot.seq] = tree
        return tree

    def standing(self, snapshot: Snapshot) -> Standing:
        """Whether the snapshot, with all that is in it, is in the store."""
        commit = self._durable.get(snapshot.seq, 0)
        stored = (
            commit <= self._metadata.unshipped.shipped_commit or self._metadata.unshipped_since_ns is None
        )
        return Standing.STORED if stored else Standing.LOCAL

    async def changed_since(self, snapshot: Snapshot) -> bool:
        """Whether anything that snapshots show has changed since; True, too, when it was made before the
        volume was opened here, or when nobody can tell."""
        await self._files.settle_all()
        return self._seen.get(snapshot.seq) != self._history.changes

    def name_by_time(self) -> str:
        """A free one, from the time; when there were several in this second, with a number."""
        name = chosen = time.strftime(NAME_BY_TIME, time.gmtime(self._clock.time_ns() // 10**9))
        number = 2
        while self.find(chosen) is not None:
            chosen = f"{name}-{number}"
            number += 1
        return chosen

    async def create(self, name: str, *, made_by: int = MADE_BY_HAND, locked_until_ns: int = 0) -> Snapshot:
        """A snapshot of everything acknowledged so far, durable on this machine on return.

        Exists, Invalid (the name), Busy (a rollback is not finished), Full.
        """
        async with self.turn:
            self._check_whole()
            self._check_new(name)
            await self._files.settle_all()
            snapshot = self.new(name, made_by=made_by, locked_until_ns=locked_until_ns)
            self._put(snapshot)
            await self._committer.commit()
        return snapshot

    def new(self, name: str, *, made_by: int, locked_until_ns: int = 0) -> Snapshot:
        """The snapshot that `put` would make of what the index says now. Exists, Invalid (the name, or there
        are too many)."""
        self._check_new(name)
        seq = max(self._last + 1, numbered(self._epoch, 1))
        return Snapshot(
            seq=seq,
            name=name,
            slot=self._free_slot(seq),
            created_ns=self._clock.time_ns(),
            next_inode=self._metadata.number(STATE_NEXT_INODE),
            files=self._metadata.number(STATE_FILES),
            nbytes=self._metadata.number(STATE_BYTES),
            locked_until_ns=locked_until_ns,
            made_by=made_by,
        )

    def put(self, change: Change, snapshot: Snapshot) -> None:
        """The snapshot is there, or is another one from now on; merge the change at once."""
        self._last = max(self._last, snapshot.seq)
        self._durable.setdefault(snapshot.seq, self._metadata.commit_number + _COMMITS_AHEAD)
        self._seen.setdefault(snapshot.seq, self._history.changes)
        self._history.put(change, snapshot)
        self._renew()

    async def delete(self, name: str) -> None:
        """The snapshot is out of sight, durably, on return; what only it needs is freed later. NotFound,
        Invalid (it is locked), Busy (a rollback is not finished), Full."""
        async with self.turn:
            self._check_whole()
            snapshot = self.deletable(name)
            self._trees.pop(snapshot.seq, None)
            self._put(replace(snapshot, dying=True))
            self._work.set()
            await self._committer.commit()

    async def delete_passing(self) -> None:
        """Delete what clones were made from that never ended."""
        for snapshot in [one for one in self if one.made_by == MADE_FOR_CLONE]:
            try:
                await self.delete(snapshot.name)
            except FusegwError as error:
                log.warning("snapshot %r of a clone that was cut off stays: %s", snapshot.name, error)

    def deletable(self, name: str) -> Snapshot:
        """The snapshot with this name, if it may be deleted now; NotFound, Invalid (it is locked)."""
        snapshot = self.get(name)
        now = self._clock.time_ns()
        if snapshot.locked_until_ns > now:
            left = (snapshot.locked_until_ns - now) // 10**9
            raise Invalid(f"snapshot {name!r} is locked for another {left} s")
        return snapshot

    async def lock(self, name: str, until_ns: int) -> Snapshot:
        """It cannot be deleted before `until_ns` (since 1970); a lock is never shortened. NotFound, Invalid,
        Full."""
        async with self.turn:
            snapshot = self.get(name)
            if until_ns < snapshot.locked_until_ns:
                raise Invalid(f"snapshot {name!r} is locked for longer than that already")
            snapshot = replace(snapshot, locked_until_ns=until_ns)
            self._put(snapshot)
            await self._committer.commit()
        return snapshot

    @property
    def backlog(self) -> int:
        """Deleted snapshots of which not everything is freed yet."""
        return len(self._history.dying)

    async def run(self) -> None:
        """Free what deleted snapshots held, until cancelled."""
        while True:
            while not self._history.dying:
                self._work = trio.Event()
                await self._work.wait()
            await self._fold()

    async def _fold(self) -> None:
        seqs = list(self._history.dying)
        cursor: bytes | None = b""
        while cursor is not None:
            try:
                await self._committer.room()
            except FusegwError:
                await trio.sleep(_RETRY_S)
                continue
            with self._metadata.change() as change:
                cursor = self._history.fold_some(change, cursor, _ROWS_PER_STEP)
                if cursor is None:
                    self._history.gone(change, seqs)
            await trio.lowlevel.checkpoint()

    def _put(self, snapshot: Snapshot) -> None:
        with self._metadata.change() as change:
            self.put(change, snapshot)

    def _check_whole(self) -> None:
        """What the index says is no state of the volume during a rollback, which needs its snapshots."""
        if self._metadata.get(STATE, STATE_ROLLBACK) is not None:
            raise Busy("a rollback of the volume is not finished: the next mount goes on with it")

    def _check_new(self, name: str) -> None:
        if not 0 < len(name.encode()) <= NAME_MAX or "/" in name or "\0" in name or name in (".", ".."):
            raise Invalid(f"{name!r} cannot be the name of a snapshot: 1 to {NAME_MAX} bytes without /")
        if name.startswith(TIME_LABEL_PREFIX):
            raise Invalid(
                f"{name!r} cannot be the name of a snapshot: {TIME_LABEL_PREFIX}… is a time to SMB clients"
            )
        if self.find(name) is not None:
            raise Exists(f"the volume has a snapshot {name!r} already")

    def _free_slot(self, seq: int) -> int:
        """Counted up with the sequence, so that a slot comes back late: what the kernel knows of the one that
        had it before must be forgotten by then."""
        taken = {row.slot for row in (*self._history.live.values(), *self._history.dying.values())}
        if len(taken) >= SLOT_MAX:
            raise Invalid(f"a volume can have {SLOT_MAX} snapshots; delete some")
        slot = seq + (seq >> _EPOCH_SHIFT) * _SLOTS_PER_EPOCH
        while slot % SLOT_MAX + 1 in taken:
            slot += 1
        return slot % SLOT_MAX + 1
