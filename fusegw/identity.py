"""What the gateway is besides its files, kept in the volume so that it travels with the log.

The `gateway` table holds one JSON object per row, under the row's name. The row `identity` says which volume
this is on its host and how the last read-write mount served it; other rows belong to whoever names them.
A recovery reads it to bring back the gateway, not only the data.

Promises: no secret and no credential is in that row, nor a path to one. Keys that this version does not
know, written by a newer one, stay as they are; a row of a newer format is not touched at all.
"""

import logging
from typing import Annotated, Any

import msgspec

from fusegw.errors import Corrupt, UnknownFormat
from fusegw.meta.metadata import Metadata
from fusegw.meta.schema import GATEWAY

FORMAT_VERSION = 1
IDENTITY_ROW = b"identity"
IDENTITY_BYTES_MAX = 64 << 10

Value = bool | int | float | str
log = logging.getLogger(__name__)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The row `identity`; the defaults stand for what an older version did not write."""

    volume: str
    """The volume's name."""
    number: Annotated[int, msgspec.Meta(ge=1, le=255)]
    """The first 8 bits of its node ids, which clients of NFS keep."""
    mountpoint: str = ""
    """Where it was mounted last."""
    policy: dict[str, Value] = {}
    """How it was served: the values in force, under the names that `[volumes.NAME]` of the configuration has
    for them."""
    store: dict[str, Value] = {}
    """How objects are written (server-side encryption, storage class), under the names in
    `[volumes.NAME.store]`; not where."""


def record_identity(metadata: Metadata, identity: Identity) -> bool:
    """Blocking: make `identity` durable as a change that is shipped like any other; False when it is there
    already, or when a newer version wrote what is there."""
    found = _row(metadata)
    if found.get("format", FORMAT_VERSION) != FORMAT_VERSION:
        log.warning(
            "the gateway's identity in the volume has format %s, this fusegw knows %d: left as it is",
            found["format"],
            FORMAT_VERSION,
        )
        return False
    row = {"format": FORMAT_VERSION} | found | msgspec.to_builtins(identity)
    for name in ("policy", "store"):
        before = found.get(name)
        row[name] = (before if isinstance(before, dict) else {}) | row[name]
    if row == found:
        return False
    with metadata.change() as change:
        change.put(GATEWAY, IDENTITY_ROW, msgspec.json.encode(row, order="sorted"))
    metadata.freeze()
    metadata.save()
    metadata.saved()
    return True


def recorded_identity(metadata: Metadata) -> Identity | None:
    """What the index says of its gateway; None when no mount has said anything. Corrupt, UnknownFormat."""
    found = _row(metadata)
    if not found:
        return None
    version = found.get("format")
    if version != FORMAT_VERSION:
        raise UnknownFormat(
            f"the gateway's identity in the volume has format {version!r}, this fusegw knows "
            f"{FORMAT_VERSION}: upgrade fusegw"
        )
    try:
        return msgspec.convert(found, Identity)
    except msgspec.ValidationError as error:
        raise Corrupt(
            f"the gateway's identity in the volume is not one ({error}): the next mount writes it anew"
        ) from None


def _row(metadata: Metadata) -> dict[str, Any]:
    """The row as it stands, empty when there is none or it is no JSON object."""
    data = metadata.get(GATEWAY, IDENTITY_ROW)
    if data is None or len(data) > IDENTITY_BYTES_MAX:
        return {}
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
