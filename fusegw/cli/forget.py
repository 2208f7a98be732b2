"""`fusegw forget`: the opposite of recover, for this host alone."""

import click

from fusegw.cli import output
from fusegw.cli.session import Session, common_options, complete_volume, json_option
from fusegw.clock import SystemClock


@click.command("forget")
@click.argument("name", shell_complete=complete_volume)
@click.option(
    "--discard-unsent", is_flag=True, help="Even if that loses changes that never reached the store."
)
@json_option
@common_options
def forget(session: Session, name: str, discard_unsent: bool, as_json: bool) -> None:
    """Remove index and cache of volume NAME from this host.

    For a host that is given up, a standby that is no longer needed, or an older state. The volume must not be
    mounted. Nothing in its store changes: fusegw recover brings it back, here or elsewhere.
    """
    from fusegw.forget import forget_volume

    site = session.site()
    forget_volume(
        site.registry,
        site.paths(name),
        site.cache_dir,
        discard_unsent=discard_unsent,
        clock=SystemClock(),
    )
    if as_json:
        output.print_json({"volume": name, "forgotten": True})
        return
    print(f"volume {name} is forgotten on this host; its store is as it was")
