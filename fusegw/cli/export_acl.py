"""`fusegw export acl`: the NT ACLs of files in shares, shown and set as SDDL by samba's own tool."""

import os
from pathlib import Path

import click

from exports.errors import ExportError
from exports.smbconf import Places
from exports.tools import SambaTools, accounts_environment
from fusegw.cli import output, shares
from fusegw.cli.session import Session, Site, common_options, json_option
from fusegw.config import server_dir
from fusegw.daemon.lock import present_holder
from fusegw.errors import FusegwError, Invalid, NotFound


@click.group("acl")
@common_options
def acl(session: Session) -> None:
    """NT ACLs of files and directories in a share over SMB that is mounted."""


@acl.command("show")
@click.argument("share")
@click.argument("path", default="/")
@json_option
@common_options
def show(session: Session, share: str, path: str, as_json: bool) -> None:
    """Print the ACL of PATH in SHARE as SDDL."""
    tools, name, file = _place(session.site(), share, path)
    try:
        sddl = tools.acl(name, file)
    except ExportError as error:
        raise FusegwError(str(error)) from None
    if as_json:
        output.print_json({"share": name, "path": path, "sddl": sddl})
    else:
        print(sddl)


@acl.command("set")
@click.argument("share")
@click.argument("path")
@click.argument("sddl")
@json_option
@common_options
def set_acl(session: Session, share: str, path: str, sddl: str, as_json: bool) -> None:
    """Set the ACL of PATH in SHARE; what it inherits to files that are there already stays as it is."""
    tools, name, file = _place(session.site(), share, path)
    try:
        tools.set_acl(name, file, sddl)
        found = tools.acl(name, file)
    except ExportError as error:
        raise Invalid(str(error)) from None
    if as_json:
        output.print_json({"share": name, "path": path, "sddl": found})
    else:
        output.remark(f"{path} in share {name}: {found}")


def _place(site: Site, name: str, path: str) -> tuple[SambaTools, str, Path]:
    """The tools with the configuration that serves the share, its name, and the file. NotFound, Invalid."""
    volume, share = shares.find_share(site, name)
    holder = present_holder(site.paths(volume))
    if holder is None or not holder.mountpoint:
        raise NotFound(f"volume {volume!r} is not mounted: mount it first")
    if not share.serves("smb"):
        raise Invalid(f"share {share.name!r} is not offered over SMB")
    root = Path(holder.seen_at(volume) + share.path.rstrip("/"))
    file = root / path.lstrip("/")
    real = Path(os.path.realpath(file))
    if real != root and root not in real.parents:
        raise Invalid(f"{path!r} leads out of share {share.name!r}")
    if not real.exists():
        raise NotFound(f"share {share.name!r} has no {path!r}")
    number = 0 if holder.unified else site.registry.get(volume).number
    places = Places(server_dir(site.state_dir, number) / "smb")
    try:
        environment = (
            {} if site.config.servers.smb.realm else accounts_environment(places.passwd, places.group)
        )
    except ExportError as error:
        raise FusegwError(str(error)) from None
    return SambaTools(places.configuration, environment), share.name, real
