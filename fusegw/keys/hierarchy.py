"""From master keys to the key of every single object: HKDF-SHA256 with one label per use.

Each label is written down once, here, and pinned by known answers in the tests: changing one changes the
format. The input of a derivation is

    HKDF-SHA256(input key = master key of that version, salt, info = label · 00 · volume id · context)

where the context has a fixed length for its label, so no two uses can ever share an `info`.

`VolumeKeys` is what other layers get. It also holds the two constants of the volume, the chunk-id key and
the cutter's seed, which stay the same under every master version: rotation must not end deduplication.
"""

from collections.abc import Mapping
from typing import NoReturn

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fusegw.errors import Corrupt

KEY_SIZE = 32
SALT_SIZE = 32
VOLUME_ID_SIZE = 16
PACK_ID_SIZE = 16

LABEL_PACK = b"fusegw pack v1"
LABEL_LOG = b"fusegw log v1"
LABEL_CHECKPOINT = b"fusegw checkpoint v1"
LABEL_CONSTANTS = b"fusegw volume constants v1"
LABEL_GENERATION_MAC = b"fusegw key generation mac v1"
LABEL_SLOT_COMMIT = b"fusegw slot commitment v1"
LABEL_SLOT_WRAP = b"fusegw slot wrap v1"


def expand(key: bytes, salt: bytes, label: bytes, volume_id: bytes, context: bytes = b"") -> bytes:
    """32 bytes for one use of `key`; the only place in the project that calls HKDF."""
    info = b"".join((label, b"\x00", volume_id, context))
    return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=salt, info=info).derive(key)


class VolumeKeys:
    """All keys of an opened volume. Immutable; thread-safe; never shows a key in repr or str."""

    __slots__ = ("_masters", "chunk_id_key", "current_version", "cutter_seed", "volume_id")

    volume_id: bytes
    """16 bytes."""
    current_version: int
    """The master version new objects are sealed under; versions count from 1."""
    chunk_id_key: bytes
    """32 bytes, the key of the keyed BLAKE3 that names chunks."""
    cutter_seed: int
    """1..2**63-1, the seed of FastCDC. It diversifies, it does not protect."""
    _masters: Mapping[int, bytes]

    def __init__(
        self, volume_id: bytes, masters: Mapping[int, bytes], *, chunk_id_key: bytes, cutter_seed: int
    ) -> None:
        object.__setattr__(self, "volume_id", volume_id)
        object.__setattr__(self, "current_version", max(masters))
        object.__setattr__(self, "chunk_id_key", chunk_id_key)
        object.__setattr__(self, "cutter_seed", cutter_seed)
        object.__setattr__(self, "_masters", dict(masters))

    @property
    def versions(self) -> tuple[int, ...]:
        """The master versions that open, ascending."""
        return tuple(sorted(self._masters))

    def pack_key(self, version: int, salt: bytes, pack_id: bytes) -> bytes:
        """The 32-byte AES key of one pack: `salt` (32 bytes) and `pack_id` (16 bytes) as in its header.

        Corrupt when the volume has no master of that version.
        """
        if len(salt) != SALT_SIZE or len(pack_id) != PACK_ID_SIZE:
            raise ValueError(
                f"salt has {len(salt)} bytes, pack id {len(pack_id)}; {SALT_SIZE} and {PACK_ID_SIZE} expected"
            )
        return expand(self._master(version), salt, LABEL_PACK, self.volume_id, pack_id)

    def log_key(self, version: int, salt: bytes) -> bytes:
        """The 32-byte AES key of one log segment, from the random 32-byte salt in its header."""
        return self._salted(version, salt, LABEL_LOG)

    def checkpoint_key(self, version: int, salt: bytes) -> bytes:
        """The 32-byte AES key of one checkpoint object, from the random 32-byte salt in its header."""
        return self._salted(version, salt, LABEL_CHECKPOINT)

    def _salted(self, version: int, salt: bytes, label: bytes) -> bytes:
        if len(salt) != SALT_SIZE:
            raise ValueError(f"salt has {len(salt)} bytes, {SALT_SIZE} expected")
        return expand(self._master(version), salt, label, self.volume_id)

    def _master(self, version: int) -> bytes:
        master = self._masters.get(version)
        if master is None:
            raise Corrupt(
                f"key version {version} is not one of this volume's ({', '.join(map(str, self.versions))}): "
                "the object that names it is damaged, or belongs to a state of the volume that was given up"
            )
        return master

    def master_keys(self) -> dict[int, bytes]:
        """Version → 32-byte master key, for sealing slots; nothing outside `fusegw.keys` has a use for it."""
        return dict(self._masters)

    def __repr__(self) -> str:
        versions = ", ".join(map(str, self.versions))
        return f"<VolumeKeys of {self.volume_id.hex()}, versions {versions}>"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("VolumeKeys do not change")

    def __reduce__(self) -> NoReturn:
        raise TypeError("VolumeKeys are neither pickled nor copied")
