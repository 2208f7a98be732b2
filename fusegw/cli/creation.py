"""The order in which `fusegw init` does things, so that a failure leaves nothing behind.

First all that only looks: name, options, registry, the recovery key's file, the store (is it there, may we
list it, is the place empty), then the secret is asked for. Then what writes: a probe object that is removed
again; the recovery key's file, still empty; the volume in the store, which decides a race; the recovery
key; the registry. A crash after the volume is in the store leaves it there: its message says what to do.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from fusegw.cli.recovery_file import check_recovery_file, recovery_file
from fusegw.clock import Clock, Entropy
from fusegw.config import check_volume_name
from fusegw.errors import Corrupt, Exists, NotFound
from fusegw.keys import KdfParameters, Secret, create_volume, list_slots
from fusegw.registry import Registry, VolumeEntry
from fusegw.store.base import ObjectStore
from fusegw.store.opening import open_store
from fusegw.store.options import StoreOptions
from fusegw.store.probe import check_create_only
from fusegw.store.retry import RetryPolicy

POLICY = RetryPolicy(tries_max=4, elapsed_max_s=20.0)
"""Somebody waits at the terminal: give up on a store sooner than a mounted volume does."""


class Creation(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be created."""

    name: str
    store: StoreOptions
    kdf: KdfParameters
    unsafe_no_fencing: bool


class Created(msgspec.Struct, frozen=True):
    """What was created; `recovery_key` is its printed form."""

    entry: VolumeEntry
    recovery_key: str

    def __repr__(self) -> str:
        return f"<Created volume number {self.entry.number}>"


def create(
    creation: Creation,
    registry: Registry,
    *,
    secret: Callable[[], Secret],
    recovery_to: Path | None,
    clock: Clock,
    entropy: Entropy,
) -> Created:
    """Create the volume and record it; its recovery key is also written to the new file `recovery_to`, if
    given.

    Invalid, Exists, Denied, NotFound, Unavailable, UnknownFormat, Full: nothing was created.
    """
    check_volume_name(creation.name)
    creation.kdf.check()
    if creation.name in registry.volumes():
        raise Exists(f"there is a volume {creation.name!r} already; choose another name")
    if recovery_to is not None:
        check_recovery_file(recovery_to)
    store = open_store(creation.store, clock=clock, entropy=entropy, create=True, policy=POLICY)
    try:
        _check_empty(store, creation.name)
        opener = secret()
        with registry.reserve(creation.name) as reservation, ExitStack() as stack:
            if not creation.unsafe_no_fencing:
                check_create_only(store, entropy, advice="or accept that with --unsafe-no-fencing")
            write = stack.enter_context(recovery_file(recovery_to)) if recovery_to is not None else None
            made = create_volume(store, creation.name, opener, kdf=creation.kdf, clock=clock, entropy=entropy)
            if write is not None:
                write(made.recovery_key)
            entry = reservation.commit(
                volume_id=made.header.volume_id,
                store=creation.store,
                created_unix_s=made.header.created_ns // 10**9,
                unsafe_no_fencing=creation.unsafe_no_fencing,
            )
    finally:
        store.close()
    return Created(entry, made.recovery_key)


def _check_empty(store: ObjectStore, name: str) -> None:
    """Exists unless the place is empty, or holds no more than what a cut-off init of `name` left."""
    first = next(iter(store.list()), None)
    if first is None:
        return
    try:
        found = list_slots(store).header.name
    except NotFound:
        raise Exists(f"{store.url} is not empty (it holds {first.key}): choose an empty prefix") from None
    except Corrupt:
        # No key slots: `create_volume` tells a cut-off init, which it finishes, from damage.
        return
    raise Exists(f"{store.url} holds volume {found!r} already: choose an empty prefix for {name!r}")
