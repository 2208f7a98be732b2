"""Messages of the control socket about snapshots."""

from typing import Literal

import msgspec

from fusegw.schedule import SnapshotSchedule


class CreateSnapshot(msgspec.Struct, frozen=True, kw_only=True, tag_field="change", tag="create"):
    """A snapshot of everything acknowledged so far."""

    name: str = ""
    """Empty: one is made from the time."""
    locked_until_unix_s: float = 0
    """It cannot be deleted before that."""
    wait: bool = False
    """Answer when it is in the store, with all that is in it."""


class DeleteSnapshots(msgspec.Struct, frozen=True, kw_only=True, tag_field="change", tag="delete"):
    """These go away: all of them, or none when one of them cannot."""

    names: tuple[str, ...]


class LockSnapshot(msgspec.Struct, frozen=True, kw_only=True, tag_field="change", tag="lock"):
    """It cannot be deleted before that; never shortened."""

    name: str
    locked_until_unix_s: float


class RollBack(msgspec.Struct, frozen=True, kw_only=True, tag_field="change", tag="rollback"):
    """The volume becomes what this one shows; the answer is the one made of the state before."""

    name: str


SnapshotChange = CreateSnapshot | DeleteSnapshots | LockSnapshot | RollBack


class CloneWish(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of a file or tree; paths from the volume's root on."""

    source: str = ""
    snapshot: str = ""
    """Where the source is; empty: as it is now."""
    target: str = ""
    replace: bool = False
    """What is there goes."""


class CloneReply(msgspec.Struct, frozen=True, kw_only=True):
    """What was made."""

    files: int
    """Of every kind."""
    logical_bytes: int
    """Of which nothing is stored once more."""
    replaced_in: str
    """The snapshot that has what was replaced; empty when nothing was."""


class DiffWish(msgspec.Struct, frozen=True, kw_only=True):
    """Two snapshots, or a snapshot and now."""

    older: str = ""
    newer: str = ""
    """Empty: now."""
    items_max: int = 10_000


class DiffItem(msgspec.Struct, frozen=True, kw_only=True):
    """A path that is not as it was."""

    path: str
    difference: Literal["added", "removed", "renamed", "content", "attributes"]
    is_directory: bool
    before: str
    """The path before, of what was renamed."""


class DiffReply(msgspec.Struct, frozen=True, kw_only=True):
    """What changed, by path."""

    items: tuple[DiffItem, ...]
    total: int
    """There may be more than there are items."""


class SnapshotItem(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot; times in seconds since 1970."""

    name: str
    created_unix_s: float
    made_by: Literal["hand", "schedule", "rollback", "clone"]
    files: int
    """Inodes in use then, of every kind."""
    logical_bytes: int
    """Of files, without their holes."""
    locked_until_unix_s: float | None
    """None when it is not locked (any more)."""
    stored: bool
    """Whether it is in the store, with all that is in it."""


class SnapshotsReply(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshots, oldest first: all there are, or those that a change was about, as they were before it when
    they are gone."""

    snapshots: tuple[SnapshotItem, ...]


class SnapshotReply(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot, and what it holds as of the newest commit."""

    snapshot: SnapshotItem
    held_logical_bytes: int
    """Of files, without their holes."""
    held_stored_bytes: int
    """Of the chunks they are made of, each once, as they are stored."""
    unique_logical_bytes: int
    """Of them, what neither the present nor another snapshot has: deleting it frees that."""
    unique_stored_bytes: int


class ScheduleWish(msgspec.Struct, frozen=True, kw_only=True):
    """What the schedule is to be from now on."""

    schedule: SnapshotSchedule | None
    """None: there is none any more."""


class ScheduleStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The snapshots that a gateway makes by itself; times in seconds since 1970."""

    schedule: SnapshotSchedule | None = None
    """None when what the volume says cannot be used."""
    next_unix_s: float | None = None
    """When the next one is due; None where the volume is not written."""
    last: str | None = None
    """Name of the newest one that counts; None without."""
    last_unix_s: float | None = None
    """When it was made."""
    waiting: bool = False
    """The newest one does not count yet: it is not in the store."""
    unchanged: bool = False
    """There is none of this period because nothing had changed."""
    error: str | None = None
    """Why it does not get on; it is tried again."""


class ScheduleReply(msgspec.Struct, frozen=True, kw_only=True):
    """The schedule of a volume, as it is or as it is after a change."""

    status: ScheduleStatus | None
    """None: there is none."""
