"""`fusegw cache`: what the local cache holds and saves, and dropping what can be fetched again."""

from collections.abc import Iterator
from typing import Any

import click
import msgspec

from fusegw.cli import output
from fusegw.cli.session import Session, common_options, json_option, volume_argument
from fusegw.control.protocol import CacheStatsReply


@click.group("cache")
@common_options
def cache(session: Session) -> None:
    """The local cache of a mounted volume."""


@cache.command("stats")
@volume_argument
@json_option
@common_options
def cache_stats(session: Session, name: str | None, as_json: bool) -> None:
    """Show size, budget, hits and misses, and what deduplication and compression save."""
    site = session.site()
    volume = site.volume(name)
    reply = site.client(volume).cache_stats()
    if as_json:
        document: dict[str, Any] = msgspec.to_builtins(reply)
        output.print_json({"volume": volume} | document)
    else:
        output.print_pairs(f"cache of volume {volume}", _lines(reply))


@cache.command("drop")
@volume_argument
@json_option
@common_options
def cache_drop(session: Session, name: str | None, as_json: bool) -> None:
    """Remove everything from the cache that is in the store."""
    site = session.site()
    volume = site.volume(name)
    reply = site.client(volume).cache_drop()
    if as_json:
        output.print_json({"volume": volume, "freed_bytes": reply.freed_bytes})
    else:
        print(f"volume {volume}: {output.size(reply.freed_bytes)} freed")


def _lines(reply: CacheStatsReply) -> Iterator[tuple[str, str]]:
    yield "used", f"{output.size(reply.used_bytes)} of {output.size(reply.budget_bytes)}"
    yield "not yet stored", output.size(reply.dirty_bytes)
    yield "hits", f"{reply.hits:,} ({output.size(reply.hit_bytes)})"
    yield "misses", f"{reply.misses:,} ({output.size(reply.miss_bytes)})"
    yield "hit ratio", output.ratio(reply.hit_ratio, percent=True)
    yield "evictions", f"{reply.evictions:,} ({output.size(reply.evicted_bytes)})"
    yield "deduplication", output.ratio(reply.dedup_ratio)
    yield "compression", output.ratio(reply.compression_ratio)
