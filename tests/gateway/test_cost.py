"""From traffic and prices to costs: the sums by hand, and what is too little to speak of."""

import pytest

from fusegw.cost import ENOUGH_BYTES, GIB, TIB, Costs, Prices, costs_of, per_tib, storage_month
from fusegw.store.counting import Traffic

SIMPLE = Prices(storage_gib_month=2, put_1000=3, get_1000=5, delete_1000=7, egress_gib=11)


def test_requests_cost_by_their_kind() -> None:
    def cost(**traffic: int) -> float:
        return costs_of(SIMPLE, Traffic(**traffic)).requests

    assert cost(put_requests=1000) == cost(list_requests=1000) == 3
    assert cost(get_requests=1000) == cost(head_requests=1000) == 5
    assert cost(delete_requests=1000) == 7
    assert cost(failed_requests=1000, sent_bytes=TIB, received_bytes=TIB) == 0
    assert cost(put_requests=500, list_requests=1500, get_requests=100, head_requests=100) == 7


def test_egress_costs_by_what_was_received() -> None:
    assert costs_of(SIMPLE, Traffic(received_bytes=3 * GIB, sent_bytes=100 * GIB)).egress == 33


def test_a_month_of_storage() -> None:
    assert storage_month(SIMPLE, 5 * GIB) == 10
    assert storage_month(Prices(), TIB) == pytest.approx(23.552)


def test_the_list_that_stands_for_none() -> None:
    """A TiB in packs of 32 MiB, by the prices of S3 Standard."""
    costs = costs_of(Prices(), Traffic(put_requests=TIB // (32 << 20), received_bytes=TIB))
    assert costs == Costs(requests=pytest.approx(0.16384), egress=pytest.approx(92.16))


def test_per_tib_scales_everything_by_what_was_written() -> None:
    traffic = Traffic(
        put_requests=10,
        list_requests=20,
        get_requests=30,
        head_requests=40,
        delete_requests=50,
        sent_bytes=3 * GIB,
        received_bytes=GIB,
    )
    part = per_tib(SIMPLE, traffic, 8 * GIB)
    assert part is not None
    assert (part.put_requests, part.list_requests) == (1280, 2560)
    assert (part.get_requests, part.head_requests, part.delete_requests) == (3840, 5120, 6400)
    assert (part.sent_bytes, part.received_bytes) == (384 * GIB, 128 * GIB)
    assert part.costs.requests == pytest.approx(128 * costs_of(SIMPLE, traffic).requests)
    assert part.costs.egress == 128 * 11
    assert part.storage_month == 384 * 2


def test_little_says_nothing_of_a_tib() -> None:
    assert per_tib(SIMPLE, Traffic(put_requests=1), 0) is None
    assert per_tib(SIMPLE, Traffic(put_requests=1), ENOUGH_BYTES - 1) is None
    enough = per_tib(SIMPLE, Traffic(put_requests=1), ENOUGH_BYTES)
    assert enough is not None and enough.put_requests == 1024
