"""Which packs are rewritten, and in what pieces they are read."""

import random

from fusegw.collect.plan import Candidate, Figures, choose
from fusegw.collect.rewrite import GAP_BYTES, Living, bursts, spans
from fusegw.meta.schema import Chunk, Pack
from fusegw.packs.format import FOOTER_ENTRY_SIZE, HEADER_SIZE, RECORD_OVERHEAD, TRAILER_SIZE

FULL = 1 << 20


def planned(packs: list[Candidate], *, share: float = 0.2, bound: int = 1 << 60) -> list[int]:
    figures = Figures(
        packs=len(packs),
        nbytes=sum(one.size for one in packs),
        dead_bytes=sum(one.dead_bytes for one in packs),
    )
    plan = choose(packs, figures, dead_share_max=share, pack_size=FULL, bound=bound)
    assert plan.live_bytes == sum(one.live_bytes for one in plan.packs)
    return [one.number for one in plan.packs]


def pack(number: int, dead: float, size: int = FULL) -> Candidate:
    return Candidate(number, size, int(size * (1 - dead)), int(size * dead))


def test_the_sparsest_go_first_until_little_is_dead() -> None:
    assert planned([pack(1, 0.3), pack(2, 0.9), pack(3, 0.0), pack(4, 0.1)]) == [2]
    assert planned([pack(1, 0.3), pack(2, 0.9), pack(3, 0.6)]) == [2, 3]
    assert planned([pack(1, 0.1), pack(2, 0.1)]) == []
    assert planned([pack(1, 0.1), pack(2, 0.2)], share=0.0) == [2, 1]


def test_the_bound_is_kept_but_for_one() -> None:
    packs = [pack(number, 0.5) for number in range(10)]
    assert len(planned(packs, bound=FULL)) == 2
    assert len(planned(packs, bound=1)) == 1
    assert planned(packs, bound=0) == []


def test_what_comes_out_is_not_worth_it_again() -> None:
    dice = random.Random(1)
    packs = [pack(number, dice.random()) for number in range(200)]
    gone = set(planned(packs))
    rest = [one for one in packs if one.number not in gone]
    written = sum(one.live_bytes for one in packs if one.number in gone)
    rest += [Candidate(1000 + number, FULL, FULL, 0) for number in range(written // FULL)]
    assert planned(rest) == []


def test_small_packs_wait_until_they_fill_one() -> None:
    small = [Candidate(number, 100_000, 100_000, 0) for number in range(20)]
    assert planned(small[:10]) == []
    assert planned(small) == list(range(20))


def test_the_frame_of_a_pack_is_not_dead() -> None:
    chunk_bytes, count = 60, 1000
    size = HEADER_SIZE + count * (chunk_bytes + FOOTER_ENTRY_SIZE) + RECORD_OVERHEAD + TRAILER_SIZE
    row = Pack(b"p" * 16, 1, b"s" * 32, size, count, count, count * chunk_bytes, b"d" * 32)
    assert Candidate.of(1, row).dead_bytes == 0


def living(number: int, offset: int, stored: int = 1000, raw: int = 1000) -> Living:
    return Living(number, Chunk(bytes(32), 1, number, offset, stored, raw, 0, 1))


def test_spans_bridge_small_gaps_only() -> None:
    chunks = [living(1, 0), living(2, 5000), living(3, 6000 + GAP_BYTES), living(4, 9000 + 2 * GAP_BYTES)]
    assert spans(chunks) == [(0, 7000 + GAP_BYTES), (9000 + 2 * GAP_BYTES, 10_000 + 2 * GAP_BYTES)]
    assert spans(chunks[::-1]) == spans(chunks)


def test_bursts_keep_the_order_and_their_bounds() -> None:
    chunks = [living(number, number * 1000, raw=10 << 20) for number in range(20)]
    parts = list(bursts(chunks, stored_max=3000))
    assert [len(part) for part in parts] == [3] * 6 + [2]
    assert [one for part in parts for one in part] == chunks
    assert max(sum(one.chunk.raw for one in part) for part in bursts(chunks)) <= 70 << 20
