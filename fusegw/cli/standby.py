"""`fusegw promote`: a standby becomes the writer."""

import click
import msgspec

from fusegw.cli import output
from fusegw.cli.session import Session, common_options, json_option, volume_argument


@click.command("promote")
@volume_argument
@json_option
@common_options
def promote(session: Session, name: str | None, as_json: bool) -> None:
    """Make a standby (mounted with --follow) the writer of its volume.

    It shows all that is in the store first. The mount stays. The gateway that wrote the volume until now, if
    it still runs, changes nothing in the store any more; what it had not shipped stays on its host.
    """
    site = session.site()
    volume = site.volume(name)
    reply = site.client(volume).promote()
    if as_json:
        output.print_json({"volume": volume} | msgspec.to_builtins(reply))
    else:
        print(f"volume {volume}: written here from now on (epoch {reply.epoch}, {reply.took_s:.1f} s)")
