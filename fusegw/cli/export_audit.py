"""`fusegw export audit`: who did what in shares, from the logs on this host, mounted or not."""

import heapq
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import get_args

import click
import msgspec

from exports.audit import Event, Record, read
from fusegw.cli import output
from fusegw.cli.session import Session, Site, common_options
from fusegw.clock import SystemClock
from fusegw.errors import Denied, Invalid

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@click.command("audit")
@click.option("--since", help="From this local time on, such as 2026-03-01T14:30; or 30m, 12h, 7d ago.")
@click.option("--user", help="What this user did.")
@click.option("--share", help="What was done in this share.")
@click.option("--client", help="What came from this address.")
@click.option("--event", type=click.Choice(get_args(Event)), help="What was done.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
@common_options
def audit(
    session: Session,
    since: str | None,
    user: str | None,
    share: str | None,
    client: str | None,
    event: Event | None,
    as_json: bool,
) -> None:
    """Show who connected to shares, and wrote, deleted, renamed there; and whose login failed."""
    wanted = {"user": user, "share": share, "client": client, "event": event}
    earliest = "" if since is None else _time(since)
    found = (
        record
        for record in _records(session.site())
        if record.time >= earliest
        and all(value is None or getattr(record, name) == value for name, value in wanted.items())
    )
    if as_json:
        for record in found:
            click.echo(msgspec.json.encode(record))
        return
    output.print_table(
        ("time (UTC)", "client", "user", "share", "what", "path", "result"),
        [
            (
                record.time[:19].replace("T", " "),
                record.client,
                output.one_line(record.user),
                record.share,
                record.event if record.count == 1 else f"{record.event} ({record.count})",
                output.one_line(record.path + (f" → {record.to}" if record.to else "")),
                record.result,
            )
            for record in found
        ],
    )


def _records(site: Site) -> Iterator[Record]:
    """Of all gateways that served from this state directory, oldest first. Denied."""
    shares = site.state_dir / "shares"
    try:
        numbers = sorted(os.listdir(shares)) if shares.exists() else []
        logs = [read(shares / number / "audit") for number in numbers]
        yield from heapq.merge(*logs, key=lambda record: record.time)
    except PermissionError as error:
        raise Denied(f"{error.filename}: the audit log is for root to read") from None


def _time(text: str) -> str:
    """As records have it."""
    if match := _AGO.fullmatch(text):
        when = datetime.fromtimestamp(SystemClock().time_ns() / 1e9, UTC) - timedelta(
            **{_UNITS[match[2]]: int(match[1])}
        )
    else:
        try:
            when = datetime.fromisoformat(text).astimezone(UTC)
        except ValueError:
            raise Invalid(
                f"--since {text!r} is neither a time such as 2026-03-01T14:30 (local) nor a span such as 12h"
            ) from None
    return when.isoformat(timespec="microseconds")
