"""Create and open a volume's keys in a store.

Two kinds of objects: `volume`, written once, and `keys/<8 digits>`, the generations. Both are only ever
written create-only. At init `volume` goes first and decides a race; if init dies before the first generation
is in, the next init of the same name finishes with the identity it finds. A reader takes the highest
generation.

Everything here blocks (store and key derivation): call it in a worker thread.
"""

import re
from itertools import islice

import msgspec

from fusegw.clock import Clock, Entropy
from fusegw.errors import Busy, Corrupt, Exists, Invalid, NotFound, UnknownFormat, WrongKey
from fusegw.keys import generation as gen
from fusegw.keys.generation import Feature, Features, KeyGeneration
from fusegw.keys.header import (
    VOLUME_OBJECT,
    VOLUME_SIZE_MAX,
    VolumeHeader,
    check_volume_name,
    decode_header,
    encode_header,
)
from fusegw.keys.hierarchy import KEY_SIZE, VOLUME_ID_SIZE, VolumeKeys
from fusegw.keys.kdf import DEFAULT_KDF, KdfParameters
from fusegw.keys.secret import Secret
from fusegw.keys.slots import SlotInfo, info_of, open_slot, seal_slot
from fusegw.store.base import ObjectStore

GENERATION_PREFIX = "keys/"
GENERATIONS_LISTED_MAX = 1000
READS_MAX = 5
VOLUME_PREFIXES = (GENERATION_PREFIX, "packs/", "log/", "checkpoints/")

_GENERATION_KEY = re.compile(r"keys/([0-9]{8})")


class CreatedVolume(msgspec.Struct, frozen=True):
    """A volume just created. `recovery_key` is its printed form: show it once, then forget it."""

    header: VolumeHeader
    keys: VolumeKeys
    recovery_key: str

    def __repr__(self) -> str:
        return f"<CreatedVolume {self.header.name!r}>"


class OpenedVolume(msgspec.Struct, frozen=True):
    """A volume that a secret opened; everything in here is authenticated."""

    header: VolumeHeader
    keys: VolumeKeys
    slot: SlotInfo
    """The slot that the secret opened."""
    generation: int
    features: Features
    read_only_required: bool
    """The volume uses features this version can only read by."""
    unknown_features: tuple[Feature, ...]
    """Those features, for the message."""

    def check_writable(self, *, name: str, advice: str = "") -> None:
        """UnknownFormat, with `advice` (", or …"), when this fusegw must not write what this host calls
        `name`."""
        if self.read_only_required:
            features = ", ".join(feature.name for feature in self.unknown_features)
            raise UnknownFormat(
                f"volume {name!r} uses what this fusegw can only read ({features}): upgrade fusegw{advice}"
            )


class SlotListing(msgspec.Struct, frozen=True):
    """The slots of a volume; nothing but the store's word when `authenticated` is False (no secret given)."""

    header: VolumeHeader
    generation: int
    authenticated: bool
    slots: tuple[SlotInfo, ...]
    features: Features


class StoredVolume(msgspec.Struct, frozen=True):
    """Both objects as read, decoded and not yet authenticated."""

    header: VolumeHeader
    header_bytes: bytes
    generation: KeyGeneration
    generation_bytes: bytes
    what: str
    """Address of the generation, for messages."""


def generation_key(number: int) -> str:
    """The object key of a generation."""
    return f"{GENERATION_PREFIX}{number:08d}"


def create_volume(
    store: ObjectStore,
    name: str,
    secret: Secret,
    *,
    kdf: KdfParameters = DEFAULT_KDF,
    clock: Clock,
    entropy: Entropy,
) -> CreatedVolume:
    """Make a volume with two slots, `secret`'s and a recovery key's.

    Exists when the prefix holds a volume or parts of one (nothing is written then), or when another init won;
    Invalid for a bad name or bad KDF parameters. After a crash call it again with the same name.
    """
    check_volume_name(name)
    kdf.check()
    header, header_bytes = _claim(store, name, clock, entropy)
    volume_id = header.volume_id
    keys = VolumeKeys(
        volume_id,
        {1: entropy.token(KEY_SIZE)},
        chunk_id_key=entropy.token(KEY_SIZE),
        cutter_seed=int.from_bytes(entropy.token(8)) % ((1 << 63) - 1) + 1,
    )
    recovery = Secret.new_recovery(entropy)
    slots = tuple(
        seal_slot(
            one,
            keys.master_keys(),
            volume_id=volume_id,
            slot=number,
            label=label,
            created_ns=clock.time_ns(),
            parameters=kdf,
            entropy=entropy,
        )
        for number, (one, label) in enumerate(((secret, "first"), (recovery, "recovery")), start=1)
    )
    first = KeyGeneration(
        generation=1,
        volume_id=volume_id,
        next_slot=3,
        slots=slots,
        constants=(gen.seal_constants(keys, 1, entropy),),
        features=Features(),
        extensions={},
    )
    try:
        store.put(generation_key(1), sealed_generation(first, keys, header_bytes), create_only=True)
    except Exists:
        raise Exists(
            f"another init created volume {name!r} at {store.url} just now: mount that one"
        ) from None
    return CreatedVolume(header, keys, recovery.recovery_text())


def open_volume(store: ObjectStore, secret: Secret) -> OpenedVolume:
    """Open a volume with a secret. NotFound, WrongKey, UnknownFormat, Corrupt, and the store's own errors."""
    return unlock(read_volume(store), secret)


def verify(store: ObjectStore, secret: Secret) -> SlotInfo:
    """Check that `secret` opens the volume and that its key objects are whole; the slot it opened."""
    return open_volume(store, secret).slot


