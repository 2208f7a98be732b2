"""Beginning a reign: is this index what the store has, and the takeover segment that makes us its writer.

Admission, before anything is written: a segment whose PUT was under way when the gateway ended is sent once
more, byte for byte; then the store's log must end exactly where this index says it does.

| the store's log                               | outcome                                                 |
|-----------------------------------------------|---------------------------------------------------------|
| ends at our head                              | go on                                                   |
| goes on after our head, pruned there or not   | `Superseded`: this index is old, or was fenced          |
| does not reach our head, or has another there | Invalid, with the evidence: the store went back in time |

Only winning a slot makes anything true: the takeover's bytes are durable here before the PUT, and the epoch
is ours once the PUT has succeeded and nothing lies behind it (a slot that was given up meanwhile takes it as
well). Both functions are blocking and keep away from what the event loop owns, so that a standby goes on
reading meanwhile: who calls them says where the index is and renews it afterwards.
"""

from fusegw.clock import Clock, Entropy
from fusegw.errors import Corrupt, Fenced, Invalid, NotFound
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import EPOCH_MAX, LOG_SEALED, Head
from fusegw.ship import segment
from fusegw.ship.chain import Pruned, refuse_gap
from fusegw.ship.log import fenced_by, moved_on, put_segment, seal_durably
from fusegw.ship.segment import SEGMENT_BYTES_MAX, TAKEOVER, Segment
from fusegw.store.base import ObjectStore


class Superseded(Fenced):
    """The log went on without this index: it must be rebuilt from the store before anything is written."""


def admit(metadata: Metadata, store: ObjectStore, keys: VolumeKeys, head: Head) -> Head:
    """Blocking: where the index, which is at `head`, and the store both are. Superseded; Invalid when the
    store went back.

    `renew` the metadata afterwards, whatever came of it.
    """
    _refuse_if_pruned(store, head.seq)
    head = _send_again(metadata, store, keys, head)
    if head.seq:
        key = segment.object_key(head.seq)
        try:
            found = segment.digest(store.get(key, size_max=SEGMENT_BYTES_MAX))
        except NotFound:
            if not continued(store, head, keys):
                # It may have been given up since the first look.
                _refuse_if_pruned(store, head.seq)
                raise Invalid(_went_back(store, head, f"{key} is not there")) from None
        else:
            if found != head.hash:
                raise Invalid(_went_back(store, head, f"{key} has hash {found.hex()}"))
    _refuse_if_pruned(store, head.seq)
    try:
        store.head(segment.object_key(head.seq + 1))
    except NotFound:
        return head
    raise Superseded(fenced_by(store, head, keys))


def _refuse_if_pruned(store: ObjectStore, seq: int) -> None:
    """Superseded when the log went on so far that what follows `seq` is gone; Corrupt for other gaps."""
    try:
        refuse_gap(store, seq)
    except Pruned as error:
        raise Superseded(str(error)) from None


def continued(store: ObjectStore, head: Head, keys: VolumeKeys) -> bool:
    """Blocking: whether the segment after `head`, which a takeover's always outlives, says that `head` was
    there."""
    try:
        data = store.get(segment.object_key(head.seq + 1), size_max=SEGMENT_BYTES_MAX)
        segment.unseal(data, head, keys)
    except (NotFound, Corrupt):
        return False
    return True


def take_over(
    metadata: Metadata,
    store: ObjectStore,
    keys: VolumeKeys,
    head: Head,
    *,
    writer: str,
    clock: Clock,
    entropy: Entropy,
) -> Head:
    """Blocking: the head after a new epoch was begun by this gateway; `writer` says to others who that is.

    `head` is what `admit` returned. Superseded when somebody else was faster. `renew` the metadata
    afterwards.
    """
    epoch = head.epoch + 1
    if epoch > EPOCH_MAX:
        raise Invalid(f"the volume was mounted {EPOCH_MAX} times, its numbers are used up: begin a new one")
    what = Segment(head.seq + 1, epoch, TAKEOVER, True, clock.time_ns(), writer.encode()[:255])
    sealed = seal_durably(metadata, what, head, head.commit, keys, entropy)
    try:
        put_segment(store, sealed, head, keys)
    except Fenced as error:
        metadata.write([(LOG_SEALED, what.seq, None)])
        raise Superseded(str(error)) from None
    _refuse_if_passed(store, sealed.head)
    metadata.write(moved_on(sealed, range(0)))
    return sealed.head


def _refuse_if_passed(store: ObjectStore, head: Head) -> None:
    """A slot that was given up can be filled once more, long after the log passed it: Superseded then."""
    later = next(store.list("log/", start_after=segment.object_key(head.seq)), None)
    if later is not None:
        raise Superseded(f"the log went on to {later.key} before {segment.object_key(head.seq)} was written")


def _send_again(metadata: Metadata, store: ObjectStore, keys: VolumeKeys, head: Head) -> Head:
    with metadata.view() as view:
        sealed = view.get(LOG_SEALED, head.seq + 1)
    if sealed is None:
        return head
    try:
        put_segment(store, sealed, head, keys)
    except Fenced as error:
        raise Superseded(str(error)) from None
    metadata.write(moved_on(sealed, range(head.commit + 1, sealed.head.commit + 1)))
    return sealed.head


def _went_back(store: ObjectStore, head: Head, found: str) -> str:
    return (
        f"{store.url} is not what this gateway left there: it shipped segment {head.seq} (epoch "
        f"{head.epoch}, hash {head.hash.hex()}), but {found}. The store was set back or exchanged; nothing "
        "was written. Restore the store, or move the volume's state directory away to take the store as it is"
    )
