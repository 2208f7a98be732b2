"""`fusegw status --cost`: what was asked of the store, for each TiB backed up, and at which price.

The gateway tells what it counted, the file of totals does when there is none. How much the packs in the store
take is read from the index, beside whoever writes it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from fusegw.cli import output
from fusegw.cli.session import Site
from fusegw.config import VolumePaths
from fusegw.cost import ENOUGH_BYTES, PerTib, Prices, costs_of, per_tib, storage_month
from fusegw.errors import FusegwError, NotFound
from fusegw.metering import Period, load_totals
from fusegw.store.options import StoreOptions, directory_of

_KINDS = ("put", "list", "get", "head", "delete")

_Figure = tuple[str, Callable[[Period], str], Callable[[PerTib], str] | None]
"""Its name, how it is shown for a time, and for a TiB if that means anything."""


class _Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one volume."""

    volume: str
    mounted: bool
    store: StoreOptions
    prices: Prices
    since_mount: Period | None = None
    total: Period | None = None
    """None: nothing was counted on this host yet."""
    stored_bytes: int | None = None
    """Of all packs in the store, whatever still lives in them."""
    unreadable: str = ""
    """Why that is not known."""
    saved_unix_s: float | None = None
    """When the totals were written, of a volume that is not mounted."""

    @property
    def per_tib(self) -> PerTib | None:
        total = self.total
        return None if total is None else per_tib(self.prices, total.traffic, total.ingested_bytes)

    @property
    def storage_month(self) -> float | None:
        return None if self.stored_bytes is None else storage_month(self.prices, self.stored_bytes)


def show_costs(site: Site, names: Sequence[str], *, several: bool, as_json: bool) -> None:
    """Print them; `several` makes the JSON a list, whatever its length."""
    found = [_counted(site, name) for name in names]
    if as_json:
        documents = [_document(one) for one in found]
        output.print_json({"volumes": documents} if several else documents[0])
        return
    for one in found:
        output.print_pairs(f"volume {one.volume}", _lines(one))
        if one.total is not None:
            _print_figures(one, one.total)


def _counted(site: Site, name: str) -> _Counted:
    one = _Counted(
        volume=name,
        mounted=True,
        store=site.store_options(name),
        prices=site.config.volume(name).prices or site.config.prices,
    )
    paths = site.paths(name)
    try:
        reply = site.client(name).traffic()
        one = replace(one, since_mount=reply.since_mount, total=reply.total)
    except NotFound:
        one = replace(one, mounted=False)
        if (saved := load_totals(paths.traffic_file)) is not None:
            one = replace(one, total=saved.period, saved_unix_s=saved.saved_unix_s)
    try:
        return replace(one, stored_bytes=_stored_bytes(paths))
    except FusegwError as error:
        return replace(one, unreadable=str(error))


def _stored_bytes(paths: VolumePaths) -> int:
    # The other commands on a volume's status must not wait for these.
    from fusegw.collect.survey import survey
    from fusegw.meta.beside import IndexBeside

    with IndexBeside(paths.meta_dir) as index, index.view() as view:
        found = survey(view, passed_over={}, before=0)
    return found.figures.nbytes + found.waiting_bytes


def _document(one: _Counted) -> dict[str, Any]:
    return {
        "volume": one.volume,
        "mounted": one.mounted,
        "store_url": one.store.url,
        "saved_unix_s": one.saved_unix_s,
        "since_mount": _period(one.since_mount, one.prices),
        "total": _period(one.total, one.prices),
        "per_tib": msgspec.to_builtins(one.per_tib),
        "stored_bytes": one.stored_bytes,
        "storage_month": one.storage_month,
        "prices": msgspec.to_builtins(one.prices) | {"name": one.prices.title},
    }


def _period(period: Period | None, prices: Prices) -> dict[str, Any] | None:
    if period is None:
        return None
    document: dict[str, Any] = msgspec.to_builtins(period)
    return document | {"costs": msgspec.to_builtins(costs_of(prices, period.traffic))}


def _lines(one: _Counted) -> Iterator[tuple[str, str]]:
    prices = one.prices
    if not one.mounted:
        as_of = f"; the totals are of {output.moment(one.saved_unix_s)}" if one.saved_unix_s else ""
        yield "mounted", f"no{as_of}"
    if directory_of(one.store) is None:
        yield "store", one.store.url
    else:
        yield "store", f"{one.store.url}: a directory, counted as if it were S3"
    if one.stored_bytes is not None and one.storage_month is not None:
        month = output.money(one.storage_month, prices.currency)
        yield "packs", f"{output.size(one.stored_bytes)}: {month} a month"
    else:
        yield "packs", f"not known: {one.unreadable}"
    yield "prices", f"{output.one_line(prices.title)}; yours go into [prices] of the configuration"
    if prices.storage_days_min:
        days = prices.storage_days_min
        yield "not included", f"what is deleted within {days:,} days is charged for {days:,} days"
    if one.total is None:
        yield "requests", "none were counted on this host yet"
    elif one.per_tib is None:
        written = output.size(one.total.ingested_bytes)
        yield "per TiB", f"n/a before {output.size(ENOUGH_BYTES)} was backed up, {written} so far"


def _print_figures(one: _Counted, total: Period) -> None:
    """A column for each time, and one for what a TiB takes."""
    times = [total] if one.since_mount is None else [one.since_mount, total]
    share = one.per_tib
    rows = []
    for name, of_time, of_tib in _figures(one.prices, failed=bool(total.traffic.failed_requests)):
        last = "" if of_tib is None else "n/a" if share is None else of_tib(share)
        rows.append([name, *map(of_time, times), last])
    heads = ["in total"] if one.since_mount is None else ["since the mount", "in total"]
    output.print_table(["", *heads, "per TiB backed up"], rows)


def _figures(prices: Prices, *, failed: bool) -> Iterator[_Figure]:
    def amount(value: float) -> str:
        return output.money(value, prices.currency)

    yield "since", lambda time: output.moment(time.since_unix_s), None
    yield "backed up", lambda time: output.size(time.ingested_bytes), lambda tib: "1.0 TiB"
    for kind in _KINDS:
        yield kind.upper(), *_requests(f"{kind}_requests")
    if failed:
        yield "of them failed", _requests("failed_requests")[0], None
    yield (
        "sent",
        lambda time: output.size(time.traffic.sent_bytes),
        lambda tib: output.size(tib.sent_bytes),
    )
    yield (
        "received",
        lambda time: output.size(time.traffic.received_bytes),
        lambda tib: output.size(tib.received_bytes),
    )
    yield (
        "requests cost",
        lambda time: amount(costs_of(prices, time.traffic).requests),
        lambda tib: amount(tib.costs.requests),
    )
    yield (
        "egress costs",
        lambda time: amount(costs_of(prices, time.traffic).egress),
        lambda tib: amount(tib.costs.egress),
    )
    yield "what was sent, a month", lambda time: "", lambda tib: amount(tib.storage_month)


def _requests(name: str) -> tuple[Callable[[Period], str], Callable[[PerTib], str]]:
    return (
        lambda time: f"{getattr(time.traffic, name):,}",
        lambda tib: f"{getattr(tib, name):,.0f}",
    )
