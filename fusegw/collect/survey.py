"""What the index says of the packs in the store: how full they are, and which chunks lie in some of them.

Read from a view, so that the event loop goes on: all figures are those of one commit.
"""

from collections.abc import Mapping, Sequence

import msgspec

from fusegw.collect.plan import Candidate, Figures
from fusegw.collect.rewrite import Living
from fusegw.meta.derived import pack_of
from fusegw.meta.schema import CHUNK, CONDEMNED, PACK, PACK_LOCAL, Pack
from fusegw.meta.view import View


class Survey(msgspec.Struct):
    """All stored packs that are not condemned."""

    figures: Figures
    empty: list[int]
    """Numbers of those in which no chunk lies."""
    candidates: list[Candidate]
    """The others, as far as they may be rewritten."""
    waiting_packs: int = 0
    """Condemned and still in the store."""
    waiting_bytes: int = 0


def survey(view: View, *, passed_over: Mapping[int, int], before: int) -> Survey:
    """Blocking. Packs that are among `passed_over` and have the number of living chunks that is given there,
    or whose numbers are not below `before`, count, but are not to be touched."""
    found = Survey(Figures(), [], [])
    figures = found.figures
    for number, pack in view.rows(PACK):
        if not pack.size or view.get(PACK_LOCAL, number) is not None:
            continue
        if not pack.live and view.get(CONDEMNED, number) is not None:
            found.waiting_packs += 1
            found.waiting_bytes += pack.size
            continue
        one = Candidate.of(number, pack)
        figures.packs += 1
        figures.nbytes += one.size
        figures.dead_bytes += one.dead_bytes
        untouched = number >= before or passed_over.get(number) == pack.live
        if not pack.live:
            figures.empty += 1
            figures.empty_bytes += one.size
            if not untouched:
                found.empty.append(number)
        elif not untouched:
            found.candidates.append(one)
    return found


def living(view: View, numbers: Sequence[int]) -> tuple[list[Living], dict[int, Pack]]:
    """Blocking: the chunks in these packs in the order of their numbers, and the packs' rows. Corrupt when a
    row cannot be read."""
    packs = {number: pack for number in numbers if (pack := view.get(PACK, number)) is not None}
    found = []
    for raw_key, stored in view.stored(CHUNK):
        if pack_of(stored) in packs:
            number = CHUNK.decode_key(raw_key)
            found.append(Living(number, CHUNK.decode(number, raw_key, stored)))
    return found, packs
