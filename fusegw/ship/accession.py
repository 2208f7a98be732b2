"""Beginning a reign although the log went on: catch up with it and take the next slot, until that is won.

For an index that has nothing but what the log has, so that what is missing can be applied to it. A writer
that goes on shipping wins most slots at first; each one lost costs the reading of what was shipped since,
not a recovery, and the takeover is tried the moment the end of the log was seen.
"""

import logging
from collections.abc import Callable

from msgspec.structs import replace

from fusegw.clock import Clock, Entropy
from fusegw.errors import Busy, Corrupt
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.metadata import Metadata
from fusegw.meta.rebuild import Changed
from fusegw.meta.schema import LOG_SEALED, Head
from fusegw.ship.chain import refuse_gap
from fusegw.ship.tail import Tail
from fusegw.ship.takeover import Superseded, take_over
from fusegw.store.base import ObjectStore

log = logging.getLogger(__name__)
TRIES = 200
"""Takeovers lost to others before it gives up; a writer that ships without a pause wins five of six."""


def catch_up_and_take_over(
    metadata: Metadata,
    store: ObjectStore,
    keys: VolumeKeys,
    *,
    tail: Tail | None = None,
    on_applied: Callable[[Changed], None] = lambda changed: None,
    writer: str,
    clock: Clock,
    entropy: Entropy,
) -> Head:
    """Blocking: the head after a new epoch was begun by this gateway, the index at it. `renew` afterwards.

    `tail` is where the index is, when somebody knows; `on_applied` is told what each position changed.

    Superseded when the log cannot be followed from here (pruned, or damaged: a checkpoint may lie behind
    that); Busy when it cannot be won; and what the store raises. The index is at a position of the log then.
    """
    _drop_what_lost_its_slot(metadata)
    tail = tail or Tail(metadata, store, keys, metadata.head)
    for _ in range(TRIES):
        try:
            _read_to_the_end(tail, on_applied)
            # A free slot with the log going on behind it was pruned: it is nobody's any more.
            refuse_gap(store, tail.tip.seq)
            # And no request between the end of the log and the takeover: each is a chance lost.
            _read_to_the_end(tail, on_applied)
        except Corrupt as error:
            raise Superseded(str(error)) from None
        tip = replace(tail.tip, commit=metadata.commit_number)
        try:
            return take_over(metadata, store, keys, tip, writer=writer, clock=clock, entropy=entropy)
        except Superseded as error:
            log.info("the log went on, catching up once more: %s", error)
    raise Busy(f"another gateway keeps writing the volume in {store.url}: stop it, or try again")


def _read_to_the_end(tail: Tail, on_applied: Callable[[Changed], None]) -> None:
    while (changed := tail.advance(look_for_gap=False)) is not None:
        on_applied(changed)


def _drop_what_lost_its_slot(metadata: Metadata) -> None:
    """A takeover of this host that was sealed and never stored: its slot belongs to another segment."""
    with metadata.view() as view:
        sealed = [seq for seq, _ in view.rows(LOG_SEALED)]
    metadata.write((LOG_SEALED, seq, None) for seq in sealed)
