"""What the store must have of log and checkpoints, remembered in the index of the gateway that writes.

Nothing in the store says that a checkpoint was finished but its manifest, and nothing that a segment was
never given up: so a check could not tell what was lost from what a crash or retention left. The row is of one
reign. A checkpoint enters once its manifest is in the store; it leaves, and the log's beginning moves on,
before the first object of them is deleted. So whatever the row names and the store does not have was lost.
"""

import struct
from collections.abc import Callable, Collection, Iterable

import msgspec

from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import LOCAL, LOCAL_KEPT
from fusegw.meta.view import View
from fusegw.ship.checkpoint import RANDOM_SIZE, Name

_HEAD = struct.Struct(">IQ")
_NAME = struct.Struct(f">Q{RANDOM_SIZE}s")


class Kept(msgspec.Struct, frozen=True):
    """What must be in the store."""

    epoch: int
    """Of the reign that says so; in another one others may have taken it away."""
    log_from: int
    """Every segment from this number on; before it takeovers only."""
    names: frozenset[Name]
    """Of finished checkpoints."""


def kept_of(view: View) -> Kept | None:
    """What the index remembers; None when that is nothing, damaged, or not of the reign that it is in."""
    kept = _decoded(view.sound_row(LOCAL, LOCAL_KEPT))
    return kept if kept is not None and kept.epoch == view.head.epoch else None


class KeptRecord:
    """Keeps the row true in the reign of `epoch`. Blocking, one thread at a time; each call is durable on
    return. Full."""

    def __init__(self, metadata: Metadata, epoch: int) -> None:
        self._metadata = metadata
        self._epoch = epoch

    def begin(self, names: Iterable[Name]) -> None:
        """The reign has begun, and the store has these finished checkpoints. What the reign before knew goes
        on to count, if that was this host's too."""
        names = set(names)
        log_from = min((name.seq for name in names), default=1)
        before = self._read()
        if before is not None and before.epoch in (self._epoch - 1, self._epoch):
            names |= before.names
            log_from = before.log_from
        self._write(Kept(self._epoch, log_from, frozenset(names)))

    def finished(self, name: Name) -> None:
        """The manifest is in the store."""
        self._change(lambda kept: msgspec.structs.replace(kept, names=kept.names | {name}))

    def let_go(self, names: Collection[Name], *, oldest: Name, prune: bool) -> None:
        """About to be given up are these checkpoints, all that are older than `oldest`, and with `prune` the
        log before that."""
        self._change(
            lambda kept: Kept(
                kept.epoch,
                max(kept.log_from, oldest.seq) if prune else kept.log_from,
                frozenset(name for name in kept.names if name not in names and name >= oldest),
            )
        )

    def _change(self, change: Callable[[Kept], Kept]) -> None:
        kept = self._read()
        if kept is not None and kept.epoch == self._epoch:
            self._write(change(kept))

    def _read(self) -> Kept | None:
        with self._metadata.view() as view:
            return _decoded(view.sound_row(LOCAL, LOCAL_KEPT))

    def _write(self, kept: Kept) -> None:
        names = [_NAME.pack(name.seq, name.random) for name in sorted(kept.names)]
        row = _HEAD.pack(kept.epoch, kept.log_from) + b"".join(names)
        self._metadata.write([(LOCAL, LOCAL_KEPT, row)])


def _decoded(row: bytes | None) -> Kept | None:
    if row is None or len(row) < _HEAD.size or (len(row) - _HEAD.size) % _NAME.size:
        return None
    epoch, log_from = _HEAD.unpack_from(row)
    names = frozenset(Name(seq, random) for seq, random in _NAME.iter_unpack(row[_HEAD.size :]))
    return Kept(epoch, log_from, names)