def list_slots(store: ObjectStore, secret: Secret | None = None) -> SlotListing:
    """The slots of a volume. Without a secret the list is unauthenticated and says so."""
    stored = read_volume(store)
    if secret is not None:
        unlock(stored, secret)
    return SlotListing(
        header=stored.header,
        generation=stored.generation.generation,
        authenticated=secret is not None,
        slots=tuple(info_of(slot) for slot in stored.generation.slots),
        features=stored.generation.features,
    )


def read_volume(store: ObjectStore) -> StoredVolume:
    """Both key objects, decoded, not authenticated.

    NotFound, UnknownFormat, Corrupt; Busy when generations are replaced faster than they can be read.
    """
    what = f"{store.url}/{VOLUME_OBJECT}"
    try:
        header_bytes = store.get(VOLUME_OBJECT, size_max=VOLUME_SIZE_MAX)
    except NotFound:
        raise NotFound(
            f"there is no volume at {store.url}: check the address, or make one with `init`"
        ) from None
    header = decode_header(header_bytes, what)
    numbers: list[int] = []
    for _ in range(READS_MAX):
        # A generation listed may be replaced before it is read, and a listing that runs into a change may
        # miss both the old and the new one: look again.
        numbers = generations(store)
        if not numbers:
            continue
        what = f"{store.url}/{generation_key(numbers[-1])}"
        try:
            data = store.get(generation_key(numbers[-1]), size_max=gen.GENERATION_SIZE_MAX)
        except NotFound:
            continue
        decoded = gen.decode_generation(data, numbers[-1], header.volume_id, what)
        return StoredVolume(header, header_bytes, decoded, data, what)
    if numbers:
        raise Busy(f"the keys of volume {header.name!r} at {store.url} keep changing: try again")
    raise Corrupt(
        f"volume {header.name!r} at {store.url} has no key slots: if its init was cut off, run `init` again "
        "with the same name; else restore the objects under keys/"
    )


def sealed_generation(generation: KeyGeneration, keys: VolumeKeys, header_bytes: bytes) -> bytes:
    """The bytes of a generation, read back as a reader would before the store gets them.

    What cannot be read again would lock everybody out: Invalid, before anything is written.
    """
    data = gen.encode_generation(generation, keys, header_bytes)
    what = generation_key(generation.generation)
    try:
        decoded = gen.decode_generation(data, generation.generation, keys.volume_id, what)
        gen.authenticate(data, decoded, keys.master_keys(), header_bytes, what)
    except Corrupt as error:
        raise Invalid(f"refused to write keys nobody could read: {error}; is the clock right?") from error
    return data


def generations(store: ObjectStore) -> list[int]:
    """Numbers of the key generations in the store, ascending; the last is the valid one.

    Corrupt when the place is flooded with objects.
    """
    numbers = []
    for count, info in enumerate(store.list(GENERATION_PREFIX)):
        if count == GENERATIONS_LISTED_MAX:
            raise Corrupt(
                f"{store.url}/{GENERATION_PREFIX} holds more than {count} objects, a few are expected: "
                "remove those that fusegw did not write"
            )
        match = _GENERATION_KEY.fullmatch(info.key)
        if match:
            numbers.append(int(match[1]))
    return numbers


def unlock(stored: StoredVolume, secret: Secret) -> OpenedVolume:
    """Try the slots of the secret's kind and authenticate everything read. WrongKey or Corrupt."""
    generation, name = stored.generation, stored.header.name
    if not any(slot.kind == secret.kind for slot in generation.slots):
        kinds = ", ".join(sorted({slot.kind for slot in generation.slots}))
        raise WrongKey(f"volume {name!r} has no slot for a {secret.words}; it has slots of kind {kinds}")
    for slot in generation.slots:
        masters = open_slot(slot, secret, volume_id=generation.volume_id, what=stored.what)
        if masters is None:
            continue
        keys = gen.authenticate(
            stored.generation_bytes, generation, masters, stored.header_bytes, stored.what
        )
        unknown = gen.read_only_features(generation)
        return OpenedVolume(
            header=stored.header,
            keys=keys,
            slot=info_of(slot),
            generation=generation.generation,
            features=generation.features,
            read_only_required=bool(unknown),
            unknown_features=unknown,
        )
    raise WrongKey(f"this {secret.words} opens no slot of volume {name!r}: check it, or use another key")


def _claim(store: ObjectStore, name: str, clock: Clock, entropy: Entropy) -> tuple[VolumeHeader, bytes]:
    """Write `volume`, or take over the one an init of the same name left behind without keys."""
    try:
        found: bytes | None = store.get(VOLUME_OBJECT, size_max=VOLUME_SIZE_MAX)
    except NotFound:
        found = None
    header = None if found is None else decode_header(found, f"{store.url}/{VOLUME_OBJECT}")
    for prefix in VOLUME_PREFIXES:
        for info in islice(store.list(prefix), 1):
            holder = f"volume {header.name!r}" if header else f"parts of a volume ({info.key})"
            raise Exists(f"{store.url} holds {holder}: mount that one, or choose an empty prefix")
    if header is not None and found is not None:
        if header.name != name:
            raise Exists(
                f"{store.url} holds volume {header.name!r}, whose init was cut off: finish it by "
                f"`init {header.name}`, or choose an empty prefix"
            )
        return header, found
    header = VolumeHeader(entropy.token(VOLUME_ID_SIZE), name, clock.time_ns())
    encoded = encode_header(header)
    try:
        decode_header(encoded, VOLUME_OBJECT)
    except Corrupt as error:
        raise Invalid(f"refused to write a header nobody could read: {error}; is the clock right?") from error
    try:
        store.put(VOLUME_OBJECT, encoded, create_only=True)
    except Exists:
        raise Exists(
            f"another init is creating a volume at {store.url}: mount that one, or choose an empty prefix"
        ) from None
    return header, encoded
