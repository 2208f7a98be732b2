"""Every invariant of the index (`fusegw.meta.schema`), in one pass over one view, in bounded memory.

Nothing that is found ends the check: a damaged row is named and left out, and what misses it is named too.
"""

from collections.abc import Callable

from fusegw.check.damages import Damages
from fusegw.check.data import Data
from fusegw.check.names import Names
from fusegw.check.quotas import Quotas
from fusegw.check.rows import Rows
from fusegw.meta.schema import (
    INODE,
    LOG_SEALED,
    LOG_TAIL,
    SNAPSHOT,
    STATE,
    STATE_BYTES,
    STATE_FILES,
    STATE_NEXT_INODE,
    STATE_NEXT_QUOTA,
    STATE_STORED,
    STATE_UNIQUE,
    TABLES,
)
from fusegw.meta.view import View


def check_index(
    view: View, damages: Damages, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Data:
    """What it knows of chunks and packs afterwards. Blocking; memory as `Names` and `Data` say.

    `on_progress` gets rows read, and how many there are.
    """
    total = sum(view.count(table) for table in TABLES)
    rows = Rows(view, damages, lambda done: on_progress(done, total))
    quotas = Quotas(rows)
    names, data = Names(rows, quotas), Data(rows)
    highest = 0
    for ino, inode in rows.of(INODE):
        names.inode(inode)
        quotas.inode(inode)
        data.inode(inode)
        highest = ino
    names.entries()
    names.compare()
    data.compare()
    quotas.compare()
    _check_state(rows, names, data, highest, quotas.highest)
    _check_snapshots(rows)
    _check_tail(rows)
    rows.read_rest()
    return data


def _check_state(rows: Rows, names: Names, data: Data, highest: int, highest_quota: int) -> None:
    state = {name: int.from_bytes(value, "big") for name, value in rows.of(STATE)}
    for name, expected in (
        (STATE_FILES, names.files),
        (STATE_BYTES, data.allocated),
        (STATE_UNIQUE, data.unique),
        (STATE_STORED, data.stored),
    ):
        if state.get(name, 0) != expected:
            rows.problem(
                f"the state says {state.get(name, 0)} for {name.decode()!r}, the rows make {expected}"
            )
    if state.get(STATE_NEXT_INODE, 0) <= highest:
        rows.problem(f"the next inode to be given out is {state.get(STATE_NEXT_INODE, 0)}, taken already")
    if highest_quota and state.get(STATE_NEXT_QUOTA, 0) <= highest_quota:
        rows.problem(f"the next quota would get number {state.get(STATE_NEXT_QUOTA, 0)}, taken already")


def _check_snapshots(rows: Rows) -> None:
    """Each has a place and a name of its own."""
    slots: set[int] = set()
    names: set[str] = set()
    for _, snapshot in rows.of(SNAPSHOT):
        if snapshot.slot in slots:
            rows.problem(f"snapshot {snapshot.name!r} has the slot {snapshot.slot} of another one")
        if not snapshot.dying and snapshot.name in names:
            rows.problem(f"two snapshots are called {snapshot.name!r}")
        slots.add(snapshot.slot)
        if not snapshot.dying:
            names.add(snapshot.name)


def _check_tail(rows: Rows) -> None:
    """What the log does not have yet follows on what it has, without a gap."""
    expected = None
    for number, _ in rows.of(LOG_TAIL):
        if expected is not None and number != expected:
            rows.problem(f"commit {expected} is missing among those that are not in the log yet")
        expected = number + 1
    for number, sealed in rows.of(LOG_SEALED):
        if sealed.head.seq != number:
            rows.problem(f"the segment on its way says number {sealed.head.seq}, it is kept as {number}")
