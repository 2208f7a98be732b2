"""How a volume's snapshot schedule is told to people."""

from collections.abc import Iterator

from fusegw.cli import output
from fusegw.control.snapshots import ScheduleStatus


def schedule_line(status: ScheduleStatus) -> str:
    """All of it in one line."""
    parts = [f"keep {status.schedule.keep}"] if status.schedule is not None else []
    parts += [f"{name} {text}" for name, text in _state(status)]
    return "; ".join(parts)


def schedule_lines(status: ScheduleStatus) -> Iterator[tuple[str, str]]:
    """One by one."""
    if status.schedule is not None:
        yield "keep", status.schedule.keep
        yield "even when unchanged", "yes" if status.schedule.even_unchanged else "no"
        yield "counts", "once it is in the store" if status.schedule.stored else "once it is made"
    yield from _state(status)


def _state(status: ScheduleStatus) -> Iterator[tuple[str, str]]:
    if status.schedule is not None:
        last = "none" if status.last is None else output.one_line(status.last)
        if status.waiting:
            last += " (a newer one is on its way to the store)"
        elif status.unchanged:
            last += " (nothing has changed since)"
        yield "last", last
    if status.next_unix_s is not None:
        yield "next", output.moment(status.next_unix_s)
    if status.error is not None:
        yield "failing", output.one_line(status.error)
