"""Which checkpoints and segments stay in the store, and taking the others away.

Kept are the newest two checkpoints that count, whatever their age; of the others of the retention time some,
at a spacing, since the log between them makes up for the rest; and the newest one before that time. So every
position of that time can be recovered. Segments go, in ascending order, only below the oldest kept
checkpoint, and only once there are two; a takeover segment never goes, nor does the segment of a kept
position. So a writer that was taken over finds its next slot taken, for ever.

Order and crashes: of a checkpoint the manifest goes first, so what a crash leaves counts for nothing;
segments go after the checkpoints that needed them. Folders that never got a manifest go when a newer
checkpoint counts; those that another gateway may be writing lie above every position this one has shipped.
"""

import logging
from collections.abc import Callable

from fusegw.errors import Corrupt, Fenced, NotFound, UnknownFormat
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.schema import Head
from fusegw.ship import checkpoint, segment
from fusegw.ship.checkpoint import MANIFEST
from fusegw.ship.checkpoints import Folder, Written, examine, folders
from fusegw.ship.kept import KeptRecord
from fusegw.ship.segment import CHANGES, SEGMENT_BYTES_MAX, TAKEOVER
from fusegw.store.base import DELETE_BATCH_MAX, ObjectStore

log = logging.getLogger(__name__)
KEPT_MIN = 2
"""Checkpoints that stay whatever their age; the log is not pruned before there are as many."""


class Retention:
    """Passes over one volume's store in one reign. Blocking; one thread at a time."""

    def __init__(
        self,
        store: ObjectStore,
        keys: VolumeKeys,
        record: KeptRecord,
        *,
        began: int,
        retention_s: float,
        spacing_s: float,
    ) -> None:
        """`began` is the takeover segment of this reign: what follows it are this gateway's changes. `record`
        learns what is about to go."""
        self._store = store
        self._keys = keys
        self._record = record
        self._began = began
        self._retention_ns = int(retention_s * 1e9)
        self._spacing_ns = int(spacing_s * 1e9)
        self._stay: set[int] = {began}
        """Segments that are takeovers, or of which that cannot be told."""
        self._sure = False

    def sweep(self, newest: Written, now_ns: int, still_ours: Callable[[], None]) -> None:
        """After `newest` was written: take away what is not kept. `still_ours` raises when this gateway must
        not change the store any more; it is asked before each deletion."""
        there = [folder for folder in folders(self._store) if folder.name.seq <= newest.name.seq]
        counting = [(folder, written) for folder in there if (written := self._examined(folder)) is not None]
        kept = _kept([written for _, written in counting], now_ns - self._retention_ns, self._spacing_ns)
        if not kept:  # another gateway gave up the one just written
            still_ours()
            return
        oldest = kept[-1].name
        stays = {written.name for written in kept}
        counts = {folder.name for folder, _ in counting}
        # One that does not count, but may tell of something, stays as long as its neighbours.
        going = [
            folder
            for folder in reversed(there)
            if folder.name not in stays
            and (folder.name in counts or not folder.finished or folder.name < oldest)
        ]
        prune = len(kept) >= KEPT_MIN
        gone = {folder.name for folder in going if folder.finished}
        self._record.let_go(gone, oldest=oldest, prune=prune)
        for folder in going:
            self._delete(folder, still_ours)
        if prune:
            self._prune(oldest.seq, still_ours)

    def _examined(self, folder: Folder) -> Written | None:
        if not folder.finished:
            return None
        try:
            return examine(self._store, self._keys, folder)
        except (Corrupt, UnknownFormat) as error:
            log.warning("a checkpoint does not count: %s", error)
            return None

    def _delete(self, folder: Folder, still_ours: Callable[[], None]) -> None:
        still_ours()
        log.info("taking checkpoint %s away", folder.name)
        if folder.finished:
            self._store.delete([checkpoint.object_key(folder.name, MANIFEST)])
        parts = sorted(number for number in folder.sizes if number != MANIFEST)
        self._store.delete([checkpoint.object_key(folder.name, number) for number in parts])

    def _prune(self, below: int, still_ours: Callable[[], None]) -> None:
        """Take the segments below `below` away that are no takeovers."""
        if not self._sure:
            self._check_reign()
        batch: list[str] = []
        for entry in self._store.list("log/"):
            seq = segment.number_of(entry.key)
            if seq is None:
                continue
            if seq >= below:
                break
            if self._may_go(seq):
                batch.append(entry.key)
            if len(batch) == DELETE_BATCH_MAX:
                still_ours()
                self._store.delete(batch)
                batch = []
        if batch:
            still_ours()
            self._store.delete(batch)

    def _check_reign(self) -> None:
        """What follows `began` is taken away unread, so nothing but a takeover may stand there."""
        key = segment.object_key(self._began)
        found, _ = segment.opened(self._store.get(key, size_max=SEGMENT_BYTES_MAX), self._began, self._keys)
        if found.kind != TAKEOVER:
            raise Corrupt(f"log segment {key} does not begin a reign: nothing of the log is taken away")
        self._sure = True

    def _may_go(self, seq: int) -> bool:
        if seq in self._stay:
            return False
        if seq > self._began:
            return True
        try:
            data = self._store.get(segment.object_key(seq), size_max=SEGMENT_BYTES_MAX)
            found, _ = segment.opened(data, seq, self._keys)
        except NotFound:
            return False
        except (Corrupt, UnknownFormat):
            self._stay.add(seq)
            return False
        if found.kind == CHANGES:
            return True
        self._stay.add(seq)
        return False


def refuse_once_fenced(store: ObjectStore, keys: VolumeKeys, head: Head) -> None:
    """Blocking: Fenced when the log goes on after `head` in another epoch than its own."""
    seq = head.seq + 1
    while True:
        try:
            data = store.get(segment.object_key(seq), size_max=SEGMENT_BYTES_MAX)
        except NotFound:
            return
        found, _ = segment.opened(data, seq, keys)
        if found.kind == TAKEOVER or found.epoch != head.epoch:
            raise Fenced(f"{found.writer or 'another gateway'} took the volume over (epoch {found.epoch})")
        seq += 1


def _kept(counting: list[Written], limit_ns: int, spacing_ns: int) -> list[Written]:
    """Of the checkpoints that count, newest first, those that stay."""
    young = sum(written.manifest.time_ns >= limit_ns for written in counting)
    needed = counting[: max(KEPT_MIN, young + 1)]
    spaced: list[Written] = []
    for written in reversed(needed[KEPT_MIN:]):
        if not spaced or written.manifest.time_ns - spaced[-1].manifest.time_ns >= spacing_ns:
            spaced.append(written)
    return needed[:KEPT_MIN] + spaced[::-1]
