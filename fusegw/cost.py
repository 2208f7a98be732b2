"""What the traffic with a store costs by a table of prices: numbers in, numbers out.

The table is the operator's: `[prices]` of the configuration, or `[volumes.NAME.prices]` where stores differ.
Without one it is the list of S3 Standard, which knows no discount, no region but one, and no change since it
was written down here. Money is in the currency of the table, GiB are 2^30 bytes (as S3 bills its "GB").
"""

from typing import Annotated

import msgspec

from fusegw.store.counting import Traffic

GIB, TIB = 1 << 30, 1 << 40
ENOUGH_BYTES = GIB
"""Backed up: what was asked for less says little of a TiB."""

_Price = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a store charges."""

    name: str = ""
    """Of the list, for people."""
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")] = "USD"
    """By ISO 4217."""
    storage_gib_month: _Price = 0.023
    put_1000: _Price = 0.005
    """For a thousand of PUT, COPY, POST and LIST."""
    get_1000: _Price = 0.0004
    """For a thousand of GET and HEAD."""
    delete_1000: _Price = 0.0
    egress_gib: _Price = 0.09
    """What is read, by a gateway outside of the store's region."""
    storage_days_min: Annotated[int, msgspec.Meta(ge=0, le=3660)] = 0
    """What is deleted earlier is charged for as long all the same; for remarks, not reckoned with."""

    @property
    def title(self) -> str:
        """What people call the list."""
        if self.name:
            return self.name
        return "S3 Standard, us-east-1, list" if self == Prices() else "as configured"


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Of some traffic, in the currency of its prices."""

    requests: float
    egress: float


class PerTib(msgspec.Struct, frozen=True, kw_only=True):
    """What came to the store, and what it cost, for each TiB that was written to the volume."""

    put_requests: float
    list_requests: float
    get_requests: float
    head_requests: float
    delete_requests: float
    sent_bytes: float
    received_bytes: float
    costs: Costs
    storage_month: float
    """A month of what was sent for it."""


def costs_of(prices: Prices, traffic: Traffic) -> Costs:
    """Requests that failed are counted in, whether or not the store charges for them."""
    thousands = (
        (traffic.put_requests + traffic.list_requests) * prices.put_1000,
        (traffic.get_requests + traffic.head_requests) * prices.get_1000,
        traffic.delete_requests * prices.delete_1000,
    )
    return Costs(requests=sum(thousands) / 1000, egress=traffic.received_bytes / GIB * prices.egress_gib)


def storage_month(prices: Prices, stored_bytes: float) -> float:
    """A month of so much."""
    return stored_bytes / GIB * prices.storage_gib_month


def per_tib(prices: Prices, traffic: Traffic, ingested_bytes: int) -> PerTib | None:
    """All of `traffic`, whatever it was for, by what was written meanwhile; None below `ENOUGH_BYTES`."""
    if ingested_bytes < ENOUGH_BYTES:
        return None
    part = TIB / ingested_bytes
    costs = costs_of(prices, traffic)
    return PerTib(
        put_requests=traffic.put_requests * part,
        list_requests=traffic.list_requests * part,
        get_requests=traffic.get_requests * part,
        head_requests=traffic.head_requests * part,
        delete_requests=traffic.delete_requests * part,
        sent_bytes=traffic.sent_bytes * part,
        received_bytes=traffic.received_bytes * part,
        costs=Costs(requests=costs.requests * part, egress=costs.egress * part),
        storage_month=storage_month(prices, traffic.sent_bytes * part),
    )
