"""The shares and users of a volume, kept in its `gateway` table so that they travel with the log.

One JSON object per row: `share/<name, case folded>`, `user/<name>`, and `shares` with what all of them have
in common (the server's SID, how many NFS export ids were given). A recovery brings all of them back. Users'
NT hashes are as good as their passwords: in the store they lie sealed like everything in the log, on this
host they lie in the index.

Promises: a row of a newer format is neither served nor touched, and says so in `problems`. Keys that this
version does not know stay as they are. An export id, once given, is never given to another share of the
volume; it carries the volume's number, so no two volumes of a gateway give the same.

Changes are merged into the pending set; the caller makes them durable.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from exports.errors import InvalidExport
from exports.model import SHARES_MAX, Share, User
from fusegw.errors import Exists, Full, Invalid, NotFound, UnknownFormat
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import GATEWAY

FORMAT_VERSION = 1
COMMON_ROW = b"shares"
ROW_BYTES_MAX = 64 << 10
EXPORT_IDS_MAX = 255
"""Ever given by one volume."""

_SHARE, _USER = "share", "user"
_SID = re.compile(r"S-1-5-21(-[0-9]{1,10}){3}")
_ROW = msgspec.json.Decoder(dict[str, Any])


class VolumeShares:
    """What one volume says of its shares. Nothing is kept between calls but `problems`.

    `number` is the volume's on this host.
    """

    def __init__(self, metadata: Metadata, *, volume: str, number: int) -> None:
        self._metadata = metadata
        self.volume = volume
        self._number = number

    def shares(self) -> dict[str, Share]:
        """By name, in order of their names; those that cannot be read are in `problems`."""
        found = (self._share(row) for row in self._rows(_SHARE) if isinstance(row, dict))
        return {share.name: share for share in found if share is not None}

    def users(self) -> dict[str, User]:
        """By name; those that cannot be read are in `problems`."""
        found = (_converted(row, User) for row in self._rows(_USER) if isinstance(row, dict))
        return {user.name: user for user in found if isinstance(user, User)}

    @property
    def problems(self) -> list[str]:
        """Rows that are not served, and why; a line each."""
        lines = []
        for kind, of in ((_SHARE, Share), (_USER, User)):
            for row in self._rows(kind):
                why = row if isinstance(row, str) else _converted(row, of)
                if isinstance(why, str):
                    lines.append(f"a {kind} of volume {self.volume} is not served: {why}")
        return lines

    @property
    def sid(self) -> str | None:
        """The SID of the server that the users' SIDs are made from; None before there is one."""
        sid = self._common().get("sid")
        return sid if isinstance(sid, str) and _SID.fullmatch(sid) else None

    def put_share(self, share: Share) -> Share:
        """Add it, or change the one of that name; gives it as it is kept. Exists when only the case of the
        name differs, Full when there are too many shares or export ids, UnknownFormat."""
        before = self._own(_SHARE, share.name)
        if before and before.get("name") != share.name:
            raise Exists(f"volume {self.volume!r} has a share {before.get('name')!r}: choose another name")
        if not before and len(self.shares()) >= SHARES_MAX:
            raise Full(f"volume {self.volume!r} has {SHARES_MAX} shares already: remove one first")
        old = self._share(before) if before else None
        export_id = old.export_id if old is not None else 0
        if share.serves("nfs") and not export_id:
            export_id = self._next_export_id()
        share = msgspec.structs.replace(share, volume=self.volume, export_id=export_id)
        fields = msgspec.to_builtins(share)
        del fields["volume"]
        self._put(_key(_SHARE, share.name), before | fields)
        return share

    def remove_share(self, name: str) -> None:
        """NotFound when there is none; its export id stays given."""
        if not self._own(_SHARE, name):
            raise NotFound(f"volume {self.volume!r} has no share {name!r}; see fusegw export list")
        self._delete(_key(_SHARE, name))

    def put_user(self, user: User) -> None:
        """Add it, or change the one of that name. UnknownFormat."""
        before = self._own(_USER, user.name)
        self._put(_key(_USER, user.name), before | msgspec.to_builtins(user))

    def remove_user(self, name: str) -> None:
        """NotFound when there is none."""
        if not self._own(_USER, name):
            raise NotFound(f"volume {self.volume!r} has no user {name!r}; see fusegw export user list")
        self._delete(_key(_USER, name))

    def put_sid(self, sid: str) -> None:
        """Keep the server's SID. Invalid when it is none."""
        if not _SID.fullmatch(sid):
            raise Invalid(f"{sid!r} is no SID of a server: expected S-1-5-21-…")
        self._put(COMMON_ROW, self._common() | {"sid": sid})

    def _share(self, row: dict[str, Any]) -> Share | None:
        share = _converted(row, Share)
        if not isinstance(share, Share):
            return None
        given = share.export_id & 0xFF
        # On a host where the volume has another number its handles are others as well.
        return msgspec.structs.replace(
            share, volume=self.volume, export_id=(self._number << 8 | given) if given else 0
        )

    def _next_export_id(self) -> int:
        common = self._common()
        given = common.get("export_ids_given", 0)
        if not isinstance(given, int) or not 0 <= given < EXPORT_IDS_MAX:
            raise Full(
                f"volume {self.volume!r} has given all {EXPORT_IDS_MAX} export ids to NFS shares, which "
                "are never given twice: offer a directory above through a share that is there"
            )
        self._put(COMMON_ROW, common | {"export_ids_given": given + 1})
        return self._number << 8 | given + 1

    def _common(self) -> dict[str, Any]:
        row = self._read(COMMON_ROW)
        return row if isinstance(row, dict) else {}

    def _own(self, kind: str, name: str) -> dict[str, Any]:
        """The row as it stands, which may be changed; empty when there is none. UnknownFormat."""
        row = self._read(_key(kind, name))
        if isinstance(row, str):
            raise UnknownFormat(f"{kind} {name!r} of volume {self.volume!r}: {row}")
        return row

    def _rows(self, kind: str) -> Iterator[dict[str, Any] | str]:
        """All rows of a kind; of one that cannot be used, why."""
        low, high = f"{kind}/".encode(), f"{kind}0".encode()
        for key, _ in list(self._metadata.scan(GATEWAY, low, high)):
            yield self._read(key)

    def _read(self, key: bytes) -> dict[str, Any] | str:
        data = self._metadata.get(GATEWAY, key)
        if data is None:
            return {}
        try:
            row = _ROW.decode(data) if len(data) <= ROW_BYTES_MAX else {}
        except msgspec.DecodeError:
            row = {}
        version = row.get("format")
        if version != FORMAT_VERSION:
            return (
                f"{key.decode(errors='replace')!r} has format {version!r}, this fusegw knows "
                f"{FORMAT_VERSION}: upgrade fusegw"
            )
        return row

    def _put(self, key: bytes, row: dict[str, Any]) -> None:
        with self._metadata.change() as change:
            change.put(GATEWAY, key, msgspec.json.encode({"format": FORMAT_VERSION} | row, order="sorted"))

    def _delete(self, key: bytes) -> None:
        with self._metadata.change() as change:
            change.delete(GATEWAY, key)


def new_sid(random: bytes) -> str:
    """The SID of a new server from 12 random bytes."""
    parts = [str(int.from_bytes(random[start : start + 4], "big")) for start in (0, 4, 8)]
    return "-".join(("S-1-5-21", *parts))


def free_id(taken: set[int], first: int = 20000) -> int:
    """The lowest number from `first` on that nobody has."""
    return next(number for number in range(first, first + len(taken) + 1) if number not in taken)


def _key(kind: str, name: str) -> bytes:
    return f"{kind}/{name.casefold()}".encode()


def _converted(row: dict[str, Any], kind: type[Share] | type[User]) -> Share | User | str:
    """The row as what it should be, or why it is not."""
    try:
        return msgspec.convert(row, kind)
    except (msgspec.ValidationError, InvalidExport) as error:
        return f"{row.get('name')!r}: {error}"
