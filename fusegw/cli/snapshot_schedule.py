"""`fusegw snapshot schedule`: the snapshots that a gateway makes and deletes by itself."""

import click
import msgspec

from fusegw.cli import output
from fusegw.cli.schedule_text import schedule_lines
from fusegw.cli.session import Session, common_options, complete_volume, json_option
from fusegw.control.snapshots import ScheduleReply, ScheduleWish
from fusegw.schedule import SnapshotSchedule

volume_argument = click.argument("volume", shell_complete=complete_volume)


@click.group("schedule")
@common_options
def schedule(session: Session) -> None:
    """Snapshots that the gateway makes by itself, and how many of them it keeps.

    The volume must be mounted; where it is written the schedule is set, and run.
    """


@schedule.command("set")
@volume_argument
@click.argument("keep", nargs=-1, required=True, metavar="KEEP...")
@click.option(
    "--even-unchanged", is_flag=True, help="Make one, too, when nothing has changed since the last."
)
@click.option(
    "--stored", is_flag=True, help="One counts, and replaces older ones, only once it is in the store."
)
@json_option
@common_options
def set_schedule(
    session: Session, volume: str, keep: tuple[str, ...], even_unchanged: bool, stored: bool, as_json: bool
) -> None:
    """Make snapshots of VOLUME by itself, in the place of the schedule it had.

    KEEP is such as "hourly 24, daily 14, weekly 8, monthly 12" (also: yearly): one is made in each of the
    shortest periods named, and of the newest so many of each the last one stays. Snapshots made by hand, and
    locked ones, are never deleted.
    """
    wanted = SnapshotSchedule(keep=" ".join(keep), even_unchanged=even_unchanged, stored=stored)
    site = session.site()
    _show(volume, site.client(site.volume(volume)).change_schedule(ScheduleWish(schedule=wanted)), as_json)


@schedule.command("show")
@volume_argument
@json_option
@common_options
def show(session: Session, volume: str, as_json: bool) -> None:
    """Show the schedule of VOLUME, its last and its next snapshot."""
    site = session.site()
    _show(volume, site.client(site.volume(volume)).schedule(), as_json)


@schedule.command("remove")
@volume_argument
@json_option
@common_options
def remove(session: Session, volume: str, as_json: bool) -> None:
    """Make and delete no snapshots of VOLUME by itself any more; those that are there stay."""
    site = session.site()
    _show(volume, site.client(site.volume(volume)).change_schedule(ScheduleWish(schedule=None)), as_json)


def _show(volume: str, reply: ScheduleReply, as_json: bool) -> None:
    if as_json:
        output.print_json({"volume": volume} | msgspec.to_builtins(reply))
    elif reply.status is None:
        print(f"volume {volume} has no snapshot schedule")
    else:
        output.print_pairs(f"snapshot schedule of volume {volume}", schedule_lines(reply.status))
