"""How the commands print: JSON for programs, tables and progress for people; sizes in KiB, MiB, GiB.

Rich is imported when it is needed. Tables go to standard output and are never cut when that is no terminal;
progress and remarks go to standard error, and only to a terminal.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from fusegw.clock import Clock

WAIT_SILENT_S = 2.0
_PIPE_WIDTH = 200


def print_json(value: object) -> None:
    """One JSON document, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_pairs(title: str, pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values under a title."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, title=title, title_justify="left")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, Text(value))
    _print(table)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table with a heading."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    _print(table)


def remark(text: str) -> None:
    """A line for somebody who watches; nothing when nobody does."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def patience(clock: Clock) -> Callable[[str], None]:
    """A remark that is made once, when it comes up after `WAIT_SILENT_S` still."""
    begun, told = clock.monotonic(), False

    def waiting(text: str) -> None:
        nonlocal told
        if not told and clock.monotonic() - begun > WAIT_SILENT_S:
            told = True
            remark(text)

    return waiting


def warning(text: str) -> None:
    """A line on standard error, whoever reads it."""
    print(f"fusegw: warning: {text}", file=sys.stderr)


@contextmanager
def bar(description: str) -> Iterator[Callable[[float, float | None, str], None]]:
    """A progress bar on a terminal, nothing elsewhere; gives what is called with done, total (None: not
    known) and a text.
    """
    if not sys.stderr.isatty():
        yield lambda done, total, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(description, total=None, text="")
        yield lambda done, total, text: shown.update(task, total=total, completed=done, text=text)


def one_line(text: str) -> str:
    """A name that others chose, with nothing in it that moves the cursor."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def size(nbytes: float) -> str:
    """ "0 B", "1.5 KiB", "10.0 GiB"."""
    if nbytes < 1024:
        return f"{nbytes:.0f} B"
    units = ("KiB", "MiB", "GiB", "TiB", "PiB")
    power = min(len(units), (int(nbytes).bit_length() - 1) // 10)
    return f"{nbytes / (1 << 10 * power):.1f} {units[power - 1]}"


def money(value: float, currency: str) -> str:
    """ "12.50 USD", "0.0004 USD"."""
    return f"{value:,.2f} {currency}" if value >= 1 or not value else f"{value:.4f} {currency}"


def duration(seconds: float | None) -> str:
    """ "-", "12 s", "3 min 20 s", "2 h 5 min", "4 d 3 h"."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def moment(unix_s: float | None) -> str:
    """ "-", "2026-11-28 15:04:05Z": in UTC."""
    return "-" if unix_s is None else time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(unix_s))


def ratio(value: float | None, *, percent: bool = False) -> str:
    """ "-", "1.57" or "93.1 %"."""
    if value is None:
        return "-"
    return f"{value * 100:.1f} %" if percent else f"{value:.2f}"


def _print(renderable: Any) -> None:
    from rich.console import Console

    terminal = sys.stdout.isatty()
    Console(file=sys.stdout, width=None if terminal else _PIPE_WIDTH).print(renderable)
