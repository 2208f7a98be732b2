"""`fusegw export`: the shares of this host's volumes. Users of shares: `fusegw.cli.export_user`."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, get_args

import click
import msgspec

from exports.clients import Client
from exports.errors import InvalidExport
from exports.model import Case, Encryption, Protocol, Security, Share, Squash
from fusegw.cli import output, shares
from fusegw.cli.export_acl import acl
from fusegw.cli.export_audit import audit
from fusegw.cli.export_client import show_advice
from fusegw.cli.export_user import user
from fusegw.cli.session import Session, Site, common_options, complete_volume, json_option
from fusegw.control.protocol import PutShare, RemoveShare
from fusegw.errors import Invalid

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Octal(click.ParamType[int]):
    name = "mask"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else int(value, 8)
        except ValueError:
            self.fail(f"{value!r} is no octal mask such as 0664", param, ctx)


def _choice(kind: Any) -> click.Choice[str]:
    return click.Choice(get_args(kind))


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--path", help="Directory in the volume; it must exist.  [/]"),
    click.option("--protocol", "protocols", multiple=True, type=_choice(Protocol), help="May repeat.  [smb]"),
    click.option("--read-only/--read-write", default=None, help="[read-write]"),
    click.option("--host", "hosts", multiple=True, help="Address, network or name; may repeat.  [all]"),
    click.option("--user", "users", multiple=True, help="SMB: may repeat.  [the users of the volume]"),
    click.option("--group", "groups", multiple=True, help="SMB: whose members may connect; may repeat."),
    click.option("--guest/--no-guest", default=None, help="SMB: without a password too.  [no]"),
    click.option("--force-user", help="SMB: do everything as this user."),
    click.option("--force-group", help="SMB: do everything as this group."),
    click.option("--create-mask", type=_Octal(), help="SMB: permission bits of new files.  [0664]"),
    click.option("--directory-mask", type=_Octal(), help="SMB: permission bits of new directories.  [0775]"),
    click.option("--squash", type=_choice(Squash), help="NFS: whose user number is not believed.  [root]"),
    click.option("--anonymous-uid", type=int, help="NFS: the number taken instead.  [65534]"),
    click.option("--anonymous-gid", type=int, help="NFS: the group number taken instead.  [65534]"),
    click.option("--security", multiple=True, type=_choice(Security), help="NFS; may repeat.  [sys]"),
    click.option(
        "--acknowledge-forgeable-handles/--no-acknowledge-forgeable-handles",
        "forgeable_handles",
        default=None,
        help="NFS: it lets others in than other shares do, which forged handles undo.  [no]",
    ),
    click.option("--encryption", type=_choice(Encryption), help="SMB.  [auto: required beyond this host]"),
    click.option("--signing/--no-signing", default=None, help="SMB: refuse unsigned sessions.  [yes]"),
    click.option("--case", type=_choice(Case), help="SMB: whether A and a are one name.  [insensitive]"),
    click.option("--macos/--no-macos", default=None, help="SMB: as Apple's clients want it.  [no]"),
    click.option("--hidden/--visible", default=None, help="Whether lists of shares show it.  [visible]"),
    click.option("--comment", help="A line for people."),
)


def _share_options(function: _Function) -> _Function:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.group("export")
@common_options
def export(session: Session) -> None:
    """Shares: what of the volumes is offered over SMB and NFS, and to whom.

    They are kept in the volume they show: a recovered volume brings its shares along. While it is mounted a
    change counts at once, without cutting sessions in other shares.
    """


export.add_command(user)
export.add_command(acl)
export.add_command(audit)


@export.command("add")
@click.argument("name")
@click.option("--volume", shell_complete=complete_volume, help="The volume; needed where there are several.")
@_share_options
@json_option
@common_options
def add(session: Session, name: str, volume: str | None, as_json: bool, **options: Any) -> None:
    """Offer a directory of a volume as share NAME."""
    site = session.site()
    volume = site.volume(volume)
    share = _share({"name": name}, options)
    shares.refuse_taken(site, volume, name)
    applied = shares.change(site, volume, PutShare(share))
    _tell(site, share.name, applied, f"share {name} is there", as_json)


@export.command("edit")
@click.argument("name")
@_share_options
@json_option
@common_options
def edit(session: Session, name: str, as_json: bool, **options: Any) -> None:
    """Change what is said about a share; lists are replaced, and emptied by an empty word."""
    site = session.site()
    volume, before = shares.find_share(site, name)
    share = _share(msgspec.to_builtins(before), options)
    applied = shares.change(site, volume, PutShare(share, edit=True))
    _tell(site, share.name, applied, f"share {share.name} is changed", as_json)


@export.command("remove")
@click.argument("name")
@json_option
@common_options
def remove(session: Session, name: str, as_json: bool) -> None:
    """Offer a share no longer. Its files stay."""
    site = session.site()
    volume, share = shares.find_share(site, name)
    applied = shares.change(site, volume, RemoveShare(share.name))
    if as_json:
        output.print_json({"name": share.name, "volume": volume, "applied": applied})
    else:
        shares.tell(f"share {share.name} is removed", volume, applied=applied)


@export.command("list")
@json_option
@common_options
def list_shares(session: Session, as_json: bool) -> None:
    """List the shares of all volumes."""
    found = [share for reply in shares.listings(session.site()).values() for share in reply.shares]
    if as_json:
        output.print_json({"shares": [_document(share) for share in found]})
        return
    output.print_table(
        ("name", "volume", "path", "over", "access", "comment"),
        [
            (
                share.name,
                share.volume,
                share.path,
                ", ".join(share.protocols),
                "read only" if share.read_only else "read, write",
                share.comment,
            )
            for share in found
        ],
    )


@export.command("show")
@click.argument("name")
@click.option("--client", type=_choice(Client), help="Show what to type at such a client instead.")
@click.option("--address", help="With --client: how clients reach this host.  [where the server listens]")
@json_option
@common_options
def show(session: Session, name: str, client: Client | None, address: str | None, as_json: bool) -> None:
    """Show all that is said about a share, or how a client uses it."""
    site = session.site()
    volume, share = shares.find_share(site, name)
    if client is not None:
        show_advice(site, volume, share, client, address, as_json=as_json)
    elif as_json:
        output.print_json(_document(share))
    else:
        output.print_pairs(f"share {share.name}", _lines(share))


def _share(before: dict[str, Any], options: dict[str, Any]) -> Share:
    """`before` with what the command line says. Invalid."""
    said = {}
    for name, value in options.items():
        if isinstance(value, tuple):
            if value:
                said[name] = [word for word in value if word]
        elif value is not None:
            said[name] = value
    try:
        return msgspec.convert(before | said, Share)
    except (msgspec.ValidationError, InvalidExport) as error:
        raise Invalid(str(error)) from None


def _document(share: Share) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(share)
    for name in ("create_mask", "directory_mask"):
        document[name] = f"{document[name]:04o}"
    return document


def _lines(share: Share) -> Iterator[tuple[str, str]]:
    for name, value in _document(share).items():
        if name == "name":
            continue
        if isinstance(value, bool):
            text = "yes" if value else "no"
        elif isinstance(value, list | tuple):
            text = ", ".join(value)
        else:
            text = str(value)
        yield name.replace("_", " "), text or "-"


def _tell(site: Site, name: str, applied: bool, what: str, as_json: bool) -> None:
    volume, share = shares.find_share(site, name)
    if as_json:
        output.print_json(_document(share) | {"applied": applied})
    else:
        shares.tell(what, volume, applied=applied)
