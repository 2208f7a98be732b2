"""Change the slots of a volume: add, remove, change a passphrase, add a master version.

Every change is the same three steps: read and open the newest generation; PUT the next one create-only;
delete the ones below it. A crash after any of them leaves the old or the new generation valid and whole. Of
two changes at the same time one wins and the other gets Busy.

Removing a slot does not take back what its holder may have copied: add a master version for that.

Everything here blocks (store and key derivation): call it in a worker thread.
"""

from collections.abc import Sequence

import msgspec

from fusegw.clock import Clock, Entropy
from fusegw.errors import Busy, Exists, Invalid, NotFound
from fusegw.keys import generation as gen
from fusegw.keys.generation import KeyGeneration
from fusegw.keys.hierarchy import KEY_SIZE, VolumeKeys
from fusegw.keys.kdf import DEFAULT_KDF, KdfParameters
from fusegw.keys.secret import Secret
from fusegw.keys.slots import Slot, SlotInfo, info_of, open_slot, parameters_of, seal_slot
from fusegw.keys.volume import (
    OpenedVolume,
    StoredVolume,
    generation_key,
    generations,
    read_volume,
    sealed_generation,
    unlock,
)
from fusegw.store.base import ObjectStore


def add_slot(
    store: ObjectStore,
    secret: Secret,
    new_secret: Secret,
    *,
    label: str,
    kdf: KdfParameters = DEFAULT_KDF,
    clock: Clock,
    entropy: Entropy,
) -> SlotInfo:
    """Let `new_secret` open the volume that `secret` opens.

    Invalid when there is no room for one more or the secret has a slot already; WrongKey; Busy when another
    change won.
    """
    stored, opened = _open_for_change(store, secret)
    generation = stored.generation
    if len(generation.slots) >= gen.SLOTS_MAX:
        raise Invalid(
            f"volume {stored.header.name!r} has {gen.SLOTS_MAX} slots, the most there can be: "
            "remove one first"
        )
    taken = _slot_of(stored, new_secret)
    if taken is not None:
        raise Invalid(f"that {new_secret.words} opens slot {taken.slot} already: nothing to add")
    slot = seal_slot(
        new_secret,
        opened.keys.master_keys(),
        volume_id=generation.volume_id,
        slot=generation.next_slot,
        label=label,
        created_ns=clock.time_ns(),
        parameters=kdf,
        entropy=entropy,
    )
    _publish(
        store,
        stored,
        opened.keys,
        msgspec.structs.replace(
            generation, slots=(*generation.slots, slot), next_slot=generation.next_slot + 1
        ),
    )
    return info_of(slot)


def remove_slot(store: ObjectStore, secret: Secret, slot: int) -> SlotInfo:
    """Remove a slot, also the one that `secret` opens, but never the last one that can open; what it was.

    Invalid, NotFound, WrongKey, Busy.
    """
    stored, opened = _open_for_change(store, secret)
    generation = stored.generation
    removed = _find(stored, slot)
    left = tuple(one for one in generation.slots if one.slot != slot)
    if not any(info_of(one).opens for one in left):
        raise Invalid(
            f"slot {slot} is the last that opens volume {stored.header.name!r}: without it all data "
            "is lost; add another first"
        )
    _publish(store, stored, opened.keys, msgspec.structs.replace(generation, slots=left))
    return info_of(removed)


def change_passphrase(
    store: ObjectStore,
    secret: Secret,
    new_secret: Secret,
    *,
    slot: int | None = None,
    kdf: KdfParameters = DEFAULT_KDF,
    clock: Clock,
    entropy: Entropy,
) -> SlotInfo:
    """Put `new_secret` in the place of a slot's secret; number and label stay.

    Without `slot` it is the slot that `secret` opens if that is of the new secret's kind, else the only
    slot of that kind: so a recovery key can set a new passphrase. Invalid when that leaves a choice,
    NotFound, WrongKey, Busy.
    """
    stored, opened = _open_for_change(store, secret)
    generation = stored.generation
    old = _find(stored, slot) if slot is not None else _slot_to_change(stored, opened, new_secret)
    taken = _slot_of(stored, new_secret)
    if taken is not None and taken.slot != old.slot:
        raise Invalid(f"that {new_secret.words} opens slot {taken.slot} already: choose another")
    new = seal_slot(
        new_secret,
        opened.keys.master_keys(),
        volume_id=generation.volume_id,
        slot=old.slot,
        label=old.label,
        created_ns=clock.time_ns(),
        parameters=kdf,
        entropy=entropy,
    )
    slots = tuple(new if one.slot == old.slot else one for one in generation.slots)
    _publish(store, stored, opened.keys, msgspec.structs.replace(generation, slots=slots))
    return info_of(new)


