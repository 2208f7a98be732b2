"""`fusegw export user`: who may connect to shares over SMB with a password."""

import grp
import pwd
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from exports.errors import InvalidExport
from exports.model import User
from exports.nthash import PASSWORD_CHARS_MAX, nt_hash
from fusegw.cli import output, shares
from fusegw.cli.secret_source import read_private
from fusegw.cli.session import Session, Site, common_options, complete_volume, json_option
from fusegw.control.protocol import PutUser, RemoveUser
from fusegw.errors import Invalid
from fusegw.shares import free_id

_password_option = click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Read the password from here instead of asking; one line end at its end is not part of it.",
)


@click.group("user")
@common_options
def user(session: Session) -> None:
    """Users of shares. They are none of this host's accounts, and travel with the volume they belong to."""


@user.command("add")
@click.argument("name")
@click.option("--volume", shell_complete=complete_volume, help="The volume; needed where there are several.")
@click.option("--uid", type=int, help="Owner of its files.  [the host's account of that name, or a free one]")
@click.option("--gid", type=int, help="Group of its files.  [likewise]")
@click.option("--group", "groups", multiple=True, help="A further group; may repeat.")
@_password_option
@json_option
@common_options
def add(
    session: Session,
    name: str,
    volume: str | None,
    uid: int | None,
    gid: int | None,
    groups: tuple[str, ...],
    password_file: Path | None,
    as_json: bool,
) -> None:
    """Add a user, with a password that is asked for or read from a file."""
    site = session.site()
    volume = site.volume(volume)
    others = [one for reply in shares.listings(site).values() for one in reply.users]
    new = _user(name, uid, gid, groups, others)
    new = msgspec.structs.replace(new, nt_hash=_hash(name, password_file))
    _tell(site, volume, PutUser(new), f"user {name} (number {new.uid}) is there", as_json)


@user.command("passwd")
@click.argument("name")
@_password_option
@json_option
@common_options
def passwd(session: Session, name: str, password_file: Path | None, as_json: bool) -> None:
    """Give a user another password. Sessions that are open stay open."""
    site = session.site()
    volume, before = shares.find_user(site, name)
    changed = msgspec.structs.replace(before, nt_hash=_hash(name, password_file))
    _tell(site, volume, PutUser(changed, edit=True), f"user {name} has another password", as_json)


@user.command("remove")
@click.argument("name")
@json_option
@common_options
def remove(session: Session, name: str, as_json: bool) -> None:
    """Remove a user, and end sessions in the shares that the user had access to. Files stay."""
    site = session.site()
    volume, _ = shares.find_user(site, name)
    _tell(site, volume, RemoveUser(name), f"user {name} is removed", as_json)


@user.command("list")
@json_option
@common_options
def list_users(session: Session, as_json: bool) -> None:
    """List the users of all volumes."""
    found = [
        (volume, one) for volume, reply in shares.listings(session.site()).items() for one in reply.users
    ]
    if as_json:
        rows = [_document(volume, one) for volume, one in found]
        output.print_json({"users": rows})
        return
    output.print_table(
        ("name", "volume", "uid", "gid", "groups"),
        [(one.name, volume, str(one.uid), str(one.gid), ", ".join(one.groups)) for volume, one in found],
    )


def _user(name: str, uid: int | None, gid: int | None, groups: Iterable[str], others: Iterable[User]) -> User:
    """A user with the numbers given, or those of the host's account of that name, or free ones. Invalid."""
    taken = {number for one in others for number in (one.uid, one.gid, *one.groups.values())}
    known = {group: number for one in others for group, number in one.groups.items()}
    try:
        account: pwd.struct_passwd | None = pwd.getpwnam(name)
    except KeyError:
        account = None
    if uid is None:
        uid = account.pw_uid if account else free_id(taken)
    if gid is None:
        gid = account.pw_gid if account else uid
    taken |= {uid, gid}
    numbers = {}
    for group in groups:
        numbers[group] = known[group] if group in known else _group_number(group, taken)
        taken.add(numbers[group])
    try:
        return msgspec.convert({"name": name, "uid": uid, "gid": gid, "groups": numbers}, User)
    except (msgspec.ValidationError, InvalidExport) as error:
        raise Invalid(str(error)) from None


def _group_number(name: str, taken: set[int]) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return free_id(taken)


def _hash(name: str, password_file: Path | None) -> str:
    """What is kept of the password. Invalid when there is none and nobody to ask."""
    if password_file is not None:
        try:
            password = read_private(password_file, "password file").decode()
        except UnicodeDecodeError:
            raise Invalid(f"password file {password_file} is not text (UTF-8)") from None
        password = password.removesuffix("\n").removesuffix("\r")
    elif sys.stdin.isatty():
        password = click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True)
    else:
        raise Invalid(f"no password for user {name!r}: give --password-file, or run this on a terminal")
    if not 1 <= len(password) <= PASSWORD_CHARS_MAX or not password.isprintable():
        raise Invalid(f"a password needs 1 to {PASSWORD_CHARS_MAX} printable characters")
    return nt_hash(password)


def _tell(site: Site, volume: str, change: PutUser | RemoveUser, what: str, as_json: bool) -> None:
    applied = shares.change(site, volume, change)
    if not as_json:
        shares.tell(what, volume, applied=applied)
    elif isinstance(change, PutUser):
        output.print_json(_document(volume, change.user) | {"applied": applied})
    else:
        output.print_json({"name": change.name, "volume": volume, "applied": applied})


def _document(volume: str, user: User) -> dict[str, Any]:
    """Without the hash."""
    return {"name": user.name, "volume": volume, "uid": user.uid, "gid": user.gid, "groups": user.groups}
