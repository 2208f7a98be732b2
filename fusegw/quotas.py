"""Quotas as the control socket and the commands know them: by path, with what they allow and what is used.

The same for a running gateway and for an index that no gateway has open.
"""

from collections.abc import Iterable
from typing import Literal

from fusegw.control.protocol import QuotasReply, QuotaStatus, QuotaWish
from fusegw.errors import Invalid
from fusegw.meta.quota import ACTIVE, COUNTING, REMOVING
from fusegw.meta.schema import ROOT_INODE
from fusegw.vfs.quotas import QuotaFigures, Quotas
from fusegw.vfs.whereabouts import Whereabouts

NEAR = 0.9
"""Part of a limit from which on it is told of."""
_PATH_MAX = 1000
_STATES: dict[int, Literal["active", "counting", "removing"]] = {
    ACTIVE: "active",
    COUNTING: "counting",
    REMOVING: "removing",
}


async def quota_list(quotas: Quotas, whereabouts: Whereabouts) -> QuotasReply:
    """All there are, the volume's first."""
    return QuotasReply(quotas=await _told(quotas.all(), whereabouts))


async def quotas_near(quotas: Quotas, whereabouts: Whereabouts) -> tuple[QuotaStatus, ...]:
    """Those in force that are used up, or nearly so."""
    found = [one for one in quotas.all() if one.quota.state == ACTIVE and one.share >= NEAR]
    return await _told(found, whereabouts)


async def change_quota(quotas: Quotas, whereabouts: Whereabouts, wish: QuotaWish) -> QuotaStatus:
    """Set or remove a quota, to be committed by the caller; how it is then, or was. Invalid, NotFound,
    Full."""
    for limit in (wish.bytes_max, wish.files_max):
        if limit is not None and not 0 <= limit < 1 << 63:
            raise Invalid(f"{limit} is no limit: expected 0 (none) or more")
    ino = whereabouts.find(wish.path) if wish.path else wish.inode or ROOT_INODE
    if wish.remove:
        found = quotas.find(ino)
        quotas.remove(ino)
    else:
        found = quotas.set(ino, bytes_max=wish.bytes_max, files_max=wish.files_max)
    return (await _told([found], whereabouts))[0]


async def _told(found: Iterable[QuotaFigures], whereabouts: Whereabouts) -> tuple[QuotaStatus, ...]:
    told = []
    for one in found:
        path = await whereabouts.path(one.quota.directory)
        told.append(
            QuotaStatus(
                path=path if path is None or len(path) <= _PATH_MAX else f"…{path[-_PATH_MAX:]}",
                inode=one.quota.directory,
                state=_STATES[one.quota.state],
                bytes_max=one.quota.bytes_max or None,
                bytes_used=one.used.nbytes,
                files_max=one.quota.files_max or None,
                files_used=one.used.files,
            )
        )
    return tuple(told)