def add_master_version(
    store: ObjectStore,
    secrets: Sequence[Secret],
    *,
    drop_other_slots: bool = False,
    entropy: Entropy,
) -> VolumeKeys:
    """Make a new master version for all objects written from now on; older ones keep opening older objects.

    Only slots whose secret is given can take it in. The others are lost, so they have to be dropped on
    purpose: that is what revokes them. Invalid names them otherwise. WrongKey, Busy.
    """
    stored, opened = _open_for_change(store, secrets[0])
    generation = stored.generation
    openers = [(slot, _secret_of(slot, secrets, stored)) for slot in generation.slots]
    lost = [slot for slot, secret in openers if secret is None]
    if lost and not drop_other_slots:
        named = ", ".join(f"{slot.slot} ({slot.kind}, {slot.label!r})" for slot in lost)
        raise Invalid(f"no secret given for slot {named}: give each, or let these slots be dropped")
    if len(generation.constants) >= gen.VERSIONS_MAX:
        raise Invalid(
            f"volume {stored.header.name!r} has {gen.VERSIONS_MAX} master versions, the most it can have"
        )
    version = opened.keys.current_version + 1
    keys = VolumeKeys(
        generation.volume_id,
        {**opened.keys.master_keys(), version: entropy.token(KEY_SIZE)},
        chunk_id_key=opened.keys.chunk_id_key,
        cutter_seed=opened.keys.cutter_seed,
    )
    slots = tuple(
        seal_slot(
            secret,
            keys.master_keys(),
            volume_id=generation.volume_id,
            slot=slot.slot,
            label=slot.label,
            created_ns=slot.created_ns,
            parameters=parameters_of(slot, stored.what) or DEFAULT_KDF,
            entropy=entropy,
        )
        for slot, secret in openers
        if secret is not None
    )
    constants = (*generation.constants, gen.seal_constants(keys, version, entropy))
    _publish(store, stored, keys, msgspec.structs.replace(generation, slots=slots, constants=constants))
    return keys


def _open_for_change(store: ObjectStore, secret: Secret) -> tuple[StoredVolume, OpenedVolume]:
    stored = read_volume(store)
    opened = unlock(stored, secret)
    gen.refuse_change(stored.generation, stored.what)
    return stored, opened


def _find(stored: StoredVolume, number: int) -> Slot:
    for slot in stored.generation.slots:
        if slot.slot == number:
            return slot
    numbers = ", ".join(str(slot.slot) for slot in stored.generation.slots)
    raise NotFound(f"volume {stored.header.name!r} has no slot {number}; it has {numbers}")


def _slot_of(stored: StoredVolume, secret: Secret) -> Slot | None:
    """The slot a secret opens; costs one key derivation for each slot of its kind."""
    for slot in stored.generation.slots:
        if open_slot(slot, secret, volume_id=stored.generation.volume_id, what=stored.what) is not None:
            return slot
    return None


def _secret_of(slot: Slot, secrets: Sequence[Secret], stored: StoredVolume) -> Secret | None:
    """The one of `secrets` that opens `slot`; costs a key derivation for each tried."""
    for secret in secrets:
        if open_slot(slot, secret, volume_id=stored.generation.volume_id, what=stored.what) is not None:
            return secret
    return None


def _slot_to_change(stored: StoredVolume, opened: OpenedVolume, new_secret: Secret) -> Slot:
    if opened.slot.kind == new_secret.kind:
        return _find(stored, opened.slot.slot)
    candidates = [slot for slot in stored.generation.slots if slot.kind == new_secret.kind]
    if len(candidates) != 1:
        numbers = ", ".join(str(slot.slot) for slot in candidates) or "none"
        raise Invalid(
            f"say which slot the new {new_secret.words} belongs to (of that kind: {numbers}), or add a slot"
        )
    return candidates[0]


def _publish(store: ObjectStore, stored: StoredVolume, keys: VolumeKeys, changed: KeyGeneration) -> None:
    """PUT the generation after `stored`'s, see that it is the newest, delete those below it."""
    number = stored.generation.generation + 1
    if number > gen.GENERATION_MAX:
        raise Invalid(f"{stored.what} is the last key generation there can be: move to a new volume")
    data = sealed_generation(msgspec.structs.replace(changed, generation=number), keys, stored.header_bytes)
    someone = f"someone else changed the keys of volume {stored.header.name!r} at the same moment"
    try:
        store.put(generation_key(number), data, create_only=True)
    except Exists:
        raise Busy(f"{someone}; nothing of this change was kept: look at the slots and try again") from None
    # Create-only succeeds again once others have replaced *and deleted* a generation of this number; a higher
    # one is there then. Only the newest counts, so this must not pass for a success.
    present = generations(store)
    newest = max([number, *present])
    store.delete([generation_key(one) for one in present if one < newest])
    if newest > number:
        raise Busy(f"{someone}; whether this change is part of theirs is not known: look at the slots")
