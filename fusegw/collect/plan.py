"""Which packs are worth being rewritten: figures in, pack numbers out; no I/O.

Dead bytes are tolerated up to a share of all, and above that the packs go first whose rewriting frees most
for what it copies. Small packs (an idle gateway ships what it has every few seconds) are put together once
they fill a whole one. Every pack chosen is gone afterwards and what is written is full, so passes come to an
end.
"""

from collections.abc import Iterable

import msgspec

from fusegw.meta.schema import Pack
from fusegw.packs.format import FOOTER_ENTRY_SIZE, HEADER_SIZE, RECORD_OVERHEAD, TRAILER_SIZE

SMALL_SHARE = 4
"""A pack smaller than this part of a full one is small."""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A stored pack. Sizes in bytes."""

    number: int
    size: int
    live_bytes: int
    dead_bytes: int

    @classmethod
    def of(cls, number: int, pack: Pack) -> "Candidate":
        """From its row. What frames the living records is not dead."""
        frame = HEADER_SIZE + FOOTER_ENTRY_SIZE * pack.live + RECORD_OVERHEAD + TRAILER_SIZE
        dead = pack.size - pack.live_bytes - frame if pack.live else pack.size
        return cls(number, pack.size, pack.live_bytes, max(0, dead))


class Figures(msgspec.Struct):
    """What all stored packs come to."""

    packs: int = 0
    nbytes: int = 0
    dead_bytes: int = 0
    empty: int = 0
    """Packs in which nothing is alive and that are not condemned yet."""
    empty_bytes: int = 0


class Plan(msgspec.Struct):
    """Packs to rewrite, and what that comes to."""

    packs: list[Candidate] = []
    live_bytes: int = 0
    """To be read and written."""
    freed_bytes: int = 0
    complete: bool = True
    """Whether that is all that is worth it, not only as much as the bound lets."""


def choose(
    candidates: Iterable[Candidate], figures: Figures, *, dead_share_max: float, pack_size: int, bound: int
) -> Plan:
    """Of `candidates`, which must have living chunks, those to rewrite, with at most `bound` living bytes;
    one at least if any is worth it and `bound` is not 0."""
    there = sorted(candidates, key=lambda one: (one.dead_bytes / one.size, one.size), reverse=True)
    plan = Plan()
    dead = figures.dead_bytes - figures.empty_bytes
    nbytes = figures.nbytes - figures.empty_bytes
    chosen: set[int] = set()
    for one in there:
        if dead <= dead_share_max * nbytes or not one.dead_bytes or not _add(plan, one, bound):
            break
        chosen.add(one.number)
        dead -= one.dead_bytes
        nbytes -= one.dead_bytes
    small = [one for one in there if one.size < pack_size // SMALL_SHARE and one.number not in chosen]
    if sum(one.live_bytes for one in small) >= pack_size:
        for one in sorted(small, key=lambda one: one.number):
            if not _add(plan, one, bound):
                break
    return plan


def _add(plan: Plan, one: Candidate, bound: int) -> bool:
    if not bound or (plan.packs and plan.live_bytes + one.live_bytes > bound):
        plan.complete = False
        return False
    plan.packs.append(one)
    plan.live_bytes += one.live_bytes
    plan.freed_bytes += one.dead_bytes
    return True
