"""Key slots, the key hierarchy, and the two store objects that carry them.

From the outside in:

- `secret`      what a person or a file holds: passphrase, key file, recovery key
- `kdf`         Argon2id and its bounds
- `hierarchy`   master keys and everything derived from them; `VolumeKeys` is what other layers get
- `framing`, `header`, `generation`, `slots`   the formats, bytes in and bytes out (docs/format.md)
- `volume`, `edit`   the same with a store: create, open, and change the slots of a volume
"""

from fusegw.keys.edit import (
    add_master_version,
    add_slot,
    change_passphrase,
    remove_slot,
)
from fusegw.keys.generation import Feature
from fusegw.keys.header import VolumeHeader, check_volume_name
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.keys.kdf import DEFAULT_KDF, KdfParameters
from fusegw.keys.secret import Secret
from fusegw.keys.slots import SlotInfo
from fusegw.keys.volume import (
    CreatedVolume,
    OpenedVolume,
    SlotListing,
    create_volume,
    list_slots,
    open_volume,
    verify,
)

__all__ = [
    "DEFAULT_KDF",
    "CreatedVolume",
    "Feature",
    "KdfParameters",
    "OpenedVolume",
    "Secret",
    "SlotInfo",
    "SlotListing",
    "VolumeHeader",
    "VolumeKeys",
    "add_master_version",
    "add_slot",
    "change_passphrase",
    "check_volume_name",
    "create_volume",
    "list_slots",
    "open_volume",
    "remove_slot",
    "verify",
]
