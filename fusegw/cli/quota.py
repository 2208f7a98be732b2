"""`fusegw quota`: how much a volume, or a directory with all below it, may hold."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
import msgspec

from fusegw.cli import output
from fusegw.cli.offline import offline_index
from fusegw.cli.places import place_of
from fusegw.cli.quota_texts import bytes_use, files_use
from fusegw.cli.session import Session, Site, common_options, complete_volume, json_option, volume_argument
from fusegw.control.protocol import QuotasReply, QuotaStatus, QuotaWish
from fusegw.errors import Invalid, NotFound
from fusegw.sizes import parse_size

_NONE = "none"
_Reply = TypeVar("_Reply")

_target_argument = click.argument("target", metavar="VOLUME[:/PATH]|PATH", shell_complete=complete_volume)


@click.group("quota")
@common_options
def quota(session: Session) -> None:
    """Limits of bytes and files, for a volume or for a directory with all below it.

    The directory is VOLUME:/PATH, from the volume's root on, or its PATH on a mount; VOLUME alone is the
    volume as a whole. Who writes beyond a limit gets EDQUOT ("Disk quota exceeded").
    """


@quota.command("set")
@_target_argument
@click.option("--bytes", "bytes_max", metavar="SIZE|none", help="Data of files, such as 10G.")
@click.option("--files", "files_max", metavar="N|none", help="Files and directories, of every kind.")
@json_option
@common_options
def set_quota(
    session: Session, target: str, bytes_max: str | None, files_max: str | None, as_json: bool
) -> None:
    """Limit a directory and all below it, or change its limits; what is not given stays as it is.

    What is there already is counted in the background; the limits hold when that is done (fusegw quota show).
    """
    site = session.site()
    volume, wish = _directory(site, target)
    if bytes_max is None and files_max is None:
        raise click.UsageError("give --bytes, --files or both")
    limits = QuotaWish(
        path=wish.path,
        inode=wish.inode,
        bytes_max=None if bytes_max is None else _bytes(bytes_max),
        files_max=None if files_max is None else _files(files_max),
    )
    changed, applied = _change(site, volume, limits)
    if as_json:
        output.print_json(_document(volume, changed))
        return
    if changed.state == "counting":
        when = "in the background" if applied else "after the next mount"
        output.remark(f"what is there is counted {when}, then the limits hold; see fusegw quota show")
    _show(volume, changed)


@quota.command("show")
@_target_argument
@json_option
@common_options
def show(session: Session, target: str, as_json: bool) -> None:
    """Show the quota of a volume or of a directory, and what is used of it."""
    site = session.site()
    volume, wish = _directory(site, target)
    found = next((one for one in _all(site, volume) if _is_of(one, wish)), None)
    if found is None:
        raise NotFound(f"{target} has no quota of its own; see fusegw quota list")
    if as_json:
        output.print_json(_document(volume, found))
    else:
        _show(volume, found)


@quota.command("remove")
@_target_argument
@json_option
@common_options
def remove(session: Session, target: str, as_json: bool) -> None:
    """Take a quota away. Files stay, and count for the quotas around it as before."""
    site = session.site()
    volume, wish = _directory(site, target)
    was, _ = _change(site, volume, msgspec.structs.replace(wish, remove=True))
    if as_json:
        output.print_json(_document(volume, was))
    else:
        output.remark(f"{_name(volume, was)} has no quota any more")


@quota.command("list")
@volume_argument
@json_option
@common_options
def list_quotas(session: Session, name: str | None, as_json: bool) -> None:
    """List the quotas of a volume, or of all volumes of this host."""
    site = session.site()
    volumes = list(site.registry.volumes()) if name is None else [site.volume(name)]
    found = [(volume, one) for volume in volumes for one in _all(site, volume, missing=name is None)]
    if as_json:
        output.print_json({"quotas": [_document(volume, one) for volume, one in found]})
        return
    output.print_table(
        ("directory", "state", "bytes", "files"),
        [(_name(volume, one), one.state, bytes_use(one), files_use(one)) for volume, one in found],
    )


def _directory(site: Site, target: str) -> tuple[str, QuotaWish]:
    """The volume that is meant, and a wish that says which directory."""
    name, colon, path = target.partition(":")
    if name in site.registry.volumes() and (not colon or path.startswith("/")):
        try:
            path.encode()
        except UnicodeEncodeError:
            raise Invalid(f"{path!r} is not UTF-8: give the directory as a path on the mount") from None
        parts = [part for part in path.split("/") if part]
        return name, QuotaWish(path="/" + "/".join(parts))
    place = place_of(site, target)
    if place is None:
        return site.volume(target), QuotaWish(path="/")
    return place.volume, QuotaWish(inode=place.inode)


def _is_of(quota: QuotaStatus, wish: QuotaWish) -> bool:
    return quota.state != "removing" and (quota.path == wish.path if wish.path else quota.inode == wish.inode)


def _bytes(text: str) -> int:
    if text == _NONE:
        return 0
    nbytes = parse_size(text)
    if not nbytes:
        raise Invalid(f"a limit of {text!r} would allow nothing: expected a size such as 10G, or {_NONE}")
    return nbytes


def _files(text: str) -> int:
    if text == _NONE:
        return 0
    if not text.isdecimal() or not int(text):
        raise Invalid(f"{text!r} is no number of files: expected 1 or more, or {_NONE}")
    return int(text)


def _all(site: Site, volume: str, *, missing: bool = False) -> tuple[QuotaStatus, ...]:
    """Of a volume; with `missing`, none of one that was never mounted here."""
    try:
        return site.client(volume).quotas().quotas
    except NotFound:
        if site.paths(volume).socket_file.exists():
            raise
    from fusegw.quotas import quota_list

    try:
        listing: QuotasReply = _offline(site, volume, quota_list)
    except NotFound:
        if not missing:
            raise
        return ()
    return listing.quotas


def _change(site: Site, volume: str, wish: QuotaWish) -> tuple[QuotaStatus, bool]:
    """Through the running gateway, else in the index; whether there is a gateway."""
    try:
        return site.client(volume).change_quota(wish), True
    except NotFound:
        if site.paths(volume).socket_file.exists():
            raise
    from fusegw.quotas import change_quota

    return _offline(site, volume, change_quota, wish, writing=True), False


def _offline(
    site: Site, volume: str, ask: Callable[..., Awaitable[_Reply]], *arguments: Any, writing: bool = False
) -> _Reply:
    import trio

    from fusegw.vfs.inodes import Inodes
    from fusegw.vfs.quotas import Quotas
    from fusegw.vfs.usage import Usage
    from fusegw.vfs.whereabouts import Whereabouts

    with offline_index(site, volume, writing=writing) as metadata:
        quotas = Quotas(metadata, Inodes(metadata, Usage(metadata)), changed=lambda: None)
        return trio.run(ask, quotas, Whereabouts(metadata), *arguments)


def _show(volume: str, quota: QuotaStatus) -> None:
    lines = [("state", quota.state), ("bytes", bytes_use(quota)), ("files", files_use(quota))]
    output.print_pairs(f"quota of {_name(volume, quota)}", lines)


def _name(volume: str, quota: QuotaStatus) -> str:
    return volume if quota.path == "/" else f"{volume}:{quota.path or f'inode {quota.inode}'}"


def _document(volume: str, quota: QuotaStatus) -> dict[str, Any]:
    document: dict[str, Any] = {"volume": volume} | msgspec.to_builtins(quota)
    return document
