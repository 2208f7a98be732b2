"""`fusegw export show NAME --client …`: what to type at a client, as `exports.clients` says."""

import socket

import click
import msgspec

from exports.clients import ANYBODY, Advice, Client, Reach, address_of, advise, protocol_of
from exports.errors import InvalidExport
from exports.model import Share
from exports.names import is_loopback
from fusegw.cli import output, shares
from fusegw.cli.session import Site
from fusegw.errors import Invalid


def show_advice(
    site: Site, volume: str, share: Share, client: Client, address: str | None, *, as_json: bool
) -> None:
    """Print it: commands as they are, all else as comments. Invalid."""
    try:
        advice = _advice(site, volume, share, client, address)
    except InvalidExport as error:
        raise Invalid(str(error)) from None
    if as_json:
        output.print_json(msgspec.to_builtins(advice))
        return
    for step in advice.steps:
        click.echo(f"# {step.what}\n{step.text}\n")
    for note in advice.notes:
        click.echo(f"# {note}")


def _advice(site: Site, volume: str, share: Share, client: Client, address: str | None) -> Advice:
    smb, nfs = site.config.servers.smb, site.config.servers.nfs
    listen = (nfs.listen,) if protocol_of(share, client) == "nfs" else smb.listen
    encrypted = share.encryption == "required" or (share.encryption == "auto" and not smb.is_local)
    members = tuple(user.name for user in shares.listing(site, volume).users)
    users = share.users or (() if share.groups else members)
    reach = Reach(
        address=address or address_of(listen, socket.getfqdn()),
        domain=smb.server_name,
        smb_port=smb.port,
        nfs_port=nfs.port,
        encrypted=encrypted,
        local=all(map(is_loopback, listen)),
        user=users[0] if len(users) == 1 else ANYBODY,
    )
    return advise(share, client, reach)
