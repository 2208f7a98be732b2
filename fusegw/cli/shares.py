"""How commands read and change the shares of a volume: through its running gateway, else in its index, under
its lock, where the next mount finds them."""

from collections.abc import Iterator
from contextlib import contextmanager

from exports.model import Share, User
from fusegw.cli import output
from fusegw.cli.offline import offline_index
from fusegw.cli.session import Site
from fusegw.control.protocol import ShareChange, SharesReply
from fusegw.errors import Exists, Invalid, NotFound
from fusegw.shares import VolumeShares


def listing(site: Site, volume: str) -> SharesReply:
    """The shares and users of a volume, without hashes; nothing when it was never mounted."""
    try:
        return site.client(volume).shares()
    except NotFound:
        pass
    try:
        with _offline(site, volume) as rows:
            users = (User(name=u.name, uid=u.uid, gid=u.gid, groups=u.groups) for u in rows.users().values())
            return SharesReply(shares=tuple(rows.shares().values()), users=tuple(users))
    except NotFound:
        return SharesReply(shares=(), users=())


def listings(site: Site) -> dict[str, SharesReply]:
    """Of all volumes of this host, by name."""
    return {volume: listing(site, volume) for volume in site.registry.volumes()}


def change(site: Site, volume: str, wanted: ShareChange) -> bool:
    """Make a change; whether a running gateway applied it. As `fusegw.sharing.Sharing.change`."""
    try:
        site.client(volume).change_shares(wanted)
        return True
    except NotFound:
        if site.paths(volume).socket_file.exists():
            raise
    from fusegw.sharing import merge_change

    with _offline(site, volume, writing=True) as rows:
        merge_change(rows, wanted)
    return False


def find_share(site: Site, name: str) -> tuple[str, Share]:
    """The volume that has share `name`, and the share. NotFound lists those that there are, Invalid when
    several volumes have one."""
    found = [
        (volume, share)
        for volume, reply in listings(site).items()
        for share in reply.shares
        if share.name.casefold() == name.casefold()
    ]
    if len(found) > 1:
        volumes = ", ".join(volume for volume, _ in found)
        raise Invalid(
            f"several volumes have a share {name!r} ({volumes}): remove or rename one while unmounted"
        )
    if not found:
        raise NotFound(f"there is no share {name!r}; see fusegw export list")
    return found[0]


def find_user(site: Site, name: str) -> tuple[str, User]:
    """The volume that has user `name`, and the user. NotFound."""
    for volume, reply in listings(site).items():
        for user in reply.users:
            if user.name == name:
                return volume, user
    raise NotFound(f"there is no user {name!r}; see fusegw export user list")


def refuse_taken(site: Site, volume: str, name: str) -> None:
    """Exists when another volume has a share of that name: in one mount they would exclude each other."""
    for other, reply in listings(site).items():
        if other != volume and name.casefold() in (share.name.casefold() for share in reply.shares):
            raise Exists(f"volume {other!r} has a share {name!r}: choose another name")


def tell(what: str, volume: str, *, applied: bool) -> None:
    """Say on a terminal what was done."""
    output.remark(what + ("" if applied else f"; volume {volume} is not mounted, its next mount serves that"))


@contextmanager
def _offline(site: Site, volume: str, *, writing: bool = False) -> Iterator[VolumeShares]:
    """What the index on this host says. As `offline_index`."""
    with offline_index(site, volume, writing=writing) as metadata:
        yield VolumeShares(metadata, volume=volume, number=site.registry.get(volume).number)
